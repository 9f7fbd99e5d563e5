"""Speaking to Redis.

Owns the import of redis-py and the choice of transport, and translates every error of redis-py into
`StoreUnavailable`, without its text: that may name hosts and keys. It knows nothing of what is stored. Read
`RedisClient`, which fulfils `penstock_cache.stores.RedisCommands`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from penstock_gateway.redis_errors import RedisRefused, late, refused, unreachable
from penstock_gateway.redis_multiplexed import GRACE_SECONDS, MultiplexedRedis
from penstock_gateway.redis_url import RedisNotUsable, read_url
from penstock_routers.installation import install_command

__all__ = ["CONNECTIONS", "GRACE_SECONDS", "RedisClient", "RedisNotUsable"]

_log = logging.getLogger("penstock.redis")

CONNECTIONS = 8
"""Commands of redis-py on the way at once; more wait, within their deadlines. A command takes some 0.2 ms, so eight
keep up with more look-ups than one process can make, and few need to be opened again after a failure."""

# Commands whose replies redis-py would rearrange: the cache wants them as they are.
_RAW = ("HSCAN", "PING", "SMEMBERS", "XREAD")
# Errors from whose text redis-py cuts off the first word.
_WORDS = {
    "ClusterDownError": "CLUSTERDOWN",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
_CLOSE_SECONDS = 1.0
_BLOCKING_CONNECTIONS = 16  # at least one for each shard of the log, all of which may wait at once


class RedisClient:
    """Sends commands to one server or cluster.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS) or ``unix://``; ``redis+cluster://`` and ``rediss+cluster://`` for a cluster.
        User and password in it are percent-encoded. Options after ``?``: ``db`` and redis-py's ``ssl_…`` for
        certificates; others are refused.
    connections : int, at least 1
        Of redis-py.
    is_multiplexed : bool
        Put all commands on one connection (`MultiplexedRedis`). A cluster is always spoken to through redis-py, with
        a connection for each command on the way.

    Attributes
    ----------
    is_cluster : bool

    Raises
    ------
    RedisNotUsable
    """

    def __init__(self, url: str, *, connections: int = CONNECTIONS, is_multiplexed: bool = True) -> None:
        place = read_url(url)
        self.is_cluster = place.is_cluster
        self._url = url
        self._connections = connections
        self._transport: MultiplexedRedis | _Pool
        if is_multiplexed and not place.is_cluster:
            if find_spec("redis") is None or find_spec("hiredis") is None:
                raise _missing_extra()
            self._transport = MultiplexedRedis(place)
        else:
            self._transport = _Pool(url, is_cluster=place.is_cluster, connections=connections)

    def __repr__(self) -> str:
        """Return where it leads, without user, password and options."""
        return f"RedisClient({urlsplit(self._url).scheme}://{read_url(self._url).shown})"

    def execute(self, *command: bytes | int, deadline_seconds: float) -> Coroutine[Any, Any, object]:
        """Send a command and return its reply, once awaited.

        Parameters
        ----------
        *command : bytes or int
        deadline_seconds : float
            For waiting, connecting, sending and the reply together.

        Raises
        ------
        StoreUnavailable
            Or `RedisRefused`, which names the first word of the error that Redis answered with.

        Notes
        -----
        Whoever gives up at the deadline, or is cancelled, leaves the command to itself for `GRACE_SECONDS`: its late
        reply is read and thrown away, and its connection is kept. Were it closed instead, a moment's hiccup would close
        all connections, and opening them again takes longer than a look-up has. After that the connection is closed, so
        that no late reply is ever taken for that of another command.
        """
        return self._transport.execute(command, deadline_seconds)

    def apart(self) -> RedisClient:
        """Return a client with connections of its own, for commands that block."""
        connections = max(self._connections, _BLOCKING_CONNECTIONS)
        return RedisClient(self._url, connections=connections, is_multiplexed=False)

    async def aclose(self) -> None:
        """Close the connections; what is on the way is given up."""
        await self._transport.aclose()


class _Pool:
    """redis-py's asyncio client: one command at a time on each of a few connections."""

    def __init__(self, url: str, *, is_cluster: bool, connections: int) -> None:
        self._turns = asyncio.Semaphore(connections)
        self._sending: set[asyncio.Task[object]] = set()
        self._redis = load_package()
        try:
            self._client: Any = _cluster_client(url) if is_cluster else _client(url)
        except (ValueError, self._redis.RedisError, self._redis.RedisClusterException):
            raise RedisNotUsable("The Redis URL has an option with a value that Redis's client refuses.") from None
        for command in _RAW:
            self._client.set_response_callback(command, _as_it_is)

    async def execute(self, command: tuple[bytes | int, ...], deadline_seconds: float) -> object:
        """Send a command when a connection is free; at most so many tasks exist as there are connections."""
        if deadline_seconds <= 0.0:
            raise late()
        end = time.monotonic() + deadline_seconds
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise late() from None
        sending = asyncio.get_running_loop().create_task(self._send(command, deadline_seconds + GRACE_SECONDS))
        self._sending.add(sending)
        sending.add_done_callback(self._note_sent)
        await asyncio.wait((sending,), timeout=max(0.0, end - time.monotonic()))
        if not sending.done():
            raise late()
        return sending.result()

    async def _send(self, command: tuple[bytes | int, ...], limit_seconds: float) -> object:
        name, *arguments = command
        assert isinstance(name, bytes)
        try:
            async with asyncio.timeout(limit_seconds):
                reply: object = await self._client.execute_command(name.decode(), *arguments)
                return reply
        except (TimeoutError, self._redis.TimeoutError):
            raise late() from None
        except self._redis.AuthenticationError:
            raise RedisRefused("credential") from None
        except (OSError, self._redis.ConnectionError) as error:
            raise unreachable(type(error).__name__) from None
        except self._redis.ResponseError as error:
            raise refused(_WORDS.get(type(error).__name__, str(error))) from None
        except Exception as error:  # a server that speaks something else than Redis, or a cluster without nodes
            _log.warning("redis_broken", extra={"problem": type(error).__name__})
            raise unreachable(type(error).__name__) from None

    def _note_sent(self, sending: asyncio.Task[object]) -> None:
        self._sending.discard(sending)
        self._turns.release()
        if not sending.cancelled():
            sending.exception()  # seen, should nobody wait for it any more

    async def aclose(self) -> None:
        """Close the connections; what is on the way is given up."""
        for sending in self._sending:
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.aclose()
        except (TimeoutError, OSError, self._redis.RedisError) as error:
            _log.warning("redis_not_closed", extra={"problem": type(error).__name__})


def load_package() -> ModuleType:
    """Load the package ``redis``, in a third of a second: where a loop serves already, in a thread and beforehand.

    Raises
    ------
    RedisNotUsable
        It is not installed.
    """
    try:
        import redis
        import redis.asyncio
    except ImportError as error:
        raise _missing_extra() from error
    return redis


def _missing_extra() -> RedisNotUsable:
    return RedisNotUsable(
        f"Redis is asked for, and its client is not installed: {install_command('redis')}", code="missing_extra"
    )


def _client(url: str) -> Any:
    """Return a client of one server; its own timeouts are off, because every command has a deadline."""
    redis = load_package()
    return redis.asyncio.Redis.from_url(url, **_options(redis), retry_on_error=[])


def _cluster_client(url: str) -> Any:
    redis = load_package()
    return redis.asyncio.RedisCluster.from_url(url.replace("+cluster", "", 1), **_options(redis))


def _options(redis: Any) -> dict[str, Any]:
    no_retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
    return {
        "protocol": 2,  # Redis 5 knows no other
        "retry": no_retry,  # a deadline of 50 ms leaves no time for it
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "socket_keepalive": True,
        "max_connections": 1_000,
    }


def _as_it_is(reply: object, **_: object) -> object:
    return reply
