"""Decisions for prompts on the command line: the gateway's estimates and policy without a gateway.

Owns the arithmetic from an artifact, a price list and a prompt to a decision. It calls the same `RouterArtifact` and
`penstock_routers.policy.decide` as the gateway and counts prompt tokens as the gateway does for one user message. Read
`predict_prompt`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.estimates import Estimate
from penstock_routers.features import prompt_features
from penstock_routers.manifest import Manifest
from penstock_routers.policy import Candidate, Choice, RejectReason, RouteReason, Tradeoff, decide
from penstock_routers.policy_limits import NO_TIER, Limits, violation
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS, TOKENS_PER_MESSAGE, message_tokens
from penstock_training.errors import TrainingError

Prices = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One decided prompt.

    Attributes
    ----------
    prompt : str
    choice : Choice
    tradeoff : Tradeoff
    estimate : Estimate or None
        None when the prompt is blank.
    input_tokens : int
        Estimated.
    cost_usd : dict of str to float
        Expected cost per arm; empty without an estimate.
    rejected : dict of str to RejectReason
        Arms that the limits of the request left out.
    """

    prompt: str
    choice: Choice
    tradeoff: Tradeoff
    estimate: Estimate | None
    input_tokens: int
    cost_usd: dict[str, float]
    rejected: dict[str, RejectReason] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, every candidate listed in the order of the ranking."""
        estimate = self.estimate
        found: dict[str, Any] = {
            "prompt": self.prompt,
            "arm": self.choice.arm,
            "reason": self.choice.reason.value,
            "propensity": self.choice.propensity,
            "tradeoff": self.tradeoff.name,
            "input_tokens": self.input_tokens,
        }
        if estimate is None:
            return found
        column = {arm: index for index, arm in enumerate(estimate.arms)}
        return found | {
            "novelty": estimate.novelty,
            "category": estimate.category,
            "candidates": [
                {
                    "arm": arm,
                    "quality": float(estimate.quality[column[arm]]),
                    "quality_se": float(estimate.quality_se[column[arm]]),
                    "gain": float(estimate.gain[column[arm]]),
                    "gain_se": float(estimate.gain_se[column[arm]]),
                    "output_tokens": float(estimate.output_tokens[column[arm]]),
                    "cost_usd": self.cost_usd[arm],
                    "utility": utility,
                }
                for arm, utility in zip(self.choice.ranking, self.choice.utilities, strict=True)
            ],
            "rejected": [
                {"arm": arm, "reason": reason.value, "cost_usd": self.cost_usd[arm]}
                for arm, reason in self.rejected.items()
            ],
        }


def predict_prompt(
    prompt: str,
    *,
    artifact: RouterArtifact,
    encoder: PromptEncoder,
    prices: Prices,
    tradeoff: Tradeoff,
    default_arm: str,
    max_cost_usd: float | None = None,
    min_quality: float | None = None,
) -> Prediction:
    """Decide for one prompt, sent as the only user message.

    Parameters
    ----------
    prompt : str
    artifact : RouterArtifact
    encoder : PromptEncoder
        The artifact's own.
    prices : mapping of str to (float, float)
        USD per million input and output tokens of the arms that may be chosen; the default arm among them.
    tradeoff : Tradeoff
        From `RouterArtifact.tradeoff`.
    default_arm : str
    max_cost_usd : float, optional
        Arms with a higher expected cost are left out.
    min_quality : float, in [0, 1], optional
        As for `penstock_routers.policy.decide`.

    Returns
    -------
    Prediction
        A blank prompt keeps the default arm without an estimate, or with the knob at 0 takes the cheapest, as in
        the gateway.

    Raises
    ------
    TrainingError
        ``max_cost_exceeded``: every arm is expected to cost more than the cap.
    """
    input_tokens = message_tokens(prompt)
    if not prompt.strip():
        return Prediction(prompt, _blank_choice(prices, tradeoff, default_arm), tradeoff, None, input_tokens, {})
    vector = encoder.encode([prompt])[0]
    estimate = artifact.estimate(vector, prompt_features(prompt), reference_arm=default_arm)
    cost = {
        arm: (input_tokens * prices[arm][0] + float(estimate.output_tokens[index]) * prices[arm][1]) / 1e6
        for index, arm in enumerate(estimate.arms)
        if arm in prices
    }
    scale = max(artifact.cost_scale_usd(*prices[arm]) for arm in cost) or 1.0
    limits = Limits(max_cost_usd=max_cost_usd)
    verdicts = {arm: violation(limits, tier_rank=NO_TIER, cost_usd=cost[arm]) for arm in cost}
    rejected = {arm: reason for arm, reason in verdicts.items() if reason is not None}
    if len(rejected) == len(cost):
        cheapest = min(cost, key=lambda arm: (cost[arm], arm))
        message = f"the cheapest arm, {cheapest}, is expected to cost {cost[cheapest]:.9f} USD, above the cap"
        raise TrainingError(message, code="max_cost_exceeded")
    choice = decide(
        [_candidate(estimate, i, cost[arm]) for i, arm in enumerate(estimate.arms) if arm in cost.keys() - rejected],
        default_arm=default_arm,
        tradeoff=tradeoff,
        cost_scale_usd=scale,
        is_novel=artifact.is_novel(estimate),
        min_quality=min_quality,
    )
    return Prediction(prompt, choice, tradeoff, estimate, input_tokens, cost, rejected)


def open_router(folder: Path, encoder_folder: Path | None) -> tuple[RouterArtifact, PromptEncoder]:
    """Open an artifact with its encoder.

    Parameters
    ----------
    folder : Path
    encoder_folder : Path or None
        None takes the bundled encoder that the artifact names.

    Raises
    ------
    RouterError
        The artifact or the encoder is refused, or they do not belong together.
    """
    name = RouterArtifact.load(folder, encoder_id=None).manifest.encoder.name
    encoder = PromptEncoder.load(encoder_folder or bundled_folder(name))
    return RouterArtifact.load(folder, encoder_id=encoder.encoder_id), encoder


def known_arm(manifest: Manifest, default_arm: str | None) -> str:
    """Take the arm that answers when in doubt: as named, or the artifact's reference arm.

    Raises
    ------
    TrainingError
        ``unknown_arm``: the artifact has no arm of that name.
    """
    arm = default_arm or manifest.reference_arm
    if arm not in manifest.arms:
        message = f"the artifact has no arm {arm!r}; arms: {', '.join(manifest.arms)}"
        raise TrainingError(message, code="unknown_arm")
    return arm


def artifact_prices(manifest: Manifest) -> dict[str, tuple[float, float]]:
    """Take the price references under which the operating points were measured."""
    return {
        entry.name: (entry.price_usd_per_million_input_tokens, entry.price_usd_per_million_output_tokens)
        for entry in manifest.arm_entries
    }


def read_price_list(path: Path) -> dict[str, tuple[float, float]]:
    """Read a price list.

    Parameters
    ----------
    path : Path
        JSON object: arm name to ``[input, output]``, USD per million tokens.

    Returns
    -------
    dict of str to (float, float)

    Raises
    ------
    TrainingError
        ``bad_prices``: not such an object, empty, or a price that is negative or not finite.
    """
    try:
        pairs = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[float, float]])
    except OSError as error:
        raise TrainingError(f"{path.name} cannot be read: {error.strerror}", code="bad_prices") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrainingError(
            f'{path.name} is no price list ({error}): write {{"arm": [input, output], ...}} in USD per million tokens',
            code="bad_prices",
        ) from error
    if not pairs or min(price for pair in pairs.values() for price in pair) < 0:
        raise TrainingError(f"{path.name}: at least one arm, and prices >= 0", code="bad_prices")
    return pairs


def prices_of_arms(pairs: Prices, arms: tuple[str, ...]) -> Prices:
    """Refuse prices of arms that an artifact does not have; an arm without a price cannot be chosen.

    Raises
    ------
    TrainingError
        ``bad_prices``.
    """
    unknown = sorted(set(pairs) - set(arms))
    if unknown:
        raise TrainingError(
            f"the prices name no arm of the artifact: {', '.join(unknown)}; its arms are {', '.join(arms)}",
            code="bad_prices",
        )
    return pairs


def _candidate(estimate: Estimate, index: int, cost_usd: float) -> Candidate:
    return Candidate(
        arm=estimate.arms[index],
        quality=float(estimate.quality[index]),
        quality_se=float(estimate.quality_se[index]),
        gain=float(estimate.gain[index]),
        gain_se=float(estimate.gain_se[index]),
        cost_usd=cost_usd,
    )


def _blank_choice(prices: Prices, tradeoff: Tradeoff, default_arm: str) -> Choice:
    """Choose without an estimate."""
    if not math.isinf(tradeoff.cost_weight):
        return Choice(default_arm, RouteReason.ABSTAINED_NO_ESTIMATE, (default_arm,), (0.0,))
    cheapest = min(
        prices, key=lambda arm: (TOKENS_PER_MESSAGE * prices[arm][0] + ASSUMED_OUTPUT_TOKENS * prices[arm][1], arm)
    )
    return Choice(cheapest, RouteReason.CHEAPEST, (cheapest,), (0.0,))
