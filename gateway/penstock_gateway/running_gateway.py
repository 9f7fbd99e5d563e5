"""What a serving gateway starts and stops, in one list, and how it takes on another configuration.

Owns the order of starting and its opposite. Read `RunningGateway.start`, then `RunningGateway.take_on`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.admin_server import AdminServer
from penstock_gateway.artifact_watch import ArtifactWatch
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.caching.start import start_cache
from penstock_gateway.endpoints.admin import admin_app
from penstock_gateway.ledger.contract import Period
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.redis_servers import RedisServers
from penstock_gateway.request_log import start_request_log
from penstock_gateway.settings import Settings
from penstock_gateway.spending_start import RunningSpending, spend_by_model, start_spending
from penstock_gateway.wiring import RoutingFinding, reconfigure, warn_of_floors

_log = logging.getLogger("penstock.app")

Reload = Callable[[], Awaitable[dict[str, Any]]]


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


class RunningGateway:
    """Starts and stops the parts of one gateway.

    Parameters
    ----------
    parts : GatewayParts

    Attributes
    ----------
    reload : callable or None
        Reads the configuration again and returns what came of it; None where nobody can.
    """

    def __init__(self, parts: GatewayParts) -> None:
        self.parts = parts
        self.reload: Reload | None = None
        self._stack = AsyncExitStack()
        self._known: tuple[Settings, Known] | None = None

    async def start(self) -> None:
        """Start everything in order; `aclose` stops it in the opposite one, whatever has failed on the way."""
        settings, pipeline, watch, stack = self.parts.settings, self.parts.pipeline, self.parts.watch, self._stack
        stack.callback(start_request_log(level=settings.log.level, on_drop=pipeline.metrics.log_dropped.inc))
        if self.parts.finding is not None:
            _log.warning("routing_off", extra={"code": self.parts.finding.code, "problem": self.parts.finding.message})
        if pipeline.chooser.parts is not None:
            warn_of_floors(settings, pipeline.chooser.parts.artifact)
        stack.push_async_callback(_close_encoder, pipeline, watch)
        await self.parts.directory.start()
        stack.push_async_callback(self.parts.directory.aclose)
        spending = await start_spending(settings, pipeline.metrics, self.parts.servers)
        stack.push_async_callback(spending.aclose)
        pipeline.use_spending(spending.desk)
        if pipeline.events is not None:
            pipeline.events.start()
            stack.push_async_callback(asyncio.to_thread, pipeline.events.stop)  # then the last outcomes are settled
        stack.push_async_callback(pipeline.attempts.runner.aclose)  # what is read on for its usage is settled then
        stack.push_async_callback(_close_upstreams, pipeline)
        cache = await start_cache(settings, pipeline)
        if cache is not None:
            stack.push_async_callback(cache.aclose)
        if watch is not None:
            await watch.start()
            stack.push_async_callback(watch.aclose)
        if settings.admin.port is not None:
            await self._start_admin(settings, spending)

    async def aclose(self) -> None:
        """Stop what was started: the outcomes are on disk and settled before the ledger is closed."""
        await self._stack.aclose()

    async def take_on(self, settings: Settings) -> Callable[[], None]:
        """Prepare another configuration while the present one serves.

        Parameters
        ----------
        settings : Settings
            With the running values of what cannot change, see `settings_restart.RESTART_SETTINGS`.

        Returns
        -------
        callable
            Puts it in force in one step.

        Raises
        ------
        ConfigurationError, SecretFileError
            Everything stays as it was.
        """
        directory = self.parts.directory
        take_over = await asyncio.to_thread(reconfigure, settings, self.parts.pipeline)
        keys = await directory.prepare(settings)

        def put_in_force() -> None:
            take_over()
            directory.use(keys)

        return put_in_force

    async def _start_admin(self, settings: Settings, spending: RunningSpending) -> None:
        pipeline, folder = self.parts.pipeline, settings.events.folder
        calendar = Calendar(settings.ledger.timezone)

        async def by_model(period: Period, at: float) -> dict[str, int]:
            assert folder is not None
            return await asyncio.to_thread(spend_by_model, Path(folder), calendar, period, at)

        app = admin_app(
            settings,
            self.parts.directory,
            spending.desk.ledger,
            known=self._what_is_known,
            model_spend=None if folder is None else by_model,
            reload=lambda: self.reload,
            on_refusal=lambda code: pipeline.metrics.admin_errors.labels(code).inc(),
        )
        server = AdminServer(app, host=settings.admin.host, port=settings.admin.port or 0, http=BoundedHttp)
        await server.start()
        self._stack.push_async_callback(server.aclose)

    def _what_is_known(self) -> Known:
        """Return what keys may name, by the configuration in force."""
        settings = self.parts.pipeline.settings
        if self._known is None or self._known[0] is not settings:
            self._known = settings, Known.from_settings(settings)
        return self._known[1]


async def _close_upstreams(pipeline: Pipeline) -> None:
    for upstream in pipeline.upstreams.values():
        await upstream.aclose()


async def _close_encoder(pipeline: Pipeline, watch: ArtifactWatch | None) -> None:
    if pipeline.chooser.parts is not None:
        await pipeline.chooser.parts.encoder.aclose()
    elif watch is not None:
        await watch.encoder.aclose()
