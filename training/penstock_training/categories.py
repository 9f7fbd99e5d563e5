"""The few categories that the category head knows, and where the names used by outcome files belong.

Owns the label map. Must not look at prompts. Read `CATEGORIES`, then `standard_category`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

CATEGORIES: Final = (
    "coding", "maths", "science", "medical", "legal", "finance", "history", "reasoning", "general",
)  # fmt: skip
GENERAL: Final = len(CATEGORIES) - 1

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "coding": (
        "code", "coding", "programming", "crux", "mbpp", "humaneval", "computer science", "college_computer_science",
        "high_school_computer_science", "machine_learning", "computer_security", "sql",
    ),
    "maths": (
        "math", "maths", "mathematics", "gsm", "gsm8k", "math-l5", "algebra", "arithmetic", "abstract_algebra",
        "college_mathematics", "high_school_mathematics", "elementary_mathematics", "high_school_statistics",
    ),
    "science": (
        "science", "physics", "chemistry", "biology", "engineering", "stem", "astronomy", "college_physics",
        "conceptual_physics", "high_school_physics", "college_chemistry", "high_school_chemistry", "college_biology",
        "high_school_biology", "electrical_engineering",
    ),
    "medical": (
        "medical", "medicine", "health", "anatomy", "clinical_knowledge", "college_medicine", "professional_medicine",
        "medical_genetics", "nutrition", "virology", "human_aging",
    ),
    "legal": ("legal", "law", "professional_law", "international_law", "jurisprudence"),
    "finance": (
        "finance", "economics", "business", "accounting", "econometrics", "high_school_macroeconomics",
        "high_school_microeconomics", "professional_accounting", "management", "marketing", "business_ethics",
    ),
    "history": (
        "history", "prehistory", "high_school_world_history", "high_school_us_history", "high_school_european_history",
    ),
    "reasoning": ("reasoning", "logic", "logical_fallacies", "formal_logic", "zebra-grid", "puzzle"),
}  # fmt: skip
_CATEGORY_OF: Final = {name: CATEGORIES.index(category) for category, names in _NAMES.items() for name in names}


def standard_category(category: str, task: str = "") -> int:
    """Find the category that a name in an outcome file means.

    Parameters
    ----------
    category, task : str
        As the file has them; the category is tried first. Case and surrounding blanks do not matter.

    Returns
    -------
    int
        Index into `CATEGORIES`; that of ``general`` for every name that is not listed (psychology, philosophy,
        writing and chat among them: a head that knows few things well is worth more than one that guesses).

    Examples
    --------
    >>> CATEGORIES[standard_category("professional_law")]
    'legal'
    """
    for name in (category, task):
        found = _CATEGORY_OF.get(name.strip().casefold())
        if found is not None:
            return found
    return GENERAL


def standard_categories(categories: Sequence[str], tasks: Sequence[str]) -> NDArray[np.int64]:
    """Map n pairs of category and task; see `standard_category`."""
    pairs = zip(categories, tasks, strict=True)
    return np.array([standard_category(category, task) for category, task in pairs], dtype=np.int64)
