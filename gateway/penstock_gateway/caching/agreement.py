"""Whether two answers to one question say the same.

Owns the comparison that audits stand on: the text of a completion, and the order in which exactness, a judge and the
second encoder are asked. It calls no model. Read `AnswerComparison.agree`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np

from penstock_cache.eligibility import survey_answer
from penstock_cache.lookups import Verifier

AnswerJudge = Callable[[str, str, str], Awaitable[bool | None]]
"""From question, one answer and another to whether both say the same; None when it cannot tell."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_decoder = msgspec.json.Decoder(_Completion)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def answer_text(body: bytes) -> str | None:
    """Return the text of a whole answer.

    Parameters
    ----------
    body : bytes
        A ``chat.completion`` object as JSON.

    Returns
    -------
    str or None
        None when it is cut, empty, an error or a tool call: such a body says nothing about another answer.
    """
    survey = survey_answer(body, status=200)
    is_whole = survey.is_readable and not (survey.has_error or survey.is_empty or survey.has_tool_calls)
    if not is_whole or any(reason != "stop" for reason in survey.finish_reasons):
        return None
    try:
        return _decoder.decode(body).choices[0].message.content
    except (*_UNREADABLE, IndexError):
        return None


def normalised(text: str) -> str:
    """Return a text without what two equal answers may differ in: case, white space, forms of one character."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class AnswerComparison:
    """Compares answers.

    Parameters
    ----------
    verifier : Verifier
        The second encoder. It reads the beginning of long answers only.
    min_cosine : float, in [0, 1]
        Answers at least this close say the same.
    judge : AnswerJudge or None
        Asked before the encoder about answers that differ in their words.

    Notes
    -----
    A cosine tells paraphrases from other answers no better than it does for questions: one number or name may be the
    whole difference. So disagreements are undercounted, alike for hits and for the control; a judge sees more.
    """

    def __init__(self, verifier: Verifier, min_cosine: float, judge: AnswerJudge | None = None) -> None:
        self._verifier = verifier
        self._min_cosine = min_cosine
        self._judge = judge

    async def agree(self, question: str, one: str, other: str, *, may_ask: bool = True) -> bool:
        """Whether two answers say the same.

        Parameters
        ----------
        question : str
        one, other : str
        may_ask : bool
            Whether the judge may see them.

        Returns
        -------
        bool
        """
        if normalised(one) == normalised(other):
            return True
        if self._judge is not None and may_ask:
            verdict = await self._judge(question, one, other)
            if verdict is not None:
                return verdict
        first, second = await self._verifier([one, other])
        return float(np.dot(first, second)) >= self._min_cosine
