"""The wire formats of clients and providers, and one translator per pair of them.

Read `formats` and `translation`; each other file translates one pair in one direction.
"""
