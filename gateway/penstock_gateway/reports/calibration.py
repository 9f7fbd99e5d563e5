"""How expected costs relate to costs in fact, arm by arm: the correction without which no saving is believable.

Owns the two ratios of an arm and what is assumed of arms that never answered. Read `calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.reports.bootstrap import BlockBootstrap, FloatArray, IntArray, Interval, interval_of
from penstock_gateway.reports.savings_rows import Kind
from penstock_gateway.reports.savings_table import CostModel, SavingsArrays

BoolArray = NDArray[np.bool_]

MIN_BLOCKS: Final = 20
"""Conversations from which on a figure is given an interval of its own; below, bootstrap intervals are too narrow."""

MIN_MATCHED: Final = 30.0
"""Effective answers from which on those that match the compared requests are enough by themselves."""

ELSEWHERE_SPREAD: Final = 0.4
"""Standard deviation of the logarithm of tokens in fact over those expected between kinds of prompts, for one arm: what
is unknown when an arm is corrected by its answers to other requests than those that it is compared for. The
default router's estimates had 0.24 over the categories and 0.31 over the tasks of MMLU-Pro, 0.18 and 0.40 on ZeroEval
(medians of 29 and 24 models)."""

UNKNOWN_ARM_SPREAD: Final = 0.7
"""The same between arms, for one that has never answered: a factor of 4 either way with 95 %. One and a half times the
widest spread that we measured between models on the same prompts (0.45 for 29 models on MMLU-Pro; 0.21 and 0.23 on
ZeroEval and RouterBench), because none of those thinks before it answers."""

CONVERSATION_SPREAD: Final = 1.0
"""The same between conversations of one arm: how far few answers are to be trusted. Taken large on purpose."""


class Ground(StrEnum):
    """What a correction rests on, the best first."""

    EXPLORED = "explored"  # answers drawn by chance, weighted to stand for the requests that the arm did not answer
    CHOSEN = "chosen"  # answers to requests for which the router chose the arm, too
    OWN = "own_answers"  # all answers of the arm, and `ELSEWHERE_SPREAD`
    ASSUMED = "assumed"  # few or no answers, the other arms' correction, and `UNKNOWN_ARM_SPREAD`


@dataclass(frozen=True, slots=True)
class ArmCorrection:
    """How one arm's estimates are corrected.

    Attributes
    ----------
    model : CostModel
    ground : Ground
    answers, conversations : int
        That the correction could rest on; of explored ones, the effective number of conversations.
    output_tokens : Interval or None
        Tokens of its answers in fact over those expected; None where nothing was measured.
    cost : Interval or None
        Cost in fact over the expected one, after the first correction; likewise.
    """

    model: CostModel
    ground: Ground
    answers: int
    conversations: int
    output_tokens: Interval | None
    cost: Interval | None


@dataclass(frozen=True, slots=True)
class Corrections:
    """Factors by cost model, m of them.

    Attributes
    ----------
    arms : tuple of ArmCorrection
    prompt, rest : ndarray of float64, shape (m,)
        Factors of an expected cost's two parts.
    drawn_prompt, drawn_rest : ndarray of float64, shape (draws, m)
    """

    arms: tuple[ArmCorrection, ...]
    prompt: FloatArray
    rest: FloatArray
    drawn_prompt: FloatArray
    drawn_rest: FloatArray


def calibrate(
    rows: SavingsArrays, models: Sequence[CostModel], bootstrap: BlockBootstrap, kind: Kind, *, seed: int = 0
) -> Corrections:
    """Correct each cost model by the answers of its arm.

    Parameters
    ----------
    rows : SavingsArrays
        All rows; those whose arm answered as expected by a model correct it.
    models : sequence of CostModel
        m of them.
    bootstrap : BlockBootstrap
        Over the blocks of `rows`.
    kind : Kind
        Of the rows that are to be compared.
    seed : int
        Of what is assumed.

    Returns
    -------
    Corrections

    Notes
    -----
    With o the tokens answered, ô those expected, c the cost in fact, A and B the prompt's and the answer's part of the
    expected cost, w a weight per answer, all summed over the answers of an arm::

        k = Σ w o / Σ w ô          ρ = Σ w c / Σ w (A + k B)          corrected cost = ρ (A + k B)

    k corrects lengths, ρ what is left: prompts read from a provider's cache, tokenisers, long-context prices.

    Weights make the answers match the requests that are compared. Realised: ``w = (1 - p) / p`` with the propensity p,
    so that explored answers stand for the requests that the arm did not answer. "In fact where the arm answered,
    corrected elsewhere" is then right whenever the propensities are, however wrong the estimates: it is the doubly
    robust estimate, whose weighted residuals are 0 here by construction. Projected: w is 1 where the router chose
    the arm that answered, else 0. Where this leaves too little, w = 1 for all answers and the length of
    answers is taken to be off by a factor of its own, drawn with `ELSEWHERE_SPREAD`.

    References
    ----------
    Robins, Rotnitzky and Zhao (JASA 89, 1994); Kang and Schafer, "Demystifying double robustness" (Statistical Science
    22, 2007), section 2, for regression estimates with weighted residuals of 0.
    """
    m = len(models)
    served, parts = _answers(rows)
    matching = rows.number["odds" if kind is Kind.REALISED else "is_chosen"]
    matched = np.minimum(
        _effective(served, matching, m), bootstrap.counts(np.where(matching > 0.0, served, -1), m)
    )  # fmt: skip
    is_matched = matched >= MIN_MATCHED
    weight = np.where(np.append(is_matched, False)[served], matching, 1.0)
    point, drawn = bootstrap.sums(served, parts * weight[:, None], m)
    has_parts = np.array([model.has_parts for model in models], dtype=np.bool_)
    k, rho = _factors(point, has_parts)
    drawn_k, drawn_rho = _factors(drawn, has_parts)
    conversations = np.where(is_matched, matched.astype(np.int64), bootstrap.counts(served, m))
    is_known = conversations >= MIN_BLOCKS
    answers = np.bincount(served[served >= 0], minlength=m)
    arms = []
    for i, model in enumerate(models):
        ground, size = _ground(kind, is_matched[i], is_known[i]), int(conversations[i])
        tokens = interval_of(k[i], drawn_k[:, i], size) if is_known[i] and model.has_parts else None
        cost = interval_of(rho[i], drawn_rho[:, i], size) if is_known[i] else None
        arms.append(ArmCorrection(model, ground, int(answers[i]), size, tokens, cost))
    spread = np.where(is_matched, 0.0, ELSEWHERE_SPREAD)
    is_predicted = np.array([model.is_predicted for model in models], dtype=np.bool_)
    for i in np.flatnonzero(~is_known).tolist():
        peers = is_known & (has_parts == has_parts[i]) & (is_predicted == is_predicted[i])
        trust, spread[i] = _trust(int(conversations[i]))
        for factors in (k, drawn_k, rho, drawn_rho):
            own = factors[..., i]
            factors[..., i] = own**trust * _middle(factors, peers) ** (1.0 - trust)
    luck = np.random.default_rng((seed, 1)).standard_normal((bootstrap.draws, m))
    return Corrections(tuple(arms), rho, rho * k, drawn_rho, drawn_rho * drawn_k * np.exp(luck * spread))


def _answers(rows: SavingsArrays) -> tuple[IntArray, FloatArray]:
    """Return which model each row can correct (-1: none), and o, ô, c, A, B."""
    number = rows.number
    expected = number["served_prompt_usd"] + number["served_rest_usd"]
    is_usable = (rows.whole["served"] >= 0) & (expected > 0.0)
    is_usable &= np.isfinite(number["output_tokens"]) & (number["served_output_tokens"] > 0.0)
    parts = np.column_stack([
        np.where(is_usable, number["output_tokens"], 0.0),
        np.where(is_usable, number["served_output_tokens"], 0.0),
        number["answer_usd"],
        number["served_prompt_usd"],
        number["served_rest_usd"],
    ])  # fmt: skip
    return np.where(is_usable, rows.whole["served"], -1), parts


def _ground(kind: Kind, is_matched: bool, is_known: bool) -> Ground:
    if is_matched:
        return Ground.EXPLORED if kind is Kind.REALISED else Ground.CHOSEN
    return Ground.OWN if is_known else Ground.ASSUMED


def _trust(conversations: int) -> tuple[float, float]:
    """Return the weight of an arm's own few answers against the other arms', and how uncertain both together are.

    The normal prior of a logarithm with `UNKNOWN_ARM_SPREAD`, updated by n observations with `CONVERSATION_SPREAD`.
    """
    if conversations == 0:
        return 0.0, UNKNOWN_ARM_SPREAD
    prior, own = UNKNOWN_ARM_SPREAD**2, CONVERSATION_SPREAD**2 / conversations
    return prior / (prior + own), math.hypot(math.sqrt(prior * own / (prior + own)), ELSEWHERE_SPREAD)


def _factors(sums: FloatArray, has_parts: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return k and ρ from sums of o, ô, c, A and B along the last axis; 1 where there is nothing to go by."""
    answered, expected, cost, prompt, rest = np.moveaxis(sums, -1, 0)
    k = np.divide(answered, expected, out=np.ones_like(expected), where=has_parts & (expected > 0.0) & (answered > 0.0))
    corrected = prompt + k * rest
    rho = np.divide(cost, corrected, out=np.ones_like(cost), where=corrected > 0.0)
    return k, rho


def _middle(factors: FloatArray, peers: BoolArray) -> FloatArray:
    """Return the geometric mean over peers along the last axis; 1 without any."""
    if not peers.any():
        return np.ones(factors.shape[:-1])
    return np.asarray(np.exp(np.log(np.maximum(factors[..., peers], 1e-9)).mean(axis=-1)))


def _effective(served: IntArray, odds: FloatArray, m: int) -> FloatArray:
    """Effective number of explored answers of each model: ``(Σ w)² / Σ w²`` (Kish, "Survey Sampling", 1965)."""
    kept = served >= 0
    total = np.bincount(served[kept], weights=odds[kept], minlength=m)
    squares = np.bincount(served[kept], weights=odds[kept] ** 2, minlength=m)
    return np.divide(total**2, squares, out=np.zeros(m), where=squares > 0.0)
