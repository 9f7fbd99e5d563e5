"""A person scores in the terminal: blind order, words understood, undo, stop, and text that cannot do harm."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pty

import pytest

from penstock_training.errors import TrainingError
from penstock_training.scorers.human import HumanScorer
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.registry import ScorerOptions, build_scorer
from penstock_training.scorers.terminal_text import harmless, wrapped

ARMS = ("small", "middle", "dear")


def _tasks(query_id: str = "q1", reference: str | None = None) -> list[ScoringTask]:
    return [ScoringTask("Why is the sea salty?", f"answer of {arm}", reference, arm, query_id) for arm in ARMS]


async def _dialogue(typed: str, *, query_id: str = "q1", seed: int = 0) -> tuple[list[Scored], str]:
    shown = io.StringIO()
    scorer = HumanScorer(io.StringIO(typed), shown, seed=seed, width=80)
    scored = await scorer.score_all(_tasks(query_id))
    await scorer.aclose()
    return scored, shown.getvalue()


def _order(shown: str) -> list[str]:
    return [line.strip().removeprefix("answer of ") for line in shown.splitlines() if "answer of" in line]


async def test_person_in_a_pipe_scores_every_arm_in_task_order() -> None:
    """Scores belong to their arms whatever the order of showing; a pipe will do for a terminal."""
    scored, shown = await _dialogue("10\n5\n0\n")
    given = dict(zip(_order(shown), (1.0, 0.5, 0.0), strict=True))
    assert {arm: entry.score for arm, entry in zip(ARMS, scored, strict=True)} == given
    assert shown.count("Why is the sea salty?") == 1


async def test_answers_are_shown_blind_and_in_an_order_that_differs() -> None:
    """Labels are letters; the order depends on seed and prompt, and is the same again for the same two."""
    orders = {(seed, query): _order((await _dialogue("p\n" * 3, query_id=query, seed=seed))[1])
              for seed in range(4) for query in ("q1", "q2", "q3")}  # fmt: skip
    assert len({tuple(order) for order in orders.values()}) > 3
    _, shown = await _dialogue("p\n" * 3, query_id="q2", seed=3)
    assert _order(shown) == orders[3, "q2"]
    assert "answer A (1 of 3)" in shown
    labels = [line for line in shown.splitlines() if line.startswith("answer ")]
    assert not any(arm in line for arm in ARMS for line in labels)


@pytest.mark.parametrize(
    ("word", "score"),
    [("0", 0.0), ("7", 0.7), ("7,5", 0.75), (" P ", 1.0), ("pass", 1.0), ("f", 0.0), ("s", None), ("skip", None)],
)
async def test_word_of_the_person_becomes_its_score(word: str, score: float | None) -> None:
    """Grades, pass and fail, and skipping, which is not 0."""
    scored, _ = await _dialogue(f"{word}\n" * 3)
    assert [entry.score for entry in scored] == [score] * 3


@pytest.mark.parametrize("word", ["11", "-1", "nan", "good", "", "1e400"])
async def test_word_that_is_not_understood_is_asked_again(word: str) -> None:
    """A slip costs nothing: the question comes again."""
    scored, shown = await _dialogue(f"{word}\n1\n1\n1\n")
    assert [entry.score for entry in scored] == [0.1] * 3
    assert shown.count("not understood") == 1


async def test_undo_goes_back_one_answer_of_the_prompt() -> None:
    """The answer before is shown and asked about again; at the first one there is nothing to undo."""
    scored, shown = await _dialogue("u\n10\nu\n0\n5\n5\n")
    first = _order(shown)[0]
    assert scored[ARMS.index(first)].score == 0.0
    assert sorted(entry.score or 0.0 for entry in scored) == [0.0, 0.5, 0.5]
    assert "nothing to undo" in shown


async def test_again_shows_prompt_and_answer_once_more() -> None:
    """Long answers scroll away, so both can be had again."""
    _, shown = await _dialogue("a\n1\n1\n1\n")
    assert shown.count("Why is the sea salty?") == 2


@pytest.mark.parametrize("typed", ["5\nq\n", "5\nquit\n", "5\n", ""])
async def test_person_who_quits_stops_the_run_and_keeps_nothing_half_done(typed: str) -> None:
    """Quitting and the end of input raise one stable code, so that the runner can go on later."""
    with pytest.raises(TrainingError) as caught:
        await _dialogue(typed)
    assert caught.value.code == "scoring_stopped"


async def test_interrupt_at_a_terminal_ends_the_wait_without_a_key() -> None:
    """Ctrl-C cancels the task; the thread that waits for a line ends too, or the program would hang at its end."""
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal, "r", encoding="utf-8") as incoming:
        scorer = HumanScorer(incoming, io.StringIO(), width=80)
        waiting = asyncio.create_task(scorer.score_all(_tasks()))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await asyncio.get_running_loop().shutdown_default_executor()
    os.close(keyboard)
    assert waiting.cancelled()


async def test_escape_sequences_of_an_answer_never_reach_the_terminal() -> None:
    """An answer cannot clear the screen, set the title, or show itself as another one."""
    shown = io.StringIO()
    attack = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;c2VjcmV0\x1b\\\x9b31mred\rscore (0-10): 10\b\b\u202egnp.exe"
    scorer = HumanScorer(io.StringIO("1\n"), shown, width=80)
    await scorer.score_all([ScoringTask(attack, attack, attack, "small", "q1")])
    text = shown.getvalue()
    assert not [character for character in text if character != "\n" and not character.isprintable()]
    assert "owned" not in text
    assert "c2VjcmV0" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1b]0;never ended, so shown", "a0;never ended, so shown"),
        ("tab\there", "tab    here"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("zero\u200bwidth \ufeffmark", "zerowidth mark"),
        ("é 日本 🙂", "é 日本 🙂"),
    ],
)
def test_harmless_text_keeps_what_can_be_read(text: str, shown: str) -> None:
    """Sequences go, letters of every language stay."""
    assert harmless(text) == shown


def test_wrapped_text_keeps_code_indented_and_within_the_width() -> None:
    """Lines break at the width; indentation and empty lines of code survive."""
    text = "def f():\n    return 1\n\n" + "word " * 40
    lines = wrapped(text, 40, indent="  ").split("\n")
    assert lines[:3] == ["  def f():", "      return 1", ""]
    assert all(len(line) <= 40 for line in lines)


async def test_human_scorer_from_the_registry_uses_the_given_streams() -> None:
    """The runner can hand over its own streams."""
    shown = io.StringIO()
    options = ScorerOptions(human_input=io.StringIO("p\np\np\n"), human_output=shown)
    scored = await build_scorer("human", options).score_all(_tasks(reference="Because of rivers."))
    assert [entry.score for entry in scored] == [1.0] * 3
    assert "Because of rivers." in shown.getvalue()
