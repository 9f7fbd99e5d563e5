"""Calling providers: which deployment is tried when, how often, and what every try came to.

Read `records.AttemptRecord`, then `runner`.
"""
