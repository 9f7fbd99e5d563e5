"""LiteLLM's costs per token as Penstock's prices per million tokens.

Owns the names of the cost fields (`ModelInfoBase` and `CustomPricingLiteLLMParams` in litellm's types) and their
arithmetic, which is exact. Read `PriceFields`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from penstock_gateway.importing.draft import DeploymentDraft, number_of
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.verdicts import Findings
from penstock_gateway.model_facts import ModelFacts
from penstock_gateway.settings_types import MAX_PRICE_USD_PER_MILLION

_RATES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "input_cost_per_token_cache_hit": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
}
_FIELD = re.compile(
    rf"({'|'.join(sorted(_RATES, key=len, reverse=True))})(_above_1hr)?(?:_above_(\d{{1,5}})k_tokens)?"
    r"(?:_(batches|flex|priority|balanced|ultrafast))?"
)
PRICE_FIELDS = tuple(_RATES)
_MILLION = Decimal(1_000_000)
_STEP = Decimal("0.000001")
_MAX_STEPS = 8


@dataclass(frozen=True, slots=True)
class _Cost:
    node: Node
    rate: str
    tokens: int  # for prompts above this; 0: for all
    service: str  # "" is the standard tier
    usd_per_million: Decimal


def is_price_field(name: str) -> bool:
    """Say whether a field is a cost per token that can be mapped."""
    match = _FIELD.fullmatch(name)
    return match is not None and (match[2] is None or match[1] == "cache_creation_input_token_cost")


@dataclass(slots=True)
class PriceFields:
    """The cost fields of one deployment, collected and then written as its ``price``.

    Parameters
    ----------
    draft : DeploymentDraft
    findings : Findings
    """

    draft: DeploymentDraft
    findings: Findings
    _costs: dict[tuple[str, int, str], _Cost] = field(default_factory=dict)

    def add(self, name: str, node: Node) -> None:
        """Take one cost field; `name` is one of which `is_price_field` holds."""
        match = _FIELD.fullmatch(name)
        assert match is not None
        number = number_of(node)
        if number is None or not 0 <= number * _MILLION <= MAX_PRICE_USD_PER_MILLION:
            self.findings.dropped(node, "is no price in USD per token", self.draft.target("price"))
            return
        rate = "cache_write_1h" if match[2] else _RATES[match[1]]
        service = "batch" if match[4] == "batches" else match[4] or ""
        cost = _Cost(node, rate, int(match[3] or 0) * 1000, service, number * _MILLION)
        known = self._costs.get((rate, cost.tokens, service))
        if known is None:
            self._costs[rate, cost.tokens, service] = cost
        elif known.usd_per_million == cost.usd_per_million:
            self._settle(cost)
        else:
            self.findings.dropped(node, f"{known.node.path} says another price, which is taken", self._target(cost))

    def write(self, facts: ModelFacts | None, *, base_model: str = "") -> None:
        """Write the price; what it leaves open is taken from what is known of the model, else 0 as LiteLLM does.

        Parameters
        ----------
        facts : ModelFacts or None
            What the bundled list knows.
        base_model : str
            When not empty, the price of that model is written even without any cost field.
        """
        if not self._costs and not base_model:
            return
        price: dict[str, object] = {}
        for rate in ("input", "output"):
            if (rate, 0, "") not in self._costs:
                listed = getattr(facts.price.standard, rate) if facts is not None else Decimal(0)
                price[rate] = listed
        if base_model and facts is not None:
            listed_rates = facts.price.standard
            for rate, fallback in (("cached_input", "input"), ("cache_write", "input"), ("reasoning", "output")):
                if getattr(listed_rates, rate) != getattr(listed_rates, fallback):
                    price[rate] = getattr(listed_rates, rate)
        for cost in sorted(self._costs.values(), key=lambda each: (each.service, each.tokens)):
            if self._place(price, cost):
                self._settle(cost)
        order = ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning")
        first = {name: price[name] for name in order if name in price}
        self.draft.settings["price"] = {**first, **price, **first}

    def _place(self, price: dict[str, object], cost: _Cost) -> bool:
        """Put one rate where it belongs; False when there is no room for it."""
        value = cost.usd_per_million.quantize(_STEP, ROUND_CEILING).normalize()
        value = (
            value
            if value.as_tuple().exponent != 0 and value != value.to_integral_value()
            else value.quantize(Decimal(1))
        )
        holder = price
        if cost.service:
            services = price.setdefault("service_tiers", {})
            assert isinstance(services, dict)
            holder = services.setdefault(cost.service, {})
        if cost.tokens:
            steps = holder.setdefault("above", [])
            assert isinstance(steps, list)
            step = next((each for each in steps if each["tokens"] == cost.tokens), None)
            if step is None:
                if len(steps) == _MAX_STEPS:
                    self.findings.dropped(cost.node, f"a price has at most {_MAX_STEPS} steps", self._target(cost))
                    return False
                step = {"tokens": cost.tokens}
                steps.append(step)
            holder = step
        holder[cost.rate] = value
        return True

    def _settle(self, cost: _Cost) -> None:
        if cost.usd_per_million != cost.usd_per_million.quantize(_STEP, ROUND_CEILING):
            note = "rounded up to whole picodollars a token, the finest that is charged"
            self.findings.changed(cost.node, self._target(cost), note)
        else:
            self.findings.mapped(cost.node, self._target(cost), "USD per million tokens")

    def _target(self, cost: _Cost) -> str:
        service = f".service_tiers.{cost.service}" if cost.service else ""
        above = ".above[]" if cost.tokens else ""
        return self.draft.target(f"price{service}{above}.{cost.rate}")
