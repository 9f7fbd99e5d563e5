"""A transformer encoder: the traced graph in the wanted precision.

Owns the passes over the ONNX file that `penstock_training.sentence_model` traces. For the CPU, fusing is left to ONNX
Runtime, which does it when it opens the graph (docs/adr/0004-two-encoders.md). For a GPU the attention is joined
here: a traced model's is beyond what the runtime recognises by itself. Read `transformer_graph`.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

_RUNTIME_DOMAIN = "com.microsoft"  # of the fused operators
# What int8 quantisation takes in: all products with a constant, and the embedding tables (half of MiniLM's weights).
_QUANTISED_OPERATORS = ["MatMul", "Gemm", "Gather"]


def transformer_graph(
    traced: bytes, precision: Literal["int8", "fp16", "fp32"], *, heads: int = 0, width: int = 0
) -> bytes:
    """Store a traced encoder in the wanted precision.

    Parameters
    ----------
    traced : bytes
        fp32 graph ``input_ids, attention_mask (n, t) → vectors (n, d)``.
    precision : {"int8", "fp16", "fp32"}
        int8: dynamic quantisation with one scale per output channel, embedding tables too. fp16: weights and
        arithmetic, for GPUs; inputs and output keep their types.
    heads, width : int
        Of each layer's attention, and numbers of a token's state. fp16 only: where they are known, attention, layer
        normalisation with what is added before it, and activation with its bias become one operator each, if the model
        is built like BERT; otherwise the graph stays as it was traced.

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
        model = _halved(model, heads, width)
    return _cleaned(model)


def _halved(model: onnx.ModelProto, heads: int, width: int) -> onnx.ModelProto:
    """Fuse each layer where ONNX Runtime's own tool finds its operators, and go over to fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    if heads < 1 or width < 1:
        return convert_float_to_float16(model, keep_io_types=True)
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)  # padding anywhere, as the traced model takes it
    with _quiet_root_logger():
        fused = optimize_model(
            copy.deepcopy(model),
            model_type="bert",
            num_heads=heads,
            hidden_size=width,
            optimization_options=options,
            opt_level=0,
        )
        if fused.get_fused_operator_statistics()["Attention"] == 0:
            return convert_float_to_float16(model, keep_io_types=True)
        fused.convert_float_to_float16(keep_io_types=True)
    halved = fused.model
    if all(each.domain != _RUNTIME_DOMAIN for each in halved.opset_import):
        halved.opset_import.add(domain=_RUNTIME_DOMAIN, version=1)
    return halved


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
