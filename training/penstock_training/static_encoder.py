"""A static encoder: one vector per vocabulary token, distilled from a sentence model.

Owns the arithmetic from token vectors to the int8 table and its ONNX graph. It never loads a model
(`penstock_training.sentence_model` does) and writes no files. Read `distil` first, then `static_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# `a` of the smooth inverse frequency weights; the value of the paper, not tuned.
SIF_COEFFICIENT = 1e-4
# Two scales per number leave the int8 table at cosine > .9999 to float32 (docs/adr/0004-two-encoders.md).
_INT8_MAX = 127.0
_OPSET = 17


def distil(token_vectors: FloatArray, used_token_ids: Sequence[int], dimension: int) -> FloatArray:
    """Centre, reduce and weigh token vectors.

    Parameters
    ----------
    token_vectors : ndarray of float64, shape (v, h)
        The sentence model's output for every token alone.
    used_token_ids : sequence of int, ascending
        Tokens that stand for text. Their order is taken for their frequency rank, which holds for WordPiece and BPE
        vocabularies, whose ids are assigned by falling frequency.
    dimension : int
        d; 1 <= d <= h and d < number of used tokens.

    Returns
    -------
    ndarray of float64, shape (v, d)
        One row per token id; zero rows for special and unused tokens, which therefore count for nothing.

    Raises
    ------
    ValueError
        `dimension` does not fit.

    Notes
    -----
    ``vector(t) = w(t) · Pᵀ(x(t) − mean x)`` with P the d leading principal axes, ``w(t) = a / (a + p(t))`` and, by
    Zipf's law, ``p(t) ∝ 1 / (rank(t) + 1)``. The sign of each axis makes its largest projection positive, so that two
    runs agree. O(v·h²).

    References
    ----------
    Arora, Liang, Ma: A simple but tough-to-beat baseline for sentence embeddings (ICLR 2017), section 3, for the
    weights. Applied to token vectors of a sentence model as in model2vec (MIT); ours keeps the model's own
    vocabulary and ids, so that the tokenizer stays the original one.
    """
    used = np.asarray(used_token_ids, dtype=np.int64)
    if not 1 <= dimension <= token_vectors.shape[1] or dimension >= len(used):
        raise ValueError(f"dimension {dimension} does not fit {token_vectors.shape[1]} and {len(used)} tokens")
    centred = token_vectors[used] - token_vectors[used].mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred / (len(used) - 1))
    projected = centred @ axes[:, ::-1][:, :dimension]
    largest = np.abs(projected).argmax(axis=0)
    projected *= np.sign(projected[largest, np.arange(dimension)])
    vectors = np.zeros((len(token_vectors), dimension))
    vectors[used] = projected * zipf_weights(len(used))[:, None]
    return vectors


def zipf_weights(count: int) -> FloatArray:
    """Return smooth inverse frequency weights for tokens in order of falling frequency.

    Parameters
    ----------
    count : int
        Number of tokens; >= 1.

    Returns
    -------
    ndarray of float64, shape (count,), in (0, 1)
        ``a / (a + p)``, ``p`` proportional to ``1 / (rank + 1)`` with ranks from 1, summing to 1.
    """
    frequencies = 1.0 / np.arange(2, count + 2)
    weights: FloatArray = SIF_COEFFICIENT / (SIF_COEFFICIENT + frequencies / frequencies.sum())
    return weights


def static_graph(vectors: FloatArray, precision: Literal["int8", "fp16", "fp32"]) -> bytes:
    """Write the table as a graph ``token_ids (n, t) int64 → vectors (n, d) float32``, the sum over tokens.

    Parameters
    ----------
    vectors : ndarray, shape (v, d)
        One row per token id; the padding token's row is zero.
    precision : {"int8", "fp16", "fp32"}
        Of the stored table. int8: ``vectors[t, j] ≈ row[t] · q[t, j] · column[j]``; the row scales take part in the
        sum (a matrix product of 1 × t with t × d), the column scales follow it, so both are nearly free.

    Returns
    -------
    bytes
        A serialised ONNX model; the same input gives the same bytes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if precision == "int8":
        quantised, rows, columns = quantise(vectors)
        tables = {"table": quantised, "row_scales": rows, "column_scales": columns}
        nodes = [
            helper.make_node("Gather", ["table", "token_ids"], ["token_codes"], axis=0),
            helper.make_node("Cast", ["token_codes"], ["token_vectors"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["row_scales", "token_ids"], ["token_scales"], axis=0),
            helper.make_node("Unsqueeze", ["token_scales", "middle_axis"], ["token_scale_rows"]),
            helper.make_node("MatMul", ["token_scale_rows", "token_vectors"], ["sums"]),
            helper.make_node("Squeeze", ["sums", "middle_axis"], ["scaled_sums"]),
            helper.make_node("Mul", ["scaled_sums", "column_scales"], ["vectors"]),
        ]
    else:
        tables = {"table": vectors.astype(np.float16 if precision == "fp16" else np.float32)}
        nodes = [
            helper.make_node("Gather", ["table", "token_ids"], ["token_codes"], axis=0),
            helper.make_node("Cast", ["token_codes"], ["token_vectors"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["token_vectors", "middle_axis"], ["vectors"], keepdims=0),
        ]
    tables["middle_axis"] = np.array([1], dtype=np.int64)
    graph = helper.make_graph(
        nodes,
        "static_encoder",
        [helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["texts", "tokens"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", vectors.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(table), name) for name, table in tables.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="penstock")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def quantise(vectors: FloatArray) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Quantise a table to int8 with one scale per row and one per column.

    Parameters
    ----------
    vectors : ndarray, shape (v, d)

    Returns
    -------
    tuple of ndarray
        Codes int8 (v, d) in [-127, 127], row scales float32 (v,), column scales float32 (d,). A row of zeros gets
        scale 0.

    Notes
    -----
    Columns are first divided by their root mean square, because principal components fall off by a factor of ten; one
    scale per row alone would spend most codes on the first few.
    """
    columns = np.sqrt(np.mean(np.square(vectors), axis=0))
    columns[columns == 0.0] = 1.0
    levelled = vectors / columns
    rows = np.abs(levelled).max(axis=1) / _INT8_MAX
    codes = np.rint(levelled / np.where(rows > 0.0, rows, 1.0)[:, None]).astype(np.int8)
    return codes, rows.astype(np.float32), columns.astype(np.float32)
