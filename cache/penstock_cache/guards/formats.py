"""What the answer should look like: its language, its form, its length.

Owns the words of such instructions. Read `read_formats`, then `compare_formats`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.entities import LANGUAGES
from penstock_cache.guards.tokens import listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict


class Formats(NamedTuple):
    """Instructions about the answer.

    Attributes
    ----------
    into, out_of : frozenset of str
        Languages to answer in or translate to, and to translate from.
    mentioned : frozenset of str
        All languages named.
    shapes : frozenset of str
        Forms asked for: table, list, json, poem …
    lengths : frozenset of str
        "short", "long", or what a limit counts ("sentence"); how many is for the numbers.
    nouns : frozenset of str
        Everything mentioned that could be a shape or be counted.
    """

    into: frozenset[str]
    out_of: frozenset[str]
    mentioned: frozenset[str]
    shapes: frozenset[str]
    lengths: frozenset[str]
    nouns: frozenset[str]


_EMPTY: frozenset[str] = frozenset()
NO_FORMATS = Formats(_EMPTY, _EMPTY, _EMPTY, _EMPTY, _EMPTY, _EMPTY)

_LANGUAGE = "|".join(sorted(LANGUAGES, key=len, reverse=True))
# A language before another noun is no language to answer in: "in Greek mythology".
_AFTER_LANGUAGE = (
    r"(?=\s*(?:$|[.,;:?!)\"'-]|(?:and|or|please|with|for|from|to|in|into|using|instead|rather|but|not|that|which|so|as"
    r"|this|the|it|what|how|is|mean|by|at|on|do|does|can|i|my|if|when)\b))"
)
_INTO = re.compile(
    rf"\b(?:in|into|to|en|auf)\s+(?:simple |plain |proper |formal |informal |the )?({_LANGUAGE})\b{_AFTER_LANGUAGE}"
)
_FOR = re.compile(rf"\b({_LANGUAGE})\s+(?:word|phrase|term|expression|translation|version|equivalent|for)\b")
_FROM = re.compile(rf"\bfrom\s+(?:the )?({_LANGUAGE})\b|\b({_LANGUAGE})\s+(?:to|into)\s+(?=(?:{_LANGUAGE})\b)")
_AS = r"(?:as|in|into|to|using|with|return|output) (?:an? |the |valid |plain )?(?:\w+ )?"
_SHAPES = (
    ("table", rf"{_AS}(?:table|tabular|spreadsheet)\b|table format|(?:make|give me|create|produce) a (?:\w+ )?table\b"),
    ("numbered", r"(?:as|in|into|using) (?:a )?numbered|numbered (?:list|steps)"),
    ("list", rf"{_AS}(?:lists?|bullets?|bullet-points?)\b|bullet(?:ed)?[ -](?:point|list)s?|bulleted"),
    ("json", r"(?:as|in|into|to|return|output) (?:a |valid )?json|json (?:format|output|object)"),
    ("yaml", r"(?:as|in|into|to) (?:a )?yaml|yaml format"),
    ("xml", r"(?:as|in|into|to) (?:an )?xml|xml format"),
    ("csv", r"(?:as|in|into|to) (?:a )?csv|csv format"),
    ("markdown", r"(?:as|in|into|using|to) markdown|markdown format"),
    ("html", r"(?:as|in|into|to) html|html format"),
    ("poem", r"poem|rhyme"),
    ("haiku", r"haiku"),
    ("limerick", r"limerick"),
    ("sonnet", r"sonnet"),
    ("essay", r"essay"),
    ("prose", r"(?:as|in|into) (?:a |plain )?(?:prose|paragraphs?|running text|continuous)"),
    ("fraction", r"(?:as|in|into|to) an? (?:\w+ )?fraction"),
    ("decimal", r"(?:as|in|into|to) an? (?:\w+ )?decimal"),
    ("alphabetical", r"alphabetical(?:ly)?"),
    ("chronological", r"chronological(?:ly)?"),
    ("capitals", r"(?:in|all) (?:all )?(?:caps|capitals|capital letters|uppercase|upper case)"),
    ("lowercase", r"(?:in|all) (?:all )?(?:lowercase|lower case|small letters)"),
    ("code", r"(?:only|just) (?:the )?code|code only|no explanation|without (?:any )?explan(?:ation|ing)"),
    ("bare", r"(?:only|just) (?:the |a )?(?:number|answer|name|result|yes or no|letter)"),
)
_SHAPE = re.compile(r"\b(?:" + "|".join(f"(?P<{name}>{words})" for name, words in _SHAPES) + r")")
_SHAPE_WORDS = frozenset(
    listed(
        """
        table tabular spreadsheet list lists bullet bullets bulleted numbered json yaml xml csv markdown html poem
        poems haiku limerick sonnet rhyme rhymes rhyming essay prose paragraph paragraphs continuous running fraction
        decimal alphabetical alphabetically chronological chronologically caps capitals capital uppercase upper
        lowercase lower small code explanation explaining number answer name result letter yes haikus essays
        """
    )
)
_SHORT = (
    r"brief(?:ly)?|concise(?:ly)?|in short|in a nutshell|succinct(?:ly)?|tl;?dr"
    r"|(?:short(?:ly)?|quick)(?= (?:answer|summary|version|explanation|description|overview|reply|rundown))"
)
_LONG = (
    r"in(?: great| more| full)? detail|detailed|in[ -]depth|thorough(?:ly)?|comprehensive|at length|elaborate"
    r"|extensive|full-length|long(?= (?:answer|version|explanation|essay|summary))"
)
_LENGTH = re.compile(rf"\b(?:(?P<short>{_SHORT})|(?P<long>{_LONG}))\b")
_LENGTH_WORDS = frozenset(
    listed(
        """
        brief briefly concise concisely short shortly nutshell succinct succinctly tl tldr quick detail detailed depth
        thorough thoroughly comprehensive length elaborate extensive long
        """
    )
)
_COUNTED = "sentence paragraph word page bullet slide character verse stanza"
_LIMIT = re.compile(
    r"\b(?:one|a single|single|two|three|four|five|six|seven|eight|ten|fifty|hundred|thousand|\d{1,5})"
    rf"[ -](?:short |simple |long |plain )?({'|'.join(_COUNTED.split())})s?\b"
)
_COUNTED_WORDS = frozenset(name + ending for name in _COUNTED.split() for ending in ("", "s"))
_NOUNS: Mapping[str, str] = MappingProxyType(
    {
        name + ending: {"verse": "poem", "rhyme": "poem", "bullet": "list", "bulleted": "list"}.get(name, name)
        for name in (
            *_COUNTED.split(),
            *(name for name, _ in _SHAPES),
            *("rhyme", "bulleted"),
        )
        for ending in ("", "s")
    }
    | {"caps": "capitals", "capital": "capitals", "essay": "essay", "alphabetically": "alphabetical"}
    | {"chronologically": "chronological", "rhyming": "poem", "explanation": "code", "uppercase": "capitals"}
)
_DEGREES = frozenset({"short", "long"})
_USUAL = frozenset({"english"})  # what an English question is answered in anyway
TRIGGERS = frozenset(LANGUAGES) | _SHAPE_WORDS | _LENGTH_WORDS | _COUNTED_WORDS | frozenset(_NOUNS)


def read_formats(text: str, words: Set[str]) -> Formats:
    """Read the instructions about the answer.

    Parameters
    ----------
    text : str
        In normal form and lower case.
    words : set of str
        Its words, lower case.
    """
    mentioned = frozenset([LANGUAGES[word] for word in words if word in LANGUAGES])
    into = _languages(_INTO, text) | _languages(_FOR, text) if mentioned else _EMPTY
    out_of = _languages(_FROM, text) if mentioned else _EMPTY
    shapes = _EMPTY if _SHAPE_WORDS.isdisjoint(words) else _groups(_SHAPE, text)
    lengths = _EMPTY if _LENGTH_WORDS.isdisjoint(words) else _groups(_LENGTH, text)
    if not _COUNTED_WORDS.isdisjoint(words):
        lengths |= frozenset(_LIMIT.findall(text))
    nouns = frozenset([_NOUNS[word] for word in words if word in _NOUNS])
    if not (mentioned or shapes or lengths or nouns):
        return NO_FORMATS
    return Formats(into, out_of, mentioned, shapes, lengths, nouns)


def _groups(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    return frozenset([match.lastgroup for match in pattern.finditer(text) if match.lastgroup])


def _languages(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    return frozenset([LANGUAGES[name] for match in pattern.finditer(text) for name in match.groups() if name])


def compare_formats(left: Formats, right: Formats) -> Verdict:
    """Compare the instructions of two texts.

    Notes
    -----
    A language or shape that one text asks for differs, unless the other one mentions it in any role.
    """
    if left is NO_FORMATS and right is NO_FORMATS:
        return ABSENT
    if left.into - right.mentioned - _USUAL or right.into - left.mentioned - _USUAL:
        return DIFFER
    if left.into and right.into and not left.into & right.into:
        return DIFFER
    if left.out_of & right.into - right.out_of or right.out_of & left.into - left.out_of:
        return DIFFER
    if left.shapes - right.shapes - right.nouns or right.shapes - left.shapes - left.nouns:
        return DIFFER
    if not _lengths_agree(left, right):
        return DIFFER
    is_asked = left.into & right.into or left.shapes or left.lengths & right.lengths
    return AGREE if is_asked else ABSENT


def _lengths_agree(left: Formats, right: Formats) -> bool:
    """What a limit counts must be named by both; "briefly" is a request of its own only against "in detail"."""
    if left.lengths - _DEGREES - right.nouns or right.lengths - _DEGREES - left.nouns:
        return False
    degrees_left, degrees_right = left.lengths & _DEGREES, right.lengths & _DEGREES
    return not (degrees_left and degrees_right) or bool(degrees_left & degrees_right)
