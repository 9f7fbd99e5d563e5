"""Nearest neighbours in process: one index per partition, in three sizes, called inline on the event loop.

Owns vectors and entry ids; knows no documents, no time and no tenants beyond the partition key. Nothing here starts a
thread or waits. Read `penstock_cache.index.partitions` first, then `flat`, then `clustered`.
"""
