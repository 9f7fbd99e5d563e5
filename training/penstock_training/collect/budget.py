"""Money before it is spent: prices, bounds of single calls, the estimate of a run, and the ledger that keeps a budget.

Owns the arithmetic in exact decimals. Must not call anything or read files. Read `call_bound_usd` and `Ledger`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS, estimate_tokens, message_tokens
from penstock_training.collect.prompts import CollectPrompt

_MILLION: Final = Decimal(1_000_000)
TEMPLATE_TOKENS_PER_MESSAGE: Final = 16
"""Room for role, separators and begin-of-text around a message; published chat templates take 3 to 10 (Llama 3: 5 per
message and one at the start, ChatML: 4)."""


@dataclass(frozen=True, slots=True)
class ArmPrice:
    """Prices of one arm, USD per million tokens.

    Attributes
    ----------
    input, output : Decimal
        >= 0; each the dearest that can apply, so that a bound made from them holds.
    """

    input: Decimal
    output: Decimal

    def cost_usd(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Exact cost of a call."""
        return (input_tokens * self.input + output_tokens * self.output) / _MILLION


def call_bound_usd(prompt: CollectPrompt, price: ArmPrice, max_tokens: int) -> Decimal:
    """Most that one call can cost.

    Parameters
    ----------
    prompt : CollectPrompt
    price : ArmPrice
    max_tokens : int
        Limit of the completion, hidden reasoning included.

    Returns
    -------
    Decimal
        USD.

    Notes
    -----
    A byte-level tokenizer never makes more tokens than bytes, so the prompt's bytes bound its tokens; English has about
    four bytes to a token, so the input part of the bound is about four times what will be paid. It does not hold for a
    server that adds text of its own, such as a long system prompt (see `Ledger.settle`).
    """
    size = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in prompt.messages)
    return price.cost_usd(size + TEMPLATE_TOKENS_PER_MESSAGE * len(prompt.messages), max_tokens)


@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """What one arm is expected to cost over the cells that are still to be asked.

    Attributes
    ----------
    arm : str
    calls : int
    input_tokens, output_tokens : int
        Expected, over all calls.
    expected_usd, bound_usd : Decimal
    has_learned_lengths : bool
        Whether the output tokens come from an artifact that knows the arm; otherwise a mean is assumed.
    """

    arm: str
    calls: int
    input_tokens: int
    output_tokens: int
    expected_usd: Decimal
    bound_usd: Decimal
    has_learned_lengths: bool


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run is expected to cost.

    Attributes
    ----------
    arms : tuple of ArmEstimate
    prompts : int
        Prompts with something left to ask.
    scoring_usd : Decimal
        As the scorer estimates it.
    """

    arms: tuple[ArmEstimate, ...]
    prompts: int
    scoring_usd: Decimal

    @property
    def expected_usd(self) -> Decimal:
        """Expected cost of everything."""
        return sum((arm.expected_usd for arm in self.arms), self.scoring_usd)

    @property
    def bound_usd(self) -> Decimal:
        """Most that everything can cost, without repeated calls."""
        return sum((arm.bound_usd for arm in self.arms), self.scoring_usd)


def estimate_run(
    cells: Sequence[tuple[CollectPrompt, Sequence[str]]],
    prices: Mapping[str, ArmPrice],
    *,
    max_tokens: int,
    output_tokens: Mapping[tuple[str, str], float],
    scoring_usd: Decimal,
) -> RunEstimate:
    """Estimate a run before it starts.

    Parameters
    ----------
    cells : sequence of (CollectPrompt, sequence of str)
        Prompts with the arms that they are still to be asked on.
    prices : mapping of str to ArmPrice
    max_tokens : int
    output_tokens : mapping of (prompt key, arm) to float
        Expected completion tokens where an artifact knows the arm; `ASSUMED_OUTPUT_TOKENS` elsewhere.
    scoring_usd : Decimal

    Returns
    -------
    RunEstimate
        Arms in the order of `prices`.
    """
    found = []
    for arm, price in prices.items():
        asked = [prompt for prompt, arms in cells if arm in arms]
        sent = sum(expected_input_tokens(prompt) for prompt in asked)
        lengths = [output_tokens.get((prompt.key, arm)) for prompt in asked]
        written = round(sum(min(ASSUMED_OUTPUT_TOKENS if n is None else n, max_tokens) for n in lengths))
        found.append(
            ArmEstimate(
                arm,
                len(asked),
                sent,
                written,
                price.cost_usd(sent, written),
                sum((call_bound_usd(prompt, price, max_tokens) for prompt in asked), Decimal(0)),
                bool(asked) and None not in lengths,
            )
        )
    return RunEstimate(tuple(found), sum(1 for _, arms in cells if arms), scoring_usd)


def expected_input_tokens(prompt: CollectPrompt) -> int:
    """Expected input tokens of a prompt with all its messages, by the rule of the gateway."""
    *before, last = prompt.messages
    return message_tokens(last[1]) + sum(estimate_tokens(len(text.encode())) + 4 for _, text in before)


class Ledger:
    """Keeps a hard budget: what is spent and what open calls may still cost never pass it together.

    Parameters
    ----------
    budget_usd : Decimal or None
        None sets no limit.
    spent_usd : Decimal
        What earlier runs into the same file cost.

    Attributes
    ----------
    spent_usd, reserved_usd : Decimal
        Charged so far; held for calls under way.
    overruns : int
        Calls that cost more than their bound.

    Notes
    -----
    The invariant is ``spent + reserved <= budget`` after every `reserve`. It rests on the bounds; a call that costs
    more than its bound breaks it by the difference, is counted, and raises all later bounds of its arm by that factor.
    """

    def __init__(self, budget_usd: Decimal | None, spent_usd: Decimal = Decimal(0)) -> None:
        self.budget_usd = budget_usd
        self.spent_usd = spent_usd
        self.reserved_usd = Decimal(0)
        self.overruns = 0
        self._factors: dict[str, Decimal] = {}

    @property
    def left_usd(self) -> Decimal | None:
        """What may still be reserved; None without a limit."""
        return None if self.budget_usd is None else self.budget_usd - self.spent_usd - self.reserved_usd

    def bound_usd(self, arm: str, bound_usd: Decimal) -> Decimal:
        """Raise a computed bound by what earlier calls of the arm cost beyond theirs."""
        return bound_usd * self._factors.get(arm, Decimal(1))

    def reserve(self, amount_usd: Decimal) -> bool:
        """Hold an amount if it fits; False leaves everything as it was."""
        left = self.left_usd
        if left is not None and amount_usd > left:
            return False
        self.reserved_usd += amount_usd
        return True

    def settle(self, arm: str, reserved_usd: Decimal, charge_usd: Decimal) -> None:
        """Turn a reservation into what the call did cost, and learn from a bound that did not hold."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += charge_usd
        if charge_usd > reserved_usd:
            self.overruns += 1
            if reserved_usd > 0:
                known = self._factors.get(arm, Decimal(1))
                self._factors[arm] = max(known, known * charge_usd / reserved_usd)

    def release(self, reserved_usd: Decimal) -> None:
        """Give a reservation back unused."""
        self.reserved_usd -= reserved_usd
