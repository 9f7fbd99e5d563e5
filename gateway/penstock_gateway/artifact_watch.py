"""Follows the source of the router artifact while serving, and swaps the router as a whole.

Owns the polling and what is known of refused artifacts. A refused one changes nothing: the artifact in force goes on
serving. It never blocks the event loop and never ends the process. Read `ArtifactWatch.check`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from penstock_gateway.artifact_source import ArtifactSource
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder_service import EncoderService
from penstock_routers.errors import RouterError

_log = logging.getLogger("penstock.router")

START_SECONDS: Final = 10.0
"""How long a start waits for the first artifact from a URL; the default arm serves until it has come."""
_MAX_SKIPPED_POLLS: Final = 31  # a refused artifact is fetched again after 1, 2, 4 … 32 polls


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the artifact that is offered is not in force.

    Attributes
    ----------
    artifact : str or None
        Its id, as far as known.
    code, message : str
    at : str
        First time, ISO 8601, UTC.
    """

    artifact: str | None
    code: str
    message: str
    at: str


class ArtifactWatch:
    """Looks at a source again and again; lives as long as the process.

    Parameters
    ----------
    source : ArtifactSource
    encoder : EncoderService or RemoteEncoderService
        In use as long as the process lives, whichever artifact is in force.
    encoder_id : str
        Its fingerprint; an artifact for another one is refused.
    adopt : callable
        Puts a verified artifact in force without waiting for anything; raises `ArtifactError` when it does not fit
        this gateway.
    in_force : callable
        Returns the id of the artifact in force, or None.
    poll_seconds : float
        Time between two looks; 0 looks once, when nothing is in force at the start.
    on_refusal : callable
        Called with the code of every refusal.

    Attributes
    ----------
    encoder : EncoderService or RemoteEncoderService
    refusal : Refusal or None
        The last one; None again once what is offered is in force.
    """

    def __init__(
        self,
        source: ArtifactSource,
        *,
        encoder: EncoderService | RemoteEncoderService,
        encoder_id: str,
        adopt: Callable[[RouterArtifact], None],
        in_force: Callable[[], str | None],
        poll_seconds: float,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.encoder = encoder
        self.refusal: Refusal | None = None
        self._source = source
        self._encoder_id = encoder_id
        self._adopt = adopt
        self._in_force = in_force
        self._poll_seconds = poll_seconds
        self._has_changed = asyncio.Event()
        self._on_refusal = on_refusal
        self._task: asyncio.Task[None] | None = None
        self._refusals = 0
        self._skips = 0

    async def start(self) -> None:
        """Begin to poll; wait a little for the first artifact when none is in force yet."""
        if self._task is not None:
            return
        first = asyncio.Event()
        self._task = asyncio.create_task(self._run(first), name="penstock-artifact-watch")
        if self._in_force() is None:
            waiting = asyncio.create_task(first.wait())
            await asyncio.wait([waiting], timeout=START_SECONDS)
            waiting.cancel()

    def poll_every(self, seconds: float) -> None:
        """Look so often from now on; 0 looks no more."""
        if seconds != self._poll_seconds:
            self._poll_seconds = seconds
            self._has_changed.set()

    async def aclose(self) -> None:
        """Stop polling; safe to call twice. A check that is under way changes nothing any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def check(self) -> bool:
        """Look once, and swap if there is something new.

        Returns
        -------
        bool
            Whether another artifact is in force now.
        """
        offered: str | None = None
        try:
            offered = await self._source.look()
            if offered == self._in_force():
                self._settle()
                return False
            if self._is_skipped(offered):
                return False
            artifact = await self._source.fetch(offered, self._encoder_id)
            before = self._in_force()
            if artifact.id == before:  # a folder that was changed back between the look and the reading
                self._settle()
                return False
            self._adopt(artifact)
        except RouterError as error:
            self._refuse(offered, error.code, error.message)
            return False
        except Exception as error:  # the edge of the background task: the gateway serves on, whatever it was
            _log.exception("artifact_watch_failed")
            self._refuse(offered, "internal_error", type(error).__name__)
            return False
        self._settle()
        _log.info("artifact_swapped", extra={"artifact": artifact.id, "previous": before})
        return True

    async def _run(self, first: asyncio.Event) -> None:
        if self._in_force() is None:
            await self.check()
        first.set()
        while True:
            self._has_changed.clear()
            try:
                async with asyncio.timeout(self._poll_seconds or None):
                    await self._has_changed.wait()
            except TimeoutError:
                await self.check()

    def _is_skipped(self, offered: str) -> bool:
        """Whether a refused artifact is left alone this time; another one is looked at immediately."""
        if self.refusal is None or self.refusal.artifact != offered or self._skips == 0:
            return False
        self._skips -= 1
        return True

    def _refuse(self, offered: str | None, code: str, message: str) -> None:
        """Remember and count a refusal; log it when it is a new one."""
        known = self.refusal
        is_new = known is None or (known.artifact, known.code) != (offered, code)
        self._refusals = 1 if known is None or known.artifact != offered else self._refusals + 1
        self._skips = min(2 ** (self._refusals - 1) - 1, _MAX_SKIPPED_POLLS)
        self._on_refusal(code)
        if is_new:
            at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            self.refusal = Refusal(offered, code, message, at)
            fields = {"artifact": offered, "code": code, "problem": message, "in_force": self._in_force()}
            _log.warning("artifact_refused", extra=fields)

    def _settle(self) -> None:
        self.refusal = None
        self._refusals = self._skips = 0
