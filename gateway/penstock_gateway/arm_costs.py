"""What a request is expected to cost on a deployment, before it is called: tokens, prices, a warm conversation.

Pure. Prices are turned into floats once, when a configuration is taken up: 30 candidates would ask for 60 of them at
every request. Read `ArmCosts.score`.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock_gateway.conversations import Warm
from penstock_gateway.deployments import Deployment
from penstock_gateway.money.prices import Price, Rates
from penstock_gateway.request_body import ChatRequest
from penstock_gateway.scored import Scored
from penstock_routers.artifact import RouterArtifact
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_routers.warmth import cached_tokens, input_cost_usd, switch_cost_usd

_Floats = tuple[float, float, float]


class ArmCosts:
    """Expected costs on the deployments of one configuration.

    Parameters
    ----------
    deployments : iterable of Deployment
    switch_share : float, in [0, 1]
        See `penstock_routers.warmth.switch_cost_usd`.
    """

    def __init__(self, deployments: Iterable[Deployment], switch_share: float) -> None:
        self._prices = {deployment.name: deployment.price for deployment in deployments}
        self._flat: dict[str, tuple[Price, _Floats]] = {
            name: (price, _floats(price.standard)) for name, price in self._prices.items() if not price.above
        }
        self._switch_share = switch_share

    def score(
        self,
        request: ChatRequest,
        deployment: Deployment,
        warm: Warm | None = None,
        expected_tokens: float = ASSUMED_OUTPUT_TOKENS,
    ) -> Scored:
        """Return the expected output tokens and cost of one request on one deployment.

        Parameters
        ----------
        request : ChatRequest
        deployment : Deployment
            Of this configuration, or of one before it.
        warm : Warm, optional
            Who answered the conversation last.
        expected_tokens : float
            Of one answer, before the request's and the deployment's limits.

        Returns
        -------
        Scored
        """
        sent = request.input_tokens
        known = self._flat.get(deployment.name)
        if known is not None and known[0] is deployment.price:
            full, discounted, output = known[1]
        else:
            full, discounted, output = _floats(deployment.price.rates_for(sent))
        limit = deployment.max_output_tokens if request.max_tokens is None else request.max_tokens
        tokens = min(expected_tokens, float(limit)) * request.choices
        if warm is None:
            return Scored(deployment, tokens, (sent * full + tokens * output) / 1e6)
        cached = cached_tokens(warm.input_tokens, sent)
        is_warm = warm.deployment == deployment.name
        prompt = input_cost_usd(sent, cached if is_warm else 0, full, discounted)
        switch = 0.0 if is_warm else self._switch_cost_usd(warm, cached)
        return Scored(deployment, tokens, prompt + tokens * output / 1e6, switch)

    def _switch_cost_usd(self, warm: Warm, cached: int) -> float:
        """Return what leaving the deployment that has the conversation cached costs later."""
        price = self._prices.get(warm.deployment)
        if price is None:
            return 0.0
        full, discounted = float(price.input), float(price.cached_input)
        return switch_cost_usd(cached, full, discounted, self._switch_share, warm.forgone_usd)


def cost_scale_usd(artifact: RouterArtifact, deployments: Iterable[Deployment]) -> float:
    """Return the cost of one typical request on the dearest of some deployments; 1 when all are free."""
    prices = (deployment.price for deployment in deployments)
    return max(artifact.cost_scale_usd(float(price.input), float(price.output)) for price in prices) or 1.0


def _floats(rates: Rates) -> _Floats:
    return float(rates.input), float(rates.cached_input), float(rates.output)
