"""What kind of question a prompt is: why, how, how much, when, yes or no, or a command.

Owns the classes and their order. Read `question_type`.
"""

from __future__ import annotations

import re
from collections.abc import Set

from penstock_cache.guards.tokens import listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

_POLITE = re.compile(
    r"(?:(?:hi|hello|hey|please|pls|so|and|but|ok|okay|well|now|just|also|um|yo|alexa|siri|google)\b[\s,!.]*"
    r"|(?:can|could|would|will) (?:you|u|someone|anyone|anybody|somebody) (?:please |kindly |just )?(?=\w)"
    r"|(?:i|we) (?:want|need|would like|wanna|am trying|'d like)(?: you)? to (?:know|find out|understand|learn)\b[\s,]*"
    r"|i'd like to (?:know|find out|understand)\b[\s,]*|(?:i was |i am |i'm |just )?wondering\b[\s,]*(?:if )?"
    r"|(?:please )?(?:tell|explain to|let|teach|show) me(?: know| about)?\b[\s,]*(?=(?:wh|how|if))"
    r"|(?:do you know|any idea|i don'?t (?:know|understand))\b[\s,]*(?=(?:wh|how|if)))+"
)
_BEST = r"(?:(?:best|easiest|right|proper|fastest|good|correct|only|quickest|simplest) ){0,3}"
_WHAT_IS = r"what(?:'s| is| are|'re| was)?"
_TYPES: tuple[tuple[str, str], ...] = (
    (
        "why",
        rf"why|how come|{_WHAT_IS} (?:the |your )?(?:main |real )?(?:reasons?|causes?|purpose)"
        r"|what (?:makes|made|causes|caused|reason)",
    ),
    (
        "how_much",
        r"how (?:much|expensive)|what(?:'s| is| does| do| would| are)? (?:the |an? )?(?:\w+ )?(?:costs?|price)",
    ),
    ("how_many", rf"how many|{_WHAT_IS} the number of"),
    ("how_long", rf"how (?:long|soon|quickly)|{_WHAT_IS} the (?:duration|length)"),
    ("how_often", r"how (?:often|frequently)"),
    (
        "how_degree",
        r"how (?:old|big|far|tall|high|deep|fast|large|hot|cold|good|bad|safe|likely|effective|hard|difficult|easy"
        r"|important|accurate|reliable|popular|heavy|wide|strong)",
    ),
    ("when", r"when|what (?:time|date|year|day)|which year"),
    ("where", r"where|(?:what|which) (?:place|country|city|location)"),
    ("who", r"who|whom|whose|which person"),
    (
        "how",
        rf"how|{_WHAT_IS} (?:the |some |a )?{_BEST}"
        r"(?:ways?|steps?|method|procedure|process|approach)|(?:what|which) way"
        r"|what (?:should|can|do|must) (?:i|we|you|one) do (?:to|if)",
    ),
    ("which", r"which"),
    ("what", r"what's|whats|what"),
)
_QUESTION = re.compile("|".join(f"(?P<{name}>(?:{pattern})\\b)" for name, pattern in _TYPES))
_WORD = re.compile(r"\b(?:wh(?:y|at|en|ere|o|om|ose|ich)|how)")
_WORDS = frozenset(listed("why what when where who whom whose which how what's whats how's who's where's when's why's"))
_YES_NO = re.compile(
    r"(?:is|are|was|were|am|do|does|did|can|could|will|would|should|shall|may|must|has|have|had|if|whether)(?:n't)?\b"
)
_SEARCHED_CHARACTERS = 120  # the question word of a longer text is at its start or not worth a guess
_LOOSE = frozenset({"other", "what", "which", "who"})  # "what is the reason", "which year", "name the one who"
_INTERCHANGEABLE = frozenset(
    frozenset(pair)
    for pair in (
        ("how", "where"),
        ("how_long", "when"),
        ("how_long", "how_many"),
        ("how_long", "how_much"),
        ("how_long", "how_degree"),
        ("how_much", "how_many"),
        ("how_much", "how_degree"),
    )
)


def question_type(text: str, words: Set[str]) -> str:
    """Return the class of the first question in a text; "other" for a command or a statement.

    Parameters
    ----------
    text : str
        In normal form and lower case.
    words : set of str
        Its words, lower case.
    """
    start = _POLITE.match(text)
    begin = start.end() if start else 0
    if _WORDS.isdisjoint(words):
        return "yes_no" if _YES_NO.match(text, begin) else "other"
    found = _QUESTION.match(text, begin)
    if found is None:
        if _YES_NO.match(text, begin):
            return "yes_no"
        word = _WORD.search(text, begin, begin + _SEARCHED_CHARACTERS)
        found = _QUESTION.match(text, word.start()) if word else None
    return found.lastgroup or "other" if found else "other"


def compare_questions(left: str, right: str) -> Verdict:
    """Differ when both are of a known class and the two are seldom two wordings of one question."""
    if left == right:
        return ABSENT if left == "other" else AGREE
    if left in _LOOSE or right in _LOOSE:
        return DIFFER if {left, right} == {"what", "yes_no"} else ABSENT
    return ABSENT if frozenset((left, right)) in _INTERCHANGEABLE else DIFFER
