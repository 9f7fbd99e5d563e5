"""What a run will do: the chosen prompts in their order, the arms, and the settings that a continued run must repeat.

Owns the step from a prompt file and the user's wishes to a `CollectPlan`. Must not call arms. Read `choose_sample`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.estimates import Estimate
from penstock_routers.features import prompt_features
from penstock_training.collect.budget import ArmPrice, RunEstimate, estimate_run, expected_input_tokens
from penstock_training.collect.journal import RunState
from penstock_training.collect.prompts import CollectPrompt, PromptSet
from penstock_training.collect.selection import Order, choose_prompts, decision_value
from penstock_training.errors import TrainingError
from penstock_training.progress import Progress
from penstock_training.scorers.protocol import Scorer
from penstock_training.vectors import encode_prompts


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """What the user asks for; all of it must be the same when a run goes on.

    Attributes
    ----------
    arms : tuple of str
        Model names, as the server knows them.
    scorer : str
        Spec of the scorer.
    scorer_options : dict of str to str
    sample : int or None
        Prompts to ask; None asks all.
    order : {"informative", "random"}
    random_share : float, in [0, 1]
    max_tokens : int
    seed : int
    """

    arms: tuple[str, ...]
    scorer: str
    scorer_options: dict[str, str]
    sample: int | None
    order: Order
    random_share: float
    max_tokens: int
    seed: int

    def settings(self, prompts: PromptSet, prices: Mapping[str, ArmPrice]) -> dict[str, Any]:
        """Settings as the journal keeps them, one entry per thing that a message may name."""
        return {
            "arms": list(self.arms),
            "scorer": self.scorer,
            "scorer options": dict(sorted(self.scorer_options.items())),
            "prompts (SHA-256)": prompts.digest,
            "sample": self.sample,
            "order": self.order,
            "random share": self.random_share,
            "max tokens": self.max_tokens,
            "seed": self.seed,
        } | {f"price of {arm}": [str(prices[arm].input), str(prices[arm].output)] for arm in self.arms}


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """One prompt of the sample, and how it came into it (see `selection.Draw`)."""

    prompt: CollectPrompt
    sampling: str


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """A run, ready to start.

    Attributes
    ----------
    arms : tuple of str
    prompts : tuple of PlannedPrompt
        In the order in which they are asked.
    prices : dict of str to ArmPrice
    max_tokens : int
    """

    arms: tuple[str, ...]
    prompts: tuple[PlannedPrompt, ...]
    prices: dict[str, ArmPrice]
    max_tokens: int

    @property
    def sample(self) -> list[tuple[str, str]]:
        """Keys and sampling, as the journal keeps them."""
        return [(entry.prompt.key, entry.sampling) for entry in self.prompts]

    def estimate(self, state: RunState, scorer: Scorer, output_tokens: Mapping[tuple[str, str], float]) -> RunEstimate:
        """Estimate what is still to be paid, given what a journal holds."""
        cells = [(entry.prompt, state.missing_arms(entry.prompt.key, self.arms)) for entry in self.prompts]
        unscored = sum(1 for prompt, arms in cells if arms or state.needs_scoring(prompt.key, self.arms))
        return estimate_run(
            cells,
            self.prices,
            max_tokens=self.max_tokens,
            output_tokens=output_tokens,
            scoring_usd=usd(scorer.estimate_cost_usd(unscored, len(self.arms))),
        )


@dataclass(frozen=True, slots=True)
class RouterView:
    """An artifact with its encoder, for choosing prompts and for expected lengths."""

    artifact: RouterArtifact
    encoder: PromptEncoder

    def estimates(
        self, prompts: Sequence[CollectPrompt], vectors: np.ndarray[Any, np.dtype[np.float32]]
    ) -> list[Estimate]:
        """Estimate n prompts with vectors (n, d) against the artifact's reference arm."""
        reference = self.artifact.manifest.reference_arm
        return [
            self.artifact.estimate(vector, prompt_features(entry.prompt), reference_arm=reference)
            for entry, vector in zip(prompts, vectors, strict=True)
        ]


def choose_sample(
    prompts: PromptSet, request: CollectRequest, router: RouterView | None, progress: Progress
) -> tuple[PlannedPrompt, ...]:
    """Choose the sample of a run that begins.

    Parameters
    ----------
    prompts : PromptSet
    request : CollectRequest
    router : RouterView or None
        Needed unless the order is ``random``.
    progress : callable

    Returns
    -------
    tuple of PlannedPrompt
    """
    total = len(prompts.prompts)
    vectors = information = None
    if request.order != "random" and router is not None:
        texts = [entry.prompt for entry in prompts.prompts]
        vectors = encode_prompts(router.encoder, texts, lambda done, of: progress("encoding", done, of))
        if request.order == "informative":
            found = router.estimates(prompts.prompts, vectors)
            information = decision_value(
                np.array([e.gain for e in found], dtype=np.float64),
                np.array([e.gain_se for e in found], dtype=np.float64),
                np.array([e.novelty for e in found], dtype=np.float64),
                router.artifact.manifest.guard.novelty_max,
            )
        progress("choosing prompts", 0, 1)
    draws = choose_prompts(
        vectors,
        total,
        count=request.sample or total,
        order=request.order,
        seed=request.seed,
        information=information,
        random_share=request.random_share,
    )
    progress("choosing prompts", 1, 1)
    return tuple(PlannedPrompt(prompts.prompts[draw.row], draw.sampling) for draw in draws)


def recall_sample(prompts: PromptSet, sample: Sequence[tuple[str, str]]) -> tuple[PlannedPrompt, ...]:
    """Take the sample that a journal names, so that a run goes on with the same one whatever libraries have changed.

    Raises
    ------
    TrainingError
        ``journal_damaged``: it names a prompt that the files do not hold.
    """
    known = {entry.key: entry for entry in prompts.prompts}
    if missing := sum(1 for key, _ in sample if key not in known):
        raise TrainingError(f"the journal names {missing} prompts that the files do not hold", code="journal_damaged")
    return tuple(PlannedPrompt(known[key], sampling) for key, sampling in sample)


def expected_lengths(plan: CollectPlan, router: RouterView | None) -> dict[tuple[str, str], float]:
    """Completion tokens per prompt key and arm, as far as the artifact knows arms of these names."""
    if router is None or not (known := [arm for arm in plan.arms if arm in router.artifact.manifest.arms]):
        return {}
    prompts = [entry.prompt for entry in plan.prompts]
    vectors = encode_prompts(router.encoder, [prompt.prompt for prompt in prompts], lambda done, of: None)
    found = {}
    for prompt, estimate in zip(prompts, router.estimates(prompts, vectors), strict=True):
        for arm in known:
            found[prompt.key, arm] = float(estimate.output_tokens[estimate.arms.index(arm)])
    return found


def composition(plan: CollectPlan) -> dict[str, Any]:
    """Describe a sample: how its prompts were drawn, where they come from, how long they are (tokens, estimated)."""
    lengths = np.array([expected_input_tokens(entry.prompt) for entry in plan.prompts])
    return {
        "prompts": len(plan.prompts),
        "sampling": dict(Counter(entry.sampling for entry in plan.prompts).most_common()),
        "sources": dict(Counter(entry.prompt.source for entry in plan.prompts).most_common(10)),
        "categories": dict(Counter(entry.prompt.category or "(none)" for entry in plan.prompts).most_common(10)),
        "with_reference": sum(1 for entry in plan.prompts if entry.prompt.reference is not None),
        "input_tokens_quantiles": dict(
            zip(
                ("10 %", "50 %", "90 %", "max"),
                np.quantile(lengths, (0.1, 0.5, 0.9, 1.0)).round().tolist(),
                strict=True,
            )
        ),
    }


def usd(value: float) -> Decimal:
    """A scorer's cost, given as a float, as an exact amount.

    Raises
    ------
    TrainingError
        ``scorer_broken``: negative or not finite.
    """
    found = Decimal(str(value))
    if not found.is_finite() or found < 0:
        raise TrainingError(f"the scorer gives a cost of {value} USD", code="scorer_broken")
    return found
