"""The log of decisions and outcomes, from which routers are fitted: what an event says, and when it is on disk.

Owns the format of ``docs/events.md`` and the queue in front of the disk. The event loop never waits for the disk;
feedback does, because it is acknowledged when it is safe. Prompts and comments are left out unless `capture_content` is
set; keys and tenants' names always are. Read `EventLog.note_request` first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.errors import Overloaded
from penstock_gateway.event_segments import SegmentWriter, repair
from penstock_gateway.money.prices import format_usd
from penstock_gateway.request_body import ChatRequest
from penstock_gateway.settings_models import EventSettings

_log = logging.getLogger("penstock.events")

SCHEMA = 1
MAX_PROMPT_CHARACTERS = 65_536
DETAIL_EVENTS, DETAIL_BYTES = 5_000, 16 << 20  # waiting; beyond either, events go without detail
MAX_EVENTS, MAX_BYTES = 10_000, 32 << 20  # waiting; beyond either, events are dropped
BATCH_SECONDS = 0.05
RETRY_SECONDS = 1.0
STOP_SECONDS = 5.0
ACKNOWLEDGE_SECONDS = 5.0

_TIMEOUT_CODE = "upstream_timeout"
_encoder = msgspec.json.Encoder()


class EventLog:
    """Writes events to a folder from a thread of its own.

    Parameters
    ----------
    settings : EventSettings
        With a folder.
    on_drop : callable
        Called with ``detail`` or ``event`` for everything that was left out.
    on_problem : callable
        Called with ``tail_cut``, ``write_failed`` or ``segment_deleted``, each time.
    """

    def __init__(
        self,
        settings: EventSettings,
        *,
        on_drop: Callable[[str], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        assert settings.folder is not None
        self.capture_content = settings.capture_content
        self._folder = Path(settings.folder)
        self._writer = SegmentWriter(
            self._folder,
            segment_bytes=settings.segment_bytes,
            max_bytes=settings.max_bytes,
            on_delete=self._note_deleted,
            on_kept=self._note_failure,
        )
        self._on_drop = on_drop
        self._on_problem = on_problem
        self._pseudonyms: dict[str, str] = {}
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._acknowledgements: list[Future[None]] = []
        self._has_work = threading.Event()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Repair what a killed process left and start writing; say so when prompts are captured."""
        if self.capture_content:
            _log.warning("content_capture_on", extra={"folder": str(self._folder)})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for cut in repair(self._folder):
                self._on_problem("tail_cut")
                _log.warning("events_tail_cut", extra={"file": cut.file, "cut_bytes": cut.cut_bytes})
            self._writer.delete_oldest()
        except OSError as error:
            self._note_failure(error)
        self._thread = threading.Thread(target=self._write, name="penstock-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting and end the thread; a disk that does not take it is waited for a few seconds."""
        self._is_stopping.set()
        self._has_work.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def note_request(
        self,
        tenant: str,
        request: ChatRequest,
        decision: RouteDecision,
        settlement: Settlement,
        served_arm: str | None,
    ) -> None:
        """Queue the event of a request that is over; never waits.

        Parameters
        ----------
        tenant : str
        request : ChatRequest
        decision : RouteDecision
        settlement : Settlement
        served_arm : str or None
            Name of the deployment that answered; None when no provider did.
        """
        waiting, waiting_bytes = len(self._waiting), self._waiting_bytes
        if waiting >= MAX_EVENTS or waiting_bytes >= MAX_BYTES:
            self._on_drop("event")
            return
        has_detail = waiting < DETAIL_EVENTS and waiting_bytes < DETAIL_BYTES
        event = self._request_event(tenant, decision, settlement, served_arm)
        event["is_detail_dropped"] = not has_detail
        if has_detail:
            event["candidates"] = [_candidate(report) for report in decision.candidates]
            if self.capture_content:
                event["prompt"] = request.routing_text[:MAX_PROMPT_CHARACTERS]
                event["is_prompt_cut"] = len(request.routing_text) > MAX_PROMPT_CHARACTERS
        else:
            self._on_drop("detail")
        self._put(event, None)

    async def note_feedback(
        self, tenant: str, decision_id: str, *, score: float, rating: str | None, comment: str | None
    ) -> None:
        """Write a piece of feedback and return when it is on disk.

        Parameters
        ----------
        tenant : str
        decision_id : str
            Of that tenant; the caller has checked it.
        score : float, in [0, 1]
        rating : str or None
            ``up`` or ``down``, when the client gave one.
        comment : str or None
            Left out unless content is captured.

        Raises
        ------
        Overloaded
            Code ``events_overloaded``: the disk does not keep up. It may have been written all the same.
        """
        if len(self._waiting) >= MAX_EVENTS or self._waiting_bytes >= MAX_BYTES:
            raise _not_written()
        event: dict[str, Any] = {
            "schema": SCHEMA,
            "type": "feedback",
            "decision_id": decision_id,
            "time": round(time.time(), 3),
            "tenant": self._pseudonym(tenant),
            "score": score,
            "rating": rating,
        }
        if comment is not None and self.capture_content:
            event["comment"] = comment
        done: Future[None] = Future()
        self._put(event, done)
        try:
            await asyncio.wait_for(asyncio.wrap_future(done), ACKNOWLEDGE_SECONDS)
        except TimeoutError:
            raise _not_written() from None

    def _request_event(
        self, tenant: str, decision: RouteDecision, settlement: Settlement, served_arm: str | None
    ) -> dict[str, Any]:
        usage, arms = settlement.usage, {report.name: report.arm for report in decision.candidates}
        return {
            "schema": SCHEMA,
            "type": "request",
            "decision_id": decision.id,
            "time": round(decision.created_at, 3),
            "tenant": self._pseudonym(tenant),
            "requested_model": decision.requested_model,
            "intended_arm": decision.chosen,
            "served_arm": served_arm,
            "intended_artifact_arm": arms.get(decision.chosen),
            "served_artifact_arm": None if served_arm is None else arms.get(served_arm),
            "reason": decision.reason.value,
            "is_explored": decision.is_explored,
            "propensity": decision.propensity,
            "tradeoff": decision.tradeoff,
            "max_cost_usd": decision.max_cost_usd,
            "min_quality": decision.min_quality,
            "floor": decision.floor,
            "category": decision.category,
            "novelty": decision.novelty,
            "artifact": decision.artifact_id,
            "default_arm": decision.default_arm,
            "input_tokens": None if usage is None else usage.input_tokens,
            "cached_input_tokens": None if usage is None else usage.cached_input_tokens,
            "output_tokens": None if usage is None else usage.output_tokens,
            "reasoning_tokens": None if usage is None else usage.reasoning_tokens,
            "cost_usd": None if settlement.cost_usd is None else format_usd(settlement.cost_usd),
            "is_cost_estimated": None if usage is None else usage.is_estimated,
            "status": settlement.status,
            "error_code": settlement.error_code,
            "duration_ms": round(settlement.duration_ms, 3),
            "is_timeout": settlement.error_code == _TIMEOUT_CODE,
        }

    def _pseudonym(self, tenant: str) -> str:
        """Return 16 hexadecimal digits that stand for a tenant in every file."""
        known = self._pseudonyms.get(tenant)
        if known is None:
            known = hashlib.sha256(f"penstock tenant {tenant}".encode()).hexdigest()[:16]
            self._pseudonyms[tenant] = known  # tenants come from the configuration, so there are few
        return known

    def _put(self, event: dict[str, Any], done: Future[None] | None) -> None:
        line = _encoder.encode(event) + b"\n"
        with self._lock:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            if done is not None:
                self._acknowledgements.append(done)
        if not self._has_work.is_set():
            self._has_work.set()

    def _write(self) -> None:
        """Write batch after batch until stopped; a batch that the disk refuses is tried again."""
        is_last = False
        while not is_last:
            self._has_work.wait()
            self._has_work.clear()  # before the look at the stop, which sets it again, so that neither is missed
            is_last = self._is_stopping.wait(BATCH_SECONDS)
            with self._lock:
                batch, self._waiting = self._waiting, []
                done, self._acknowledgements = self._acknowledgements, []
                self._waiting_bytes = 0
            is_written = self._append(batch)
            while not is_written and not self._is_stopping.wait(RETRY_SECONDS):
                is_written = self._append(batch)
            if not is_written and not self._append(batch):  # the last chance before the end
                for _ in batch:
                    self._on_drop("event")
                continue
            for future in done:
                _acknowledge(future)
        self._writer.close()

    def _append(self, batch: list[bytes]) -> bool:
        if not batch:
            return True
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer.append(b"".join(batch))
        except OSError as error:
            self._note_failure(error)
            return False
        return True

    def _note_failure(self, error: OSError) -> None:
        self._on_problem("write_failed")
        _log.warning("events_write_failed", extra={"folder": str(self._folder), "problem": error.strerror})

    def _note_deleted(self, name: str) -> None:
        self._on_problem("segment_deleted")
        _log.warning("events_segment_deleted", extra={"file": name})


def _candidate(report: CandidateReport) -> dict[str, Any]:
    return {
        "arm": report.name,
        "artifact_arm": report.arm,
        "tier": report.tier,
        "quality": report.quality,
        "quality_se": report.quality_se,
        "gain": report.gain,
        "gain_se": report.gain_se,
        "output_tokens": report.output_tokens,
        "cost_usd": _usd(report.estimated_cost_usd),
        "switch_cost_usd": _usd(report.switch_cost_usd),
        "utility": report.utility,
        "rejected": report.rejected,
    }


def _acknowledge(future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():  # the client may have left meanwhile
        future.set_result(None)


def _not_written() -> Overloaded:
    return Overloaded("The event log does not keep up; send the feedback again.", code="events_overloaded")


def _usd(value: float | None) -> str | None:
    return None if value is None else f"{value:.9f}"
