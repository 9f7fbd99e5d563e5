"""Exact nearest neighbours as ONNX operators: one product with all points, then the largest cosines in two stages.

Owns the search of a fused graph (`penstock_training.fused_graph`). Must not know encoders or routers. Read
`Points`, then `add_search`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.graph import GraphBuilder

Precision = Literal["fp32", "fp16"]
Stages = Literal[1, 2]

# A serialised ONNX model is one protobuf message, which ends at 2 GiB; the rest is left to the encoder and the scores.
MAX_POINT_BYTES: Final = 1_700_000_000
_TWO_STAGES_FROM: Final = 2_000  # points; below, a second stage costs more than it spares
_MIN_GROUP: Final = 8
# Products with an eighth of the points each: the greatest of eight tensors is one elementwise kernel, and an eighth is
# left to ONNX Runtime's reduction, which reads at a seventh of an H200's bandwidth (docs/benchmarks.md).
_SLICES: Final = 8
_NO_COSINE: Final = -4.0  # below every cosine; what a padding point gets
_FLOAT16: Final = 10  # TensorProto.FLOAT16
_FLOAT32: Final = 1


@dataclass(frozen=True, slots=True)
class Points:
    """The prompts that are searched, and what is known of them.

    Attributes
    ----------
    vectors : ndarray of float32, shape (N, d)
        Unit length, as far as their storage kept it.
    scores : ndarray of uint8, shape (N, m)
        In steps of 1/255.
    neighbours : int
        k, from 1 to N.
    """

    vectors: NDArray[np.float32]
    scores: NDArray[np.uint8]
    neighbours: int


def group_size(points: int, neighbours: int) -> int:
    """Width of the groups of the first stage.

    Parameters
    ----------
    points, neighbours : int
        N and k.

    Returns
    -------
    int
        A power of two near ``sqrt(N / k)``, which makes ``N / g + k g``, the entries that both selections read after
        the maxima, smallest; at least 8.
    """
    return max(_MIN_GROUP, 1 << round(math.log2(math.sqrt(points / neighbours))))


def add_search(
    builder: GraphBuilder, vector: str, points: Points, *, precision: Precision, stages: Stages = 2
) -> tuple[str, str]:
    """Write the search for the k nearest points of n unit vectors into a graph.

    Parameters
    ----------
    builder : GraphBuilder
    vector : str
        Name of the tensor (n, d), float32.
    points : Points
    precision : {"fp32", "fp16"}
        Of the stored points and of the product with them. In fp16 a cosine has eleven binary digits, so that points
        closer than 0.0005 to the k-th may change places.
    stages : {1, 2}
        1: one selection among all points. 2: the largest cosine of every group of `group_size` points, the k groups
        with the greatest ones, and a selection among their members: one pass over the cosines and two small selections.
        Which is faster depends on the runtime's own selection (docs/benchmarks.md). Fewer than 2,000 points take one.

    Returns
    -------
    similarity, rows : str
        Names of the k largest cosines, falling, (n, k) float32, and of their points, (n, k) int64.

    Raises
    ------
    TrainingError
        ``points_too_large`` (they do not fit into one ONNX file), ``bad_setting`` (k is out of bounds).

    Notes
    -----
    Both forms are exact in the precision of the product and take the same points, ties included. A member of the k
    largest lies in one of the k groups with the greatest maxima, since otherwise each of these holds a larger one;
    as many more are taken as padding may have spoiled. Of equal entries TopK takes the first, hence members are put
    back into the points' order before the last selection. A group has its members in eight places, a few points next to
    each other in each eighth of all.
    """
    count, dimension = points.vectors.shape
    if not 1 <= points.neighbours <= count:
        raise TrainingError(f"{points.neighbours} neighbours of {count} points cannot be found", code="bad_setting")
    if count * dimension * (2 if precision == "fp16" else 4) > MAX_POINT_BYTES:
        message = f"{count:,} points of {dimension} numbers do not fit into one graph; search them by an index"
        raise TrainingError(message, code="points_too_large")
    element = np.float16 if precision == "fp16" else np.float32
    query = builder.op("Cast", vector, to=_FLOAT16) if precision == "fp16" else vector
    if stages == 2 and count >= _TWO_STAGES_FROM:
        best, rows = _two_stages(builder, query, points, element)
    else:
        cosine = builder.op("Gemm", query, builder.constant(points.vectors, element), transB=1)
        best, rows = builder.top(cosine, points.neighbours)
    return (builder.op("Cast", best, to=_FLOAT32) if precision == "fp16" else best), rows


def add_scores(builder: GraphBuilder, rows: str, points: Points) -> str:
    """Write the look-up of the neighbours' scores, (n, k, m) uint8."""
    return builder.op("Gather", builder.constant(points.scores, np.uint8), rows, axis=0)


def _two_stages(
    b: GraphBuilder, query: str, points: Points, element: type[np.float16] | type[np.float32]
) -> tuple[str, str]:
    count, dimension = points.vectors.shape
    group = group_size(count, points.neighbours)
    width = group // _SLICES  # members of a group in each slice
    groups = -(-count // group)
    columns = groups * width
    stored = np.zeros((_SLICES, columns, dimension), dtype=element)
    stored.reshape(-1, dimension)[:count] = points.vectors
    padding = _SLICES * columns - count
    taken = min(points.neighbours + -(-padding // width), groups)
    cosines = [b.op("Gemm", query, b.constant(part, element), transB=1) for part in stored]
    greatest = b.op("Max", *cosines)
    if width > 1:
        in_groups = b.op("Reshape", greatest, b.constant([0, groups, width], np.int64))
        greatest = b.op("ReduceMax", in_groups, axes=[2], keepdims=0)
    _, chosen = b.top(greatest, taken)
    first = b.op("Mul", b.smallest(chosen, taken), b.constant([width], np.int64))
    places = b.op("Add", b.op("Unsqueeze", first, b.constant([2], np.int64)), b.constant(np.arange(width), np.int64))
    places = b.op("Reshape", places, b.constant([0, taken * width], np.int64))
    starts = [b.constant([part * columns], np.int64) for part in range(_SLICES)]
    near = b.op("Concat", *(b.op("GatherElements", each, places, axis=1) for each in cosines), axis=1)
    members = b.op("Concat", *(b.op("Add", places, start) for start in starts), axis=1)
    if padding:
        is_point = b.op("Less", members, b.constant([count], np.int64))
        near = b.op("Where", is_point, near, b.constant([_NO_COSINE], element))
    best, found = b.top(near, points.neighbours)
    return best, b.op("GatherElements", members, found, axis=1)
