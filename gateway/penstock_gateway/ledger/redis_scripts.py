"""The ledger's scripts: their texts, and running one in a single round trip.

Owns nothing of what they say; see the ``.lua`` files, ``books.lua`` first. Read `ScriptRunner.run`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Protocol, TypeAlias, cast

import msgspec

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.ledger.contract import LedgerUnavailable
from penstock_gateway.redis_errors import RedisRefused

Reply: TypeAlias = list[bytes | int]
Ask: TypeAlias = Mapping[str, Any]

SCRIPTS: Final = ("reserve", "top_up", "settle", "renew", "slice", "read", "mark")
_SHARED: Final = "books"
_encode = msgspec.json.Encoder().encode


class RedisCommands(Protocol):
    """What sends commands to Redis."""

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Send a command and return its reply.

        Raises
        ------
        StoreUnavailable
        """
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """One script.

    Attributes
    ----------
    text : bytes
        With what all of them share in front of it.
    digest : bytes
        SHA-1 of the text, in hexadecimal: Redis's name for it.
    """

    text: bytes
    digest: bytes


@cache
def script(name: str) -> Script:
    """Return a script by its name, one of `SCRIPTS`."""
    folder = files(__package__ or "penstock_gateway.ledger")
    text = b"\n".join(folder.joinpath(f"{each}.lua").read_bytes() for each in (_SHARED, name))
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


class ScriptRunner:
    """Runs scripts by their digest, and sends the text where Redis does not have it.

    Parameters
    ----------
    commands : RedisCommands
    timeout_seconds : float
        Deadline of a run, the second attempt included.
    """

    def __init__(self, commands: RedisCommands, timeout_seconds: float) -> None:
        self._commands = commands
        self._timeout_seconds = timeout_seconds

    async def run(self, name: str, keys: Sequence[bytes], ask: Ask, *, patience: float = 1.0) -> Reply:
        """Run a script.

        Parameters
        ----------
        name : str
        keys : sequence of bytes
            All in one slot of a cluster.
        ask : mapping
            Its argument, as plain values.
        patience : float
            Factor on the deadline, for what nobody waits for.

        Raises
        ------
        LedgerUnavailable
            It may have run all the same.
        """
        found = script(name)
        allowed = self._timeout_seconds * patience
        end = time.monotonic() + allowed
        arguments: tuple[bytes | int, ...] = (len(keys), *keys, _encode(ask))
        try:
            try:
                reply = await self._commands.execute(b"EVALSHA", found.digest, *arguments, deadline_seconds=allowed)
            except RedisRefused as error:
                if error.reason != "NOSCRIPT":
                    raise
                # A new server, a failover or SCRIPT FLUSH; EVAL leaves the script there for the next one.
                left = end - time.monotonic()
                reply = await self._commands.execute(b"EVAL", found.text, *arguments, deadline_seconds=left)
        except StoreUnavailable as error:
            raise LedgerUnavailable(error.message) from None
        return cast(Reply, reply)
