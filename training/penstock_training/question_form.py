"""Multiple-choice questions without their options: how people ask what benchmarks ask.

Owns that one change of form. It exists because a router fitted on questions with options alone takes every plain
question for school mathematics, the one subject its sets ask without options. Read `drop_options_in_half`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from penstock_training.splits import IndexArray, normalise_question, without_options


def drop_options_in_half(prompts: Sequence[str], keep: IndexArray) -> list[str]:
    """Take the options from every other multiple-choice question.

    Parameters
    ----------
    prompts : sequence of str, length n
    keep : ndarray of int64
        Rows that stay as they are.

    Returns
    -------
    list of str, length n
        Whether a question loses its options depends on a hash of its normalised text, so forms of one question in
        several sets go together and the choice never changes.
    """
    kept = set(keep.tolist())
    return [
        prompt if row in kept or not _is_chosen(prompt) else without_options(prompt)
        for row, prompt in enumerate(prompts)
    ]


def _is_chosen(prompt: str) -> bool:
    digest = hashlib.sha256(normalise_question(prompt).encode("utf-8", "surrogatepass"))
    return digest.digest()[0] % 2 == 0
