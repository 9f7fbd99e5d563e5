"""What the Redis store needs of a client.

Owns the one Protocol through which this package speaks to Redis; the package imports no client. Read `RedisCommands`.
"""

from __future__ import annotations

from typing import Protocol

Argument = bytes | int


class RedisCommands(Protocol):
    """Sends commands to one Redis or Redis cluster and returns replies as they are on the wire."""

    @property
    def is_cluster(self) -> bool:
        """Whether keys of different slots may lie on different servers."""
        ...

    async def execute(self, *command: Argument, deadline_seconds: float) -> object:
        """Send a command to the server of its first key and return the reply, undecoded.

        Parameters
        ----------
        *command : bytes or int
            Name and arguments; all keys in one slot.
        deadline_seconds : float
            For everything together: waiting for a connection, connecting, sending, and the reply.

        Returns
        -------
        object
            bytes, int, None, or a list of these, as in the RESP2 protocol.

        Raises
        ------
        StoreUnavailable
            ``cache_store_timeout``, ``cache_store_unreachable`` or ``cache_store_refused``. A connection whose reply
            was not read is never used again, so that no reply reaches another command.
        """
        ...

    def apart(self) -> RedisCommands:
        """Return a client of the same server with connections of its own, for commands that block."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
