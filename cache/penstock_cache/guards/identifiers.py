"""Pieces of code in a prompt: names in code style, flags, dotted names, paths, versions, operators.

Owns the patterns, which are linear in the length of the text, each run only where its marks occur. A name counts as
present in the other text when its letters and digits stand there in any spelling: "node.js", "nodejs" and "node js"
are one. Read `read_identifiers`, then `compare_identifiers`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.tokens import CAMEL, DIGIT, PLACE, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict


class Identifiers(NamedTuple):
    """Code in a text.

    Attributes
    ----------
    strict : frozenset of str
        Letters and digits of names that only code has: snake_case, flags, calls, paths, files, back-ticked spans.
    loose : frozenset of str
        The same of names that brands and typing errors also look like: camelCase, dotted words.
    versions : frozenset of str
    operators : frozenset of str
    """

    strict: frozenset[str]
    loose: frozenset[str]
    versions: frozenset[str]
    operators: frozenset[str]


NO_IDENTIFIERS = Identifiers(frozenset(), frozenset(), frozenset(), frozenset())

_ENDINGS = (
    "py|ts|tsx|jsx|java|cpp|hpp|c|h|cs|go|rs|rb|php|sh|sql|html|css|json|ya?ml|toml|xml|csv|txt|md|pdf|docx?|xlsx?"
    "|png|jpe?g|gif|svg|zip|tar|gz|log|env|lock|ini|cfg|conf|exe|dll|ipynb|parquet"
)
# mark without which there is no match; pattern
_STRICT: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("`", re.compile(r"`([^`\n]{1,200})`")),
    ("-", re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")),  # flags
    ("_", re.compile(r"\b[A-Za-z][A-Za-z0-9]*_\w+|\b_+[a-z]\w*")),  # snake_case
    ("(", re.compile(r"\b[A-Za-z_]\w*(?=\((?:\)|[^()\s]{0,60}[,='\"\d.\[][^()]{0,120}\)))")),  # calls
    ("/", re.compile(r"(?<![\w.\[<>)/])(?:~|\.{1,2})?/(?:[\w.-]+/)*[\w.-]+")),  # paths
    ("\\", re.compile(r"\\[a-zA-Z]{2,}")),  # LaTeX
    (".", re.compile(rf"\b[\w-]{{1,80}}\.(?:{_ENDINGS})\b|(?<![\w.])\.[a-z]{{2,5}}\b")),  # files and their endings
)
_CAMEL = re.compile(r"\b[A-Za-z]+[a-z][A-Z][A-Za-z0-9]*\b")
_DOTTED = re.compile(r"\b[A-Za-z_]\w*(?:\.[a-z_]\w*)+\b|\b[A-Z]{2,}(?:\.[A-Z]+)+\b")
_SIGNED = re.compile(r"\b[CF][+#]+(?!\w)")
_NOT_SUBCOMMANDS = (
    "is|in|to|on|and|or|a|an|the|for|from|with|by|of|at|as|it|so|command|commands|repo\\w*|do|does|how|my"
)
_SUBCOMMAND = re.compile(
    r"\b(?:git|docker|kubectl|npm|yarn|pip|conda|cargo|helm|terraform) "
    rf"(?!(?:{_NOT_SUBCOMMANDS})\b)([a-z][\w-]*)"
)
_SUBCOMMANDED = frozenset(listed("git docker kubectl npm yarn pip conda cargo helm terraform"))
_VERSIONED = frozenset(
    listed(
        """
        v version python java node js php ruby go rust swift kotlin angular react vue django flask rails spring postgres
        postgresql mysql redis ubuntu debian android ios windows macos tensorflow pytorch numpy pandas kubernetes docker
        typescript gpt claude llama bootstrap laravel unity opencv cuda es http tls ssl usb bluetooth
        """
    )
)
_OPERATOR_MARKS = frozenset("=<>&|^%×÷+*-/:")
_OPERATOR = re.compile(
    r"[=!]==?|&&|\|\||<=|>=|<<|>>|->|=>|\*\*|::|\+\+|\+=|-=|(?<=[\w)\]]) ?[<>^%×÷] ?(?=[\w(\[])"
    r"|(?<=[\d)]) [-+*/] (?=[\d(])|(?<=[\d)])[+*](?=[\d(])"
)
_OPERATOR_WORD = re.compile(r"(?<=\d) (plus|minus|times|multiplied by|divided by|modulo|mod|to the power of) (?=\d)")
_OPERATOR_WORDS = frozenset(listed("plus minus times multiplied divided modulo mod power"))
_WORD_SIGNS = MappingProxyType(
    {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "to the power of": "^"}
)
_SIGNS = MappingProxyType({"×": "*", "÷": "/", "==": "=", "**": "^"})
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
_ALIASES = MappingProxyType({"np.": "numpy.", "pd.": "pandas.", "plt.": "pyplot.", "tf.": "tensorflow."})
_ALIAS = re.compile(r"^(?:np|pd|plt|tf)\.")
_POINTS_OF_VERSION = 2
_ABBREVIATIONS = frozenset(listed("eg ie etc vs am pm usa us uk phd mr mrs dr"))


def read_identifiers(text: str, tokens: Sequence[Token], words: Set[str], flags: int) -> Identifiers:
    """Read the code of a text.

    Parameters
    ----------
    text : str
        In normal form.
    tokens : sequence of Token
    words : set of str
        Its words and marks, lower case.
    flags : int
        Of all tokens together.
    """
    strict = {squashed(name) for mark, pattern in _STRICT if mark in words for name in pattern.findall(text)}
    loose: set[str] = set()
    if flags & CAMEL:
        loose.update(map(squashed, _CAMEL.findall(text)))
    if "." in words:
        loose.update(squashed(_ALIAS.sub(_full_name, name)) for name in _DOTTED.findall(text))
    if "+" in words or "#" in words:
        loose.update(name.lower() for name in _SIGNED.findall(text))
    if flags & PLACE and not _SUBCOMMANDED.isdisjoint(words):
        loose.update(map(squashed, _SUBCOMMAND.findall(text)))
    versions = _versions(tokens) if flags & DIGIT else set()
    operators = _operators(text, words)
    if not (strict or loose or versions or operators):
        return NO_IDENTIFIERS
    strict.discard("")
    return Identifiers(
        frozenset(strict), frozenset(loose - strict - _ABBREVIATIONS), frozenset(versions), frozenset(operators)
    )


def _versions(tokens: Sequence[Token]) -> set[str]:
    """Numbers with two points, and numbers after a name that has versions: "Python 3.10" is not "Python 3.1"."""
    found: set[str] = set()
    before = ""
    for token in tokens:
        low = token.low
        if token.flags & DIGIT and (low.count(".") >= _POINTS_OF_VERSION or before in _VERSIONED) and "," not in low:
            found.add(low)
        if low not in "-/":
            before = low
    return found


def _full_name(alias: re.Match[str]) -> str:
    return _ALIASES[alias.group()]


def _operators(text: str, words: Set[str]) -> set[str]:
    found: set[str] = set()
    if not _OPERATOR_MARKS.isdisjoint(words):
        found.update(_SIGNS.get(sign.strip(), sign.strip()) for sign in _OPERATOR.findall(text))
    if not _OPERATOR_WORDS.isdisjoint(words):
        found.update(_WORD_SIGNS.get(word, word) for word in _OPERATOR_WORD.findall(text))
    return found


def squashed(name: str) -> str:
    """Return a name's letters and digits in lower case."""
    return _NOT_ALPHANUMERIC.sub("", name).lower()


def compare_identifiers(left: Identifiers, right: Identifiers, left_squashed: str, right_squashed: str) -> Verdict:
    """Compare the code of two texts.

    Parameters
    ----------
    left, right : Identifiers
    left_squashed, right_squashed : str
        The texts' words and numbers with nothing between them.

    Notes
    -----
    A strict name missing on either side differs; loose names, versions and operators differ when each side has one
    that the other lacks.
    """
    if left is NO_IDENTIFIERS and right is NO_IDENTIFIERS:
        return ABSENT
    names_left, names_right = left.strict | left.loose, right.strict | right.loose
    if _missing(left.strict, names_right, right_squashed) or _missing(right.strict, names_left, left_squashed):
        return DIFFER
    if _missing(left.loose, names_right, right_squashed) and _missing(right.loose, names_left, left_squashed):
        return DIFFER
    for one, other in ((left.versions, right.versions), (left.operators, right.operators)):
        if one - other and other - one:
            return DIFFER
    is_shared = names_left or names_right or left.versions & right.versions or left.operators & right.operators
    return AGREE if is_shared else ABSENT


def _missing(names: frozenset[str], names_other: frozenset[str], squashed_other: str) -> bool:
    """Whether a name stands nowhere in the other text; "c++" and "c#" are looked up with their signs."""
    return any(name not in names_other and (name[-1] in "+#" or name not in squashed_other) for name in names)
