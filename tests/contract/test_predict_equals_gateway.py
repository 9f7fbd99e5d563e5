"""``penstock-train predict`` and the gateway's chooser decide alike."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.request_body import parse_chat_request
from penstock_gateway.request_policy import RequestPolicy
from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_training.predict import predict_prompt
from support.fakes import deployment, price

PRICES = {"small": ("0.1", "0.4"), "medium": ("0.4", "1.6"), "large": ("2.5", "10"), "frontier": ("10", "30")}
PROMPTS = (
    "A farmer sells 14 eggs a day at 3 dollars a dozen. What does she earn in a week?",
    "Explain promissory estoppel.",
    "Wie spät ist es?",
    "def f(x): return x[::-1]\nassert f('abc') == ??",
    "   ",
    "Zeile\n\nund noch eine: ∑ x² ≥ 0 🙂",
    "word " * 5000,
)


@pytest.mark.parametrize("default", ["frontier", "large"])
@pytest.mark.parametrize("tradeoff", ["cost", "balanced", "quality", 0.0, 0.35, 0.7, 1.0])
async def test_predict_same_prompt_prices_and_knob_give_the_gateways_decision(
    default: str, tradeoff: str | float
) -> None:
    """Arm, reason, ranking and expected costs agree for every kind of prompt."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    artifact = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    service = EncoderService(encoder)
    chooser = ArmChooser(
        [deployment(arm, price=price(*pair), context_tokens=100_000) for arm, pair in PRICES.items()],
        default_arm=default,
        baseline=default,
        tradeoff="balanced",
        parts=RoutingParts(artifact, service),
    )
    for prompt in PROMPTS:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        decision = await chooser.choose(parse_chat_request(json.dumps(body).encode()), tradeoff)
        found = predict_prompt(
            prompt,
            artifact=artifact,
            encoder=encoder,
            prices={arm: (float(pair[0]), float(pair[1])) for arm, pair in PRICES.items()},
            tradeoff=artifact.tradeoff(tradeoff),
            default_arm=default,
        )
        assert (found.choice.arm, found.choice.reason) == (decision.chosen, decision.reason), prompt[:40]
        assert found.input_tokens == decision.input_tokens
        if found.estimate is not None:
            assert found.choice.ranking == tuple(c.name for c in decision.candidates)
            assert [found.cost_usd[c.name] for c in decision.candidates] == pytest.approx(
                [c.estimated_cost_usd for c in decision.candidates], rel=1e-12
            )
    await service.aclose()


@pytest.mark.parametrize(
    "limits", [{"max_cost_usd": 0.002}, {"min_quality": 0.7}, {"max_cost_usd": 0.002, "min_quality": 0.7}]
)
async def test_predict_same_limits_give_the_gateways_decision(limits: dict[str, float]) -> None:
    """A cap and a minimum of quality mean the same on the command line and in the gateway."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    artifact = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    service = EncoderService(encoder)
    chooser = ArmChooser(
        [deployment(arm, price=price(*pair), context_tokens=100_000) for arm, pair in PRICES.items()],
        default_arm="frontier",
        baseline="frontier",
        tradeoff="balanced",
        parts=RoutingParts(artifact, service),
    )
    for prompt in PROMPTS[:4]:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        asked = parse_chat_request(json.dumps(body).encode())
        decision = await chooser.choose(asked, None, RequestPolicy(**limits))
        found = predict_prompt(
            prompt,
            artifact=artifact,
            encoder=encoder,
            prices={arm: (float(pair[0]), float(pair[1])) for arm, pair in PRICES.items()},
            tradeoff=artifact.tradeoff("balanced"),
            default_arm="frontier",
            **limits,
        )
        assert (found.choice.arm, found.choice.reason) == (decision.chosen, decision.reason), prompt[:40]
        assert found.rejected == {c.name: c.rejected for c in decision.candidates if c.rejected}
    await service.aclose()
