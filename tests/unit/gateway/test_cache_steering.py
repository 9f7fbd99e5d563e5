"""What steers a category, without a gateway: budgets, terms, books over a restart, load, tallies."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from penstock_cache.categories import CategoryPolicy, ChosenPolicy
from penstock_cache.confidence_sequence import Interval
from penstock_cache.lookups import Miss
from penstock_gateway.caching.audit_books import AuditBooks, BookKeeper
from penstock_gateway.caching.load_signals import WARM_UP_CALLS, LoadSignals, load_policy
from penstock_gateway.caching.start import policies_of
from penstock_gateway.caching.steering import SearchTerms, budget_of_hits, per_request
from penstock_gateway.caching.tallies import TenantTallies
from penstock_gateway.decisions import Settlement
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings_cache import CacheLoadSettings
from support.audit_parts import SETTINGS, SMALL, Parts, hit, plain_reply


@pytest.mark.parametrize(
    ("budget", "hit_rate", "expected"),
    [
        (0.005, 0.2, 0.025),
        (0.005, 0.01, 0.05),
        (0.005, 0.0, 0.05),
        (0.3, 0.5, 0.3),
        (0.0, 0.5, 1e-6),
        (1.0, 1.0, 0.999),
    ],
)
def test_budget_of_hits_follows_from_the_one_of_requests(budget: float, hit_rate: float, expected: float) -> None:
    """Rare hits may be wrong more often, up to one in twenty or the budget itself."""
    assert budget_of_hits(budget, hit_rate) == pytest.approx(expected)


def test_error_per_request_is_at_most_the_product_of_the_upper_bounds() -> None:
    """Bounds of both make bounds of the product; without either there is no estimate."""
    found = per_request(Interval(0.1, 0.4, 0.2), Interval(0.3, 0.6, 0.5))
    assert (found.low, found.high, found.estimate) == pytest.approx((0.03, 0.24, 0.1))
    assert per_request(Interval(0.1, 0.4, None), Interval(0.3, 0.6, 0.5)).estimate is None


def test_terms_at_rest_leave_the_threshold_to_the_rule_and_after_a_move_do_not() -> None:
    """On its loosest rung the switch asks for nothing; stricter it does, and its move begins another epoch."""
    parts = Parts(lambda _: plain_reply())
    chosen = ChosenPolicy("faq", policies_of(SETTINGS)["faq"])
    assert parts.steering.terms(chosen, "small", is_opted_in=False) == SearchTerms(0.3)
    switch = parts.steering.switch("faq")
    assert switch is not None
    switch.state.rung -= 1
    switch.state.changes += 1
    # 0.8 is certified; the rung above asks for a quarter of the way from there to 1.
    assert parts.steering.terms(chosen, "small", is_opted_in=False) == SearchTerms(
        0.3, 0.0, pytest.approx(0.85), epoch=1
    )
    switch.state.is_on = False
    assert not parts.steering.terms(chosen, "small", is_opted_in=False).is_served


def test_audit_of_a_hit_on_earlier_terms_does_not_count_for_the_present_ones() -> None:
    """A sequence is about one operating point; the model's unsteadiness is about none."""
    parts = Parts(lambda _: plain_reply())
    switch = parts.steering.switch("faq")
    assert switch is not None
    switch.state.changes = 1
    for is_control in (False, True):
        parts.steering.note_audit("faq", SearchTerms(0.3), is_disagreement=True, is_control=is_control)
    counts = parts.steering.ledger.state.categories["faq"]
    assert (counts.hit_audits, counts.control_audits) == (0, 1)


def busy(parts: Parts) -> None:
    """Overload the deployment."""
    for now in (parts.now - 30.0, parts.now):
        parts.load.observe("small", now, latency_seconds=9.0)


@pytest.mark.parametrize(
    ("is_opted_in", "changes", "relaxation"),
    [(True, {}, 1.0), (False, {}, 0.0), (True, {"is_volatile": True}, 0.0)],
)
def test_terms_under_load_are_loosened_for_opted_in_keys_and_lasting_answers(
    is_opted_in: bool, changes: dict[str, bool], relaxation: float
) -> None:
    """The budget at most doubles by default, and volatile categories never move."""
    parts = Parts(lambda _: plain_reply())
    busy(parts)
    policy = CategoryPolicy(**{"mode": policies_of(SETTINGS)["faq"].mode, "false_hit_budget": 0.3, **changes})  # type: ignore[arg-type]
    found = parts.steering.terms(ChosenPolicy("faq", policy), "small", is_opted_in=is_opted_in)
    assert (found.relaxation, found.error_budget) == (relaxation, 0.3 + 0.3 * relaxation)


def test_relaxed_hits_that_are_proven_wrong_too_often_end_the_relaxation() -> None:
    """Their errors have a ledger of their own, which never moves the switch."""
    parts = Parts(lambda _: plain_reply())
    busy(parts)
    chosen = ChosenPolicy("faq", policies_of(SETTINGS)["faq"])
    count = 0
    while (terms := parts.steering.terms(chosen, "small", is_opted_in=True)).is_relaxed:
        parts.steering.note_lookup("faq", terms, hit(), call_cost_usd=0.0, seconds=0.001)
        parts.steering.note_audit("faq", terms, is_disagreement=True, is_control=False)
        parts.steering.note_audit("faq", terms, is_disagreement=False, is_control=True)
        count += 1
    assert count > 5
    assert parts.steering.is_over_relaxed_budget("faq")
    assert parts.steering.relaxed_error("faq").low > 0.6
    switch = parts.steering.switch("faq")
    assert switch is not None
    assert switch.is_on
    assert parts.steering.ledger.audits("faq") == 0
    assert parts.metrics.problems.labels("cache_relaxed_over_budget")._value.get() == 1


def test_lookups_that_no_rule_decides_do_not_count() -> None:
    """A hit rate is about look-ups that could have hit."""
    parts = Parts(lambda _: plain_reply())
    for found in (Miss("no_rule"), Miss("not_certifiable"), Miss("no_neighbour"), hit()):
        parts.steering.note_lookup("faq", SearchTerms(0.3), found, call_cost_usd=0.5, seconds=1.0)
    counts = parts.steering.ledger.state.categories["faq"]
    assert (counts.lookups, counts.hits, counts.miss_value_usd) == (2, 1, 0.5)
    assert counts.hit_value_usd == pytest.approx(0.001 + 0.9 * 0.0005)  # what the answer cost, and 0.9 s of waiting
    assert counts.overhead_usd == pytest.approx(2.2e-5)


async def test_books_of_another_rule_begin_anew_on_the_same_account(tmp_path: Path) -> None:
    """Counts are about the hits of one rule; money is money."""
    problems: list[str] = []
    keeper = await BookKeeper.open(tmp_path, "one", problems.append)
    keeper.books.account.spent_usd = Decimal("0.1")
    keeper.books.ledger.categories["faq"] = Parts(lambda _: plain_reply()).steering.ledger._counts("faq")
    keeper.note_change()
    await keeper.close()
    same = await BookKeeper.open(tmp_path, "one", problems.append)
    other = await BookKeeper.open(tmp_path, "two", problems.append)
    assert (same.books.account.spent_usd, list(same.books.ledger.categories)) == (Decimal("0.1"), ["faq"])
    assert (other.books.account.spent_usd, list(other.books.ledger.categories)) == (Decimal("0.1"), [])
    assert problems == []


async def test_books_that_cannot_be_written_are_a_problem_and_no_failure(tmp_path: Path) -> None:
    """A full disk costs what was learnt, not the cache."""
    problems: list[str] = []
    keeper = BookKeeper(tmp_path / "missing" / "audits.json", AuditBooks(), problems.append)
    keeper.note_change()
    await keeper.close()
    assert problems == ["cache_audits_unwritten"]


def settled(seconds: float, output_tokens: int = 100, status: int = 200, error: str | None = None) -> Settlement:
    """Return how a call went."""
    usage = None if error else Usage(input_tokens=10, output_tokens=output_tokens)
    return Settlement(status, error, usage, None, seconds * 1000.0, 0.0)


def test_load_follows_from_calls_that_are_slower_than_usual() -> None:
    """Length is no slowness; five times the usual time per token is full load, also for a short answer."""
    now = 0.0
    settings = CacheLoadSettings()
    signals = LoadSignals(load_policy(settings, {"small": SMALL}), settings, lambda: now)

    def run(seconds_per_token: float, count: int) -> float:
        nonlocal now
        for number in range(count):
            tokens = (20, 400)[number % 2]
            signals.begin("small")
            now += 5.0
            signals.end("small", settled(seconds_per_token * (tokens + 64), tokens))
        return signals.policy.load("small", now)

    assert run(0.01, WARM_UP_CALLS) == 0.0  # nothing is known yet
    assert run(0.01, 20) == pytest.approx(1 / 3, rel=0.02)  # settled to within 2 % after ten half-lives
    assert run(0.05, 20) > 0.95
    assert run(0.01, 20) < 0.5
    assert signals._in_flight["small"] == 0


@pytest.mark.parametrize(
    ("settlement", "is_busy"),
    [
        (settled(1.0, status=429, error="upstream_status"), True),
        (settled(60.0, status=504, error="upstream_timeout"), True),
        (settled(1.0, status=400, error="upstream_status"), False),
        (settled(9.0, status=499, error="client_disconnected"), False),
    ],
)
def test_load_of_refusals_and_timeouts_is_full_and_of_other_failures_unknown(
    settlement: Settlement, is_busy: bool
) -> None:
    """A client's mistake or departure says nothing about the model."""
    now = 0.0
    settings = CacheLoadSettings()
    signals = LoadSignals(load_policy(settings, {"small": SMALL}), settings, lambda: now)
    for _ in range(4):
        now += 20.0
        signals.begin("small")
        signals.end("small", settlement)
    assert (signals.policy.load("small", now) > 0.9) is is_busy


def test_load_of_a_deployment_with_a_stated_capacity_counts_calls_under_way() -> None:
    """Where somebody knows how many requests a deployment bears, that many are full load."""
    now = 0.0
    settings = CacheLoadSettings(max_in_flight={"small": 4})
    signals = LoadSignals(load_policy(settings, {"small": SMALL}), settings, lambda: now)
    for _ in range(4):
        now += 30.0
        signals.begin("small")
    assert signals.policy.load("small", now) > 0.9


def test_load_of_deployments_that_are_gone_is_forgotten_when_their_calls_are_over() -> None:
    """Deployments come and go with configurations; only a call under way keeps one in mind."""
    settings = CacheLoadSettings()
    signals = LoadSignals(load_policy(settings, {"small": SMALL}), settings, lambda: 0.0)
    for name in ("small", "gone", "busy"):
        signals.begin(name)
        if name != "busy":
            signals.end(name, settled(1.0))
    signals.follow(["small"])
    assert (signals._in_flight, set(signals._usual)) == ({"small": 0, "busy": 1}, {"small"})


def test_tallies_of_one_tenant_are_not_those_of_another() -> None:
    """Counts are kept and shown by tenant."""
    tallies = TenantTallies()
    tallies.note_hit("ann", hit())
    tallies.note_miss("bob", "faq", "no_neighbour")
    ann, bob = tallies.of("ann")["faq"], tallies.of("bob")["faq"]
    assert (ann.semantic_hits, ann.misses, ann.saved_usd) == (1, {}, Decimal("0.001"))
    assert (bob.semantic_hits, bob.misses) == (0, {"no_neighbour": 1})
    assert tallies.of("eve") == {}
