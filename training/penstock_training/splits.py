"""Which prompts may be fitted on and which may be tested on.

Owns the normalisation that recognises one question in different dress, and every split made from it: a group of
prompts that ask the same question is never divided. Must not look at scores. Read `normalise_question` first, then
`grouped_split`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# UTF-8 bytes that somebody read as Latin-1: a lead byte and its continuation bytes ("Ã¶" for "ö").
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf]{1,3}")
# End of a worked example in a few-shot prompt: an answer of at most 80 characters and an empty line.
_WORKED_EXAMPLE = re.compile(r"(?:^|\s)answer\s*:\s*\S[^\n]{0,80}\n\s*\n", re.IGNORECASE)
_LABEL_BEFORE = re.compile(r"^\s*(?:question|q|problem|prompt)\s*\d*\s*[:.]\s*", re.IGNORECASE)
_LABEL_AFTER = re.compile(r"\s(?:answer|a|response|solution)\s*:\s*$", re.IGNORECASE)
_OPTION_A = re.compile(r"\n[ \t]*\(?A[).:][ \t]*\S")
_OPTION_B = re.compile(r"\n[ \t]*\(?B[).:][ \t]*\S")
_SEPARATORS = re.compile(r"[\W_]+")


class Sourced(Protocol):
    """What `leave_source_out` needs of an outcome matrix: one source and one group per prompt."""

    @property
    def sources(self) -> Sequence[str]:
        """Name of the set that each prompt came from, length n."""

    @property
    def groups(self) -> IndexArray:
        """Question group of each prompt, shape (n,)."""


@dataclass(frozen=True, slots=True)
class SourceOverlap:
    """How many questions two sources share.

    Attributes
    ----------
    first, second : str
        Names of the sources.
    questions : int
        Question groups that occur in both.
    first_prompts, second_prompts : int
        Prompts of each source that belong to those groups.
    """

    first: str
    second: str
    questions: int
    first_prompts: int
    second_prompts: int


def normalise_question(prompt: str) -> str:
    r"""Reduce a prompt to the question it asks, so that the same question in another form compares equal.

    Parameters
    ----------
    prompt : str
        Text of a prompt, any length.

    Returns
    -------
    str
        Letters and digits only, case-folded. Empty only when `prompt` is blank.

    Notes
    -----
    In this order: text that was decoded as Latin-1 by mistake is repaired, compatibility characters are unified (NFKC),
    worked examples before the last question are dropped, labels such as ``Question:`` and ``Answer:`` are dropped,
    the list of answer options is dropped (benchmarks extend and shuffle it), and what is not a letter or digit is
    removed. Linear in the length of the prompt.

    The result errs on the side of "same": questions that consist of a stock phrase and options ("Which of the
    following is true?") fall into one group. That costs a little freedom in splitting and can never leak an answer
    from the fitting part into the test part.

    Examples
    --------
    >>> normalise_question("Question: What is 2 + 2?\nA) 3\nB) 4\nAnswer:")
    'whatis22'
    >>> normalise_question("what is 2+2 ?")
    'whatis22'
    """
    text = unicodedata.normalize("NFKC", _MOJIBAKE.sub(_repair, prompt))
    after_examples = _WORKED_EXAMPLE.split(text)[-1]
    text = after_examples if after_examples.strip() else text
    text = _LABEL_AFTER.sub("", _LABEL_BEFORE.sub("", text))
    question = without_options(text)
    return _letters(question) or _letters(prompt) or " ".join(prompt.split())


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


def question_groups(prompts: Sequence[str]) -> IndexArray:
    """Give a number to each question that `prompts` ask.

    Parameters
    ----------
    prompts : sequence of str, length n

    Returns
    -------
    ndarray of int64, shape (n,)
        Equal numbers for prompts with the same `normalise_question`. Numbers follow the sorted normalised texts, so
        they depend on the set of prompts and not on its order.
    """
    if not prompts:
        return np.zeros(0, dtype=np.int64)
    keys = [normalise_question(prompt) for prompt in prompts]
    number = {key: index for index, key in enumerate(sorted(set(keys)))}
    return np.fromiter((number[key] for key in keys), dtype=np.int64, count=len(keys))


def grouped_split(groups: IndexArray, *, fractions: Mapping[str, float], seed: int) -> dict[str, IndexArray]:
    """Split rows into named parts without dividing a group.

    Parameters
    ----------
    groups : ndarray of int64, shape (n,)
        Group of each row, from `question_groups`.
    fractions : mapping of str to float
        Share of rows for each part, each > 0, summing to 1 within 1e-9. The order of the names does not matter, so a
        split can be made again from a manifest.
    seed : int
        Seed of the shuffle of groups.

    Returns
    -------
    dict of str to ndarray of int64
        Sorted row numbers of each part, in the order of `fractions`; disjoint and together all rows. A part can be
        empty when there are fewer groups than parts.

    Raises
    ------
    ValueError
        `fractions` is empty, holds a share that is not positive, or does not sum to 1.

    Notes
    -----
    Groups are shuffled and laid end to end; each goes to the part in which its middle row falls, so that a part
    misses its share by at most half of the largest group at either end. O(n log n).
    """
    names = sorted(fractions)
    shares = np.array([fractions[name] for name in names], dtype=np.float64)
    if shares.size == 0 or bool((shares <= 0).any()) or abs(float(shares.sum()) - 1.0) > 1e-9:
        raise ValueError("fractions must be positive and sum to 1")
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(counts.size)
    ends = np.cumsum(counts[order])
    middles = ends - counts[order] / 2.0
    bounds = np.cumsum(shares)[:-1] * max(groups.size, 1)
    part_of_group = np.empty(counts.size, dtype=np.int64)
    part_of_group[order] = np.searchsorted(bounds, middles, side="right")
    part = part_of_group[inverse]
    return {name: np.flatnonzero(part == names.index(name)) for name in fractions}


def leave_source_out(matrix: Sourced, source: str) -> tuple[IndexArray, IndexArray]:
    """Hold out a whole source, and keep its questions out of the rest too.

    Parameters
    ----------
    matrix : OutcomeMatrix
        Anything with `sources` (n,) and `groups` (n,).
    source : str
        The source to test on.

    Returns
    -------
    (ndarray of int64, ndarray of int64)
        Rows to fit on and rows to test on. Rows of other sources whose question also occurs in `source` are in
        neither.

    Raises
    ------
    ValueError
        `source` does not occur.
    """
    is_held_out = np.array([name == source for name in matrix.sources], dtype=bool)
    if not is_held_out.any():
        raise ValueError(f"no prompt comes from source {source!r}; there are {sorted(set(matrix.sources))}")
    is_shared = np.isin(matrix.groups, matrix.groups[is_held_out])
    return np.flatnonzero(~is_held_out & ~is_shared), np.flatnonzero(is_held_out)


def source_overlaps(sources: Sequence[str], groups: IndexArray) -> list[SourceOverlap]:
    """Count the questions that each pair of sources shares.

    Parameters
    ----------
    sources : sequence of str, length n
    groups : ndarray of int64, shape (n,)

    Returns
    -------
    list of SourceOverlap
        One entry per pair of sources in sorted order, pairs without a shared question included.
    """
    names = np.asarray(sources, dtype=object)
    rows = {name: groups[names == name] for name in sorted(set(sources))}
    overlaps = []
    for first, second in combinations(rows, 2):
        shared = np.intersect1d(rows[first], rows[second])
        counts = [int(np.isin(rows[name], shared).sum()) for name in (first, second)]
        overlaps.append(SourceOverlap(first, second, int(shared.size), counts[0], counts[1]))
    return overlaps


def _letters(text: str) -> str:
    return _SEPARATORS.sub("", text.casefold())


def _repair(match: re.Match[str]) -> str:
    try:
        return match.group().encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return match.group()
