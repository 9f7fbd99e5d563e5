"""Cheap numbers about a prompt's form, computed alike in serving and in training.

Owns the list of features and their formulas; must not tokenise, embed or look at anything but the text. Read
`prompt_features` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEATURE_NAMES: Final[tuple[str, ...]] = (
    "log_bytes",
    "log_lines",
    "digit_share",
    "upper_share",
    "operator_share",
    "bracket_share",
    "backslash_share",
    "non_ascii_share",
    "question_marks",
    "has_code_fence",
)

CONTEXT_FEATURE_NAMES: Final[tuple[str, ...]] = ("log_system_bytes", "log_tools", "log_turns")
"""Of what stands around a prompt; only in artifacts that were fitted on outcomes which tell of it."""


class PromptContext(NamedTuple):
    """What stands around the last user turn of a conversation.

    Attributes
    ----------
    system_bytes : int
        UTF-8 bytes of the instructions (system prompt), all of them together.
    tools : int
        Tools that the model may call.
    turns : int
        User turns before the last one.
    """

    system_bytes: int = 0
    tools: int = 0
    turns: int = 0


NO_CONTEXT: Final = PromptContext()

# Both ends are enough to see what kind of text it is; the bound keeps the cost at a few microseconds.
_HEAD_CHARACTERS: Final = 4096
_TAIL_CHARACTERS: Final = 4096
_SHARE_CLASSES: Final[tuple[bytes, ...]] = (
    b"0123456789",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"+-*/=<>^%|&",
    b"()[]{}",
    b"\\",
    bytes(range(128, 256)),
)


def _class_matrix() -> NDArray[np.float32]:
    """One column per byte class of `_SHARE_CLASSES`."""
    matrix = np.zeros((256, len(_SHARE_CLASSES)), dtype=np.float32)
    for column, members in enumerate(_SHARE_CLASSES):
        matrix[list(members), column] = 1.0
    matrix.setflags(write=False)
    return matrix


_CLASS_MATRIX: Final = _class_matrix()
_SHORT_CHARACTERS: Final = 1500
"""Up to here counting the bytes one class after the other takes a third of what NumPy's calls do."""


def _class_of_each_byte() -> bytes:
    """A table for `bytes.translate`: 1 to 6 as in `_SHARE_CLASSES`, line feed, question mark, or 0."""
    table = bytearray(256)
    for number, members in enumerate((*_SHARE_CLASSES, b"\n", b"?"), start=1):
        for member in members:
            table[member] = number
    return bytes(table)


_CLASSES: Final = _class_of_each_byte()


def prompt_features(text: str) -> NDArray[np.float32]:
    """Describe the form of a prompt.

    Parameters
    ----------
    text : str
        The prompt, any length. Beyond 8,192 characters only the first and the last 4,096 are read, except
        by ``log_bytes``, which then counts characters of the whole text.

    Returns
    -------
    ndarray of float32, shape (10,)
        In the order of `FEATURE_NAMES`: natural logarithm of 1 + UTF-8 bytes and of 1 + line feeds; shares
        in [0, 1] of the bytes that are digits, ASCII capitals, operators, brackets, backslashes and outside
        ASCII; question marks (at most 5); 1 when a code fence occurs.

    Notes
    -----
    O(length); about 3 µs for 300 characters. Whether answer options follow the question is left out
    on purpose: it tells which benchmark a prompt is from, not how hard it is.

    Examples
    --------
    >>> round(float(prompt_features("2 + 2?")[2]), 2)
    0.33
    """
    if len(text) > _SHORT_CHARACTERS:
        return np.asarray(prompt_features_of([text])[0])
    encoded = text.encode("utf-8", "surrogatepass")
    length = len(encoded)
    divisor = length or 1
    count = encoded.translate(_CLASSES).count
    # Divided in float64 and then rounded: for numbers of this size the same as dividing in float32.
    return np.array(
        (
            math.log1p(length),
            math.log1p(count(7)),
            count(1) / divisor,
            count(2) / divisor,
            count(3) / divisor,
            count(4) / divisor,
            count(5) / divisor,
            count(6) / divisor,
            min(count(8), 5),
            "```" in text,
        ),
        dtype=np.float32,
    )


def context_features(context: PromptContext) -> NDArray[np.float32]:
    """Describe what stands around a prompt.

    Parameters
    ----------
    context : PromptContext

    Returns
    -------
    ndarray of float32, shape (3,)
        In the order of `CONTEXT_FEATURE_NAMES`: natural logarithm of 1 + each number, which are counts over many orders
        of magnitude.

    Examples
    --------
    >>> context_features(PromptContext(0, 1, 0)).round(2).tolist()
    [0.0, 0.6899999976158142, 0.0]
    """
    return np.log1p(np.asarray(context, dtype=np.float32))


def prompt_features_of(texts: Sequence[str]) -> NDArray[np.float32]:
    """Describe several prompts at once.

    Parameters
    ----------
    texts : sequence of str, length n >= 1

    Returns
    -------
    ndarray of float32, shape (n, 10)
        Rows of `prompt_features`, to the last digit. A batch of 64 takes a sixth of the time.
    """
    shown = [_read_part(text) for text in texts]
    encoded = [text.encode("utf-8", "surrogatepass") for text in shown]
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    places = np.frombuffer(b"".join(encoded), dtype=np.uint8) + np.repeat(256 * np.arange(len(texts)), lengths)
    histogram = np.bincount(places, minlength=256 * len(texts)).reshape(-1, 256).astype(np.float32)
    features = np.empty((len(texts), len(FEATURE_NAMES)), dtype=np.float32)
    features[:, 0] = [math.log1p(max(*pair)) for pair in zip(map(len, encoded), map(len, texts), strict=True)]
    features[:, 1] = [math.log1p(count) for count in histogram[:, 10]]
    features[:, 2:8] = (histogram @ _CLASS_MATRIX) / np.maximum(lengths, 1)[:, None].astype(np.float32)
    features[:, 8] = np.minimum(histogram[:, 63], 5.0)
    features[:, 9] = ["```" in text for text in shown]
    return features


def _read_part(text: str) -> str:
    if len(text) > _HEAD_CHARACTERS + _TAIL_CHARACTERS:
        return text[:_HEAD_CHARACTERS] + text[-_TAIL_CHARACTERS:]
    return text
