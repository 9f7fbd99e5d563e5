"""Which feedback a decision has had at any gateway on one Redis: counts and digests, for a day.

Owns the form of what is written. It decides nothing, and what Redis cannot say is not known. Read `SharedFeedback`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.events.feedback import Feedback, GivenElsewhere
from penstock_gateway.redis_guard import GuardedRedis

KEPT_SECONDS: Final = 24 * 3600
"""Repetitions come within seconds, and one that comes later changes nothing: the last score counts."""
_LAST: Final = b"last"
_COUNT: Final = b"count"
_DIGEST_BYTES: Final = 16

_NOTE: Final = b"""
redis.call('HSET', KEYS[1], 'last', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'count', 1)
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[2]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class SharedFeedback:
    """The pieces that decisions have had.

    Parameters
    ----------
    redis : GuardedRedis
        Whoever made it closes it.
    organisation : str
        Part of every key.

    Notes
    -----
    ``penstock:feedback:ORGANISATION:DECISION`` is a hash: ``last``, ``count``, and a field for each idempotency key.
    DECISION and fields are digests, pieces are digests under the decision's id: no label or comment can be guessed.
    """

    def __init__(self, redis: GuardedRedis, organisation: str) -> None:
        self._redis = redis
        self._prefix = f"penstock:feedback:{organisation}:".encode()

    async def find(self, decision_id: str, feedback: Feedback, idempotency_key: str | None) -> GivenElsewhere | None:
        """Return what is known of a piece; one round trip, and None when Redis does not say.

        Parameters
        ----------
        decision_id : str
        feedback : Feedback
        idempotency_key : str or None
        """
        field = _LAST if idempotency_key is None else _field(idempotency_key)
        try:
            reply = await self._redis.execute(b"HMGET", self._key(decision_id), _COUNT, field)
        except StoreUnavailable:  # counted and told by the guard
            return None
        if not isinstance(reply, list) or len(reply) != 2 or reply[0] is None:
            return None
        known = reply[1]
        is_same = known == _piece(decision_id, feedback)
        return GivenElsewhere(int(reply[0]), is_same, is_key_used=idempotency_key is not None and known is not None)

    async def note(self, decision_id: str, feedback: Feedback, idempotency_key: str | None) -> bool:
        """Write down a piece that is on disk; return whether it was, for it is not while Redis is away."""
        field = b"" if idempotency_key is None else _field(idempotency_key)
        piece = _piece(decision_id, feedback)
        try:
            await self._redis.execute(b"EVAL", _NOTE, 1, self._key(decision_id), KEPT_SECONDS, piece, field)
        except StoreUnavailable:  # likewise
            return False
        return True

    def _key(self, decision_id: str) -> bytes:
        return self._prefix + _digest(decision_id.encode())


def _field(idempotency_key: str) -> bytes:
    return b"key:" + _digest(idempotency_key.encode("utf-8", "surrogatepass"))


def _piece(decision_id: str, feedback: Feedback) -> bytes:
    content = msgspec.json.encode([feedback.score, feedback.rating, feedback.label, feedback.comment])
    return _digest(content, key=blake2b(b"piece " + decision_id.encode(), digest_size=_DIGEST_BYTES).digest())


def _digest(content: bytes, key: bytes = b"") -> bytes:
    return blake2b(content, key=key, digest_size=_DIGEST_BYTES).hexdigest().encode()
