"""What is done to closed segments while the gateway runs: content that is too old, segments that must go, shipping.

Owns the thread for it, so that the writer never waits. Read `Housekeeper`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_gateway.events.catalog import FolderBusy, Segment, list_segments, maintenance, replace_file
from penstock_gateway.events.checkpoint import CheckpointDamaged
from penstock_gateway.events.content import remove_content
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import Problem, ReadingProblem
from penstock_gateway.events.retention import RetentionRules, delete_old
from penstock_gateway.events.ship_targets import target_of
from penstock_gateway.events.shipping import Shipper, is_shipped
from penstock_gateway.settings_events import EventSettings

_log = logging.getLogger("penstock.events")

PERIOD_SECONDS: Final = 300.0
STOP_SECONDS: Final = 2.0
_DAY_SECONDS: Final = 86_400.0
_CLEAN_NAME: Final = ".content-removed.json"


class Housekeeper:
    """Tidies a folder up every few minutes, and whenever a segment has been closed.

    Parameters
    ----------
    settings : EventSettings
        With a folder.
    on_problem : callable
        Called with a name from ``docs/events.md``.
    clock : callable
        UNIX seconds.
    settled_until : callable
        UNIX seconds: outcomes written before are charged; no segment goes that may hold others.
    """

    def __init__(
        self,
        settings: EventSettings,
        *,
        on_problem: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        settled_until: Callable[[], float] = lambda: math.inf,
    ) -> None:
        assert settings.folder is not None
        self._folder = Path(settings.folder)
        self._settings = settings
        self._on_problem = on_problem
        self._clock = clock
        self._settled_until = settled_until
        self._wakes = threading.Event()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._shipper: Shipper | None = None
        ship = settings.ship
        if ship is not None:
            self._shipper = Shipper(
                self._folder,
                lambda: target_of(ship),
                retry_seconds=ship.retry_seconds,
                on_problem=on_problem,
                on_shipped=self._wakes.set,
            )

    def start(self) -> None:
        """Begin in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self._run, name="penstock-events-tidy", daemon=True)
        self._thread.start()
        if self._shipper is not None:
            self._shipper.start()

    def wake(self) -> None:
        """Tidy up now: a segment has been closed."""
        self._wakes.set()
        if self._shipper is not None:
            self._shipper.wake()

    def follow(self, settings: EventSettings) -> None:
        """Keep to other limits of size and age from now on, and tidy up by them at once; from any thread."""
        self._settings = settings
        self._wakes.set()

    def stop(self) -> None:
        """End the threads."""
        self._is_stopping.set()
        self._wakes.set()
        if self._shipper is not None:
            self._shipper.stop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def tidy(self) -> None:
        """Remove content that is too old and delete segments that must go; what fails is told and tried again later."""
        try:
            with maintenance(self._folder):
                content_days = self._settings.content_days
                if content_days is not None:
                    self._attempt(partial(self._remove_content, content_days))
                self._attempt(self._delete_old)
        except FolderBusy:  # another gateway, or a command, is at it
            return
        except FileNotFoundError:  # the folder is made with the first batch
            return
        except OSError as error:
            self._note("tidy_failed", type(error).__name__)

    def _attempt(self, step: Callable[[], None]) -> None:
        """Take a step; when it fails the next one is taken all the same."""
        try:
            step()
        except ParquetMissing as error:
            self._note("parquet_missing", str(error))
        except CheckpointDamaged as error:
            self._note("checkpoint_damaged", str(error))
        except (OSError, ValueError) as error:
            self._note("tidy_failed", type(error).__name__)

    def _run(self) -> None:
        while True:
            self._wakes.clear()  # before the look at the stop, which sets it again
            if self._is_stopping.is_set():
                return
            self.tidy()
            self._wakes.wait(PERIOD_SECONDS)

    def _remove_content(self, content_days: float) -> None:
        before = self._clock() - content_days * _DAY_SECONDS
        clean = self._clean_ids()
        done: set[str] = set()
        report = remove_content(
            self._folder,
            lambda event: _time_of(event) < before,
            is_segment_due=lambda segment: segment.changed_at < before and segment.id not in clean,
            on_done=lambda segment: done.add(segment.id),
        )
        if done:
            known = {segment.id for segment in list_segments(self._folder)}
            content = msgspec.json.encode(sorted((clean | done) & known))
            replace_file(self._folder / _CLEAN_NAME, lambda stream: stream.write(content))
        if report.events:
            _log.info("events_content_removed", extra={"segments": report.segments, "removed": report.events})

    def _clean_ids(self) -> set[str]:
        """Return the segments whose content has been removed for its age already."""
        try:
            return set(msgspec.json.decode((self._folder / _CLEAN_NAME).read_bytes(), type=list[str]))
        except (FileNotFoundError, msgspec.DecodeError):
            return set()

    def _delete_old(self) -> None:
        settings = self._settings  # of one configuration
        days = settings.retention_days
        rules = RetentionRules(settings.max_bytes, None if days is None else days * _DAY_SECONDS)
        settled_until = self._settled_until()

        def may_go(segment: Segment) -> bool:
            return segment.changed_at < settled_until and (self._shipper is None or is_shipped(segment))

        for segment in delete_old(self._folder, rules, now=self._clock(), may_go=may_go, on_problem=self._note_reading):
            self._note("segment_deleted", segment.path.name)

    def _note_reading(self, problem: ReadingProblem) -> None:
        if problem.kind is not Problem.TORN_TAIL:
            self._note("damaged", f"{problem.file} line {problem.line}: {problem.kind.value}")

    def _note(self, name: str, problem: str) -> None:
        self._on_problem(name)
        _log.warning(f"events_{name}", extra={"folder": str(self._folder), "problem": problem})


def _time_of(event: dict[str, Any]) -> float:
    time_ = event.get("time")
    return float(time_) if isinstance(time_, int | float) else 0.0
