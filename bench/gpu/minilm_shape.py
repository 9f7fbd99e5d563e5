"""A transformer encoder of MiniLM-L6's shape with made-up weights: the same operators and sizes, for times only.

Lets `fused.py` run where neither torch nor an exported encoder is there. Read `minilm_shaped`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock_routers.manifest import TensorSpec
from penstock_training.graph import GraphBuilder


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a BERT-like encoder; the defaults are those of all-MiniLM-L6-v2 (its ``config.json``)."""

    layers: int = 6
    width: int = 384
    heads: int = 12
    inner: int = 1536
    vocabulary: int = 30_522

    def operations(self, tokens: int) -> float:
        """Floating-point operations of one prompt's matrix products: ``2 t l (4 d² + 2 d f) + 4 t² d l``."""
        dense = 2.0 * tokens * self.layers * (4 * self.width**2 + 2 * self.width * self.inner)
        return dense + 4.0 * tokens**2 * self.width * self.layers

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers, which every batch reads once."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.inner)


def minilm_shaped(shape: Shape, tokens: int, seed: int = 0) -> bytes:
    """Write the encoder as a graph.

    Parameters
    ----------
    shape : Shape
    tokens : int
        Tokens of every prompt, fixed.
    seed : int

    Returns
    -------
    bytes
        ``input_ids, attention_mask (n, t) → vectors (n, d)``, fp32, mean pooling.
    """
    b, random, width = GraphBuilder(), np.random.default_rng(seed), shape.width

    def weights(*sizes: int) -> str:
        return b.constant(0.04 * random.standard_normal(sizes))

    def normed(source: str) -> str:
        return b.op("LayerNormalization", source, weights(width), weights(width), axis=-1, epsilon=1e-12)

    def dense(source: str, inputs: int, outputs: int) -> str:
        return b.op("Add", b.op("MatMul", source, weights(inputs, outputs)), weights(outputs))

    embedded = b.op("Gather", weights(shape.vocabulary, width), "input_ids", axis=0)
    hidden = normed(b.op("Add", embedded, weights(tokens, width)))
    bias = _mask_bias(b)
    for _ in range(shape.layers):
        attended = _attention(b, [dense(hidden, width, width) for _ in range(3)], bias, shape, tokens)
        hidden = normed(b.op("Add", dense(attended, width, width), hidden))
        inner = _gelu(b, dense(hidden, width, shape.inner))
        hidden = normed(b.op("Add", dense(inner, shape.inner, width), hidden))
    mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=1), b.constant([2], np.int64))
    total = b.op("ReduceSum", b.op("Mul", hidden, mask), b.constant([1], np.int64), keepdims=0)
    count = b.op("ReduceSum", mask, b.constant([1], np.int64), keepdims=0)
    b.output("vectors", b.op("Div", total, b.op("Max", count, b.constant(1e-9))))
    inputs = [TensorSpec(name, "int64", ("n", tokens)) for name in ("input_ids", "attention_mask")]
    return b.model("encoder", inputs, [TensorSpec("vectors", "float32", ("n", width))])


def _mask_bias(b: GraphBuilder) -> str:
    mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=1), b.constant([1, 2], np.int64))
    return b.op("Mul", b.op("Sub", b.constant(1.0), mask), b.constant(-1e4))


def _attention(b: GraphBuilder, projected: list[str], bias: str, shape: Shape, tokens: int) -> str:
    size = shape.width // shape.heads
    split = b.constant([0, tokens, shape.heads, size], np.int64)
    query, key, value = (b.op("Reshape", part, split) for part in projected)
    query, value = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
    score = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 3, 1]))
    score = b.op("Add", b.op("Mul", score, b.constant(size**-0.5)), bias)
    mixed = b.op("Transpose", b.op("MatMul", b.op("Softmax", score, axis=-1), value), perm=[0, 2, 1, 3])
    return b.op("Reshape", mixed, b.constant([0, tokens, shape.width], np.int64))


def _gelu(b: GraphBuilder, source: str) -> str:
    curve = b.op("Add", b.op("Erf", b.op("Div", source, b.constant(2.0**0.5))), b.constant(1.0))
    return b.op("Mul", b.op("Mul", source, curve), b.constant(0.5))


def made_up_prompts(rows: int, tokens: int, shape: Shape, seed: int = 1) -> dict[str, Any]:
    """Token ids and masks of prompts that fill their tokens."""
    ids = np.random.default_rng(seed).integers(1_000, shape.vocabulary, (rows, tokens), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
