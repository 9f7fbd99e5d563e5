"""Redis as one feature of the gateway sees it: commands that are answered, or fail at once.

Owns what counts as a server that is away, the probes in the background, and the log line when that changes. It does not
decide what a feature does meanwhile: `GuardedRedis.fail_mode` says what was configured. Read `GuardedRedis.execute`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final, Protocol

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.metrics_redis import RedisMetrics
from penstock_gateway.redis_breaker import DEFAULT_RULES, BreakerRules, BreakerState, CircuitBreaker
from penstock_gateway.redis_errors import OPEN_CODE, REFUSED_CODE, TIMEOUT_CODE, UNREACHABLE_CODE, RedisRefused

_log = logging.getLogger("penstock.redis")

DEADLINE_SECONDS: Final = 0.05
"""Of a command whose caller gives none."""
PROBE_CONNECT_SECONDS: Final = 1.0
"""Of a probe's first PING, for which a connection, perhaps over TLS, must be opened. Nobody waits for it."""

# Replies of a server that is there and can do nothing for anybody: it has no data, or is busy with a script.
_AWAY_REASONS = frozenset({"credential", "BUSY", "CLUSTERDOWN", "MASTERDOWN"})
_KINDS = {TIMEOUT_CODE: "timeout", UNREACHABLE_CODE: "unreachable", REFUSED_CODE: "refused"}


class FailMode(StrEnum):
    """What a feature does while its Redis is away."""

    OPEN = "open"  # requests go on as if the feature were off
    CLOSED = "closed"  # requests that need it are refused
    LOCAL = "local"  # this process goes on with what it holds itself


class SendsCommands(Protocol):
    """What a guard needs of a client; `RedisClient` is one."""

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Send a command and return its reply; raises `StoreUnavailable`."""
        ...


class WatchedServer:
    """One Redis and all that is known of whether it answers, shared by the features that use it.

    Parameters
    ----------
    client : SendsCommands
    rules : BreakerRules
    deadline_seconds : float
        In which it must answer a PING before commands are sent again: what answers later is of no use to a request.
    clock : callable
        Monotonic seconds.
    sleep : callable
        Waits so many seconds.
    jitter : callable
        Returns numbers in [0, 1).

    Notes
    -----
    While the breaker is open one task sends PINGs on its schedule; commands of requests are never probes. Time-outs and
    broken connections count as failures; an error reply does not, unless it says that the server can do nothing.
    """

    def __init__(
        self,
        client: SendsCommands,
        *,
        rules: BreakerRules = DEFAULT_RULES,
        deadline_seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.client = client
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._sleep = sleep
        self._breaker = CircuitBreaker(rules, jitter=jitter)
        self._guards: list[GuardedRedis] = []
        self._probing: asyncio.Task[None] | None = None
        self._opened_at = 0.0

    @property
    def state(self) -> BreakerState:
        """What becomes of commands now."""
        return self._breaker.state

    @property
    def is_open(self) -> bool:
        """Whether commands fail at once."""
        return self._breaker.is_open

    @property
    def features(self) -> tuple[str, ...]:
        """The features that use it."""
        return tuple(guard.feature for guard in self._guards)

    def join(self, guard: GuardedRedis) -> None:
        """Tell a guard of changes from now on."""
        self._guards.append(guard)

    async def leave(self, guard: GuardedRedis) -> None:
        """Forget a guard; with the last one the client is closed, where it can be."""
        if guard not in self._guards:
            return
        self._guards.remove(guard)
        if self._guards:
            return
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        aclose = getattr(self.client, "aclose", None)
        if aclose is not None:
            await aclose()

    def note_answer(self) -> None:
        """Note that a command was answered."""
        self._breaker.note_success(self._clock())

    def note_failure(self, error: StoreUnavailable) -> None:
        """Note how a command failed."""
        if not _means_away(error):
            self.note_answer()
            return
        if not self._breaker.note_failure(self._clock()):
            return
        self._opened_at = self._clock()
        modes = {guard.feature: guard.fail_mode.value for guard in self._guards}
        _log.warning("redis_unavailable", extra={"server": repr(self.client), "code": error.code, "features": modes})
        self._tell()
        if self._probing is None:
            self._probing = asyncio.get_running_loop().create_task(self._probe(), name="penstock-redis-probe")

    async def _probe(self) -> None:
        breaker = self._breaker
        while breaker.is_open:
            await self._sleep(max(0.0, breaker.probe_at - self._clock()))
            breaker.begin_probe()
            self._tell()
            has_answered = False
            try:
                has_answered = await self._answers()
            finally:
                breaker.note_probe(has_answered=has_answered, now=self._clock())
                self._tell()
        self._probing = None
        seconds = round(self._clock() - self._opened_at, 3)
        fields = {"server": repr(self.client), "after_seconds": seconds, "features": list(self.features)}
        _log.info("redis_available", extra=fields)

    async def _answers(self) -> bool:
        """Whether a PING is answered as fast as commands have to be, once there is a connection."""
        try:
            for deadline_seconds in (PROBE_CONNECT_SECONDS, self._deadline_seconds):
                await self.client.execute(b"PING", deadline_seconds=deadline_seconds)
        except StoreUnavailable as error:
            return not _means_away(error)
        except Exception:  # the edge of the background task: without it nobody would look again
            _log.exception("redis_probe_failed")
            return False
        return True

    def _tell(self) -> None:
        for guard in list(self._guards):
            guard.note_state(self.state)


class GuardedRedis:
    """A server's client for one feature; fulfils `penstock_cache.stores.RedisCommands` where the client does.

    Parameters
    ----------
    server : WatchedServer
    feature : str
        ``ledger``, ``accounts``, ``answers``, ``cache`` or ``events``; a label of metrics.
    fail_mode : FailMode
        Kept for the feature, which acts on it.
    deadline_seconds : float
        Of commands that are given none.
    metrics : RedisMetrics or None
    fails_fast : bool
        Whether commands fail at once while the server is away. False for a feature that has breakers of its own, as
        the cache's store: its failures are still counted, and it still tells the others of them.

    Attributes
    ----------
    feature : str
    fail_mode : FailMode
    """

    def __init__(
        self,
        server: WatchedServer,
        feature: str,
        *,
        fail_mode: FailMode = FailMode.LOCAL,
        deadline_seconds: float = DEADLINE_SECONDS,
        metrics: RedisMetrics | None = None,
        fails_fast: bool = True,
    ) -> None:
        self.feature = feature
        self.fail_mode = fail_mode
        self._server = server
        self._client = server.client
        self._deadline_seconds = deadline_seconds
        self._metrics = metrics
        self._fails_fast = fails_fast
        self._listeners: list[Callable[[BreakerState], None]] = []
        server.join(self)
        self.note_state(server.state)

    def __repr__(self) -> str:
        """Return feature and server, without credentials."""
        return f"GuardedRedis({self.feature}, {self._client!r})"

    @property
    def is_cluster(self) -> bool:
        """Whether keys of different slots may lie on different servers."""
        return bool(getattr(self._client, "is_cluster", False))

    @property
    def state(self) -> BreakerState:
        """What becomes of commands now."""
        return self._server.state

    @property
    def is_available(self) -> bool:
        """Whether commands are sent; False while they fail at once."""
        return not self._server.is_open

    def on_change(self, listener: Callable[[BreakerState], None]) -> None:
        """Call a function at every change of state, in the event loop; it must be quick and not raise."""
        self._listeners.append(listener)

    async def execute(self, *command: bytes | int, deadline_seconds: float | None = None) -> object:
        """Send a command and return its reply.

        Parameters
        ----------
        *command : bytes or int
            Name and arguments.
        deadline_seconds : float, optional
            For everything together; the guard's own by default.

        Raises
        ------
        StoreUnavailable
            ``redis_open`` at once while the server is away; else as from the client.

        Notes
        -----
        PING is always sent: it is how a feature with a breaker of its own looks whether the server is back.
        """
        server = self._server
        if server.is_open and self._fails_fast and command[0] != b"PING":
            self._count("open")
            raise StoreUnavailable("Redis does not answer and is left alone.", code=OPEN_CODE)
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        try:
            reply = await self._client.execute(*command, deadline_seconds=seconds)
        except StoreUnavailable as error:
            self._count(_KINDS.get(error.code, "unreachable"))
            server.note_failure(error)
            raise
        server.note_answer()
        return reply

    def apart(self) -> Any:
        """Return the client's own client for commands that block: who follows a log waits and tries again by itself."""
        return self._client.apart()  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Let go of the server; the last feature to do so closes its connections."""
        await self._server.leave(self)

    def note_state(self, state: BreakerState) -> None:
        """Show a change of state, and tell the listeners."""
        if self._metrics is not None:
            self._metrics.show_state(self.feature, state)
        for listener in self._listeners:
            listener(state)

    def _count(self, kind: str) -> None:
        if self._metrics is not None:
            self._metrics.count_error(self.feature, kind)


def _means_away(error: StoreUnavailable) -> bool:
    """Whether a failure says that the server is of no use to anybody now."""
    return not isinstance(error, RedisRefused) or error.reason in _AWAY_REASONS
