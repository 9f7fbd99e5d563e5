"""Our corpus of near-misses: what guards and the bundled rule make of it, kind by kind; a regression fails.

Run with ``-s`` to see the tables. The frozen half was written before any guard; the open half is what guards and rule
were made with, so its numbers say less.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from penstock_cache.entries import FloatArray
from penstock_cache.guards.agreement import compare
from penstock_cache.guards.signature import PromptSignature, signature_of
from penstock_cache.judging import EntryJudge
from penstock_cache.rule import POOLED, load_rule
from penstock_gateway.caching.start import DEFAULT_RULE, open_pair_model
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from support.cache_documents import document

SIDES = ("a", "a2", "b", "b2")
PARAPHRASES = (("a", "a2"), ("b", "b2"))
NEAR_MISSES = (("a", "b"), ("a", "b2"), ("a2", "b"), ("a2", "b2"))
BUDGET = 0.01
HALVES = ("frozen", "open")

ALSO_IN_OPEN = frozenset({"frz-neg-021", "frz-ent-003", "frz-cod-018"})
"""Frozen quads of which a text was written again for the open half; the rule may have seen them, so they are left out
of what is asked of it."""

# What the guards alone let through, in pairs of a kind: measured, and a regression beyond the slack fails. Guards are
# plain code, so the slack is not for chance: it is what one may cost while another kind gains.
LET_THROUGH: Mapping[str, Mapping[str, int]] = {
    "frozen": {
        "antonyms": 55, "attribute": 78, "code_identifiers": 23, "dates_times": 12, "entities": 70, "intent_shift": 80,
        "language_format": 27, "negation": 32, "numbers": 0, "order_reversal": 57, "quantifier_comparison": 56,
        "scope_qualifier": 57, "tense_modality": 70, "units": 31,
    },
    "open": {
        "antonyms": 88, "assistant": 418, "attribute": 132, "code_identifiers": 40, "dates_times": 4, "entities": 130,
        "everyday": 976, "intent_shift": 138, "language_format": 26, "negation": 51, "numbers": 0,
        "order_reversal": 93, "quantifier_comparison": 79, "scope_qualifier": 105, "support": 482,
        "tense_modality": 124, "units": 60,
    },
}  # fmt: skip
GUARD_SLACK = 0.04  # of a kind's near-miss pairs: 3 of 88, 6 of 160
LEAST_PARAPHRASES_LET_THROUGH = {"frozen": 0.909, "open": 0.937}  # measured 91.9 % and 94.7 %, less one point

# What the bundled rule serves of the frozen half at its 1 % threshold, 305 quads, each pair alone in the cache.
SERVED: Mapping[str, int] = {
    "antonyms": 0, "attribute": 0, "code_identifiers": 0, "dates_times": 1, "entities": 0, "intent_shift": 0,
    "language_format": 0, "negation": 0, "numbers": 0, "order_reversal": 8, "quantifier_comparison": 4,
    "scope_qualifier": 1, "tense_modality": 0, "units": 0,
}  # fmt: skip
MOST_NEAR_MISSES = 0.016  # measured 1.15 %
LEAST_PARAPHRASES = 0.105  # measured 12.6 %
SERVED_SLACK = 3  # pairs of a kind: a rule made again from other data moves single pairs across its threshold


@dataclass(frozen=True)
class Quad:
    """Two wordings of one question, and two of another that is easily taken for it."""

    name: str
    kind: str
    category: str
    texts: Mapping[str, str]


def read_half(root: Path, half: str) -> list[Quad]:
    """Read all files of one half."""
    files = sorted((root / "cache/corpus").glob(f"{half}*.jsonl"))
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [Quad(row["id"], row["kind"], row["category"], {side: row[side] for side in SIDES}) for row in rows]


@pytest.fixture(scope="module")
def halves(repository_root: Path) -> dict[str, list[Quad]]:
    """Both halves of the corpus."""
    return {half: read_half(repository_root, half) for half in HALVES}


@dataclass
class KindTable:
    """How many pairs of each kind were served, or let through, of how many."""

    near_misses: Counter[str] = field(default_factory=Counter)
    paraphrases: Counter[str] = field(default_factory=Counter)
    quads: Counter[str] = field(default_factory=Counter)

    @property
    def near_miss_share(self) -> float:
        """Share of all near-miss pairs."""
        return sum(self.near_misses.values()) / (len(NEAR_MISSES) * sum(self.quads.values()))

    @property
    def paraphrase_share(self) -> float:
        """Share of all paraphrase pairs."""
        return sum(self.paraphrases.values()) / (len(PARAPHRASES) * sum(self.quads.values()))

    def show(self, title: str) -> None:
        """Print one line per kind."""
        print(f"\n{title:<40} {'near-misses':>16} {'paraphrases':>16}")
        for kind, quads in sorted(self.quads.items()):
            wrong, right = len(NEAR_MISSES) * quads, len(PARAPHRASES) * quads
            print(f"{kind:<40} {self.near_misses[kind]:>8} / {wrong:<5} {self.paraphrases[kind]:>8} / {right:<5}")
        print(f"{'all':<40} {self.near_miss_share:>16.2%} {self.paraphrase_share:>16.2%}")


def let_through(quads: Sequence[Quad]) -> KindTable:
    """Count the pairs that no guard forbids."""
    table = KindTable()
    for quad in quads:
        table.quads[quad.kind] += 1
        read: dict[str, PromptSignature] = {side: signature_of(text) for side, text in quad.texts.items()}
        for counts, pairs in ((table.near_misses, NEAR_MISSES), (table.paraphrases, PARAPHRASES)):
            counts[quad.kind] += sum(not compare(read[one], read[other]).vetoes for one, other in pairs)
    return table


class LazyVerifier:
    """The bundled second encoder, asked once for each text that somebody wants."""

    def __init__(self) -> None:
        self.encoder = PromptEncoder.load(bundled_folder(PARAPHRASE_ENCODER))
        self._known: dict[str, FloatArray] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, d)."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self.encoder.encode([text])[0]
        return np.stack([self._known[text] for text in texts])


async def serve(quads: Sequence[Quad]) -> tuple[KindTable, int]:
    """Put each pair to the bundled rule as one stored prompt and one question; return also how many were embedded."""
    search, verifier = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER)), LazyVerifier()
    rule = load_rule(
        bundled_folder(DEFAULT_RULE),
        open_pair_model,
        encoder_id=search.encoder_id,
        verifier_id=verifier.encoder.encoder_id,
    )
    threshold = rule.threshold(POOLED, "semantic", BUDGET)
    assert threshold is not None
    judge = EntryJudge(rule, verifier, reads_whole=verifier.encoder.reads_whole)
    vectors = search.encode([quad.texts[side] for quad in quads for side in SIDES]).reshape(len(quads), len(SIDES), -1)
    table = KindTable()
    for number, quad in enumerate(quads):
        table.quads[quad.kind] += 1
        place = {side: vectors[number, column] for column, side in enumerate(SIDES)}
        for counts, pairs in ((table.near_misses, NEAR_MISSES), (table.paraphrases, PARAPHRASES)):
            for stored, asked in pairs:
                if not all(judge.reads_whole(quad.texts[side]) for side in (stored, asked)):
                    continue
                entry = document(len(SIDES) * number + SIDES.index(stored), prompt=quad.texts[stored])
                cosine = float(place[stored] @ place[asked])
                judgement = await judge.judge(quad.texts[asked], [(entry, cosine)], threshold)
                counts[quad.kind] += judgement.entry_id is not None
    return table, len(verifier)


@pytest.mark.parametrize("half", HALVES)
def test_corpus_half_is_well_formed(halves: dict[str, list[Quad]], half: str) -> None:
    """Ids are unique and begin with the half's name, four texts differ, and nothing is empty or padded."""
    quads = halves[half]
    assert len({quad.name for quad in quads}) == len(quads)
    assert all(quad.name.startswith({"frozen": "frz-", "open": "opn-"}[half]) for quad in quads)
    for quad in quads:
        assert len(set(quad.texts.values())) == len(SIDES), quad.name
        assert all(text == text.strip() and text for text in quad.texts.values()), quad.name
        assert quad.kind, quad.name
        assert quad.category, quad.name


def test_corpus_is_as_large_as_it_has_to_be(halves: dict[str, list[Quad]]) -> None:
    """At least 600 near-misses in at least ten kinds and as many paraphrases, half of them frozen before the guards."""
    kinds = Counter(quad.kind for half in HALVES for quad in halves[half])
    frozen = Counter(quad.kind for quad in halves["frozen"])
    assert sum(kinds.values()) >= 600  # a and b of each quad are a near-miss; a and a2, b and b2 are paraphrases
    assert len(frozen) >= 10
    assert sum(frozen.values()) >= 300
    assert min(frozen.values()) >= 20
    assert set(frozen) <= set(kinds)


def test_corpus_halves_have_no_text_in_common_but_for_what_is_known(halves: dict[str, list[Quad]]) -> None:
    """What is tested on was never fitted on, not even one text of it, spelling aside; exceptions are left out."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().split()).strip(" ?.!")

    opened = {plain(text) for quad in halves["open"] for text in quad.texts.values()}
    shared = {quad.name for quad in halves["frozen"] if opened & {plain(text) for text in quad.texts.values()}}
    assert shared <= ALSO_IN_OPEN


@pytest.mark.parametrize("half", HALVES)
def test_guards_alone_let_no_more_near_misses_through_than_they_did(halves: dict[str, list[Quad]], half: str) -> None:
    """A guard that gets worse at one kind of near-miss fails the build, and so does one that forbids paraphrases."""
    table = let_through(halves[half])
    table.show(f"{half}: let through by the guards alone")
    assert set(table.quads) == set(LET_THROUGH[half])
    worse = {
        kind: (table.near_misses[kind], before)
        for kind, before in LET_THROUGH[half].items()
        if table.near_misses[kind] > before + GUARD_SLACK * len(NEAR_MISSES) * table.quads[kind]
    }
    assert worse == {}, "more near-misses than before, by kind: (now, measured)"
    assert table.paraphrase_share >= LEAST_PARAPHRASES_LET_THROUGH[half]


async def test_bundled_rule_serves_paraphrases_of_the_frozen_half_and_hardly_a_near_miss(
    halves: dict[str, list[Quad]],
) -> None:
    """At the pooled 1 % threshold, on texts that neither guards nor rule were made with, kind by kind."""
    table, embedded = await serve([quad for quad in halves["frozen"] if quad.name not in ALSO_IN_OPEN])
    table.show("frozen: served by the bundled rule")
    assert embedded < len(SIDES) * len(halves["frozen"])  # implausible pairs cost no transformer
    assert set(table.quads) == set(SERVED)
    worse = {
        kind: (table.near_misses[kind], before)
        for kind, before in SERVED.items()
        if table.near_misses[kind] > before + SERVED_SLACK
    }
    assert worse == {}, "more near-misses than before, by kind: (now, measured)"
    assert table.near_miss_share <= MOST_NEAR_MISSES
    assert table.paraphrase_share >= LEAST_PARAPHRASES
