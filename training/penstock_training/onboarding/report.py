"""What onboarding found, as numbers.

Owns the report's content; `penstock_training.onboarding.text` words it. Read `OnboardingReport`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_routers.manifest import Manifest
from penstock_routers.policy import Tradeoff
from penstock_training.decisions import EstimateArrays, decide_rows
from penstock_training.estimator import ArmEstimates
from penstock_training.onboarding.column import OnboardedColumn
from penstock_training.onboarding.evidence import Evidence, NewArm
from penstock_training.predict import artifact_prices

FloatArray = NDArray[np.float64]

_Z95: Final = 1.959964
_MANY_NOVEL: Final = 0.5
_MUCH_SURPRISE: Final = 0.1
_FAR_APART: Final = 0.1  # standard deviation of what the known arms do not explain of each other


@dataclass(frozen=True, slots=True)
class OnboardingReport:
    """What was added and how sure it is.

    Attributes
    ----------
    arm, nearest_arm, default_arm : str
    prompts : int
        Scored prompts that were used.
    paired : int
        Of them, those that a known arm was scored on too.
    mean_score : float
        Of the new arm, as observed.
    quality, quality_low, quality_high : float
        Mean estimated quality on these prompts and its 95 % interval.
    prompts_to_halve : int
        Further scored prompts that would halve the uncertainty.
    price : (float, float)
        USD per million input and output tokens.
    output_tokens : float
        Mean expected completion length on these prompts.
    surely_better, surely_worse : float
        Shares of these prompts where the 95 % interval of the gain over the default arm lies above or below 0.
    chosen : dict of str to float
        Share of these prompts that each operating point sends to the new arm, guard and abstention in force.
    remarks : tuple of str
        What the reader should know.
    manifest : Manifest
        Of the new artifact.
    """

    arm: str
    nearest_arm: str
    default_arm: str
    prompts: int
    paired: int
    mean_score: float
    quality: float
    quality_low: float
    quality_high: float
    prompts_to_halve: int
    price: tuple[float, float]
    output_tokens: float
    surely_better: float
    surely_worse: float
    chosen: dict[str, float]
    remarks: tuple[str, ...]
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; of the manifest only the ids."""
        names = [name for name in OnboardingReport.__dataclass_fields__ if name != "manifest"]
        found: dict[str, Any] = msgspec.to_builtins({name: getattr(self, name) for name in names})
        return {"id": self.manifest.id, "parent": self.manifest.parent, "arms": list(self.manifest.arms)} | found


def make_report(
    manifest: Manifest,
    column: OnboardedColumn,
    evidence: Evidence,
    price: tuple[float, float],
    after: ArmEstimates,
    remarks: tuple[str, ...],
) -> OnboardingReport:
    """Sum up what was added; `price` in USD per million tokens, `after` what the new graph says of the prompts."""
    quality, error = column.mean_quality(evidence.scored.quality)
    gain, half = after.gain[:, -1], _Z95 * after.gain_se[:, -1]
    return OnboardingReport(
        arm=manifest.arms[-1],
        nearest_arm=manifest.arms[column.nearest],
        default_arm=manifest.reference_arm,
        prompts=int(evidence.scored.score.size),
        paired=evidence.scored.paired,
        mean_score=float(evidence.scored.score.mean()),
        quality=quality,
        quality_low=max(0.0, quality - _Z95 * error),
        quality_high=min(1.0, quality + _Z95 * error),
        prompts_to_halve=column.prompts_to_halve(),
        price=price,
        output_tokens=float(after.output_tokens[:, -1].mean()),
        surely_better=float((gain > half).mean()),
        surely_worse=float((gain < -half).mean()),
        chosen=_chosen(manifest, after, evidence.prompts.prompt_tokens),
        remarks=remarks,
        manifest=manifest,
    )


def _chosen(manifest: Manifest, after: ArmEstimates, prompt_tokens: FloatArray) -> dict[str, float]:
    """Share of the prompts that each operating point sends to the last arm, at the manifest's prices."""
    prices = artifact_prices(manifest)
    pairs = np.array([prices[arm] for arm in manifest.arms])
    request = (manifest.reference_input_tokens, manifest.reference_output_tokens)
    scale = float((pairs @ np.array(request)).max()) / 1e6
    estimates = EstimateArrays(
        manifest.arms,
        manifest.reference_arm,
        after.quality,
        after.gain,
        after.gain_se,
        after.novelty,
        (prompt_tokens[:, None] * pairs[:, 0] + after.output_tokens * pairs[:, 1]) / 1e6,
    )
    shares = {}
    for point in manifest.operating_points:
        weight = math.inf if point.cost_weight is None else point.cost_weight
        decisions = decide_rows(
            estimates,
            Tradeoff(point.name, weight, point.guard_z),
            cost_scale_usd=scale or 1.0,
            novelty_max=manifest.guard.novelty_max,
        )
        shares[point.name] = float((decisions.chosen == len(manifest.arms) - 1).mean())
    return shares


def make_remarks(
    evidence: Evidence, new: NewArm, arms: tuple[str, ...], manifest: Manifest, column: OnboardedColumn
) -> tuple[str, ...]:
    """Say what a reader should know of the scored prompts; `arms` are all that the outcome files name."""
    score, found = evidence.scored.score, []
    if score.min() == score.max():
        found.append(
            f"every score is {score[0]:g}: nothing tells on which prompts the arm differs, so its quality is drawn to "
            "that of the known arms"
        )
    if not evidence.scored.paired:
        found.append("no known arm was scored on these prompts; such scores make the fit surer")
    elif abs(surprise := evidence.scored.mean_surprise) > _MUCH_SURPRISE:
        found.append(
            f"known arms scored {abs(surprise):.2f} {'better' if surprise > 0 else 'worse'} on these prompts than the "
            "artifact expects; the new arm is put on the artifact's scale"
        )
    novel = float((evidence.estimates.novelty > manifest.guard.novelty_max).mean())
    if novel > _MANY_NOVEL:
        found.append(f"{100 * novel:.0f} % of the prompts are unlike what the artifact was fitted on")
    if new.output_tokens is None and not np.isfinite(evidence.prompts.output_tokens).any():
        found.append("no output_tokens in the outcomes: the arm is taken to write as much as the known arms")
    if strange := sorted(set(arms) - set(manifest.arms) - {new.name}):
        found.append(f"arms that the artifact does not know were left aside: {', '.join(strange)}")
    if column.remainder > _FAR_APART**2:
        found.append("the known arms differ much from each other, so a mixture of them may miss the new one")
    return tuple(found)
