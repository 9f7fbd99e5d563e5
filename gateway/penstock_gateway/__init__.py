"""Penstock's gateway: HTTP, money, upstream calls, settings and the command line.

Importing this package imports nothing else; the version stands in the distribution's metadata (`cli.version`).
"""
