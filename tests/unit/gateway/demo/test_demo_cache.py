"""Rules of the demonstration's last part: what is read of the cache, and how it is shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from penstock_gateway.demo.cache_scene import (
    QUESTIONS,
    SYSTEM_PROMPT,
    CacheScene,
    cache_row,
    nearer_refusal,
    play_cache_scene,
    scene_as_json,
)
from penstock_gateway.demo.cache_table import cache_lines

HIT = {
    "x-penstock-model": "sim-medium",
    "x-penstock-cache": "hit-semantic",
    "x-penstock-cache-similarity": "0.8724",
    "x-penstock-cache-age": "3",
    "x-penstock-cache-saved-usd": "0.0002864",
}
REFUSED = {
    "x-penstock-model": "sim-medium",
    "x-penstock-cache": "miss",
    "x-penstock-cache-reason": "guard:order",
    "x-penstock-cache-similarity": "0.9700",
}
PLAIN_MISS = {"x-penstock-model": "sim-medium", "x-penstock-cache": "miss", "x-penstock-cache-reason": "no_neighbour"}


def scene(*headers: Mapping[str, str], threshold: float | None = 0.84) -> CacheScene:
    """A scene of rows read from headers."""
    rows = tuple(cache_row(f"question {number}?", each) for number, each in enumerate(headers))
    return CacheScene(rows, "on" if threshold is not None else "not_certifiable", 0.01, threshold)


def text(shown: CacheScene, width: int = 80) -> str:
    """What is shown, as one line."""
    return " ".join(" ".join(cache_lines(shown, width)).split())


class FakeGateway:
    """Answers with given headers and counts entries as a cache would, the answer stored one look later."""

    def __init__(self, answers: Iterator[Mapping[str, str]]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.controls: list[Mapping[str, str]] = []
        self.looks = 0
        self._answers = answers
        self._entries = self._pending = 0

    def ask(self, body: dict[str, Any], controls: Mapping[str, str]) -> Mapping[str, str]:
        """Answer a question."""
        assert not self._pending, "asked before the last answer was stored"
        self.bodies.append(body)
        self.controls.append(controls)
        headers = next(self._answers)
        self._pending = int(headers["x-penstock-cache"] == "miss")
        return headers

    def look(self) -> Mapping[str, Any]:
        """Show the cache."""
        self.looks += 1
        entries = self._entries
        self._entries, self._pending = self._entries + self._pending, 0
        row = {"category": "faq", "entries": entries, "semantic": "on", "false_hit_budget": 0.01, "threshold": 0.84}
        return {"categories": [{"category": "code"}, row]}


def test_cache_scene_asks_every_question_in_the_same_context_and_names_the_category() -> None:
    """The system prompt repeats, the category is named, and each answer is stored before the next question."""
    gateway = FakeGateway(itertools.cycle([PLAIN_MISS, PLAIN_MISS, HIT]))
    played = play_cache_scene(gateway.ask, gateway.look)
    assert [body["messages"][1]["content"] for body in gateway.bodies] == list(QUESTIONS)
    assert {body["messages"][0]["content"] for body in gateway.bodies} == {SYSTEM_PROMPT}
    assert {controls["x-penstock-cache-category"] for controls in gateway.controls} == {"faq"}
    assert [row.outcome for row in played.rows] == ["miss", "miss", "hit-semantic", "miss", "miss"]
    assert (played.semantic, played.threshold) == ("on", 0.84)


def test_cache_scene_whose_answers_are_not_stored_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that keeps nothing is shown as it is, and nothing hangs."""
    monkeypatch.setattr("penstock_gateway.demo.cache_scene._STORED_SECONDS", 0.0)
    gateway = FakeGateway(itertools.repeat(PLAIN_MISS))
    gateway.ask = lambda body, controls: PLAIN_MISS  # type: ignore[method-assign]
    assert [row.outcome for row in play_cache_scene(gateway.ask, gateway.look).rows] == ["miss"] * len(QUESTIONS)


def test_cache_row_of_a_hit_has_age_similarity_and_saving() -> None:
    """All of them stand in the response's headers."""
    row = cache_row("q", HIT)
    assert (row.outcome, row.reason, row.similarity, row.age_seconds) == ("hit-semantic", None, 0.8724, 3.0)
    assert row.saved_usd == Decimal("0.0002864")
    assert row.is_hit


def test_cache_row_of_a_refusal_has_its_reason_and_saves_nothing() -> None:
    """A miss says why, and how near something came if anything did."""
    row = cache_row("q", REFUSED)
    assert (row.is_hit, row.reason, row.similarity, row.age_seconds) == (False, "guard:order", 0.97, None)
    assert row.saved_usd == 0
    assert cache_row("q", PLAIN_MISS).similarity is None


def test_cache_row_of_a_gateway_without_a_cache_is_off() -> None:
    """A response that says nothing of a cache comes from none."""
    assert cache_row("q", {"x-penstock-model": "m"}).outcome == "off"


def test_nearer_refusal_is_found_only_where_similarity_would_have_erred() -> None:
    """The claim about thresholds is made when these rows prove it, and not otherwise."""
    found = nearer_refusal(scene(PLAIN_MISS, HIT, REFUSED))
    assert found is not None
    assert [row.similarity for row in found] == [0.97, 0.8724]
    assert nearer_refusal(scene(HIT, REFUSED | {"x-penstock-cache-similarity": "0.5"})) is None
    assert nearer_refusal(scene(REFUSED)) is None
    assert nearer_refusal(scene(HIT, PLAIN_MISS)) is None


def test_cache_text_of_another_decision_claims_nothing_else() -> None:
    """When the rule one day decides otherwise, the text says what happened."""
    expected = scene(PLAIN_MISS, HIT, REFUSED)
    assert "From the cache: 1 of 3 answers; 0.0002864 USD (simulated) saved." in text(expected)
    assert "No threshold on the cosine could do this" in text(expected)
    otherwise = scene(PLAIN_MISS, REFUSED, HIT | {"x-penstock-cache-similarity": "0.99"})
    assert "No threshold" not in text(otherwise)
    assert "From the cache: 0 of 1 answers; 0 USD (simulated) saved." in text(scene(REFUSED))


def test_cache_text_without_a_certified_threshold_says_so() -> None:
    """A rule that certifies nothing answers no other wording, and the text does not speak of a guarantee."""
    shown = text(scene(PLAIN_MISS, threshold=None))
    assert "semantic hits are not certifiable" in shown
    assert "certified for at most" not in shown
    assert "certified for at most 1 % of requests" in text(scene(PLAIN_MISS))


@pytest.mark.parametrize("width", [80, 100])
def test_cache_lines_of_any_width_fit_and_line_up(width: int) -> None:
    """No line is folded by a terminal, a long question gives way, and columns start at the same place."""
    long = replace(cache_row("q", REFUSED), question="word " * 40, reason="context_not_repeated")
    shown = CacheScene((cache_row("short", HIT), long), "on", 0.01, 0.84)
    lines = cache_lines(shown, width)
    assert max(len(line) for line in lines) <= width
    rows = [line for line in lines if "guard:" in line or "hit-semantic" in line or "context_not" in line]
    assert rows[0].index("hit-semantic") == rows[1].index("miss, context_not_repeated")
    assert "…" in rows[1]


def test_cache_lines_show_each_row_with_its_figures() -> None:
    """Age, similarity and saving of a hit, the reason of a refusal, and a dash where there is nothing."""
    lines = cache_lines(scene(PLAIN_MISS, HIT, REFUSED), 80)
    shown = [line.split() for line in lines if line.startswith("question ")]
    assert shown[1:] == [
        ["question", "0?", "miss,", "no_neighbour", "-", "-", "0.000000"],
        ["question", "1?", "hit-semantic", "0.872", "3", "0.000286"],
        ["question", "2?", "miss,", "guard:order", "0.970", "-", "0.000000"],
    ]


def test_cache_figures_in_json_say_measured_or_simulated() -> None:
    """No figure may be taken for money that was saved."""
    (row,) = scene_as_json(scene(HIT))["questions"]
    figures = set(row) - {"question", "model", "cache", "reason"}
    assert figures == {"measured_similarity", "measured_age_seconds", "simulated_saving_usd"}
    assert row["simulated_saving_usd"] == "0.0002864"


def test_demo_questions_are_asked_twice_only_where_the_repeat_is_meant() -> None:
    """The last question repeats the second word by word; all others are different."""
    assert QUESTIONS[-1] == QUESTIONS[1]
    assert len(set(QUESTIONS)) == len(QUESTIONS) - 1
