"""One candidate after another: which kind comes next, how long it may take, and when it is given up.

Owns trials: fitting on folds, stopping hopeless candidates, the wall-clock budget and the share of it that each kind
gets. Must not choose a router. Read `TrialLoop.run`.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Final

import numpy as np

from penstock_training.crossfit import fold_rows
from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, Head, IndexArray, TrainingSet
from penstock_training.families.registry import RouterSpec, make_family
from penstock_training.frugal import FrugalSearch
from penstock_training.progress import Progress
from penstock_training.search_metric import Judge, Measurement
from penstock_training.search_result import Candidate
from penstock_training.search_space import CONSTANT, KINDS, Kind

_NOTICEABLE: Final = 0.1  # standard errors; a smaller improvement is no reason to go on searching


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What a caller may ask of a search.

    Attributes
    ----------
    metric : str
        A name in `penstock_training.search_metric.METRICS`.
    budget_seconds : float
        Wall time, > 0. A fit that is running when it ends is given up at its next fold.
    max_trials : int
        Candidates at most.
    patience : int
        Candidates in a row without an improvement of a tenth of a standard error, after which the search ends.
    resamples : int
        Bootstrap samples behind every comparison.
    kinds : tuple of Kind
    """

    metric: str = "area"
    budget_seconds: float = 600.0
    max_trials: int = 500
    patience: int = 60
    resamples: int = 200
    kinds: tuple[Kind, ...] = KINDS


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate with what only the search needs of it.

    Attributes
    ----------
    candidate : Candidate
    raw : ndarray of float64, shape (n, m)
        Out-of-fold raw quality.
    head : Head
        Fitted on the last four fifths, to be timed.
    """

    candidate: Candidate
    raw: FloatArray
    head: Head


@dataclass(slots=True)
class _KindState:
    """How far the search has come with one kind; costs are nominal seconds."""

    kind: Kind
    openings: list[dict[str, float]]
    baseline: float  # gain of the constant router, from which every kind starts
    tried: list[tuple[dict[str, float], float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # seconds per nominal second
    spent: float = 0.0
    found_at: float = 0.0  # what had been spent when the best was found
    found_before: float = 0.0  # and the one before it
    best: float = -math.inf
    step: float = 0.0  # by how much the best is better than the one before it
    search: FrugalSearch | None = None
    is_over: bool = False

    def record(self, settings: dict[str, float], gain: float, share: float = 1.0) -> None:
        """Note what settings yielded, and for which share of a candidate's cost."""
        cost = share * self.kind.cost(settings)
        self.spent += cost
        self.tried.append((settings, -gain))
        if gain > max(self.best, self.baseline):
            self.step = gain - max(self.best, self.baseline)
            self.found_before, self.found_at = self.found_at, self.spent
        self.best = max(self.best, gain)
        if self.search is not None:
            self.search.tell(-gain, cost)

    def improvement_cost(self, best: float) -> float:
        """Estimated cost for improving on `best`; ``inf`` where this kind was never better than constant."""
        if self.step <= 0.0:
            return math.inf
        own = max(self.spent - self.found_at, self.found_at - self.found_before)
        return max(own, (best - self.best) * (self.spent - self.found_before) / self.step)


class _OutOfTime(Exception):
    """The budget ends before this candidate can be finished."""


class TrialLoop:
    """Tries candidates within a budget.

    Parameters
    ----------
    training : TrainingSet
    groups : ndarray of int64, shape (n,)
    judge : Judge
    options : SearchOptions
    seed : int
    progress : callable
    clock : callable
        Seconds; replaced in tests.

    Attributes
    ----------
    measured : list of Candidate
        All candidates that were tried to the end.
    best_of : dict of str to Finished
        Per kind; constant is always there after `run`.
    stopped_early : int
    ending : str
        A key of `penstock_training.search_result.ENDINGS`.
    """

    def __init__(
        self,
        training: TrainingSet,
        groups: IndexArray,
        judge: Judge,
        options: SearchOptions,
        *,
        seed: int,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._training, self._judge, self._options, self._seed = training, judge, options, seed
        self._progress, self._clock = progress, clock
        self._folds = [rows for rows in fold_rows(groups, seed) if rows.size]
        self._states: list[_KindState] = []
        self._best: Finished | None = None
        self._best_gain, self._since_best = -math.inf, 0
        self._started = clock()
        self._is_interrupted = False
        self.measured: list[Candidate] = []
        self.best_of: dict[str, Finished] = {}
        self.stopped_early = 0
        self.ending = "exhausted"

    @property
    def seconds(self) -> float:
        """Wall time since the search began."""
        return self._clock() - self._started

    def run(self) -> None:
        """Try candidates until something ends it; an interruption from the keyboard does, too.

        Raises
        ------
        TrainingError
            ``missing_extra``.

        Notes
        -----
        The constant router comes first and is always finished. Then every kind's low-cost start and defaults, cheap
        ones first. After that each candidate goes to the kind with the smallest estimated cost for improvement (ECI):
        what its last improvement cost, or what catching up with the best would cost at its speed so far, whichever is
        more. Costs are nominal (`Kind.cost`), so the order does not depend on the machine; the clock only ends the
        search and skips candidates that would not fit into what is left of it.

        References
        ----------
        Wang, Wu, Weimer, Zhu, "FLAML: a fast and lightweight AutoML library" (MLSys 2021), section 4.2, ECI; we take
        the smallest instead of drawing by 1/ECI, and count from the constant router.
        """
        constant = next(kind for kind in self._options.kinds if kind.label == CONSTANT)
        self._try(_KindState(constant, [], -math.inf), constant.defaults, must_finish=True)
        baseline = self.best_of[CONSTANT].candidate.measurement.gain
        self._states = [
            _KindState(kind, kind.openings(), baseline) for kind in self._options.kinds if kind.label != CONSTANT
        ]
        try:
            with self._interruptible():
                self._open()
                self._improve()
        except KeyboardInterrupt:
            self.ending = "interrupted"

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Remember an interruption that a library keeps to itself, as scikit-learn does while it trains a network."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self._is_interrupted = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _open(self) -> None:
        openings = [
            (state.kind.cost(settings), state, settings) for state in self._states for settings in state.openings
        ]
        for _, state, settings in sorted(openings, key=lambda entry: entry[0]):
            if not state.is_over and self._fits(state, settings):
                self._try(state, settings)
            elif not state.is_over:
                self.ending = "budget"

    def _improve(self) -> None:
        while True:
            if self.seconds >= self._options.budget_seconds:
                self.ending = "budget"
                return
            if len(self.measured) + self.stopped_early >= self._options.max_trials:
                self.ending = "trials"
                return
            if self._since_best >= self._options.patience:
                self.ending = "patience"
                return
            able = [state for state in self._states if not state.is_over and state.tried]
            if not able:
                return
            state = min(able, key=lambda s: (s.improvement_cost(self._best_gain), s.spent))
            settings = self._next(state)
            if settings is None:
                state.is_over = True
            elif self._fits(state, settings):
                self._try(state, settings)
            else:
                self.ending, state.is_over = "budget", True

    def _next(self, state: _KindState) -> dict[str, float] | None:
        kind = state.kind
        ranges = dict(kind.ranges)
        if not self._training.directions.shape[1]:
            ranges.pop("prior_weight", None)  # without a prior it changes nothing
        if state.search is None:
            state.search = FrugalSearch(ranges, kind.openings()[0], state.tried, self._seed)
        proposed = state.search.ask()
        return None if proposed is None else {**kind.defaults, **proposed}

    def _fits(self, state: _KindState, settings: dict[str, float]) -> bool:
        """Whether the candidate should be done before the budget ends, as far as earlier ones tell."""
        rates = state.rates or [rate for other in self._states for rate in other.rates] or [0.0]
        expected = float(np.median(rates)) * state.kind.cost(settings)
        return self.seconds + expected <= self._options.budget_seconds

    def _try(self, state: _KindState, settings: dict[str, float], *, must_finish: bool = False) -> None:
        kind, started = state.kind, self._clock()
        self._report()
        try:
            raw, head, folds = self._predict(kind, settings, must_finish)
        except TrainingError:  # this family cannot be fitted on so little
            state.is_over = True
            return
        except _OutOfTime:
            self.ending, state.is_over = "budget", True
            return
        except np.linalg.LinAlgError:  # these settings cannot be fitted; others of the kind may
            self._give_up(state, settings, 1.0)
            return
        seconds = (self._clock() - started) / folds
        state.rates.append(seconds * len(self._folds) / kind.cost(settings))
        if folds < len(self._folds):
            self._give_up(state, settings, folds / len(self._folds))
            return
        self._since_best += 1
        found = self._judge.measure(raw, is_constant=kind.label == CONSTANT)
        state.record(settings, found.gain)
        spec = RouterSpec(kind.family, {name: value for name, value in settings.items() if name in _told(kind)})
        self._keep(Finished(Candidate(kind.label, spec, found, seconds), raw, head), found)

    def _give_up(self, state: _KindState, settings: dict[str, float], share: float) -> None:
        """Count a candidate as stopped early, and as worse than everything that its kind has shown."""
        self._since_best += 1
        self.stopped_early += 1
        worst = min([-loss for _, loss in state.tried], default=state.baseline)
        state.record(settings, min(worst, state.baseline) - 1.0, share)

    def _keep(self, finished: Finished, found: Measurement) -> None:
        label = finished.candidate.label
        self.measured.append(finished.candidate)
        known = self.best_of.get(label)
        if known is None or found.gain > known.candidate.measurement.gain:
            self.best_of[label] = finished
        if found.gain > self._best_gain + _NOTICEABLE * found.standard_error or self._best is None:
            self._since_best = 0
        if found.gain > self._best_gain:
            self._best, self._best_gain = finished, found.gain

    def _predict(self, kind: Kind, settings: dict[str, float], must_finish: bool) -> tuple[FloatArray, Head, int]:
        """Out-of-fold raw quality, a head, and the number of folds done before the candidate was given up."""
        family, training = make_family(kind.family), self._training
        raw = np.full(training.target.shape, np.nan)
        everything, started, head = np.arange(training.target.shape[0]), self._clock(), None
        for done, held_out in enumerate(self._folds):
            if done and not must_finish:
                left = (self._clock() - started) / done * (len(self._folds) - done)
                if self.seconds + left > self._options.budget_seconds:
                    raise _OutOfTime
            rest = np.setdiff1d(everything, held_out, assume_unique=True)
            head = family.fit(training.rows(rest), settings, self._seed)
            raw[held_out] = head.predict(training.inputs.rows(held_out))
            if self._is_interrupted:
                raise KeyboardInterrupt
            self._report()
            if done == 0 and self._best is not None and self._judge.is_hopeless(raw, self._best.raw, held_out):
                return raw, head, 1
        if head is None or not np.isfinite(raw).all():
            raise TrainingError(f"{kind.label} gave numbers that are not finite", code="not_finite")
        return raw, head, len(self._folds)

    def _report(self) -> None:
        left = max(self._options.budget_seconds - self.seconds, 0.0)
        best = ""
        if self._best is not None:
            found = self._best.candidate
            best = f"best {found.spec.family} {found.measurement.value:.4f}, "
        text = f"search: {best}{shown_seconds(left)} left"
        budget = max(round(self._options.budget_seconds), 1)
        self._progress(text, min(round(self.seconds), budget), budget)

    def counted(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates with the number of their kind that were tried."""
        counts = {state.kind.label: len(state.tried) for state in self._states}
        return [replace(candidate, tried=counts.get(candidate.label, 1)) for candidate in candidates]


def shown_seconds(seconds: float) -> str:
    """Seconds for people: ``8 m 05 s``, ``42 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"


def _told(kind: Kind) -> set[str]:
    """Settings worth naming: those that are searched and those that make the kind."""
    return {*kind.ranges, *kind.fixed}
