"""Shared fakes and servers for the tests, importable as ``support.<module>``.

A module here belongs to the tests that use it: real objects with a small, honest behaviour (a server on loopback, an
upstream that takes a function), not mocks.
"""
