"""What a serving gateway starts and stops, in one list, and how it takes on another configuration.

Owns the order of starting and its opposite, and what is said of a start that fails. Read `RunningGateway.start`, then
`RunningGateway.take_on`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import UNAVAILABLE, Directory
from penstock_gateway.accounts.pepper import PepperError
from penstock_gateway.accounts.records import AccountsDamaged
from penstock_gateway.admin_server import AdminServer
from penstock_gateway.artifact_watch import ArtifactWatch
from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.attempts.runner import AttemptRunner
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.caching.start import RunningCache, encoder_id_of, open_store, start_cache, store_key
from penstock_gateway.console.app import Console
from penstock_gateway.console.contract import ConsoleParts
from penstock_gateway.endpoints.admin import AdminApp, AdminNotSafe, admin_app
from penstock_gateway.endpoints.admin_requests import AdminParts
from penstock_gateway.events.opening import decision_key
from penstock_gateway.lasting import Hold, Lasting
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.model_spend import ModelSpendReader
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.redis_servers import RedisServers, fail_mode_of
from penstock_gateway.reloading import StartProblem
from penstock_gateway.request_log import set_log_level, start_request_log
from penstock_gateway.settings import Settings
from penstock_gateway.settings_redis_checks import RedisFeature
from penstock_gateway.settings_secrets import SecretFileError
from penstock_gateway.shared_answers import SharedAnswers
from penstock_gateway.shared_feedback import SharedFeedback
from penstock_gateway.spending_start import RunningSpending, start_spending
from penstock_gateway.tracing.export import TracingNotInstalled, start_tracing
from penstock_gateway.wiring import RoutingFinding, reconfigure, warn_of_floors
from penstock_gateway.workers.states import WorkerState

_log = logging.getLogger("penstock.app")

Reload = Callable[[], Awaitable[dict[str, Any]]]

DRAIN_SECONDS: Final = 3.0
"""How long a stop waits for answers that are read on without their client; then they are charged as far as known."""
STEP_SECONDS: Final = 10.0
"""For each step of a stop."""


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What a gateway consists of.

    Attributes
    ----------
    settings : Settings
        That it starts with.
    pipeline : Pipeline
    finding : RoutingFinding or None
    watch : ArtifactWatch or None
    directory : Directory
    servers : RedisServers
    """

    settings: Settings
    pipeline: Pipeline
    finding: RoutingFinding | None
    watch: ArtifactWatch | None
    directory: Directory
    servers: RedisServers


@dataclass(frozen=True, slots=True)
class PreparedConfiguration:
    """Another configuration, built beside the one in force.

    Attributes
    ----------
    put_in_force : callable
        Lets it decide about the requests that come from then on; one step, never raises.
    hold : Hold
        On what it uses; to be released when its last request is over.
    """

    put_in_force: Callable[[], None]
    hold: Hold


class RunningGateway:
    """Starts and stops the parts of one gateway.

    Parameters
    ----------
    parts : GatewayParts

    Attributes
    ----------
    reload : callable or None
        Reads the configuration again and returns what came of it; None where nobody can.
    first_hold : Hold
        On what the configuration of the start uses.
    admin_port : int or None
        That the admin API listens on; None while it does not.
    worker : int or None
        Number of this process among the workers of one gateway; in every line of the log. None when it is alone.
    other_workers : callable or None
        As `console.contract.ConsoleParts.others`.
    """

    def __init__(self, parts: GatewayParts) -> None:
        self.parts = parts
        self.reload: Reload | None = None
        self.admin_port: int | None = None
        self.worker: int | None = None
        self.other_workers: Callable[[int], Awaitable[list[WorkerState]]] | None = None
        self._lasting = Lasting()
        self.first_hold = self._lasting.hold()
        self._stack = AsyncExitStack()
        self._spending: RunningSpending | None = None
        self._answers: SharedAnswers | None = None
        self._admin: AdminApp | None = None
        self._known: tuple[Settings, Known] | None = None

    async def start(self) -> None:
        """Start everything in order; `aclose` stops it in the opposite one, whatever has failed on the way.

        Raises
        ------
        StartProblem
            For something that whoever runs the gateway can mend.
        """
        settings, pipeline, watch = self.parts.settings, self.parts.pipeline, self.parts.watch
        fields = None if self.worker is None else {"worker": self.worker}
        stop_log = start_request_log(level=settings.log.level, on_drop=pipeline.metrics.log_dropped.inc, fields=fields)
        self._stop_by("log", lambda: asyncio.to_thread(stop_log))
        self._say_findings()
        self._stop_by("encoder", lambda: _close_encoder(pipeline, watch))
        self._stop_by("directory", self.parts.directory.aclose)
        try:
            await self.parts.directory.start()
        except (AccountsDamaged, PepperError) as error:
            raise StartProblem(str(error)) from None
        spending = self._spending = await start_spending(settings, pipeline.metrics, self.parts.servers)
        self._stop_by("ledger", spending.aclose)
        pipeline.use_spending(spending.desk)
        if settings.redis.url is not None:
            redis, organisation = self.parts.servers.guard(settings, "answers"), settings.ledger.organisation
            self._answers = pipeline.keepers.shared = answers = SharedAnswers(redis, organisation)
            pipeline.feedback.shared = SharedFeedback(redis, organisation)
            self._stop_by("answers", answers.aclose)
        try:
            tracing = start_tracing(settings.tracing)
        except TracingNotInstalled as error:
            raise StartProblem(str(error)) from None
        if tracing is not None:
            self._stop_by("tracing", tracing.aclose)
        pipeline.use_tracing(tracing)
        if (events := pipeline.events) is not None:
            events.start()
            self._stop_by("events", lambda: asyncio.to_thread(events.stop))  # then the last outcomes are settled
            await self._seal_decisions(settings)
        self._stop_by("upstreams", lambda: _close_upstreams(pipeline))
        self._stop_by("attempts", lambda: _end_attempts(pipeline.attempts.runner))
        self._stop_by("cache", self.first_hold.release)
        cache = await self._cache_of(settings, self.first_hold)
        if cache is not None:
            cache.put_in_force(pipeline, settings)
        if watch is not None:
            self._stop_by("artifact watch", watch.aclose)
            await watch.start()
        if settings.admin.port is not None:
            await self._start_admin(settings)

    async def aclose(self) -> None:
        """Stop what was started: the outcomes are on disk and settled before the ledger is closed."""
        await self._stack.aclose()

    async def take_on(self, settings: Settings) -> PreparedConfiguration:
        """Build what another configuration needs while the present one serves.

        Parameters
        ----------
        settings : Settings
            With the running values of what cannot change, see `settings_restart.RESTART_SETTINGS`.

        Raises
        ------
        ConfigurationError, StartProblem, SecretFileError, RedisNotUsable
            Everything stays as it was.
        """
        pipeline, directory, hold = self.parts.pipeline, self.parts.directory, self._lasting.hold()
        try:
            decide = await asyncio.to_thread(reconfigure, settings, pipeline)
            keys = await directory.prepare(settings)
            cache = await self._cache_of(settings, hold)
            admin = None if settings.admin.port is None else await asyncio.to_thread(self._admin_of, settings)
        except BaseException:
            await hold.release()
            raise

        def put_in_force() -> None:
            directory.use(keys)
            decide()
            if cache is not None:
                cache.put_in_force(pipeline, settings)
            else:
                pipeline.use_cache(None)
            self._admin = admin
            if self._spending is not None:
                self._spending.follow(settings.ledger)
            if self.parts.watch is not None:
                self.parts.watch.poll_every(settings.routing.artifact_poll_seconds)
            pipeline.decisions.keep = settings.decisions.keep
            if pipeline.tracing is not None:
                pipeline.tracing.follow(settings.tracing)
            set_log_level(settings.log.level)

        return PreparedConfiguration(put_in_force, hold)

    def features_without_redis(self) -> dict[str, str]:
        """Return which features miss their Redis at the moment, and what each does meanwhile.

        Returns
        -------
        dict of str to str
            Feature to ``open``, ``closed`` or ``local``.
        """
        settings, missing = self.parts.pipeline.settings, list[RedisFeature]()
        if self._spending is not None and not self._spending.has_store:
            missing.append("ledger")
        if settings.accounts.store == "redis" and self.parts.directory.problem == UNAVAILABLE:
            missing.append("accounts")
        if self._answers is not None and not self._answers.is_available:
            missing.append("answers")
        return {feature: fail_mode_of(settings, feature).value for feature in missing}

    async def _seal_decisions(self, settings: Settings) -> None:
        """Let ids of decisions say whose they are, to other processes too; without a key only this one knows them."""
        try:
            self.parts.pipeline.decision_ids.use_key(await asyncio.to_thread(decision_key, settings.events))
        except (OSError, SecretFileError) as error:
            self.parts.pipeline.metrics.event_problems.labels("decisions_not_sealed").inc()
            problem = str(error) if isinstance(error, SecretFileError) else error.strerror or type(error).__name__
            _log.warning("decisions_not_sealed", extra={"folder": settings.events.folder, "problem": problem})

    def _say_findings(self) -> None:
        finding, routing = self.parts.finding, self.parts.pipeline.chooser.parts
        if finding is not None:
            _log.warning("routing_off", extra={"code": finding.code, "problem": finding.message})
        if routing is not None:
            warn_of_floors(self.parts.settings, routing.artifact)

    async def _cache_of(self, settings: Settings, hold: Hold) -> RunningCache | None:
        """Return the cache of a configuration: the one that runs, where nothing of its settings has changed."""
        if settings.cache.mode == "off":
            return None
        pipeline, servers = self.parts.pipeline, self.parts.servers

        def note_problem(code: str) -> None:
            pipeline.metrics.cache.problems.labels(code).inc()

        store = await hold.started_part(
            "cache store",
            store_key(settings),
            lambda: open_store(settings, servers, note_problem),
            lambda opened: opened.aclose(),
        )
        return await hold.started_part(
            "cache",
            (settings.cache, encoder_id_of(pipeline)),
            lambda: start_cache(settings.cache, pipeline, store),
            RunningCache.aclose,
        )

    async def _start_admin(self, settings: Settings) -> None:
        admin = settings.admin
        self._admin = self._admin_of(settings)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if self._admin is not None:
                await self._admin(scope, receive, send)

        server = AdminServer(answer, host=admin.host, port=admin.port or 0, http=BoundedHttp)
        try:
            await server.start()
        except OSError as error:
            reason = error.strerror or str(error)
            place = f"{admin.host}:{admin.port}"
            hint = "stop what listens there, or change admin.port"
            raise StartProblem(f"the admin API cannot listen on {place}: {reason}; {hint}") from None
        self.admin_port = server.port
        self._stop_by("admin API", server.aclose)

    def _admin_of(self, settings: Settings) -> AdminApp:
        """Return the admin API of a configuration."""
        assert self._spending is not None
        metrics, folder = self.parts.pipeline.metrics, settings.events.folder
        spend = None if folder is None else ModelSpendReader(Path(folder), Calendar(settings.ledger.timezone))
        try:
            return admin_app(
                settings,
                self.parts.directory,
                self._spending.desk.ledger,
                known=self._what_is_known,
                model_spend=None if spend is None else spend.by_model,
                account_usage=None if spend is None else spend.by_account,
                reload=lambda: self.reload,
                on_refusal=lambda code: metrics.admin_errors.labels(code).inc(),
                new_console=self._console_of if settings.admin.console else None,
            )
        except (AdminNotSafe, SecretFileError) as error:
            raise StartProblem(str(error)) from None

    def _console_of(self, admin: AdminParts, secret: str) -> Console:
        return Console(ConsoleParts(admin, self.parts.pipeline, self.parts.watch, self.other_workers), secret)

    def _what_is_known(self) -> Known:
        """Return what keys may name, by the configuration in force."""
        settings = self.parts.pipeline.settings
        if self._known is None or self._known[0] is not settings:
            self._known = settings, Known.from_settings(settings)
        return self._known[1]

    def _stop_by(self, name: str, close: Callable[[], Awaitable[object]]) -> None:
        """Have something closed at the stop; what hangs or fails must not keep the rest open."""

        async def stop() -> None:
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    await close()
            except Exception:  # the edge of the gateway's life: nobody is left to tell
                _log.exception("not_stopped", extra={"part": name})

        self._stack.push_async_callback(stop)


async def _end_attempts(runner: AttemptRunner) -> None:
    """Let answers that are read on for their usage end by themselves for a moment; then settle what is known."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DRAIN_SECONDS
    while len(runner.desk) and loop.time() < deadline:
        await asyncio.sleep(0.05)
    await runner.aclose()


async def _close_upstreams(pipeline: Pipeline) -> None:
    for upstream in pipeline.upstreams.values():
        await upstream.aclose()


async def _close_encoder(pipeline: Pipeline, watch: ArtifactWatch | None) -> None:
    if pipeline.chooser.parts is not None:
        await pipeline.chooser.parts.encoder.aclose()
    elif watch is not None:
        await watch.encoder.aclose()
