"""The writing side of the event log: what waits, what may be left out, and when an event is on disk.

Owns the queue in front of the disk and the places in it. The event loop never waits for the disk; who needs to know
that a record is safe is called back from the writer's thread, after ``fsync``. Outcomes are money and are never left
out: a request takes a place when it is admitted, and is refused when there is none. Read `EventLog.note_outcome`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.errors import feedback_not_kept
from penstock_gateway.events.housekeeping import Housekeeper
from penstock_gateway.events.pseudonyms import Pseudonyms
from penstock_gateway.events.records import (
    SCHEMA,
    CacheNote,
    audit_record,
    candidate_record,
    decision_record,
    outcome_record,
)
from penstock_gateway.events.segments import SegmentWriter, repair
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.prices import format_usd
from penstock_gateway.request_body import ChatRequest
from penstock_gateway.settings_events import EventSettings

_log = logging.getLogger("penstock.events")

MAX_PROMPT_CHARACTERS: Final = 65_536
DETAIL_EVENTS, DETAIL_BYTES = 5_000, 16 << 20
"""Decisions waiting; beyond either, they go without candidates and prompt."""
MAX_DECISIONS, MAX_DECISION_BYTES = 10_000, 32 << 20
"""Decisions waiting; beyond either, they are left out."""
MAX_BYTES = 64 << 20
"""Outcomes and feedback waiting, `PLACE_BYTES` for every request under way included; beyond it nobody gets a place."""
PLACE_BYTES: Final = 4_096
"""An outcome has some 1.1 kB with one attempt, and up to 0.5 kB more for every other."""
BATCH_SECONDS = 0.05
RETRY_SECONDS = 1.0
STOP_SECONDS = 5.0
ACKNOWLEDGE_SECONDS = 5.0

_encoder = msgspec.json.Encoder()


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """A line that waits: which kind, whom to tell when it is on disk, and what it is worth."""

    line: bytes
    kind: str
    on_written: Callable[[], None] | None = None
    cost_picousd: int = 0

    @property
    def has_place(self) -> bool:
        return self.kind in ("outcome", "feedback")


class EventLog:
    """Writes events to a folder from a thread of its own.

    Parameters
    ----------
    settings : EventSettings
        With a folder.
    on_drop : callable
        Called with ``detail``, ``decision`` or ``audit`` for what was left out, and with ``outcome`` or ``feedback``
        for what could not be written before the process ended.
    on_problem : callable
        Called with a name from ``docs/events.md`` each time something is wrong with the folder.
    clock : callable
        UNIX seconds.
    settled_until : callable
        UNIX seconds: outcomes written before are charged; no segment is deleted that may hold others.

    Attributes
    ----------
    capture_content : bool
    feedback_per_minute : int
        Pieces that a tenant may send.
    """

    def __init__(
        self,
        settings: EventSettings,
        *,
        on_drop: Callable[[str], None] = lambda _: None,
        on_problem: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        settled_until: Callable[[], float] = lambda: math.inf,
    ) -> None:
        assert settings.folder is not None
        self.capture_content = settings.capture_content
        self.feedback_per_minute = settings.feedback_per_minute
        self._folder = Path(settings.folder)
        self._housekeeper = Housekeeper(settings, on_problem=on_problem, clock=clock, settled_until=settled_until)
        self._writer = SegmentWriter(
            self._folder,
            segment_bytes=settings.segment_bytes,
            segment_seconds=settings.segment_seconds,
            on_closed=self._housekeeper.wake,
        )
        self._max_places = settings.max_waiting
        self._on_drop = on_drop
        self._on_problem = on_problem
        self._clock = clock
        key = settings.pseudonym_key
        self._pseudonyms = Pseudonyms(None if key is None else key.get_secret_value())
        self._lock = threading.Lock()
        self._waiting: list[_Entry] = []
        self._unwritten: list[_Entry] = []  # the batch that the thread has in hand
        self._places = 0
        self._in_flight = 0  # places of requests whose outcome has not come yet
        self._place_bytes = 0
        self._decisions = 0
        self._decision_bytes = 0
        self._is_closed = False
        self._has_work = threading.Event()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Repair what a killed process left and start writing; say so when prompts are captured."""
        if self.capture_content:
            self._say_capture()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for cut in repair(self._folder):
                self._on_problem("tail_cut")
                _log.warning("events_tail_cut", extra={"file": cut.file, "cut_bytes": cut.cut_bytes})
        except OSError as error:
            self._note_failure(error)
        self._thread = threading.Thread(target=self._write, name="penstock-events", daemon=True)
        self._thread.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """Write what is waiting and end the threads; a disk that does not take it is waited for a few seconds.

        What could not be written is counted and logged with what it was worth.
        """
        self._is_stopping.set()
        self._has_work.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        with self._lock:
            self._is_closed = True
            lost, self._unwritten, self._waiting = [*self._unwritten, *self._waiting], [], []
        self._report_lost(lost)
        self._housekeeper.stop()

    def follow(self, settings: EventSettings) -> None:
        """Take over what may change while the log is written; that prompts are captured from now on is said."""
        if settings.capture_content and not self.capture_content:
            self._say_capture()
        self.capture_content = settings.capture_content
        self.feedback_per_minute = settings.feedback_per_minute
        self._max_places = settings.max_waiting
        self._writer.limit(settings.segment_bytes, settings.segment_seconds)
        self._housekeeper.follow(settings)
        self._has_work.set()  # the current segment may be due

    @property
    def places(self) -> int:
        """Places that are taken: requests under way, and outcomes and feedback not on disk yet."""
        return self._places

    def admit(self) -> bool:
        """Take a place for a request; its outcome will surely be kept.

        Returns
        -------
        bool
            False when all places are taken: the request is to be refused with `overloaded`.

        Notes
        -----
        `note_outcome` gives the place back when the outcome is on disk; a request that comes to no decision gives it
        back by `release`.
        """
        with self._lock:
            reserved = self._place_bytes + self._in_flight * PLACE_BYTES
            if self._places >= self._max_places or reserved >= MAX_BYTES or self._is_closed:
                return False
            self._places += 1
            self._in_flight += 1
            return True

    def release(self) -> None:
        """Give back the place of a request that will have no outcome."""
        with self._lock:
            self._places = max(self._places - 1, 0)
            self._in_flight = max(self._in_flight - 1, 0)

    def note_decision(
        self,
        principal: Principal,
        request_id: str,
        request: ChatRequest,
        decision: RouteDecision,
        *,
        encoder: str | None = None,
        cache: CacheNote | None = None,
        shadow: RouteDecision | None = None,
    ) -> None:
        """Queue what explains a choice; never waits, and leaves out detail or all of it when too much is waiting.

        Parameters
        ----------
        principal : Principal
        request_id : str
        request : ChatRequest
        decision : RouteDecision
        encoder : str or None
            Id of the encoder whose vectors the artifact read.
        cache : CacheNote or None
            What the cache said; None when it is off.
        shadow : RouteDecision or None
            What would have been chosen, in observe mode.
        """
        with self._lock:
            count, size = self._decisions, self._decision_bytes
        if count >= MAX_DECISIONS or size >= MAX_DECISION_BYTES:
            self._on_drop("decision")
            return
        event = decision_record(
            decision,
            request_id=request_id,
            tenant=self._pseudonyms.tenant(principal.tenant),
            conversation=self._pseudonyms.conversation(principal.tenant, request.opening),
            encoder=encoder,
            cache=cache,
            shadow=shadow,
        )
        event["prompt_hash"] = self._pseudonyms.prompt(request.routing_text)
        has_detail = count < DETAIL_EVENTS and size < DETAIL_BYTES
        event["is_detail_dropped"] = not has_detail
        if has_detail:
            event["candidates"] = [candidate_record(report) for report in decision.candidates]
            if shadow is not None:
                event["shadow"]["candidates"] = [candidate_record(report) for report in shadow.candidates]
            if self.capture_content:
                event["prompt"] = request.routing_text[:MAX_PROMPT_CHARACTERS]
                event["is_prompt_cut"] = len(request.routing_text) > MAX_PROMPT_CHARACTERS
        else:
            self._on_drop("detail")
        self._put(event, "decision")

    def note_audit(
        self,
        tenant: str,
        audit_id: str,
        *,
        category: str,
        is_right: bool,
        is_steady: bool | None,
        prompts: tuple[str, str] | None,
    ) -> None:
        """Queue what an audit of a cache hit found; never waits, and leaves it out when too much is waiting.

        Parameters
        ----------
        tenant : str
        audit_id : str
        category : str
        is_right : bool
        is_steady : bool or None
        prompts : (str, str) or None
            What was asked, and what the stored answer was given to; left out unless content is captured. None where
            they are not one tenant's.
        """
        with self._lock:
            count, size = self._decisions, self._decision_bytes
        if count >= DETAIL_EVENTS or size >= DETAIL_BYTES:
            self._on_drop("audit")
            return
        event = audit_record(
            audit_id,
            time=self._clock(),
            tenant=self._pseudonyms.tenant(tenant),
            category=category,
            is_right=is_right,
            is_steady=is_steady,
        )
        if self.capture_content and prompts is not None:
            event["prompt"], event["stored_prompt"] = (text[:MAX_PROMPT_CHARACTERS] for text in prompts)
            event["is_prompt_cut"] = max(map(len, prompts)) > MAX_PROMPT_CHARACTERS
        self._put(event, "audit")

    def note_outcome(
        self,
        principal: Principal,
        request_id: str,
        decision: RouteDecision,
        settlement: Settlement,
        *,
        admitted_at: float,
        cost_picousd: int,
        attempt_costs: Sequence[Decimal | None] | None = None,
        on_written: Callable[[], None] | None = None,
    ) -> None:
        """Queue what a request came to, in the place that `admit` took; never waits and never leaves it out.

        Parameters
        ----------
        principal : Principal
        request_id : str
        decision : RouteDecision
        settlement : Settlement
        admitted_at : float
            UNIX seconds.
        cost_picousd : int
            What the accounts are charged.
        attempt_costs : sequence of Decimal or None, optional
            USD, one for each of ``settlement.attempts``; unknown when not given.
        on_written : callable, optional
            Called from the writer's thread when the outcome is on disk; the time to settle.
        """
        costs = [None] * len(settlement.attempts) if attempt_costs is None else attempt_costs
        event = outcome_record(
            principal,
            decision,
            settlement,
            request_id=request_id,
            tenant=self._pseudonyms.tenant(principal.tenant),
            time=self._clock(),
            admitted_at=admitted_at,
            cost_picousd=cost_picousd,
            attempt_costs=costs,
        )
        self._put(event, "outcome", on_written, cost_picousd)

    def put_feedback(
        self,
        tenant: str,
        decision_id: str,
        *,
        request_id: str = "",
        score: float | None = None,
        rating: str | None = None,
        label: str | None = None,
        comment: str | None = None,
    ) -> Future[None]:
        """Queue a piece of feedback.

        Parameters
        ----------
        tenant : str
        decision_id : str
            Of that tenant; the caller has checked it.
        request_id : str
        score : float or None, in [0, 1]
        rating : str or None
            ``up`` or ``down``, when the client gave one.
        label : str or None
            A short word of the client's for what was right or wrong.
        comment : str or None
            Left out unless content is captured.

        Returns
        -------
        Future
            Done when it is on disk.

        Raises
        ------
        Overloaded
            Code ``events_overloaded``: there is no place for it.
        """
        if not self.admit():
            raise feedback_not_kept()
        event: dict[str, Any] = {
            "schema": SCHEMA,
            "type": "feedback",
            "decision_id": decision_id,
            "request_id": request_id,
            "time": round(self._clock(), 3),
            "tenant": self._pseudonyms.tenant(tenant),
            "score": score,
            "rating": rating,
            "label": label,
        }
        if comment is not None and self.capture_content:
            event["comment"] = comment
        done: Future[None] = Future()
        self._put(event, "feedback", lambda: _acknowledge(done))
        return done

    def _put(
        self, event: dict[str, Any], kind: str, on_written: Callable[[], None] | None = None, cost_picousd: int = 0
    ) -> None:
        entry = _Entry(_encoder.encode(event) + b"\n", kind, on_written, cost_picousd)
        with self._lock:
            is_late = self._is_closed
            if not is_late:
                self._waiting.append(entry)
                self._count(entry, 1)
            if entry.has_place:
                had_place = self._in_flight > 0
                self._in_flight -= had_place
                self._places += (not is_late) - had_place  # from "under way" to "waiting", or gone
        if is_late:
            self._report_lost([entry])
        elif not self._has_work.is_set():
            self._has_work.set()

    def _count(self, entry: _Entry, sign: int) -> None:
        if entry.has_place:
            self._place_bytes += sign * len(entry.line)
        else:
            self._decisions += sign
            self._decision_bytes += sign * len(entry.line)

    def _write(self) -> None:
        """Write batch after batch until stopped, and close segments that have become old."""
        while True:
            has_work = self._is_stopping.is_set() or self._has_work.wait(self._writer.seconds_until_due())
            self._has_work.clear()  # before the look at the stop, which sets it again, so that neither is missed
            is_stopping = self._is_stopping.wait(BATCH_SECONDS if has_work else 0.0)
            with self._lock:
                batch, self._waiting = self._waiting, []
                self._unwritten = batch
                self._is_closed = is_stopping and not batch
            if self._is_closed or not self._write_batch(batch):
                break
            self._let_go(batch)
            self._writer.close_if_due()
        self._writer.close()

    def _write_batch(self, batch: list[_Entry]) -> bool:
        """Try until the disk takes the batch, or once more when the process ends."""
        content = b"".join(entry.line for entry in batch)
        is_written = self._append(content)
        while not is_written and not self._is_stopping.wait(RETRY_SECONDS):
            is_written = self._append(content)
        return is_written or self._append(content)  # the last chance before the end

    def _append(self, content: bytes) -> bool:
        if not content:
            return True
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer.append(content)
            return True
        except OSError as error:
            self._note_failure(error)
            return False

    def _let_go(self, batch: list[_Entry]) -> None:
        """Give back the places of a batch that is on disk, and tell those who wait for it."""
        with self._lock:
            self._unwritten = []
            for entry in batch:
                self._count(entry, -1)
                self._places -= entry.has_place
        for entry in batch:
            if entry.on_written is None:
                continue
            try:
                entry.on_written()
            except Exception:  # another's bug must not end the thread that keeps the money's record
                self._on_problem("callback_failed")
                _log.exception("events_callback_failed", extra={"event_type": entry.kind})

    def _report_lost(self, lost: list[_Entry]) -> None:
        if not lost:
            return
        for entry in lost:
            self._on_drop(entry.kind)
        kinds = ("decision", "outcome", "feedback", "audit")
        counts = {kind: sum(entry.kind == kind for entry in lost) for kind in kinds}
        worth = format_usd(to_usd(sum(entry.cost_picousd for entry in lost)))
        _log.error("events_lost", extra={"folder": str(self._folder), **counts, "cost_usd": worth})

    def _say_capture(self) -> None:
        _log.warning("content_capture_on", extra={"folder": str(self._folder)})

    def _note_failure(self, error: OSError) -> None:
        self._on_problem("write_failed")
        _log.warning("events_write_failed", extra={"folder": str(self._folder), "problem": error.strerror})


def _acknowledge(future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():  # the client may have left meanwhile
        future.set_result(None)
