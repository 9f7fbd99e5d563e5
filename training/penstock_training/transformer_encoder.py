"""A transformer encoder: the traced graph in the wanted precision.

Owns the passes over the ONNX file that `penstock_training.sentence_model` traces. Fusing is left to ONNX Runtime, which
does it when it opens the graph (docs/adr/0004-two-encoders.md): the stored file then holds standard operators only and
any architecture goes through. Read `transformer_graph`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

# What int8 quantisation takes in: all products with a constant, and the embedding tables (half of MiniLM's weights).
_QUANTISED_OPERATORS = ["MatMul", "Gemm", "Gather"]


def transformer_graph(traced: bytes, precision: Literal["int8", "fp16", "fp32"]) -> bytes:
    """Store a traced encoder in the wanted precision.

    Parameters
    ----------
    traced : bytes
        fp32 graph ``input_ids, attention_mask (n, t) → vectors (n, d)``.
    precision : {"int8", "fp16", "fp32"}
        int8: dynamic quantisation with one scale per output channel, embedding tables too. fp16: weights and
        arithmetic, for GPUs; inputs and output keep their types.

    Returns
    -------
    bytes
        A serialised ONNX model without external data; the same input gives the same bytes.

    Notes
    -----
    The int8 weights use 7 bits of range. x86 processors without VNNI (AMD before Zen 4, Intel before Ice Lake) add two
    products of unsigned and signed 8-bit numbers in 16 bits, where full-range weights saturate; with 7 bits
    ``2 · 255 · 64 < 32,768`` cannot. On 1,800 questions that kept as many
    nearest neighbours (95.7 %) as 8 bits (95.5 %).
    """
    import onnx

    if precision == "int8":
        traced = _quantised(traced)
    model = onnx.load_from_string(traced)
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True)
    return _cleaned(model)


def _quantised(traced: bytes) -> bytes:
    """Quantise through files: the runtime's quantiser works on paths."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="penstock-encoder-") as name, _quiet_root_logger():
        source, target = Path(name) / "traced.onnx", Path(name) / "int8.onnx"
        source.write_bytes(traced)
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=_QUANTISED_OPERATORS,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return target.read_bytes()


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Hold back the quantiser's advice to run its own preparation step, which these graphs do not need."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _cleaned(model: onnx.ModelProto) -> bytes:
    """Drop documentation, metadata and shape hints, which carry no meaning, and check the rest."""
    from onnx import checker

    model.producer_name, model.producer_version, model.doc_string = "penstock", "", ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
