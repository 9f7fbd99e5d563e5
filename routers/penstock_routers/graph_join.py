"""One graph out of an encoder's and a router's, joined byte by byte when an artifact is loaded.

Owns the joint: unit length between the two, and the prompt vector as one more output. Nothing inside either graph is
touched, and neither the ``onnx`` package nor a second copy of the weights on disk is needed; the search among a
router's points stays as the router's graph has it (`penstock_training.fused_graph.fuse` replaces it for large sets on a
GPU). Field numbers are those of ``onnx.proto3``. Read `join_graphs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import INPUT_NAMES
from penstock_routers.onnx_wire import Damaged, field_of, fields, message, text

VECTOR_OUTPUT: Final = INPUT_NAMES[0]
"""What the joined graph calls the prompt vector: the name of the router's input."""
_ENCODER_OUTPUT: Final = "vectors"
_SMALLEST_LENGTH: Final = 1e-30  # a prompt without tokens keeps its zeros
_MIDDLE: Final = "penstock/unit/"
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_FLOAT, _INT64 = 1, 7
Content = bytes | memoryview
_OPSETS: Final = range(13, 18)  # ReduceSum takes its axes as an input, and ReduceMax does not yet


@dataclass
class _Parts:
    """What a model's file consists of; the pieces are views of the file."""

    ir_version: int = 0
    operator_sets: dict[str, int] = field(default_factory=dict)
    nodes: list[memoryview] = field(default_factory=list)
    initializers: list[memoryview] = field(default_factory=list)
    inputs: dict[str, memoryview] = field(default_factory=dict)
    outputs: dict[str, memoryview] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


def join_graphs(encoder: bytes, router: bytes) -> bytes:
    """Join an encoder's graph and a router's.

    Parameters
    ----------
    encoder : bytes
        ``token ids [, attention mask] → vectors (n, d)``.
    router : bytes
        ``prompt_vector (n, d), features, reference_arm → `` the outputs of a router.

    Returns
    -------
    bytes
        The encoder's inputs, ``features`` and ``reference_arm`` → the router's outputs and ``prompt_vector``, whose
        rows have length 1, or are zeros for a prompt without a token.

    Raises
    ------
    ArtifactError
        ``graphs_do_not_fit``: another input, output or operator set than expected, or both use one name.

    Notes
    -----
    Both have been checked by `penstock_routers.onnx_guard` before; the result is checked again when it is opened.
    ``v / max(√Σv², 10⁻³⁰)`` is what `penstock_routers.encoder.PromptEncoder` divides by, to the last digit or two.
    """
    try:
        first, last = _parts(encoder), _parts(router)
    except Damaged:
        raise _unfit("one of the files is no ONNX file") from None
    if list(first.outputs) != [_ENCODER_OUTPUT] or VECTOR_OUTPUT not in last.inputs:
        raise _unfit("these are not the graphs of an encoder and a router")
    if first.operator_sets.get("") not in _OPSETS or first.operator_sets.get("") != last.operator_sets.get(""):
        raise _unfit("the two graphs use different operator sets, or one that cannot be joined")
    common = first.names & last.names | {name for name in first.names | last.names if name.startswith(_MIDDLE)}
    if common or VECTOR_OUTPUT in first.names:
        raise _unfit(f"both graphs use the name {min(common, default=VECTOR_OUTPUT)!r}")
    nodes, constants = _unit_length()
    vector = last.inputs.pop(VECTOR_OUTPUT)
    all_nodes: list[Content] = [*first.nodes, *nodes, *last.nodes]
    tensors: list[Content] = [*first.initializers, *constants, *last.initializers]
    graph = [
        *(field_of(_NODE, node) for node in all_nodes),
        field_of(2, b"penstock_joined"),
        *(field_of(_INITIALIZER, tensor) for tensor in tensors),
        *(field_of(_INPUT, value) for part in (first, last) for value in part.inputs.values()),
        *(field_of(_OUTPUT, value) for value in (*last.outputs.values(), vector)),
    ]
    operator_sets = last.operator_sets | first.operator_sets
    return b"".join(
        (
            field_of(1, max(first.ir_version, last.ir_version)),
            *(
                field_of(8, field_of(1, domain.encode()) + field_of(2, n))
                for domain, n in sorted(operator_sets.items())
            ),
            field_of(7, b"".join(graph)),
        )
    )


def _parts(model: bytes) -> _Parts:
    """ModelProto: 1 ir_version, 7 graph, 8 opset_import."""
    parts = _Parts()
    for number, value in fields(memoryview(model)):
        if number == 1 and isinstance(value, int):
            parts.ir_version = value
        elif number == 8:
            domain, version = "", 0
            for inner, content in fields(message(value)):
                domain = text(content) if inner == 1 else domain
                version = content if inner == 2 and isinstance(content, int) else version
            parts.operator_sets[domain] = version
        elif number == 7:
            _read_graph(message(value), parts)
    return parts


def _read_graph(graph: memoryview, parts: _Parts) -> None:
    """GraphProto; what is only for people or for tools is left out."""
    for number, value in fields(graph):
        content = message(value)
        if number == _NODE:
            parts.nodes.append(content)
            parts.names.update(_names_made(content))
        elif number == _INITIALIZER:
            parts.initializers.append(content)
            parts.names.add(_name(content, 8))
        elif number == _INPUT:
            parts.inputs[_name(content, 1)] = content
        elif number == _OUTPUT:
            parts.outputs[_name(content, 1)] = content
        elif number == _SPARSE:
            raise _unfit("a graph holds sparse tensors")
    parts.names.update(parts.inputs)


def _names_made(node: memoryview) -> Iterator[str]:
    """Outputs of a node (2), and of those in the graphs (6, 11) of its attributes (5)."""
    for number, value in fields(node):
        if number == 2:
            yield text(value)
        elif number == 5:
            for inner, content in fields(message(value)):
                if inner in (6, 11):
                    for part, nested in fields(message(content)):
                        if part == _NODE:
                            yield from _names_made(message(nested))
                        elif part == _INITIALIZER:
                            yield _name(message(nested), 8)


def _name(content: memoryview, number: int) -> str:
    return next((text(value) for found, value in fields(content) if found == number), "")


def _unit_length() -> tuple[list[bytes], list[bytes]]:
    """Nodes and constants of ``vectors / max(√Σ vectors², 10⁻³⁰)``."""
    squares, total, length, divisor = (_MIDDLE + name for name in ("squares", "total", "length", "divisor"))
    axis, smallest = _MIDDLE + "axis", _MIDDLE + "smallest"
    nodes = [
        _node("Mul", (_ENCODER_OUTPUT, _ENCODER_OUTPUT), squares),
        _node("ReduceSum", (squares, axis), total),
        _node("Sqrt", (total,), length),
        _node("Max", (length, smallest), divisor),
        _node("Div", (_ENCODER_OUTPUT, divisor), VECTOR_OUTPUT),
    ]
    return nodes, [
        _tensor(axis, np.array([1], dtype=np.int64)),
        _tensor(smallest, np.array(_SMALLEST_LENGTH, dtype=np.float32)),
    ]


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    """NodeProto: 1 input, 2 output, 3 name, 4 op_type."""
    return b"".join(
        (
            *(field_of(1, name.encode()) for name in inputs),
            field_of(2, output.encode()),
            field_of(3, f"{_MIDDLE}{operator}".encode()),
            field_of(4, operator.encode()),
        )
    )


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    """TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data."""
    kind = _INT64 if array.dtype == np.int64 else _FLOAT
    sizes = b"".join(field_of(1, size) for size in array.shape)
    return sizes + field_of(2, kind) + field_of(8, name.encode()) + field_of(9, array.tobytes())


def _unfit(why: str) -> ArtifactError:
    return ArtifactError(f"encoder and router are run one after the other: {why}", code="graphs_do_not_fit")
