"""What an ONNX file may contain before any runtime sees it.

Owns `refuse_unsafe_graph`: a walk over the file's protobuf wire format that needs neither the ``onnx`` package nor
``onnxruntime``. It reads structure only and never copies a tensor. Field numbers are those of ``onnx.proto3``
(ONNX 1.18, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from penstock_routers.errors import ArtifactError, RouterError
from penstock_routers.onnx_wire import Damaged, fields, message, text

# Protobuf itself ends at 2 GiB; the largest encoders that make sense in a gateway (0.5 B parameters, fp16) fit.
MAX_GRAPH_BYTES = 1 << 30
# If/Loop bodies inside each other; exported encoders and routers have 0 or 1.
_MAX_DEPTH = 8

_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_CONTRIB_DOMAIN = "com.microsoft"
# Pure arithmetic that the runtime's own optimiser and quantiser write into encoders. Everything else of that domain is
# refused; EPContext, for one, names a file to load.
_CONTRIB_OPERATORS = frozenset({
    "Attention", "BiasGelu", "DynamicQuantizeMatMul", "EmbedLayerNormalization", "FastGelu", "FusedGemm",
    "FusedMatMul", "Gelu", "GemmaRotaryEmbedding", "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits",
    "MultiHeadAttention", "QAttention", "QEmbedLayerNormalization", "QGemm", "QuickGelu", "RotaryEmbedding",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
# Domains that the runtime lists in every file it has optimised, used or not.
_HARMLESS_IMPORTS = frozenset({
    "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.experimental",
    "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten",
})  # fmt: skip


class _Refused(Exception):
    """The graph holds something that is not allowed; args are (code, message)."""


def refuse_unsafe_graph(
    model: bytes,
    *,
    allow_contrib_operators: bool,
    max_bytes: int = MAX_GRAPH_BYTES,
    error: type[RouterError] = ArtifactError,
) -> None:
    """Raise unless a serialised ONNX model is self-contained and uses known operators only.

    Parameters
    ----------
    model : bytes
        The file's content.
    allow_contrib_operators : bool
        Also allow the arithmetic operators of ``com.microsoft`` that an optimised or quantised encoder consists of.
        Router artifacts do without.
    max_bytes : int
        Largest accepted size.
    error : type of RouterError
        Class to raise.

    Raises
    ------
    RouterError
        Of class `error`, with code ``graph_too_large``, ``graph_damaged``, ``graph_external_data`` (tensors in other
        files), ``graph_unknown_operator`` (a domain or contrib operator outside the allow-list) or
        ``graph_unsupported_section`` (model-local functions, training graphs, the runtime's private format).

    Notes
    -----
    Linear in the number of nodes and tensors; tensor contents are skipped. Every occurrence of a field is visited, so
    a file that repeats a field to hide something behind protobuf's merging gains nothing.
    """
    if len(model) > max_bytes:
        raise error(f"the ONNX graph has {len(model)} bytes, the limit is {max_bytes}", code="graph_too_large")
    if model[4:8] == b"ORTM":
        raise error("the file is in ONNX Runtime's private format", code="graph_unsupported_section")
    try:
        _check_model(memoryview(model), allow_contrib_operators)
    except Damaged:
        raise error("the ONNX file is damaged or is no ONNX file", code="graph_damaged") from None
    except _Refused as refusal:
        code, sentence = refusal.args
        raise error(sentence, code=code) from None


def _check_model(model: memoryview, allow_contrib: bool) -> None:
    """ModelProto: 7 graph, 8 opset_import, 20 training_info, 25 functions."""
    has_graph = False
    for number, value in fields(model):
        if number == 7:
            has_graph = True
            _check_graph(message(value), allow_contrib, 0)
        elif number == 8:
            _check_import(message(value))
        elif number in (20, 25):
            name = "training graphs" if number == 20 else "model-local functions"
            raise _Refused("graph_unsupported_section", f"the ONNX file holds {name}")
    if not has_graph:
        raise Damaged


def _check_import(opset: memoryview) -> None:
    """OperatorSetIdProto: 1 domain."""
    for number, value in fields(opset):
        if number == 1:
            domain = text(value)
            if domain not in _STANDARD_DOMAINS and domain not in _HARMLESS_IMPORTS:
                raise _Refused("graph_unknown_operator", f"the ONNX file imports the operator domain {domain[:80]!r}")


def _check_graph(graph: memoryview, allow_contrib: bool, depth: int) -> None:
    """GraphProto: 1 node, 5 initializer, 15 sparse_initializer."""
    if depth > _MAX_DEPTH:
        raise _Refused("graph_unsupported_section", f"subgraphs are nested more than {_MAX_DEPTH} deep")
    for number, value in fields(graph):
        if number == 1:
            _check_node(message(value), allow_contrib, depth)
        elif number == 5:
            _check_tensor(message(value))
        elif number == 15:
            _check_sparse_tensor(message(value))


def _check_node(node: memoryview, allow_contrib: bool, depth: int) -> None:
    """NodeProto: 4 op_type, 5 attribute, 7 domain."""
    operators, domains = [""], [""]
    for number, value in fields(node):
        if number == 4:
            operators.append(text(value))
        elif number == 7:
            domains.append(text(value))
        elif number == 5:
            _check_attribute(message(value), allow_contrib, depth)
    for domain in domains:
        if domain in _STANDARD_DOMAINS:
            continue
        if not (allow_contrib and domain == _CONTRIB_DOMAIN and operators[-1] in _CONTRIB_OPERATORS):
            name = f"{domain}.{operators[-1]}"[:80]
            raise _Refused("graph_unknown_operator", f"the ONNX graph uses the operator {name!r}, which is not allowed")


def _check_attribute(attribute: memoryview, allow_contrib: bool, depth: int) -> None:
    """AttributeProto: 5 t, 6 g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors."""
    for number, value in fields(attribute):
        if number in (6, 11):
            _check_graph(message(value), allow_contrib, depth + 1)
        elif number in (5, 10):
            _check_tensor(message(value))
        elif number in (22, 23):
            _check_sparse_tensor(message(value))


def _check_sparse_tensor(tensor: memoryview) -> None:
    """SparseTensorProto: 1 values, 2 indices."""
    for number, value in fields(tensor):
        if number in (1, 2):
            _check_tensor(message(value))


def _check_tensor(tensor: memoryview) -> None:
    """TensorProto: 13 external_data, 14 data_location (0 is inside the file)."""
    for number, value in fields(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise _Refused("graph_external_data", "the ONNX graph keeps tensors in other files")
