"""How far answers may be reused, by category of prompt.

Owns the table of policies, the names under which a router's category head knows the categories, and what an uncertain
label means. Pure. Read `CategoryPolicy`, then `policy_for`.

A policy is what an operator *wants*; whether the decision rule can keep a false-hit budget on that traffic is certified
elsewhere, and a category that cannot be certified stays exact whatever its mode says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from types import MappingProxyType
from typing import Final

import msgspec

from penstock_cache.errors import DirectiveError

_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0


class CacheMode(Enum):
    """What may be answered from the cache, strictest first.

    `FAQ_INTENT` serves prompts of the same intent, `SEMANTIC` strict paraphrases only.
    """

    OFF = "off"
    EXACT = "exact"
    SEMANTIC = "semantic"
    FAQ_INTENT = "faq-intent"

    @property
    def is_semantic(self) -> bool:
        """Whether other wordings may be answered."""
        return self in (CacheMode.SEMANTIC, CacheMode.FAQ_INTENT)


_STRICTNESS = tuple(CacheMode)


@dataclass(frozen=True, slots=True)
class CategoryPolicy:
    """How far answers of one category may be reused.

    Attributes
    ----------
    mode : CacheMode
    false_hit_budget : float, in [0, 1]
        Highest share of *requests* that may be answered with a cached answer that does not fit.
    ttl_seconds : float, > 0
        Life of an answer, counted from when it was stored; hits do not prolong it.
    is_volatile : bool
        The right answer changes with time: load never prolongs the TTL.
    reserve_share, cap_share : float, in [0, 1]
        Share of the cache's bytes kept for the category, and the most it may borrow up to.
    is_shared_across_tenants : bool
        Entries of trusted writers serve all tenants.
    max_stale_seconds : float, >= 0
        How far the load policy may prolong the TTL while a model is overloaded.
    caches_default_temperature : bool
        Answers at the provider's default temperature (omitted, or 1) may be reused.
    max_temperature : float, in [0, 2]
        Highest other temperature at which answers may be reused.
    """

    mode: CacheMode = CacheMode.EXACT
    false_hit_budget: float = 0.001
    ttl_seconds: float = _HOUR
    is_volatile: bool = False
    reserve_share: float = 0.0
    cap_share: float = 1.0
    is_shared_across_tenants: bool = False
    max_stale_seconds: float = 0.0
    caches_default_temperature: bool = True
    max_temperature: float = 0.3

    def strictest_with(self, other: CategoryPolicy) -> CategoryPolicy:
        """Return the policy that keeps both promises, field by field.

        The quota shares stay those of `self`: bytes are counted for the label under which an answer is stored.
        """
        return replace(
            self,
            mode=min(self.mode, other.mode, key=_STRICTNESS.index),
            false_hit_budget=min(self.false_hit_budget, other.false_hit_budget),
            ttl_seconds=min(self.ttl_seconds, other.ttl_seconds),
            is_volatile=self.is_volatile or other.is_volatile,
            is_shared_across_tenants=self.is_shared_across_tenants and other.is_shared_across_tenants,
            max_stale_seconds=min(self.max_stale_seconds, other.max_stale_seconds),
            caches_default_temperature=self.caches_default_temperature and other.caches_default_temperature,
            max_temperature=min(self.max_temperature, other.max_temperature),
        )


GENERAL: Final = "general"
VOLATILE: Final = "volatile"

DEFAULT_POLICIES: Final[Mapping[str, CategoryPolicy]] = MappingProxyType(
    {
        # One identifier changes the answer: of pairs above cosine 0.8, 15 % were false on code (arXiv 2510.26835).
        "code": CategoryPolicy(ttl_seconds=7 * _DAY, reserve_share=0.15, cap_share=0.6, max_stale_seconds=_DAY),
        # One number changes the answer, and a proof does not age.
        "maths": CategoryPolicy(ttl_seconds=30 * _DAY, reserve_share=0.05, cap_share=0.4, max_stale_seconds=7 * _DAY),
        # Where a wrong answer does harm, only the same question gets the same answer, and not for long.
        "medical": CategoryPolicy(false_hit_budget=0.0005, ttl_seconds=_DAY, reserve_share=0.05, cap_share=0.3),
        "legal": CategoryPolicy(false_hit_budget=0.0005, ttl_seconds=_DAY, reserve_share=0.05, cap_share=0.3),
        # Quotes: cloud vendors' own guidance for caches of answers is 5 to 15 minutes for prices.
        "finance": CategoryPolicy(ttl_seconds=5 * _MINUTE, is_volatile=True, reserve_share=0.02, cap_share=0.2),
        # Never a label of a router's head; named by a key or header of somebody who knows that this is an FAQ.
        "faq": CategoryPolicy(
            mode=CacheMode.SEMANTIC,
            false_hit_budget=0.01,
            ttl_seconds=_DAY,
            reserve_share=0.2,
            cap_share=1.0,
            max_stale_seconds=_DAY,
        ),
        "knowledge": CategoryPolicy(
            mode=CacheMode.SEMANTIC,
            false_hit_budget=0.01,
            ttl_seconds=7 * _DAY,
            reserve_share=0.15,
            cap_share=0.8,
            max_stale_seconds=_DAY,
        ),
        # The same chat request again is mostly somebody pressing "regenerate", who wants another answer; and of real
        # chat requests only 4.5 to 7.5 % could be answered from an earlier one at all (SCALM).
        "chat": CategoryPolicy(ttl_seconds=_HOUR, reserve_share=0.05, cap_share=0.5, caches_default_temperature=False),
        # Who asks twice for a poem wants two poems: reused only where the caller turned sampling off.
        "creative": CategoryPolicy(
            ttl_seconds=_HOUR, cap_share=0.1, caches_default_temperature=False, max_temperature=0.0
        ),
        VOLATILE: CategoryPolicy(ttl_seconds=_MINUTE, is_volatile=True, cap_share=0.1),
        # All that the head knows no name for, so small talk and today's weather may be among it.
        GENERAL: CategoryPolicy(ttl_seconds=_HOUR, reserve_share=0.1, cap_share=0.6),
    }
)
"""What holds without configuration. Reserves sum to 0.82; the rest is whoever's comes first."""

POLICY_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "coding": "code",
        "maths": "maths",
        "science": "knowledge",
        "medical": "medical",
        "legal": "legal",
        "finance": "finance",
        "history": "knowledge",
        # Puzzles hang on a name or a number, as sums do.
        "reasoning": "maths",
        "general": GENERAL,
    }
)
"""Names of the category head of a router artifact, and the category here that each of them falls under."""

PLAUSIBLE_SHARE: Final = 0.2
"""A category with at least this share of the head's probability counts; as for the routers' category floors."""

_READ_CHARACTERS = 2_000

# Words by which a question asks for the present: an answer to it is old at once. English, German, French, Spanish. A
# word too many costs hits (so "current" alone is not here: code has current directories, and physics has currents); a
# word that is missing leaves the category's own TTL, which is short where the head has no name for it.
_VOLATILE_WORDS = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|right now|at the moment|currently|latest|newest|recent|recently|breaking|"
    r"(?:is|are|was) the current (?!in|through|across|drawn|flow|density)|"
    r"this (?:week|month|year|morning|evening|weekend)|so far|as of|weather|forecast|news|"
    r"(?:stock|share) prices?|exchange rates?|(?:what|the) time is it|what time|the score|standings|"
    r"heute|morgen|gestern|jetzt|aktuell\w*|derzeit|neueste\w*|wetter|nachrichten|"
    r"aujourd[’']hui|demain|maintenant|actuellement|météo|actualités|"
    r"hoy|mañana|ayer|ahora|actualmente|noticias|últimas?)\b",
    re.IGNORECASE,
)


class ChosenPolicy(msgspec.Struct, frozen=True, gc=False):
    """The policy of one request and the category it is counted under.

    Attributes
    ----------
    category : str
        A name of the table.
    policy : CategoryPolicy
    blended : tuple of str
        Further categories whose policies were taken into account, sorted.
    """

    category: str
    policy: CategoryPolicy
    blended: tuple[str, ...] = ()


def policy_for(
    shares: Mapping[str, float],
    table: Mapping[str, CategoryPolicy] = DEFAULT_POLICIES,
    *,
    named: str | None = None,
    allow_list: Collection[str] = (),
    prompt: str = "",
    plausible_share: float = PLAUSIBLE_SHARE,
) -> ChosenPolicy:
    """Choose the policy of one request.

    Parameters
    ----------
    shares : mapping of str to float
        Probability by category as the router's head has it, under its names or under ours; empty when there is no head.
    table : mapping of str to CategoryPolicy
        Has ``general`` and ``volatile`` at least.
    named : str, optional
        Category that the caller's key or header names.
    allow_list : collection of str
        What the key may name.
    prompt : str
        Last user text; one that asks for the present also falls under ``volatile``.
    plausible_share : float, in (0, 1]
        Share from which a category counts beside the likeliest one.

    Returns
    -------
    ChosenPolicy
        Of the named category; else of the likeliest, made as strict as each other plausible one is.

    Raises
    ------
    DirectiveError
        `named` is not in the allow-list, or not in the table; code ``cache_category_not_allowed``.

    Notes
    -----
    A head's share that falls under no category of the table counts as ``general``. A named category is taken as it is,
    also when the prompt reads volatile: whoever may name it knows the traffic, and ``ttl`` shortens.
    """
    if named is not None:
        return _named_policy(named, table, allow_list)
    totals: dict[str, float] = {}
    for name, share in shares.items():
        category = POLICY_NAMES.get(name, name)
        category = category if category in table else GENERAL
        totals[category] = totals.get(category, 0.0) + share
    likeliest = max(sorted(totals), key=lambda name: totals[name], default=GENERAL)
    plausible = {name for name, share in totals.items() if share >= plausible_share}
    if prompt and reads_volatile(prompt):
        plausible.add(VOLATILE)
    if not totals or totals[likeliest] < plausible_share:
        # No label is likely: the head knows nothing, which is what `general` is for.
        plausible.add(GENERAL)
    blended = tuple(sorted(plausible - {likeliest}))
    policy = reduce(lambda strict, name: strict.strictest_with(table[name]), blended, table[likeliest])
    return ChosenPolicy(likeliest, policy, blended)


def reads_volatile(prompt: str) -> bool:
    """Whether a prompt asks for something that changes from day to day, by its words.

    Parameters
    ----------
    prompt : str
        Of a long one the first and the last 2,000 characters are read: a question stands before or behind what it is
        about.

    Returns
    -------
    bool
    """
    ends = (prompt,) if len(prompt) <= 2 * _READ_CHARACTERS else (prompt[:_READ_CHARACTERS], prompt[-_READ_CHARACTERS:])
    return any(_VOLATILE_WORDS.search(end) for end in ends)


def _named_policy(named: str, table: Mapping[str, CategoryPolicy], allow_list: Collection[str]) -> ChosenPolicy:
    allowed = sorted(name for name in allow_list if name in table)
    if named in allowed:
        return ChosenPolicy(named, table[named])
    shown = named[:40]
    near = difflib.get_close_matches(shown, allowed, n=1)
    if near:
        hint = f"Did you mean '{near[0]}'?"
    else:
        hint = f"This key may name: {', '.join(allowed)}." if allowed else "This key may name none."
    raise DirectiveError(f"Category '{shown}' may not be named here. {hint}", code="cache_category_not_allowed")
