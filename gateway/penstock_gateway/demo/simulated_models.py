"""The four simulated models: names, simulated list prices and simulated speeds.

Owns numbers only. Every number here is invented for the demonstration; none is a measurement of a real model. Read
`SIMULATED_MODELS` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One simulated model.

    Attributes
    ----------
    name : str
        What clients ask for; says that the model is simulated.
    tier : str
        One of the gateway's tiers.
    input_usd_per_million_tokens, output_usd_per_million_tokens : Decimal
        Simulated list prices.
    first_token_seconds : float
        Median simulated time to the first token; > 0.
    tokens_per_second : float
        Simulated speed of generation; > 0.
    median_output_tokens : int
        Median simulated length of an answer.
    context_tokens, max_output_tokens : int
        Limits that the simulated upstream enforces.
    """

    name: str
    tier: str
    input_usd_per_million_tokens: Decimal
    output_usd_per_million_tokens: Decimal
    first_token_seconds: float
    tokens_per_second: float
    median_output_tokens: int
    context_tokens: int = 128_000
    max_output_tokens: int = 8_192


# Ratios like those between the size classes of public price lists: four to six times from tier to tier at the cheap
# end, three to four at the dear end, output three to four times as dear as input. Larger models start later, generate
# more slowly and write more.
SIMULATED_MODELS: Mapping[str, SimulatedModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            SimulatedModel("sim-small", "small", Decimal("0.10"), Decimal("0.40"), 0.20, 160.0, 120),
            SimulatedModel("sim-medium", "medium", Decimal("0.40"), Decimal("1.60"), 0.35, 110.0, 150),
            SimulatedModel("sim-large", "large", Decimal("2.50"), Decimal("10.00"), 0.50, 80.0, 200),
            SimulatedModel("sim-frontier", "frontier", Decimal("10.00"), Decimal("30.00"), 0.90, 50.0, 260),
        )
    }
)
