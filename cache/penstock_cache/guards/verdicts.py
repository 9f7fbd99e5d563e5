"""What one guard says about a pair of prompts.

Owns `Verdict`.
"""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """One guard's word on a pair; the value is the feature that the pair model sees."""

    DIFFER = -1
    """The two texts hold what this guard looks for, and it conflicts."""
    ABSENT = 0
    """Nothing to compare, or not enough to tell."""
    AGREE = 1
    """Both hold it, and it is the same."""


DIFFER, ABSENT, AGREE = Verdict.DIFFER, Verdict.ABSENT, Verdict.AGREE
