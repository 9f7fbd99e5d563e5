"""The search over routers: what it tries, when it stops, what it chooses."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_training import frugal
from penstock_training.cli import main
from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, IndexArray, Settings, TrainingSet
from penstock_training.families.linear import LinearFamily, LinearHead
from penstock_training.families.registry import ENSEMBLE, FAMILIES, RouterSpec, make_family
from penstock_training.fit import FitOptions, fit_router, make_training_set
from penstock_training.frugal import FrugalSearch
from penstock_training.places import FormScaler
from penstock_training.search import choose_router, parse_budget, search_router
from penstock_training.search_metric import Measurement
from penstock_training.search_result import Candidate, SearchResult, choose, describe, make_result
from penstock_training.search_space import CONSTANT, KINDS, RUN_ORDER, Kind, Span, Steps
from penstock_training.search_trials import SearchOptions, TrialLoop
from support.outcome_samples import write_json_lines
from support.small_router import OPTIONS, made_up_corpus

needs_flaml = pytest.mark.skipif(
    frugal.importlib.util.find_spec("flaml") is None, reason="the search needs flaml, of the fit extra"
)
QUICK_KINDS = tuple(kind for kind in KINDS if kind.label in (CONSTANT, "cluster", "linear", "kernel"))
QUICK = SearchOptions(budget_seconds=600.0, max_trials=12, resamples=60, kinds=QUICK_KINDS)


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _search(wanted: SearchOptions = QUICK, *, prompts: int = 400, is_shuffled: bool = False) -> SearchResult:
    corpus = made_up_corpus(prompts, missing=0.0)
    if is_shuffled:
        order = np.random.default_rng(3).permutation(prompts)
        corpus = replace(corpus, matrix=replace(corpus.matrix, score=corpus.matrix.score[order]))
    return search_router(corpus, "dear", FitOptions(), wanted, _silent)


class _FakeJudge:
    """Rewards predictions by how far they spread over prompts; calls fold 1 of chosen candidates hopeless."""

    def __init__(self, *, gives_up: bool = False) -> None:
        self.gives_up = gives_up
        self.measured = 0

    def measure(self, raw: FloatArray, *, is_constant: bool = False) -> Measurement:
        self.measured += 1
        value = float(raw.std(axis=0).mean())
        return Measurement(value, value, value + 1e-3 * np.random.default_rng(0).standard_normal(50))

    def is_hopeless(self, raw: FloatArray, best: FloatArray, rows: IndexArray) -> bool:
        assert np.isfinite(raw[rows]).all()
        assert np.isnan(np.delete(raw, rows, axis=0)).all(), "only the first fold has been predicted"
        return self.gives_up


class _Clock:
    """Moves on by a fixed number of seconds whenever it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def _loop(
    judge: _FakeJudge, wanted: SearchOptions, clock: Callable[[], float] | None = None, on_progress: object = None
) -> TrialLoop:
    corpus = made_up_corpus(200, missing=0.0)
    training = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions())
    report = on_progress if callable(on_progress) else _silent
    loop = TrialLoop(
        training,
        corpus.matrix.groups,
        judge,
        wanted,
        seed=0,
        progress=report,
        **({} if clock is None else {"clock": clock}),
    )
    loop.run()
    return loop


def _candidate(label: str, gains: FloatArray, spec: RouterSpec | None = None) -> Candidate:
    known = spec or RouterSpec("constant" if label == CONSTANT else "kernel")
    return Candidate(label, known, Measurement(float(gains.mean()), float(gains.mean()), gains), 0.1)


# ---------------------------------------------------------------------------------------------------------- the space


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.label)
def test_search_space_openings_lie_inside_their_ranges(kind: Kind) -> None:
    """Starts and defaults are points of the space, or the local search could not begin at them."""
    for settings in kind.openings():
        assert set(settings) == set(make_family(kind.family).defaults)
        for name, entry in kind.ranges.items():
            if isinstance(entry, Steps):
                assert settings[name] in entry.values, name
            else:
                assert entry.low <= settings[name] <= entry.high, name


def test_search_space_covers_every_family_and_ranks_it() -> None:
    """No family is forgotten, and each has a place in the order by which ties are resolved."""
    assert {kind.family for kind in KINDS} == set(FAMILIES)
    assert set(RUN_ORDER) == {*FAMILIES, ENSEMBLE}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.start], ids=lambda kind: kind.label)
def test_search_space_low_cost_start_is_not_dearer_than_the_defaults(kind: Kind) -> None:
    """A search that begins at the low-cost start is frugal."""
    start, defaults = kind.openings()
    assert kind.cost(start) <= kind.cost(defaults)


@needs_flaml
def test_frugal_search_finds_the_minimum_and_repeats_itself() -> None:
    """Sixty proposals come close to the minimum of a bowl, the same for the same seed, all within the ranges."""
    ranges: dict[str, Steps | Span] = {"width": Span(0.01, 10.0), "places": Steps((1.0, 2.0, 4.0, 8.0))}

    def loss(point: dict[str, float]) -> float:
        return float(np.log(point["width"] / 0.5) ** 2 + np.log(point["places"] / 4.0) ** 2)

    runs = []
    for _ in range(2):
        start = {"width": 8.0, "places": 1.0}
        search = FrugalSearch(ranges, start, [(start, loss(start))], seed=5)
        asked = []
        for _ in range(60):
            point = search.ask()
            if point is None:
                break
            asked.append(point)
            search.tell(loss(point), 1.0)
        runs.append(asked)
    assert runs[0] == runs[1]
    assert all(0.01 <= p["width"] <= 10.0 and p["places"] in (1.0, 2.0, 4.0, 8.0) for p in runs[0])
    # From a loss of 9.6: within a factor of e^0.5 of the width and on the right step.
    assert min(loss(point) for point in runs[0]) < 0.25


# ------------------------------------------------------------------------------------------------------------ trials


@needs_flaml
def test_trial_loop_hopeless_candidates_are_stopped_after_one_fold() -> None:
    """What the judge calls hopeless is neither finished nor measured, and counts as stopped early."""
    judge = _FakeJudge(gives_up=True)
    loop = _loop(judge, replace(QUICK, max_trials=8))
    assert (judge.measured, list(loop.best_of)) == (1, [CONSTANT])
    assert loop.stopped_early == 7


@needs_flaml
def test_trial_loop_ends_when_nothing_better_comes() -> None:
    """Patience counts candidates without a noticeable improvement."""
    loop = _loop(_FakeJudge(), replace(QUICK, max_trials=500, patience=6))
    assert loop.ending == "patience"
    assert len(loop.measured) >= 6


def test_trial_loop_budget_ends_the_search_within_one_candidate() -> None:
    """A budget that is over at once still gives the constant router, and nothing is begun after its end."""
    clock = _Clock(1.0)
    loop = _loop(_FakeJudge(), replace(QUICK, budget_seconds=0.5), clock)
    assert loop.ending == "budget"
    assert list(loop.best_of) == [CONSTANT]


def test_trial_loop_long_candidates_are_skipped_when_they_would_not_fit() -> None:
    """Where the cheap candidates took longer than is left for dear ones, the dear ones are not begun."""
    dear = replace(next(kind for kind in KINDS if kind.label == "boosting"), seconds=1e6)
    kinds = (*(kind for kind in QUICK_KINDS if kind.label in (CONSTANT, "cluster")), dear)
    clock = _Clock(1.0)
    loop = _loop(_FakeJudge(), replace(QUICK, kinds=kinds, budget_seconds=200.0, max_trials=3), clock)
    assert dear.label not in loop.best_of
    assert clock.now < 400.0


@needs_flaml
def test_trial_loop_interrupted_goes_on_with_the_best_so_far() -> None:
    """Ctrl-C ends the search, not the command."""
    calls, judge = [], _FakeJudge()

    def interrupt(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if judge.measured == 3:
            raise KeyboardInterrupt

    loop = _loop(judge, QUICK, on_progress=interrupt)
    assert loop.ending == "interrupted"
    assert len(loop.measured) == 3
    assert "best" in calls[-1]
    assert "left" in calls[-1]


def test_trial_loop_interruption_that_a_library_swallows_still_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Libraries catch Ctrl-C while they train and return half-trained models; the search ends all the same."""
    fit = LinearFamily.fit

    def swallow(self: LinearFamily, training: TrainingSet, settings: Settings, seed: int) -> LinearHead:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return fit(self, training, settings, seed)

    monkeypatch.setattr(LinearFamily, "fit", swallow)
    before = signal.getsignal(signal.SIGINT)
    loop = _loop(_FakeJudge(), replace(QUICK, kinds=tuple(k for k in QUICK_KINDS if k.label in (CONSTANT, "linear"))))
    assert loop.ending == "interrupted"
    assert list(loop.best_of) == [CONSTANT]
    assert signal.getsignal(signal.SIGINT) is before


def test_trial_loop_family_that_cannot_be_fitted_is_left_out() -> None:
    """A family that refuses so few prompts ends its own part of the search only."""
    impossible = Kind("impossible", "kernel", 0.1, {"bandwidth": Span(0.1, 1.0)}, fixed={"bandwidth": float("nan")})
    kinds = (*(kind for kind in QUICK_KINDS if kind.label in (CONSTANT, "linear")), impossible)
    loop = _loop(_FakeJudge(), replace(QUICK, kinds=kinds, max_trials=2))
    assert set(loop.best_of) == {CONSTANT, "linear"}


# ------------------------------------------------------------------------------------------------------- the choice


def test_choose_nothing_better_than_chance_takes_constant() -> None:
    """The luckiest of forty candidates that are all as good as constant is not taken for better."""
    random = np.random.default_rng(0)
    base = 0.5 + 0.01 * random.standard_normal(400)
    constant = _candidate(CONSTANT, base)
    lucky = [_candidate(f"kind {i}", base + 0.005 * random.standard_normal(400)) for i in range(40)]
    lucky = [
        replace(c, measurement=replace(c.measurement, gain=float(base.mean() + 0.005 * random.standard_normal())))
        for c in lucky
    ]
    chosen, passes, reason = choose([constant, *lucky], [constant, *lucky])
    assert chosen is constant
    assert not any(passes)
    assert "does not pay" in reason


def test_choose_practically_equal_takes_the_quicker_router() -> None:
    """Kernel is a hair better than linear: linear answers quicker and is chosen; were it clearly better, it is not."""
    random = np.random.default_rng(0)
    base = 0.5 + 0.01 * random.standard_normal(400)
    jitter = 0.004 * random.standard_normal(400)
    constant, kernel = _candidate(CONSTANT, base), _candidate("kernel", base + 0.1 + jitter)
    near = _candidate("linear", base + 0.0995, RouterSpec("linear"))
    far = _candidate("linear", base + 0.08, RouterSpec("linear"))
    assert choose([constant, kernel, near], [constant, kernel, near])[0] is near
    assert choose([constant, kernel, far], [constant, kernel, far])[0] is kernel


def test_leaderboard_is_in_order_with_differences_to_the_first_line() -> None:
    """Ranks follow the metric, smaller first where smaller is better, and one line is marked as chosen."""
    random = np.random.default_rng(0)
    noise = 0.01 * random.standard_normal(200)
    gains = {CONSTANT: -0.9, "linear": -0.4, "kernel": -0.5}
    shown = []
    for label, gain in gains.items():
        made = _candidate(label, gain + noise, RouterSpec("constant" if label == CONSTANT else "linear"))
        shown.append(replace(made, measurement=replace(made.measurement, value=-made.measurement.gain)))
    result = make_result(shown, shown, metric="cost95", stopped_early=2, seconds=1.0, ending="trials")
    assert [entry.candidate.label for entry in result.leaderboard] == ["linear", "kernel", CONSTANT]
    assert [entry.rank for entry in result.leaderboard] == [1, 2, 3]
    assert [round(entry.difference, 3) for entry in result.leaderboard] == [0.0, 0.1, 0.5]
    assert [entry.is_chosen for entry in result.leaderboard] == [True, False, False]
    assert "linear is best" in result.note
    assert result.tried == 5
    table = describe(result)
    assert table.index("linear") < table.index("kernel")
    assert json.loads(json.dumps(result.to_json()))["leaderboard"][1]["kind"] == "kernel"


# ------------------------------------------------------------------------------------------------- the whole search


@needs_flaml
def test_search_router_on_topics_beats_constant_and_can_be_fitted() -> None:
    """Where topics decide, the choice surely beats fixed arms, and `fit_router` takes it as it is."""
    result = _search(prompts=900)
    chosen = next(entry for entry in result.leaderboard if entry.is_chosen)
    assert chosen.beats_constant
    assert result.spec.family != "constant"
    assert chosen.candidate.head_microseconds is not None
    assert {entry.candidate.label for entry in result.leaderboard} >= {CONSTANT, "cluster", "linear", "kernel"}
    corpus = made_up_corpus(900, missing=0.0)
    options = replace(OPTIONS, router=result.spec)
    fitted = fit_router(corpus, reference_arm="dear", options=options, progress=_silent)
    assert fitted.spec == result.spec


@needs_flaml
def test_search_router_on_shuffled_outcomes_chooses_constant() -> None:
    """Outcomes without any relation to the prompts: routing by prompt does not pay, and the result says so."""
    result = _search(prompts=600, is_shuffled=True)
    assert result.spec.family == "constant"
    assert "does not pay" in result.reason


@needs_flaml
def test_search_router_same_seed_gives_the_same_candidates_when_no_clock_ends_it() -> None:
    """What is tried and chosen does not depend on how fast the machine is."""
    first, second = (_search(replace(QUICK, max_trials=14)) for _ in range(2))
    assert first.note == second.note
    for one, two in zip(first.leaderboard, second.leaderboard, strict=True):
        assert one.candidate.spec == two.candidate.spec
        assert one.candidate.measurement.value == two.candidate.measurement.value


@needs_flaml
def test_search_router_ensemble_names_every_setting_of_its_members() -> None:
    """An ensemble on the leaderboard is made of the best of each family, with their settings."""
    result = _search()
    ensembles = [e.candidate.spec for e in result.leaderboard if e.candidate.spec.family == ENSEMBLE]
    assert ensembles
    for spec in ensembles:
        assert len(spec.members) >= 2
        assert {key.partition(".")[0] for key in spec.settings} == set(spec.members)


@needs_flaml
def test_choose_router_looks_at_training_prompts_only() -> None:
    """Scores of validation and test prompts change nothing about the choice."""
    corpus = made_up_corpus(600, missing=0.0)
    first = choose_router(corpus, "dear", FitOptions(), QUICK, _silent)
    from penstock_training.fit import split_prompts

    split = split_prompts(corpus.matrix.groups, 0)
    score = corpus.matrix.score.copy()
    for part in ("validation", "test"):
        score[split[part]] = 1.0 - score[split[part]]
    other = replace(corpus, matrix=replace(corpus.matrix, score=score))
    second = choose_router(other, "dear", FitOptions(), QUICK, _silent)
    assert first.spec == second.spec
    assert first.leaderboard[0].candidate.measurement.value == second.leaderboard[0].candidate.measurement.value


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("1h", 3600.0), ("1h30m", 5400.0), ("45", 45.0)],
)
def test_parse_budget_reads_durations(text: str, seconds: float) -> None:
    """Hours, minutes and seconds, alone or together."""
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "10 minutes"])
def test_parse_budget_refuses_anything_else(text: str) -> None:
    """A budget that is no duration is a usage error with a stable code."""
    with pytest.raises(TrainingError) as caught:
        parse_budget(text)
    assert caught.value.code == "bad_budget"


def test_search_without_the_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is named before anything is read."""
    monkeypatch.setattr(frugal.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="flaml") as caught:
        _search()
    assert caught.value.code == "missing_extra"


@needs_flaml
def test_fit_router_auto_writes_artifact_and_leaderboard(tmp_path: Path) -> None:
    """The command searches, fits what was chosen, prints the leaderboard and says so in the notes."""
    corpus = made_up_corpus(220, missing=0.0)
    rows = [
        {
            "prompt": corpus.matrix.prompts[i],
            "arm": arm,
            "score": float(corpus.matrix.score[i, a]),
            "input_tokens": 30,
            "output_tokens": 60,
            "cost_usd": (1e-5, 1e-4, 1e-3)[a],
        }
        for i in range(220)
        for a, arm in enumerate(corpus.matrix.arms)
    ]
    file = write_json_lines(tmp_path / "outcomes.jsonl", rows)
    board = tmp_path / "board.json"
    command = ["fit", "--outcomes", str(file), "--out", str(tmp_path / "router"), "--no-prior", "--router", "auto"]
    done = CliRunner().invoke(main, [*command, "--budget", "2s", "--metric", "brier", "--leaderboard", str(board)])
    assert done.exit_code == 0, done.output
    assert "leaderboard by brier" in done.output
    found = json.loads(board.read_text())
    assert found["metric"] == "brier"
    assert found["leaderboard"][0]["rank"] == 1
    manifest = json.loads((tmp_path / "router" / "manifest.json").read_text())
    assert manifest["family"] == found["router"]
    assert any(f"{found['tried']} candidates" in note for note in manifest["training"]["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "speed"], "no metric 'speed'"),
        (["--budget", "soon"], "like 90s, 10m or 1h"),
        (["--leaderboard", "nowhere/board.json"], "no folder 'nowhere'"),
    ],
)
@needs_flaml
def test_fit_router_auto_bad_options_are_refused_before_anything_is_read(
    tmp_path: Path, options: list[str], message: str
) -> None:
    """A typing error costs no search."""
    command = ["fit", "--outcomes", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "r"), "--router", "auto"]
    done = CliRunner().invoke(main, [*command, *options])
    assert done.exit_code == 1
    assert message in done.output
