"""Multiple-choice questions without their options: how people ask what benchmarks ask.

Owns that one change of form. It exists because a router fitted on questions with options alone takes every plain
question for school mathematics, the one subject its sets ask without options. Read `drop_options_in_half`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from penstock_training.splits import IndexArray, normalise_question

_OPTION_A = re.compile(r"\n[ \t]*\(?A[).:][ \t]*\S")
_OPTION_B = re.compile(r"\n[ \t]*\(?B[).:][ \t]*\S")


def without_options(prompt: str) -> str:
    r"""Cut a prompt at its first answer option.

    Parameters
    ----------
    prompt : str

    Returns
    -------
    str
        The text before the line that starts option A, when a line that starts option B follows and the text is not
        blank; otherwise `prompt` itself.

    Examples
    --------
    >>> without_options("Which is a noble gas?\nA) nitrogen\nB) argon\nAnswer:")
    'Which is a noble gas?'
    """
    first = _OPTION_A.search(prompt)
    if first is None or _OPTION_B.search(prompt, first.end()) is None:
        return prompt
    return prompt[: first.start()].strip() or prompt


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
