"""What a search over routers found: the leaderboard, the choice from it, and how both are shown.

Owns the rule of the choice. Must not fit or measure. Read `choose`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock_training.families.registry import ENSEMBLE, RouterSpec
from penstock_training.search_metric import METRICS, Measurement
from penstock_training.search_space import CONSTANT, RUN_ORDER

CONFIDENCE: Final = 0.95
CLOSE_SE: Final = 0.25  # standard errors of the paired difference within which two routers count as equal
ENDINGS: Final[Mapping[str, str]] = {
    "budget": "the budget was used up",
    "patience": "nothing better came for a long time",
    "trials": "the largest number of candidates was reached",
    "exhausted": "everything nearby had been tried",
    "interrupted": "it was interrupted",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A router that was tried to the end.

    Attributes
    ----------
    label : str
        Its kind.
    spec : RouterSpec
    measurement : Measurement
    fit_seconds : float
        Wall time of one fit, on four fifths of the training prompts.
    head_microseconds : float or None
        Of one estimate by its head alone, one prompt, one thread; None while not timed.
    tried : int
        Candidates of this kind that were tried, those stopped early included.
    """

    label: str
    spec: RouterSpec
    measurement: Measurement
    fit_seconds: float
    head_microseconds: float | None = None
    tried: int = 1


@dataclass(frozen=True, slots=True)
class LeaderboardEntry:
    """One line of the leaderboard: the best candidate of a kind.

    Attributes
    ----------
    rank : int
        From 1.
    candidate : Candidate
    difference, difference_low, difference_high : float
        Metric minus that of the first line, with a 95 % interval of the paired bootstrap.
    beats_constant : bool
        Whether it is surely better than any mixture of fixed arms, all candidates considered.
    is_chosen : bool
    """

    rank: int
    candidate: Candidate
    difference: float
    difference_low: float
    difference_high: float
    beats_constant: bool
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was chosen and why.

    Attributes
    ----------
    spec : RouterSpec
    leaderboard : tuple of LeaderboardEntry
        Best first.
    metric : str
    reason : str
        Of the choice, one sentence.
    tried, stopped_early : int
        Candidates in all, and those given up after the first fold.
    seconds : float
        Wall time of the search.
    ending : str
        A key of `ENDINGS`.
    """

    spec: RouterSpec
    leaderboard: tuple[LeaderboardEntry, ...]
    metric: str
    reason: str
    tried: int
    stopped_early: int
    seconds: float
    ending: str

    @property
    def note(self) -> str:
        """A sentence for the manifest; free of times, so that equal searches give equal artifacts."""
        return (
            f"router chosen from {self.tried} candidates by out-of-fold {self.metric} ({METRICS[self.metric]}) on the "
            f"training prompts: {self.reason}"
        )

    def to_json(self) -> dict[str, Any]:
        """The whole result as JSON types."""
        return {
            "metric": self.metric,
            "router": self.spec.family,
            "settings": {name: float(value) for name, value in self.spec.settings.items()},
            "members": list(self.spec.members) if self.spec.family == ENSEMBLE else [],
            "reason": self.reason,
            "tried": self.tried,
            "stopped_early": self.stopped_early,
            "seconds": round(self.seconds, 2),
            "ending": self.ending,
            "leaderboard": [_entry_json(entry) for entry in self.leaderboard],
        }


def choose(finished: Sequence[Candidate], shown: Sequence[Candidate]) -> tuple[Candidate, tuple[bool, ...], str]:
    """Choose a router.

    Parameters
    ----------
    finished : sequence of Candidate
        All that were measured, the constant router among them.
    shown : sequence of Candidate
        The best of every kind, the constant router among them.

    Returns
    -------
    Candidate
        One of `shown`.
    tuple of bool
        Which of `shown` surely beat the constant router.
    str
        Why, one sentence.

    Notes
    -----
    A candidate surely beats the constant router when its paired gain is above c standard errors, with c the 95 %
    quantile of the largest standardised bootstrap deviation over *all* candidates; so the best of many lucky
    ones does not pass. If none passes, constant is chosen. Of those that pass, the quickest to run that is at most a
    quarter of a standard error of the paired difference behind the best is taken. A whole one, as is usual where models
    are to be simple, gave away .001 to .003 of the area on four outcome sets (docs/benchmarks.md): all of these routers
    are quick enough.

    References
    ----------
    White, "A reality check for data snooping" (Econometrica 68, 2000), studentised as in Romano, Wolf, "Stepwise
    multiple testing" (Econometrica 73, 2005); one-standard-error rule: Breiman et al., "Classification and regression
    trees" (1984), section 3.4.3.
    """
    constant = next(candidate for candidate in shown if candidate.label == CONSTANT)
    bound = _critical_value([c for c in finished if c.label != CONSTANT], constant)
    passes = tuple(_surely_beats(candidate, constant, bound) for candidate in shown)
    able = [candidate for candidate, passed in zip(shown, passes, strict=True) if passed]
    if not able:
        return constant, passes, "nothing beats fixed arms surely: on these outcomes routing by prompt does not pay"
    best = max(able, key=lambda candidate: candidate.measurement.gain)
    close = [candidate for candidate in able if _is_close(candidate, best)]
    chosen = min(close, key=lambda c: (_run_cost(c), -c.measurement.gain))
    if chosen is best:
        return best, passes, f"{best.label} is best, and nothing quicker to run is as good"
    reason = f"{best.label} is best; {chosen.label} is practically as good and quicker to run"
    return chosen, passes, reason


def make_result(
    finished: Sequence[Candidate],
    shown: Sequence[Candidate],
    *,
    metric: str,
    stopped_early: int,
    seconds: float,
    ending: str,
) -> SearchResult:
    """Put candidates in order and choose; parameters as for `choose` and `SearchResult`."""
    chosen, passes, reason = choose(finished, shown)
    passed = {id(candidate): is_sure for candidate, is_sure in zip(shown, passes, strict=True)}
    ordered = sorted(shown, key=lambda candidate: (-candidate.measurement.gain, _run_cost(candidate)))
    entries = []
    for rank, candidate in enumerate(ordered, start=1):
        one, best = candidate.measurement, ordered[0].measurement
        sign = 1.0 if one.value == one.gain else -1.0
        low, high = np.quantile(sign * (one.draws - best.draws), (0.025, 0.975))
        entries.append(
            LeaderboardEntry(
                rank,
                candidate,
                one.value - best.value,
                float(low),
                float(high),
                passed[id(candidate)],
                candidate is chosen,
            )
        )
    tried = len(finished) + stopped_early
    return SearchResult(chosen.spec, tuple(entries), metric, reason, tried, stopped_early, seconds, ending)


def describe(result: SearchResult) -> str:
    """Show the leaderboard as a table for people."""
    lines = [
        f"leaderboard by {result.metric}: {METRICS[result.metric]}",
        f"{'':2}{'':>2}  {'router':<24}{result.metric:>8} {'± se':>7}   {'to the best (95 %)':<26}{'fit s':>7}"
        f"{'head µs':>9}{'tried':>7}",
    ]
    for entry in result.leaderboard:
        found = entry.candidate
        to_best = f"{entry.difference:+.4f} [{entry.difference_low:+.4f}, {entry.difference_high:+.4f}]"
        head = "" if found.head_microseconds is None else f"{found.head_microseconds:.0f}"
        lines.append(
            f"{'→' if entry.is_chosen else '':2}{entry.rank:>2}  {found.label:<24}{found.measurement.value:8.4f} "
            f"{found.measurement.standard_error:7.4f}   {'' if entry.rank == 1 else to_best:<26}"
            f"{found.fit_seconds:7.2f}{head:>9}{found.tried:7}"
        )
    settings = ", ".join(f"{name} {value:.3g}" for name, value in result.spec.settings.items())
    lines.append(f"chosen: {result.reason}")
    lines += [f"        {settings}"] if settings else []
    lines.append(
        f"{result.tried} candidates, {result.stopped_early} of them stopped early, in {result.seconds:.0f} s; "
        f"{ENDINGS[result.ending]}"
    )
    return "\n".join(lines)


def _entry_json(entry: LeaderboardEntry) -> dict[str, Any]:
    found = entry.candidate
    return {
        "rank": entry.rank,
        "kind": found.label,
        "family": found.spec.family,
        "settings": {name: float(value) for name, value in found.spec.settings.items()},
        "value": found.measurement.value,
        "standard_error": found.measurement.standard_error,
        "difference_to_best": entry.difference,
        "difference_low": entry.difference_low,
        "difference_high": entry.difference_high,
        "beats_constant": entry.beats_constant,
        "fit_seconds": round(found.fit_seconds, 3),
        "head_microseconds": found.head_microseconds,
        "tried": found.tried,
        "is_chosen": entry.is_chosen,
    }


def _critical_value(candidates: Sequence[Candidate], constant: Candidate) -> float:
    """95 % quantile of the largest standardised deviation of a paired gain from its mean; 0 without candidates."""
    deviations = []
    for candidate in candidates:
        gain = candidate.measurement.draws - constant.measurement.draws
        spread = float(gain.std())
        if spread > 0.0:
            deviations.append((gain - (candidate.measurement.gain - constant.measurement.gain)) / spread)
    return float(np.quantile(np.max(deviations, axis=0), CONFIDENCE)) if deviations else 0.0


def _surely_beats(candidate: Candidate, constant: Candidate, bound: float) -> bool:
    one, other = candidate.measurement, constant.measurement
    spread = float((one.draws - other.draws).std())
    return bool(spread > 0.0 and one.gain - other.gain > bound * spread)


def _is_close(candidate: Candidate, best: Candidate) -> bool:
    one, other = candidate.measurement, best.measurement
    return bool(other.gain - one.gain <= CLOSE_SE * float((other.draws - one.draws).std()))


def _run_cost(candidate: Candidate) -> tuple[int, int]:
    """Place in `RUN_ORDER`; of ensembles the one with fewer members is quicker."""
    is_ensemble = candidate.spec.family == ENSEMBLE
    return RUN_ORDER.index(candidate.spec.family), len(candidate.spec.members) if is_ensemble else 0
