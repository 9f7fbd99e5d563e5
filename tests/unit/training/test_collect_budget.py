"""Money before it is spent: bounds that hold, estimates that add up, a ledger that never passes its budget."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.collect.budget import ArmPrice, Ledger, call_bound_usd, estimate_run
from penstock_training.collect.prompts import CollectPrompt

PRICE = ArmPrice(Decimal(1), Decimal(10))


def _prompt(text: str, query_id: str = "q") -> CollectPrompt:
    return CollectPrompt(query_id, "s", text, (("user", text),), None, None)


def test_call_bound_of_awkward_texts_is_above_the_tokens_of_a_real_tokenizer() -> None:
    """Whatever the script, a tokenizer makes fewer tokens than the bound allows for."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    for text in ("plain English words", "a1b2c3d4e5f6", "海水はなぜ塩辛い", "!?;:,.-" * 9, "🙂🙃", "x"):
        bound = call_bound_usd(_prompt(text), ArmPrice(Decimal(1_000_000), Decimal(0)), 1)
        assert bound >= len(encoder.token_ids(text))


def test_run_estimate_adds_up_and_stays_below_its_bound() -> None:
    """Expected lengths come from the artifact where it knows the arm, are capped by the limit, and sum to the total."""
    cells = [(_prompt("What is this?", "a"), ("one", "two")), (_prompt("And that?", "b"), ("two",))]
    found = estimate_run(
        cells,
        {"one": PRICE, "two": ArmPrice(Decimal(0), Decimal(0))},
        max_tokens=100,
        output_tokens={("s\x1fa", "one"): 30.0},
        scoring_usd=Decimal("0.5"),
    )
    one, two = found.arms
    assert (one.calls, one.output_tokens, one.has_learned_lengths) == (1, 30, True)
    assert (two.calls, two.output_tokens, two.has_learned_lengths) == (2, 200, False)
    assert two.bound_usd == 0
    assert found.expected_usd == one.expected_usd + Decimal("0.5") < found.bound_usd


@given(
    budget=st.decimals(0, 10, places=4),
    calls=st.lists(st.tuples(st.decimals(0, 2, places=6), st.decimals(0, 1, places=6)), max_size=60),
)
def test_ledger_under_any_calls_within_their_bounds_never_passes_the_budget(
    budget: Decimal, calls: list[tuple[Decimal, Decimal]]
) -> None:
    """Spent and reserved stay within the budget after every step, and nothing stays reserved at the end."""
    ledger = Ledger(budget)
    held: list[tuple[Decimal, Decimal]] = []
    for bound, share in calls:
        if ledger.reserve(bound):
            held.append((bound, bound * share))
        assert ledger.spent_usd + ledger.reserved_usd <= budget
        if len(held) > 3:
            ledger.settle("arm", *held.pop(0))
    for one in held:
        ledger.settle("arm", *one)
    assert ledger.reserved_usd == 0
    assert ledger.spent_usd <= budget
    assert ledger.overruns == 0


def test_ledger_after_a_call_beyond_its_bound_raises_later_bounds_of_that_arm() -> None:
    """A server that adds text of its own breaks a bound once; the next bounds of that arm allow for it."""
    ledger = Ledger(Decimal(10))
    assert ledger.reserve(Decimal(1))
    ledger.settle("chatty", Decimal(1), Decimal(3))
    assert ledger.overruns == 1
    assert ledger.bound_usd("chatty", Decimal(2)) == 6
    assert ledger.bound_usd("other", Decimal(2)) == 2


def test_ledger_of_a_continued_run_counts_what_was_spent_before() -> None:
    """The budget is that of the file, not of one run."""
    ledger = Ledger(Decimal(5), Decimal("4.5"))
    assert not ledger.reserve(Decimal("0.6"))
    assert ledger.reserve(Decimal("0.5"))
