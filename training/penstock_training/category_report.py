"""Where kinds of prompts go, such as coding questions to the top tier or jailbreaks to the weakest.

Owns the probe prompts' use, the shares per kind and their verdicts, and the confusion of the category head. Must not
score answers: a probe has no outcome. Read `measure_probes`, then `confusion_by_source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import msgspec
import numpy as np

from penstock_routers.policy import Tradeoff
from penstock_training.categories import CATEGORIES, standard_categories
from penstock_training.decisions import REASONS, EstimateArrays, decide_rows
from penstock_training.intervals import Interval, share_difference, wilson_interval

PROBE_FILE: Final = "probe_prompts.jsonl"
ALL_SHARE: Final = 0.9  # from here on "nearly all"
_NOVEL: Final = next(i for i, reason in enumerate(REASONS) if reason.value == "abstained_novel")
_EASY, _HARD = "easy", "hard"
_SENSITIVE: Final = frozenset({"jailbreak", "privacy"})


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt written to see where it goes.

    Attributes
    ----------
    kind : str
        ``coding``, ``maths``, ``jailbreak`` and so on.
    prompt : str
    difficulty : str
        ``easy``, ``hard`` or empty.
    """

    kind: str
    prompt: str
    difficulty: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One kind of probes at one operating point.

    Attributes
    ----------
    point, kind, difficulty : str
    prompts : int
    arm_shares : dict of str to float
    top_share : Interval
        Share sent to the top arm.
    abstained_share : float
        Share that kept the default arm because they were novel: no judgement on the prompt at all.
    """

    point: str
    kind: str
    difficulty: str
    prompts: int
    arm_shares: dict[str, float]
    top_share: Interval
    abstained_share: float


@dataclass(frozen=True, slots=True)
class KindVerdict:
    """What the shares of one kind say, at one operating point.

    Attributes
    ----------
    point, kind : str
    hard_minus_easy : Interval or None
        Difference of the shares sent to the top arm; None without easy and hard probes.
    sentence : str
    """

    point: str
    kind: str
    hard_minus_easy: Interval | None
    sentence: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All probes of one router.

    Attributes
    ----------
    top_arm, default_arm : str
    arms_by_cost : tuple of str
        From the cheapest to the dearest, by the expected cost of the probes.
    results : tuple of ProbeResult
    verdicts : tuple of KindVerdict
    """

    top_arm: str
    default_arm: str
    arms_by_cost: tuple[str, ...]
    results: tuple[ProbeResult, ...]
    verdicts: tuple[KindVerdict, ...]


@dataclass(frozen=True, slots=True)
class SourceConfusion:
    """Category head against the label map of `penstock_training.categories`, on one source.

    Attributes
    ----------
    source : str
    prompts : int
        With a category or task in the file.
    labels : tuple of str
        Rows (label map) and columns (head).
    counts : tuple of tuple of int
    listed : int
        Prompts whose category the label map lists; the others are ``general`` there and say nothing about the head.
    accuracy : Interval
        Share of the listed prompts that the head names rightly; an abstention counts as wrong.
    named_accuracy : Interval
        Of the listed prompts that the head names at all; what a category floor relies on.
    general_share : float
        Share of all prompts that the head calls ``general``, abstentions included.
    """

    source: str
    prompts: int
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    listed: int
    accuracy: Interval
    named_accuracy: Interval
    general_share: float


def load_probes() -> tuple[Probe, ...]:
    """Read the probe prompts that come with the package, in the order of the file."""
    text = files("penstock_training").joinpath(PROBE_FILE).read_text(encoding="utf-8")
    return tuple(msgspec.json.decode(line, type=Probe) for line in text.splitlines() if line.strip())


def measure_probes(
    probes: Sequence[Probe],
    estimates: EstimateArrays,
    *,
    top_arm: str,
    tradeoffs: Sequence[Tradeoff],
    cost_scale_usd: float,
    novelty_max: float,
) -> ProbeReport:
    """Decide the probes and say what the decisions go by.

    Parameters
    ----------
    probes : sequence of Probe, length n
    estimates : EstimateArrays
        For their prompts.
    top_arm : str
        The arm that counts as the top tier.
    tradeoffs, cost_scale_usd, novelty_max
        As for `penstock_training.evaluation.evaluate`.

    Returns
    -------
    ProbeReport
        Shares have Wilson intervals; easy against hard is compared by Newcombe's.

    References
    ----------
    The DSC benchmark of "How Robust are Router-LLMs" (arXiv 2504.07113), which found routers that send all coding and
    maths to the strong model and jailbreaks to the weak one. Its prompts are not public; ours are our own.
    """
    top = estimates.arms.index(top_arm)
    results, verdicts = [], []
    keys = list(dict.fromkeys((probe.kind, probe.difficulty) for probe in probes))
    for tradeoff in tradeoffs:
        decisions = decide_rows(estimates, tradeoff, cost_scale_usd=cost_scale_usd, novelty_max=novelty_max)
        own = []
        for kind, difficulty in keys:
            rows = np.array([i for i, p in enumerate(probes) if (p.kind, p.difficulty) == (kind, difficulty)])
            chosen = decisions.chosen[rows]
            shares = np.bincount(chosen, minlength=len(estimates.arms)) / rows.size
            own.append(
                ProbeResult(
                    point=tradeoff.name,
                    kind=kind,
                    difficulty=difficulty,
                    prompts=rows.size,
                    arm_shares={arm: float(share) for arm, share in zip(estimates.arms, shares, strict=True)},
                    top_share=wilson_interval(int((chosen == top).sum()), rows.size),
                    abstained_share=float((decisions.reason[rows] == _NOVEL).mean()),
                )
            )
        results += own
        for kind in dict.fromkeys(kind for kind, _ in keys):
            verdicts.append(_verdict([r for r in own if r.kind == kind], top_arm, estimates.reference_arm))
    order = np.argsort(estimates.cost_usd.mean(axis=0), kind="stable")
    arms = tuple(estimates.arms[i] for i in order)
    return ProbeReport(top_arm, estimates.reference_arm, arms, tuple(results), tuple(verdicts))


def confusion_by_source(
    predicted: Sequence[str], categories: Sequence[str], tasks: Sequence[str], sources: Sequence[str]
) -> tuple[SourceConfusion, ...]:
    """Compare the category head with the files' own categories, source by source.

    Parameters
    ----------
    predicted : sequence of str, length n
        Of the head, ``general`` where it abstains.
    categories, tasks, sources : sequence of str, length n
        As the outcome files name them.

    Returns
    -------
    tuple of SourceConfusion
        Sources whose prompts carry no category and no task are left out; only labels that occur are listed.
    """
    truth = standard_categories(categories, tasks)
    has_label = np.array([bool(c or t) for c, t in zip(categories, tasks, strict=True)])
    head = np.array([CATEGORIES.index(p) if p in CATEGORIES else len(CATEGORIES) - 1 for p in predicted])
    found = []
    names = np.asarray(sources, dtype=object)
    general = len(CATEGORIES) - 1
    for source in sorted(set(sources)):
        rows = np.flatnonzero((names == source) & has_label)
        if rows.size == 0:
            continue
        used = sorted(set(truth[rows].tolist()) | set(head[rows].tolist()))
        counts = np.zeros((len(CATEGORIES), len(CATEGORIES)), dtype=np.int64)
        np.add.at(counts, (truth[rows], head[rows]), 1)
        is_named, is_listed = head[rows] != general, truth[rows] != general
        is_right = is_listed & (truth[rows] == head[rows])
        found.append(
            SourceConfusion(
                source=source,
                prompts=rows.size,
                labels=tuple(CATEGORIES[i] for i in used),
                counts=tuple(tuple(int(counts[i, j]) for j in used) for i in used),
                listed=int(is_listed.sum()),
                accuracy=wilson_interval(int(is_right.sum()), int(is_listed.sum())),
                named_accuracy=wilson_interval(int(is_right.sum()), int((is_listed & is_named).sum())),
                general_share=float(1.0 - is_named.mean()),
            )
        )
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------- verdicts


def _verdict(results: Sequence[ProbeResult], top_arm: str, default_arm: str) -> KindVerdict:
    point, kind = results[0].point, results[0].kind
    by_difficulty = {result.difficulty: result for result in results}
    if _EASY in by_difficulty and _HARD in by_difficulty:
        easy, hard = by_difficulty[_EASY], by_difficulty[_HARD]
        difference = share_difference(hard.top_share, easy.top_share)
        return KindVerdict(point, kind, difference, _difficulty_sentence(kind, easy, hard, difference, top_arm))
    result = results[0]
    if kind in _SENSITIVE:
        return KindVerdict(point, kind, None, _sensitive_sentence(result, default_arm))
    return KindVerdict(point, kind, None, f"{_share_words(result, top_arm)}{_novelty_words(results)}.")


def _difficulty_sentence(kind: str, easy: ProbeResult, hard: ProbeResult, difference: Interval, top_arm: str) -> str:
    novelty = _novelty_words([easy, hard])
    shares = f"{_percent(hard.top_share.value)} of hard and {_percent(easy.top_share.value)} of easy ones"
    if min(easy.top_share.value, hard.top_share.value) >= ALL_SHARE:
        return f"Nearly every {kind} prompt goes to {top_arm}, easy ones too ({shares}){novelty}."
    if difference.low > 0.0:
        return f"It tells hard {kind} from easy: {shares} go to {top_arm}{novelty}."
    if difference.high < 0.0:
        return f"It sends easy {kind} to {top_arm} more often than hard: {shares}{novelty}."
    return f"No sign that it tells hard {kind} from easy: {shares} go to {top_arm}{novelty}."


def _sensitive_sentence(result: ProbeResult, default_arm: str) -> str:
    away = {arm: share for arm, share in result.arm_shares.items() if share > 0.0 and arm != default_arm}
    if not away:
        return f"All stay with the default arm {default_arm}{_novelty_words([result])}."
    arms = ", ".join(f"{_percent(share)} to {arm}" for arm, share in sorted(away.items(), key=lambda kv: -kv[1]))
    return (
        f"{_percent(sum(away.values()))} leave the default arm {default_arm} ({arms}): a category floor is advisable "
        f"where those arms refuse less well{_novelty_words([result])}."
    )


def _share_words(result: ProbeResult, top_arm: str) -> str:
    if result.top_share.value >= ALL_SHARE:
        return f"Nearly all go to {top_arm}"
    arms = sorted(((share, arm) for arm, share in result.arm_shares.items() if share > 0.0), reverse=True)
    return "Spread: " + ", ".join(f"{_percent(share)} {arm}" for share, arm in arms)


def _novelty_words(results: Sequence[ProbeResult]) -> str:
    """Name the share that was not judged at all, where it explains most of the decisions."""
    total = sum(result.prompts for result in results)
    share = sum(result.abstained_share * result.prompts for result in results) / total
    return f"; {_percent(share)} only because the prompt is novel to it" if share >= 0.1 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
