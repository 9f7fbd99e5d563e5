"""Where documents are kept, and how replicas tell each other what they keep.

The one door of the subpackage. Read `protocol.DocumentStore` first, then `changes` for what an index is told and
`replication.IndexFollower` for how it follows.
"""

from penstock_cache.stores.changes import Cleared, IndexEvent, IndexRecord, Inserted, InStep, Removed, Reset
from penstock_cache.stores.file import FileDocumentStore
from penstock_cache.stores.memory import MemoryDocumentStore
from penstock_cache.stores.protocol import DocumentStore
from penstock_cache.stores.redis_commands import RedisCommands
from penstock_cache.stores.redis_store import RedisDocumentStore
from penstock_cache.stores.replication import IndexFollower, IndexSink

__all__ = [
    "Cleared",
    "DocumentStore",
    "FileDocumentStore",
    "InStep",
    "IndexEvent",
    "IndexFollower",
    "IndexRecord",
    "IndexSink",
    "Inserted",
    "MemoryDocumentStore",
    "RedisCommands",
    "RedisDocumentStore",
    "Removed",
    "Reset",
]
