"""Answers from the cache on the request path: what to store, what to replay, when to ask the model anyway.

The rules live in `penstock_cache`; this package joins them to requests, deployments and streams.
"""
