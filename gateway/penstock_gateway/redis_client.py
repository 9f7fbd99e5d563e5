"""Speaking to Redis for the cache.

Owns the import of redis-py, URLs, connections and deadlines, and translates every error of Redis into
`StoreUnavailable`, without its text: that may name hosts and keys. It knows nothing of what is stored. Read
`RedisClient`, which fulfils `penstock_cache.stores.RedisCommands`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.errors import GatewayError
from penstock_routers.installation import install_command

_log = logging.getLogger(__name__)

CONNECTIONS = 8
"""Commands on the way at once; more wait, within their deadlines. A command takes some 0.2 ms, so eight keep up with
more look-ups than one process can make, and few need to be opened again after a failure."""
GRACE_SECONDS = 1.0
"""How long a command may go on after its deadline."""

_SCHEMES = {
    "redis": False,
    "rediss": False,
    "unix": False,
    "redis+cluster": True,
    "rediss+cluster": True,
}
_URL_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
# Commands whose replies redis-py would rearrange: the cache wants them as they are.
_RAW = ("HSCAN", "PING", "SMEMBERS", "XREAD")
_CLOSE_SECONDS = 1.0
_BLOCKING_CONNECTIONS = 16  # at least one for each shard of the log, all of which may wait at once


class RedisNotUsable(GatewayError):
    """The redis extra is missing (``missing_extra``), or the URL is not one of Redis (``invalid_redis_url``)."""

    default_code = "invalid_redis_url"


class RedisClient:
    """Sends commands through redis-py's asyncio client.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS) or ``unix://``; ``redis+cluster://`` and ``rediss+cluster://`` for a cluster.
        User and password in it are percent-encoded. Options after ``?``: ``db`` and redis-py's ``ssl_…`` for
        certificates; others are refused.
    connections : int, at least 1

    Attributes
    ----------
    is_cluster : bool

    Raises
    ------
    RedisNotUsable
    """

    def __init__(self, url: str, *, connections: int = CONNECTIONS) -> None:
        scheme = _checked_scheme(url)
        self.is_cluster = _SCHEMES[scheme]
        self._url = url
        self._connections = connections
        self._turns = asyncio.Semaphore(connections)
        self._sending: set[asyncio.Task[object]] = set()
        self._redis = _import_redis()
        try:
            self._client: Any = _cluster_client(url) if self.is_cluster else _client(url)
        except (ValueError, self._redis.RedisError, self._redis.RedisClusterException):
            raise RedisNotUsable("The Redis URL has an option with a value that Redis's client refuses.") from None
        for command in _RAW:
            self._client.set_response_callback(command, _as_it_is)

    def __repr__(self) -> str:
        """Return where it leads, without user, password and options."""
        parts = urlsplit(self._url)
        place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        return f"RedisClient({parts.scheme}://{place})"

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Send a command and return its reply.

        Parameters
        ----------
        *command : bytes or int
        deadline_seconds : float
            For waiting, connecting, sending and the reply together.

        Raises
        ------
        StoreUnavailable

        Notes
        -----
        Whoever gives up at the deadline, or is cancelled, leaves the command to itself for `GRACE_SECONDS`: its late
        reply is read and thrown away, and its connection is kept. Were it closed instead, a moment's hiccup would close
        all connections, and opening them again takes longer than a look-up has. After that the connection is closed, so
        that no late reply is ever taken for that of another command.
        """
        if deadline_seconds <= 0.0:
            raise _late()
        end = time.monotonic() + deadline_seconds
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise _late() from None
        sending = asyncio.get_running_loop().create_task(self._send(command, deadline_seconds + GRACE_SECONDS))
        self._sending.add(sending)
        sending.add_done_callback(self._note_sent)
        await asyncio.wait((sending,), timeout=max(0.0, end - time.monotonic()))
        if not sending.done():
            raise _late()
        return sending.result()

    async def _send(self, command: tuple[bytes | int, ...], limit_seconds: float) -> object:
        name, *arguments = command
        assert isinstance(name, bytes)
        try:
            async with asyncio.timeout(limit_seconds):
                reply: object = await self._client.execute_command(name.decode(), *arguments)
                return reply
        except (TimeoutError, self._redis.TimeoutError):
            raise _late() from None
        except self._redis.AuthenticationError:
            raise _refused("credential") from None
        except (OSError, self._redis.ConnectionError) as error:
            raise _unreachable(error) from None
        except self._redis.ResponseError as error:
            raise _refused(str(error).split(" ", 1)[0]) from None
        except Exception as error:  # a server that speaks something else than Redis, or a cluster without nodes
            _log.warning("redis_broken", extra={"problem": type(error).__name__})
            raise _unreachable(error) from None

    def _note_sent(self, sending: asyncio.Task[object]) -> None:
        self._sending.discard(sending)
        self._turns.release()
        if not sending.cancelled():
            sending.exception()  # seen, should nobody wait for it any more

    def apart(self) -> RedisClient:
        """Return a client with connections of its own, for commands that block."""
        return RedisClient(self._url, connections=max(self._connections, _BLOCKING_CONNECTIONS))

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


def _checked_scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
        options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise RedisNotUsable("The Redis URL cannot be read: is something in the password to be escaped?") from None
    if parts.scheme not in _SCHEMES:
        raise RedisNotUsable(f"A Redis URL begins with one of {', '.join(f'{name}://' for name in _SCHEMES)}.")
    unknown = sorted(set(options) - _URL_OPTIONS)
    if unknown:
        raise RedisNotUsable(f"A Redis URL may have the options {', '.join(sorted(_URL_OPTIONS))} and no other.")
    return parts.scheme


def _import_redis() -> ModuleType:
    try:
        import redis
        import redis.asyncio
    except ImportError as error:
        raise RedisNotUsable(
            f"The cache is to use Redis, whose client is not installed: {install_command('redis')}",
            code="missing_extra",
        ) from error
    return redis


def _client(url: str) -> Any:
    """Return a client of one server; its own timeouts are off, because every command has a deadline."""
    redis = _import_redis()
    return redis.asyncio.Redis.from_url(url, **_options(redis), retry_on_error=[])


def _cluster_client(url: str) -> Any:
    redis = _import_redis()
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


def _late() -> StoreUnavailable:
    return StoreUnavailable("Redis did not answer in time.", code="cache_store_timeout")


def _unreachable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"Redis cannot be reached ({type(error).__name__}).", code="cache_store_unreachable")


def _refused(reason: str) -> StoreUnavailable:
    """Return the error of a refused command; `reason` is the reply's first word, such as ``OOM`` or ``WRONGTYPE``."""
    known = reason if (reason.isalpha() and reason.isupper()) or reason == "credential" else "an error"
    return StoreUnavailable(f"Redis refused a command ({known}).", code="cache_store_refused")
