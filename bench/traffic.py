"""The requests that `overhead` sends: short and long ones, the same again, and the same in other words.

Owns texts, nothing about load. Every body that asks a model anew holds `load.NUMBER`, so that no two are the same and
no cache answers. Read `Traffic`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from load import NUMBER

Kind = Literal["short", "long", "repeated", "reworded"]

REQUEST_BYTES = 392
BODY_COUNT = 64
_VERBS = ("Explain", "Describe", "Compare", "Summarise", "Derive", "Criticise", "Illustrate", "Outline")
_SUBJECTS = (
    "how a heat pump moves energy from cold air into a warm room",
    "why the tides at one coast differ from those at the next",
    "how a compiler decides which variables live in registers",
    "the duties of a trustee towards the people who benefit",
    "how vaccines train the immune system before an infection",
    "the causes of inflation in an open economy with debts",
    "how a hash table keeps its promise of constant time",
    "what the second law of thermodynamics forbids and allows",
)
_LONG = (
    "The notes below were taken in a lecture and are out of order. Put them in order, say which of them contradict "
    "each other, and write what a careful student should remember after a week. First note: the speaker began with a "
    "story about a village well that ran dry in a summer without rain, and asked who should have known. Second note: "
    "a graph of rainfall against depth, with the axes swapped, which nobody noticed until the end. Third note: three "
    "formulas, two of which are the same when the units are written out. Fourth note: a question from the audience "
    "about costs, which was answered with a number that appears nowhere else. Fifth note: a promise to send the "
    "slides. Sixth note: the claim that measuring twice is cheaper than digging once, with a table of twelve villages, "
    "of which four had no well at all. Seventh note: homework, to be handed in on paper. Eighth note: the sun went "
    "down early, and somebody asked whether the light could be switched on, which took a while. Ninth note: books."
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one target is asked.

    Attributes
    ----------
    model : str
    kind : str
        ``short``: up to 32 tokens in the user's text; ``long``: about 256; ``repeated``: the same `BODY_COUNT` requests
        over and over; ``reworded``: the same with a word more than what `seeds` has asked.
    headers : dict of str to str
    """

    model: str
    kind: Kind = "short"
    headers: dict[str, str] = field(default_factory=dict)

    def bodies(self, *, is_stream: bool = False) -> list[str]:
        """Return the bodies that are sent in turn."""
        return [self._body(prompt, is_stream=is_stream) for prompt in _prompts(self.kind)]

    def seeds(self) -> list[str]:
        """Return what has to be asked before: the questions that are answered from memory later."""
        if self.kind not in ("repeated", "reworded"):
            return []
        first = "Name one odd number."  # a context is stored for other wordings when it is seen for the second time
        return [self._body(prompt, is_stream=False) for prompt in (first, *_prompts("repeated"))]

    def _body(self, prompt: str, *, is_stream: bool) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant. Answer briefly."},
                {"role": "user", "content": prompt},
            ],
            "temperature": 0.2,
        }
        if is_stream:
            body["stream"] = True
        missing = REQUEST_BYTES - len(json.dumps({**body, "user": ""}))
        return json.dumps({**body, "user": "u" * max(0, missing)})


def _prompts(kind: Kind) -> list[str]:
    prompts = []
    for number in range(BODY_COUNT):
        asked = f"{_VERBS[number % len(_VERBS)]} {_SUBJECTS[number // len(_VERBS)]}"
        if kind == "short":
            prompts.append(f"{asked}, in case {NUMBER}. Give two everyday examples.")
        elif kind == "long":
            prompts.append(f"{asked}, in case {NUMBER}. {_LONG}")
        else:
            prompts.append(f"{asked}{' please' if kind == 'reworded' else ''}?")
    return prompts
