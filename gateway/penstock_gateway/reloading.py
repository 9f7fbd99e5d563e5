"""Reading the configuration again without dropping a request.

Owns the swap: the next gateway is built and started beside the one that serves, takes its place in one step, and the
old one is closed after its last request. A configuration that is wrong, or cannot be started, changes nothing. Read
`ReloadingApp.reload`, then `Generation` for what is swapped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Protocol

from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.configuration_problems import ConfigurationError, Problem
from penstock_gateway.lasting import Lasting
from penstock_gateway.metrics_reload import ReloadMetrics
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_restart import NewConfiguration, changed_settings

_log = logging.getLogger("penstock.reload")

START_SECONDS: Final = 60.0
"""For starting what a configuration needs; the first artifact from a URL alone may take 10 s."""
CLOSE_SECONDS: Final = 30.0
MAX_DRAINING: Final = 32
"""Older configurations with requests under way; a further reload waits until somebody tries again."""


BY_WORKER: Final = "worker"
"""The trigger of a reload that another worker asks for."""
NOT_RUNNING: Final = "not_running"
"""Of a worker that reads the configuration when it starts."""

ReloadOthers = Callable[[], Awaitable[Mapping[int, str]]]


class StartProblem(Exception):
    """A gateway cannot start for a reason that whoever runs it can mend; the message says it, without any secret."""


class Generation(Protocol):
    """A gateway of one configuration, from `start` to `aclose`; both are called once.

    Notes
    -----
    A generation opens nothing before `start`. What outlives it comes out of `lasting.Lasting`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        ...

    async def start(self) -> None:
        """Open what it needs; the generation before it is still serving. After a failure `aclose` is called."""
        ...

    def take_over(self) -> None:
        """Change what lasts: levels, gauges, whom the watchers tell. Called in the step of the swap; never raises."""
        ...

    async def aclose(self) -> None:
        """Finish what goes on behind its requests, and let go of what it opened; none of its requests is under way."""
        ...


class ReloadResult(StrEnum):
    """How reading the configuration again ended."""

    RELOADED = "reloaded"
    REFUSED = "refused"  # it is wrong, or nothing can be exchanged at the moment
    FAILED = "failed"  # it could not be built or started
    PARTIAL = "partial"  # it is in force in this process, and not in every other worker


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What one reload came to.

    Attributes
    ----------
    result : ReloadResult
    at : float
        UNIX seconds.
    generation : int
        Number of the generation that serves now, from 1 on.
    problems : tuple of Problem
        Why it did not.
    changed : tuple of str
        Settings that differ from those before, by name.
    needs_restart : tuple of str
        Settings that differ in the file and keep their old value until the process is started again.
    workers : mapping of int to str
        What it came to in the other workers, by their number; empty when there are none.
    """

    result: ReloadResult
    at: float
    generation: int
    problems: tuple[Problem, ...] = ()
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    workers: Mapping[int, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values; no setting's value is among them."""
        shown = {
            "result": self.result.value,
            "at": self.at,
            "generation": self.generation,
            "problems": [problem.as_dict() for problem in self.problems],
            "changed": list(self.changed),
            "needs_restart": list(self.needs_restart),
        }
        return {**shown, "workers": {str(n): text for n, text in self.workers.items()}} if self.workers else shown


class Trigger(Protocol):
    """Something that asks for reloads while the gateway runs."""

    def start(self, reload: Callable[[str], Awaitable[ReloadOutcome]]) -> None:
        """Begin; called in the event loop."""
        ...

    async def aclose(self) -> None:
        """Stop; safe to call twice."""
        ...


@dataclass(slots=True)
class _Serving:
    """A generation and its requests."""

    generation: Generation
    number: int
    in_flight: int = 0
    is_retired: bool = False
    drained: asyncio.Event = field(default_factory=asyncio.Event)


class ReloadingApp:
    """The gateway as an ASGI callable whose configuration can change.

    Parameters
    ----------
    first : Generation
        Built already, not started: the server's lifespan does that.
    settings : Settings
        What it was built from.
    read : callable
        Reads the configuration again, given the settings in force; blocks; raises `ConfigurationError`.
    build : callable
        Builds a generation of settings without starting it.
    lasting : Lasting
        Closed last.
    triggers : sequence of Trigger
    metrics : ReloadMetrics or None
    reload_others : callable or None
        Has the other workers of this gateway read the configuration, too, and returns what it came to in each; called
        when this process has it in force, unless another worker asked.

    Attributes
    ----------
    last_problem : ReloadOutcome or None
        The last reload, when it changed nothing.
    """

    def __init__(
        self,
        first: Generation,
        settings: Settings,
        *,
        read: Callable[[Settings], NewConfiguration],
        build: Callable[[Settings], Awaitable[Generation]],
        lasting: Lasting,
        triggers: Sequence[Trigger] = (),
        metrics: ReloadMetrics | None = None,
        reload_others: ReloadOthers | None = None,
    ) -> None:
        self.last_problem: ReloadOutcome | None = None
        self._serving = _Serving(first, 1)
        self._settings = settings
        self._read = read
        self._build = build
        self._lasting = lasting
        self._triggers = triggers
        self._metrics = metrics
        self._reload_others = reload_others
        self._closing: dict[asyncio.Task[None], _Serving] = {}
        self._running: asyncio.Task[ReloadOutcome] | None = None
        self._queued: asyncio.Task[ReloadOutcome] | None = None
        self._is_stopping = False
        self._note_loaded()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def generation(self) -> Generation:
        """The generation that new requests go to."""
        return self._serving.generation

    @property
    def number(self) -> int:
        """Number of that generation, from 1 on."""
        return self._serving.number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the generation in force; it stays there, whatever is loaded meanwhile."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        serving = self._serving
        serving.in_flight += 1
        try:
            await serving.generation(scope, receive, send)
        finally:
            serving.in_flight -= 1
            if serving.is_retired and serving.in_flight == 0:
                serving.drained.set()

    async def reload(self, trigger: str = "call") -> ReloadOutcome:
        """Read the configuration again and put it in force, when it is right.

        Parameters
        ----------
        trigger : str
            Who asks, for the log.

        Returns
        -------
        ReloadOutcome
            Of a reading that began after this call: whoever writes the file and then calls gets what was written.

        Notes
        -----
        One reload runs at a time. All who call while it runs share the next one.
        """
        if self._is_stopping:
            return self._refused("the gateway is shutting down")
        if self._queued is None:
            reloading = self._reload_after(self._running, trigger)
            self._queued = asyncio.get_running_loop().create_task(reloading, name="penstock-reload")
        return await asyncio.shield(self._queued)

    async def _reload_after(self, running: asyncio.Task[ReloadOutcome] | None, trigger: str) -> ReloadOutcome:
        if running is not None:
            await asyncio.wait((running,))
        self._running, self._queued = self._queued, None
        try:
            outcome = await self._exchange()
            if outcome.result is ReloadResult.RELOADED and self._reload_others is not None and trigger != BY_WORKER:
                outcome = _with_workers(outcome, await self._reload_others())
        except Exception as error:  # the edge of a reload: whatever it was, the gateway serves on
            _log.exception("reload_failed")
            outcome = self._failed(error)
        finally:
            self._running = None
        self._note(outcome, trigger)
        return outcome

    async def _exchange(self) -> ReloadOutcome:
        before = self._settings
        try:
            new = await asyncio.to_thread(self._read, before)
        except ConfigurationError as error:
            return ReloadOutcome(ReloadResult.REFUSED, time.time(), self.number, error.problems)
        if len(self._closing) >= MAX_DRAINING:
            return self._refused(f"{MAX_DRAINING} earlier configurations still have requests to finish")
        generation = await self._build(new.settings)
        try:
            async with asyncio.timeout(START_SECONDS):
                await generation.start()
            generation.take_over()
        except ConfigurationError as error:
            await self._close(generation, self.number + 1)
            return ReloadOutcome(ReloadResult.REFUSED, time.time(), self.number, error.problems)
        except StartProblem as error:
            await self._close(generation, self.number + 1)
            return self._refused(str(error))
        except BaseException:
            await self._close(generation, self.number + 1)
            raise
        retired = self._serving
        self._serving = _Serving(generation, retired.number + 1)
        self._settings = new.settings
        self._retire(retired)
        changed = changed_settings(before, new.settings)
        return ReloadOutcome(
            ReloadResult.RELOADED, time.time(), self.number, changed=changed, needs_restart=new.needs_restart
        )

    def _retire(self, serving: _Serving) -> None:
        """Close a generation when its last request is over."""
        serving.is_retired = True
        if serving.in_flight == 0:
            serving.drained.set()
        closing = asyncio.get_running_loop().create_task(self._drain(serving), name="penstock-drain")
        self._closing[closing] = serving
        closing.add_done_callback(self._note_closed)
        self._show_draining()

    async def _drain(self, serving: _Serving) -> None:
        await serving.drained.wait()
        await self._close(serving.generation, serving.number)

    async def _close(self, generation: Generation, number: int) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await generation.aclose()
        except Exception:  # the edge of a generation's life: nobody is left to tell
            _log.exception("generation_not_closed", extra={"generation": number})

    def _note_closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.pop(closing, None)
        self._show_draining()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start, wait for the server to stop, and close everything."""
        await receive()
        try:
            await self._serving.generation.start()
            self._serving.generation.take_over()
            for trigger in self._triggers:
                trigger.start(self.reload)
        except Exception as error:  # the process edge: the server says that it could not start
            if isinstance(error, StartProblem):
                _log.error("start_failed", extra={"problem": str(error)})
            else:
                _log.exception("start_failed")
            await self._stop()
            await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self) -> None:
        """Close every generation, then what lasts; the server has ended all requests by now."""
        self._is_stopping = True
        for trigger in self._triggers:
            await trigger.aclose()
        under_way = [task for task in (self._running, self._queued) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for serving in self._closing.values():
            serving.drained.set()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._close(self._serving.generation, self.number)
        await self._lasting.aclose()

    def _refused(self, message: str) -> ReloadOutcome:
        return ReloadOutcome(ReloadResult.REFUSED, time.time(), self.number, (Problem("reload", "", message),))

    def _failed(self, error: Exception) -> ReloadOutcome:
        message = f"the configuration is valid but could not be started ({type(error).__name__}); see the log"
        return ReloadOutcome(ReloadResult.FAILED, time.time(), self.number, (Problem("reload", "", message),))

    def _note(self, outcome: ReloadOutcome, trigger: str) -> None:
        """Log and count how a reload ended."""
        is_done = outcome.result is ReloadResult.RELOADED
        is_in_force = is_done or outcome.result is ReloadResult.PARTIAL
        self.last_problem = None if is_done else outcome
        if self._metrics is not None:
            self._metrics.reloads.labels(outcome.result.value).inc()
            self._metrics.is_current.set(is_done)
        fields: dict[str, object] = {"generation": outcome.generation, "trigger": trigger}
        if is_in_force:
            self._note_loaded()
            _log.info("configuration_reloaded", extra={**fields, "changed": list(outcome.changed)})
            if outcome.needs_restart:
                _log.warning("settings_need_restart", extra={**fields, "settings": list(outcome.needs_restart)})
            if not is_done:
                _log.error("configuration_not_everywhere", extra={**fields, "workers": dict(outcome.workers)})
            return
        for problem in outcome.problems:
            place = {"where": problem.where, "setting": problem.setting, "hint": problem.hint}
            _log.warning("configuration_refused", extra={**fields, **place, "problem": problem.message})

    def _note_loaded(self) -> None:
        if self._metrics is not None:
            self._metrics.loaded_at.set_to_current_time()

    def _show_draining(self) -> None:
        if self._metrics is not None:
            self._metrics.draining.set(len(self._closing))


def _with_workers(outcome: ReloadOutcome, workers: Mapping[int, str]) -> ReloadOutcome:
    """Return the outcome of all workers."""
    is_everywhere = all(result in (ReloadResult.RELOADED, NOT_RUNNING) for result in workers.values())
    return replace(outcome, workers=workers, result=outcome.result if is_everywhere else ReloadResult.PARTIAL)
