"""Which price a deployment has: the configured one, the snapshot's, or one that stands for a price nobody knows.

Owns the rule for estimates. Read `known_price`, then `stand_in_price`; `settings_deployments.price_in` joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock_gateway.model_facts import ModelFacts
from penstock_gateway.money.price_forms import build_price, dearest_price
from penstock_gateway.money.prices import Price
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.settings_models import DeploymentSettings
from penstock_gateway.settings_prices import price_form


def known_price(entry: DeploymentSettings, facts: ModelFacts | None) -> Price | None:
    """Return the configured price, else the snapshot's, else None."""
    if entry.price is not None:
        return build_price(price_form(entry.price))
    return None if facts is None else facts.price


def stand_in_price(provider: str, tier: str | None, tier_prices: Sequence[Price], *, is_allowed: bool = False) -> Price:
    """Return the price that stands for one that is not known.

    Parameters
    ----------
    provider : str
    tier : str or None
    tier_prices : sequence of Price
        Known prices of other deployments of the same tier.
    is_allowed : bool
        ``unknown_price: allow``: costs are unknown, and the numbers serve the choice of a deployment only.

    Returns
    -------
    Price
        `Price.is_estimate` or `Price.is_unknown` says that it is not this model's own.

    Notes
    -----
    For each kind of token the dearest price (1) of the provider's models in the snapshot, else (2) of the deployments
    of the same tier in this configuration, else (3) of all models in the snapshot; in each case at the prompt length
    at which it is dearest. Models that were switched off before the snapshot was made do not count: nobody can call
    them, and they are among the dearest.
    """
    snapshot = load_snapshot()
    if provider in snapshot.models:
        prices, of_whom = _current_prices(provider), f"the {provider} models of the {snapshot.name}"
    elif tier_prices:
        prices, of_whom = list(tier_prices), f"the other deployments of tier {tier}"
    else:
        prices = [price for name in snapshot.models for price in _current_prices(name)]
        of_whom = f"all models of the {snapshot.name}"
    price = dearest_price(prices, source=f"estimate: dearest of {of_whom}", as_of=snapshot.as_of)
    return replace(price, is_estimate=False, is_unknown=True) if is_allowed else price


def _current_prices(provider: str) -> list[Price]:
    """Return the prices of a provider's models that can still be called; of all of them when none can."""
    snapshot = load_snapshot()
    models = list(snapshot.models[provider].values())
    current = [model for model in models if not model.deprecated_on or model.deprecated_on > snapshot.as_of]
    return [model.price(snapshot) for model in current or models]
