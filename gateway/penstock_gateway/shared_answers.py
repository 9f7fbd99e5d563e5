"""Which deployment has an answer that a provider keeps, and for whom: in Redis, for every gateway on it.

Owns the form of what is written: no name of a tenant and no id of an answer, only digests. It decides nothing, and what
Redis cannot say is not known. Read `SharedAnswers.find`.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Final

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.conversations import KeptAnswer
from penstock_gateway.redis_guard import GuardedRedis

KEPT_SECONDS: Final = 30 * 24 * 3600
"""As long as OpenAI keeps a response (https://platform.openai.com/docs/guides/conversation-state); every use of a
conversation begins it anew."""
_DIGEST_BYTES: Final = 16
_MARK_DIGITS: Final = 2 * _DIGEST_BYTES

# Who had it first has it: another tenant's answer is not taken over, whichever gateway is told so.
_NOTE: Final = b"""
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, #ARGV[1]) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'EX', ARGV[3])
end
"""


class SharedAnswers:
    """The owners and keepers of answers that providers keep, shared by gateways.

    Parameters
    ----------
    redis : GuardedRedis
    organisation : str
        Part of every key: tenants of two organisations that are called alike are two.

    Notes
    -----
    ``penstock:answers:ORGANISATION:ID`` holds the tenant's mark and the deployment's name. ID is a digest of the
    answer's id; the mark is a digest of the tenant under that id as a key, so that nothing shows which answers belong
    to one tenant. Some 200 bytes each.
    """

    def __init__(self, redis: GuardedRedis, organisation: str) -> None:
        self._redis = redis
        self._prefix = f"penstock:answers:{organisation}:".encode()
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def is_available(self) -> bool:
        """Whether Redis is asked; False while it does not answer."""
        return self._redis.is_available

    async def find(self, tenant: str, answer_id: str) -> KeptAnswer | None:
        """Return what is known of an answer; one round trip.

        Parameters
        ----------
        tenant : str
            Who asks.
        answer_id : str

        Returns
        -------
        KeptAnswer or None
            None when nothing is known of it, or Redis does not say.
        """
        try:
            found = await self._redis.execute(b"GET", self._key(answer_id))
        except StoreUnavailable:  # counted and told by the guard
            return None
        if not isinstance(found, bytes) or len(found) < _MARK_DIGITS:
            return None
        if found[:_MARK_DIGITS] != _mark(tenant, answer_id):
            return KeptAnswer(None, is_foreign=True)
        return KeptAnswer(found[_MARK_DIGITS:].decode("utf-8", "replace"))

    def note(self, tenant: str, answer_id: str, deployment: str) -> None:
        """Write down who gave an answer and for whom, in the background; lost while Redis is away."""
        command = self._write(self._key(answer_id), _mark(tenant, answer_id), deployment.encode())
        task = asyncio.get_running_loop().create_task(command, name="penstock-note-answer")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def aclose(self) -> None:
        """End the writes under way, each of which ends by its deadline, and let go of Redis."""
        await asyncio.gather(*self._writes)
        await self._redis.aclose()

    async def _write(self, key: bytes, mark: bytes, deployment: bytes) -> None:
        try:
            await self._redis.execute(b"EVAL", _NOTE, 1, key, mark, deployment, KEPT_SECONDS)
        except StoreUnavailable:  # likewise
            return

    def _key(self, answer_id: str) -> bytes:
        return self._prefix + _digest(answer_id).hex().encode()


def _mark(tenant: str, answer_id: str) -> bytes:
    return blake2b(_bytes(tenant), key=_digest(f"owner {answer_id}"), digest_size=_DIGEST_BYTES).hexdigest().encode()


def _digest(text: str) -> bytes:
    return blake2b(_bytes(text), digest_size=_DIGEST_BYTES).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
