"""What lies where in Redis, and the scripts that change it.

Owns key names, the hash tags, and every Lua script; nothing else names a key. Redis 5 and later. No I/O.

::

    penstock:<schema>:{t:<tenant>}:d:<entry id>     the document; its TTL is the entry's
    penstock:<schema>:{t:<tenant>}:x:<fingerprint>  entry id of the newest document of a request; same TTL
    penstock:<schema>:{t:<tenant>}:e                hash, entry id to index record (vector and metadata)
    penstock:<schema>:{t:<tenant>}:z                sorted set, entry id by expiry, to sweep the hash
    penstock:<schema>:{s<k>}:log                    stream of changes of the tenants of shard k: ids, no content
    penstock:<schema>:{s<k>}:head                   hash, number of the last change and an epoch drawn when it began
    penstock:<schema>:{s<k>}:tenants                set of the tenants that have written to shard k
    penstock:<schema>:{c:<name>}                    a number that all gateways add to, until it expires

``<tenant>`` is a digest of the tenant's name. One hash tag per tenant keeps a tenant in one slot of a cluster, so that
a document, its pointer and its record change together, in one script. The log is not in that slot, because followers
cannot wait for one stream per tenant: it has a fixed number of shards, and is written second. A document whose
change is not logged (the gateway died in between, or Redis refused) is found by the exact tier and by replicas that
start later, and by no other; a change whose document is gone is skipped by followers, or is a miss.

A record lies in one place, the hash `e`. The stream carries ids, a snapshot is the hash itself read with HSCAN, and an
entry without a record is not served even if its document is still there: taking the record away deletes the vector
from stream and snapshot as well, at once.
"""

from __future__ import annotations

import hashlib
import zlib

from penstock_cache.entries import CACHE_SCHEMA

CLUSTER_SHARDS = 8
"""Log shards on a cluster, where each needs a connection of its own to be followed; one elsewhere."""

_PREFIX = f"penstock:{CACHE_SCHEMA}:"


def pseudonym(tenant: str) -> bytes:
    """Return 32 hexadecimal digits that stand for a tenant in keys."""
    return hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest().encode()


def shard_of(tenant_pseudonym: bytes, shards: int) -> int:
    """Return the log shard of a tenant, in [0, shards)."""
    return zlib.crc32(tenant_pseudonym) % shards


class TenantKeys:
    """Keys of one tenant, all in one slot.

    Parameters
    ----------
    tenant_pseudonym : bytes
    """

    def __init__(self, tenant_pseudonym: bytes) -> None:
        self._prefix = f"{_PREFIX}{{t:{tenant_pseudonym.decode()}}}:".encode()
        self.records = self._prefix + b"e"
        self.expiries = self._prefix + b"z"

    def document(self, entry_id: str) -> bytes:
        """Return the key of a document."""
        return self._prefix + b"d:" + entry_id.encode()

    def pointer(self, fingerprint: bytes) -> bytes:
        """Return the key of the exact tier's pointer."""
        return self._prefix + b"x:" + fingerprint.hex().encode()


def counter_key(name: str) -> bytes:
    """Return the key of a shared counter."""
    return f"{_PREFIX}{{c:{name}}}".encode()


class ShardKeys:
    """Keys of one shard of the log, all in one slot.

    Parameters
    ----------
    shard : int
    """

    def __init__(self, shard: int) -> None:
        prefix = f"{_PREFIX}{{s{shard}}}:".encode()
        self.log = prefix + b"log"
        self.head = prefix + b"head"
        self.tenants = prefix + b"tenants"


_KEEP = """
local function keep(key, ttl)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end
"""

_SWEEP = """
local function sweep(records, expiries, now)
  local old = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 200)
  if #old > 0 then
    redis.call('HDEL', records, unpack(old))
    redis.call('ZREM', expiries, unpack(old))
  end
  return #old
end
"""

# KEYS: records, expiries, document, pointer. ARGV: entry id, document, record, TTL in ms, expiry and now in Unix ms.
PUT = (
    _KEEP
    + _SWEEP
    + """
local ttl = tonumber(ARGV[4])
redis.call('SET', KEYS[3], ARGV[2], 'PX', ttl)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
redis.call('SET', KEYS[4], ARGV[1], 'PX', ttl)
sweep(KEYS[1], KEYS[2], ARGV[6])
keep(KEYS[1], ttl)
keep(KEYS[2], ttl)
return 1
"""
).encode()

# KEYS: records, then a document each. ARGV: entry ids. Returns documents, nil for what has no record or is gone.
READ = b"""
local found = {}
for i, id in ipairs(ARGV) do
  found[i] = redis.call('HEXISTS', KEYS[1], id) == 1 and redis.call('GET', KEYS[i + 1])
end
return found
"""

# KEYS: records, expiries, then document and pointer of each entry. ARGV: entry ids. Returns how many there were.
DELETE = b"""
local removed = 0
for i, id in ipairs(ARGV) do
  local gone = redis.call('UNLINK', KEYS[2 * i + 1])
  if redis.call('GET', KEYS[2 * i + 2]) == id then redis.call('UNLINK', KEYS[2 * i + 2]) end
  local known = redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  if gone + known > 0 then removed = removed + 1 end
end
return removed
"""

# KEYS: counter. ARGV: amount, most or '', TTL in ms. Returns 1 when it was added, 0 when it would be too much.
ADD_WITHIN = b"""
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
if ARGV[2] ~= '' and total > tonumber(ARGV[2]) then
  redis.call('DECRBY', KEYS[1], ARGV[1])
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS: records, expiries. ARGV: now in Unix ms. Returns how many entries were swept, at most 200.
SWEEP = (_SWEEP + "return sweep(KEYS[1], KEYS[2], ARGV[1])").encode()

# KEYS: head, log, tenants. ARGV: an epoch for a new log, the change, the tenant's pseudonym, longest log in changes,
# how long a change is kept in ms, TTL in ms. Age is told by Redis's own clock, from which the stream's ids are made.
PUBLISH = (
    _KEEP
    + """
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local number = redis.call('HINCRBY', KEYS[1], 'number', 1)
local last = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', epoch, 'n', number, 'c', ARGV[2])
local oldest = string.format('%.0f', tonumber(string.match(last, '^%d+')) - ARGV[5])
redis.call('SADD', KEYS[3], ARGV[3])
for _, old in ipairs(redis.call('XRANGE', KEYS[2], '-', oldest, 'COUNT', 64)) do
  redis.call('XDEL', KEYS[2], old[1])
end
for _, key in ipairs(KEYS) do keep(key, tonumber(ARGV[6])) end
return number
"""
).encode()

# KEYS: head, log. Returns epoch, number and stream id of the last change.
POSITION = b"""
local head = redis.call('HMGET', KEYS[1], 'epoch', 'number')
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {head[1] or '', head[2] or '0', last[1] and last[1][1] or '0-0'}
"""
