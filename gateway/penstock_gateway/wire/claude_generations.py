"""What generations of Claude accept, told from the model's name: how thinking is asked for, and sampling parameters.

Owns the only knowledge of model names in the wire formats. A deployment may call its model what it likes, so all of it
errs towards the newest generation for a Claude without a number, and towards the oldest form for other makers' models
behind the same API. Pure. Read `generation_of` and `thinking_for`.

Sources: platform.claude.com/docs/en/build-with-claude/adaptive-thinking (adaptive from 4.6, budgets refused from 4.7),
/effort (levels by generation), /extended-thinking (at least 1,024 tokens, from 3.7, less than ``max_tokens``; no forced
tool, no temperature and no ``top_k`` beside it), and the migration guides of 4.1 (temperature or ``top_p``, not both)
and 4.7 (no sampling parameters).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

Generation = tuple[int, int]

NEWEST: Final[Generation] = (99, 0)
FIRST_THINKING: Final[Generation] = (3, 7)
FIRST_WITHOUT_BOTH: Final[Generation] = (4, 1)
FIRST_STRICT: Final[Generation] = (4, 1)
FIRST_ADAPTIVE: Final[Generation] = (4, 6)
FIRST_WITHOUT_SAMPLING: Final[Generation] = (4, 7)
FIRST_THINKING_UNASKED: Final[Generation] = (5, 0)
MIN_BUDGET_TOKENS: Final = 1024
"""Smallest ``thinking.budget_tokens``."""

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""OpenAI's ``reasoning_effort``, and Anthropic's ``max``."""

# The number stands behind the family (claude-opus-4-6-20260205) or before it (claude-3-7-sonnet-20250219); a date is
# not a number of it.
_NUMBER = re.compile(r"claude\D*?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
# Ours: the documentation gives the least budget only. Each step about doubles what is thought.
_BUDGETS: Final[Mapping[str, int]] = MappingProxyType(
    {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
)


@dataclass(frozen=True, slots=True)
class Thinking:
    """How to ask for an amount of reasoning.

    Attributes
    ----------
    thinking : dict or None
        Value of ``thinking``.
    effort : str or None
        Value of ``output_config.effort``.
    is_met : bool
        False when the model cannot be asked for it.
    """

    thinking: dict[str, object] | None = None
    effort: str | None = None
    is_met: bool = True


def generation_of(model: str) -> Generation | None:
    """Return a Claude's generation, None for a model of another maker.

    Examples
    --------
    >>> generation_of("us.anthropic.claude-opus-4-6-v1:0"), generation_of("claude-sonnet-4-20250514")
    ((4, 6), (4, 0))
    >>> generation_of("claude-3-7-sonnet-latest"), generation_of("claude-mythos-preview"), generation_of("glm-4.6")
    ((3, 7), (99, 0), None)
    """
    name = model.lower()
    if "claude" not in name:
        return None
    number = _NUMBER.search(name)
    return NEWEST if number is None else (int(number[1]), int(number[2] or 0))


def thinking_for(
    effort: str,
    generation: Generation | None,
    max_tokens: int | None,
    *,
    may_think: bool = True,
    may_budget: bool = True,
) -> Thinking:
    """Return how to ask a model for a ``reasoning_effort``.

    Parameters
    ----------
    effort : str
        One of `EFFORTS`.
    generation : tuple of int or None
    max_tokens : int or None
        The request's limit: a budget takes at most half of it, so that an answer follows.
    may_think : bool
        False when a tool is forced, beside which thinking is refused.
    may_budget : bool
        False when the conversation goes on after a tool call whose thinking the client did not return, which is refused
        with a budget.

    Notes
    -----
    Adaptive thinking asks for its summary, which newer generations leave out otherwise: a chat client that asks for
    reasoning reads ``reasoning_content``.
    """
    if generation is not None and generation >= FIRST_ADAPTIVE:
        level = _effort_level(effort, generation)
        if effort == "none":
            is_off = generation < FIRST_THINKING_UNASKED
            return Thinking() if is_off else Thinking(effort=level, is_met=False)
        adaptive: dict[str, object] = {"type": "adaptive", "display": "summarized"}
        return Thinking(adaptive if may_think else None, level)
    if effort == "none":
        return Thinking()
    if generation is not None and generation < FIRST_THINKING:
        return Thinking(is_met=False)
    budget = _BUDGETS[effort]
    if max_tokens is not None:
        budget = min(budget, max_tokens // 2)
    if budget < MIN_BUDGET_TOKENS or not may_think or not may_budget:
        return Thinking(is_met=False)
    return Thinking({"type": "enabled", "budget_tokens": budget})


def _effort_level(effort: str, generation: Generation) -> str:
    if effort in ("none", "minimal"):
        return "low"
    if effort == "xhigh" and generation < FIRST_WITHOUT_SAMPLING:  # xhigh came with 4.7, max with 4.6
        return "high"
    return effort
