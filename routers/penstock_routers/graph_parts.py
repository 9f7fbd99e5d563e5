"""What an ONNX file consists of, taken apart and put together without copying what stays as it is.

Owns the pieces that `penstock_routers.graph_join` and `penstock_routers.serving_graph` need, so that neither the
``onnx`` package nor a second copy of the weights on disk is needed. Field numbers are those of ``onnx.proto3``. Read
`read_parts`, then `written`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_routers.onnx_wire import Damaged, field_of, fields, message, text

Content = bytes | memoryview

_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_FLOAT, _INT64 = 1, 7
_INT_ATTRIBUTE: Final = 2
_GRAPH_ATTRIBUTES: Final = (6, 11)


@dataclass
class GraphParts:
    """What a model's file consists of; the pieces are views of the file.

    Attributes
    ----------
    ir_version : int
    operator_sets : dict of str to int
        Version by domain; the standard one is ``""``.
    nodes, initializers : list of bytes or memoryview
        In the file's order.
    inputs, outputs : dict of str to bytes or memoryview
        By name, in the file's order.
    names : set of str
        Of everything that the graph makes or holds.
    """

    ir_version: int = 0
    operator_sets: dict[str, int] = field(default_factory=dict)
    nodes: list[Content] = field(default_factory=list)
    initializers: list[Content] = field(default_factory=list)
    inputs: dict[str, Content] = field(default_factory=dict)
    outputs: dict[str, Content] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class NodeParts(msgspec.Struct, frozen=True, gc=False):
    """What a node reads, makes and does.

    Attributes
    ----------
    operator : str
    inputs, outputs : tuple of str
    has_graphs : bool
        Some attribute is a graph of its own, which may read anything.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_graphs: bool

    @classmethod
    def of(cls, content: Content) -> NodeParts:
        """Read a node; `Damaged` where it is none."""
        found: dict[int, list[str]] = {1: [], 2: [], 4: []}
        has_graphs = False
        for number, value in fields(memoryview(content)):
            if number in found:
                found[number].append(text(value))
            elif number == 5:
                has_graphs |= any(inner in _GRAPH_ATTRIBUTES for inner, _ in fields(message(value)))
        return cls("".join(found[4]), tuple(found[1]), tuple(found[2]), has_graphs)


def read_parts(model: bytes) -> GraphParts:
    """Take a model's file apart; what is only for people or for tools is left out.

    Raises
    ------
    Damaged
        It is no ONNX file, or holds sparse tensors.
    """
    parts = GraphParts()
    for number, value in fields(memoryview(model)):  # ModelProto: 1 ir_version, 7 graph, 8 opset_import
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


def written(parts: GraphParts, name: str) -> bytes:
    """Put a model's file together.

    Parameters
    ----------
    parts : GraphParts
    name : str
        Of the graph.
    """
    graph = [
        *(field_of(_NODE, content) for content in parts.nodes),
        field_of(2, name.encode()),
        *(field_of(_INITIALIZER, content) for content in parts.initializers),
        *(field_of(_INPUT, content) for content in parts.inputs.values()),
        *(field_of(_OUTPUT, content) for content in parts.outputs.values()),
    ]
    return b"".join(
        (
            field_of(1, parts.ir_version),
            *(
                field_of(8, field_of(1, domain.encode()) + field_of(2, version))
                for domain, version in sorted(parts.operator_sets.items())
            ),
            field_of(7, b"".join(graph)),
        )
    )


def node(operator: str, inputs: Iterable[str], output: str, attributes: Mapping[str, int] | None = None) -> bytes:
    """Write a node of one output; its attributes are whole numbers >= 0."""
    return b"".join(  # NodeProto: 1 input, 2 output, 3 name, 4 op_type, 5 attribute
        (
            *(field_of(1, name.encode()) for name in inputs),
            field_of(2, output.encode()),
            field_of(3, f"{output}/{operator}".encode()),
            field_of(4, operator.encode()),
            *(
                field_of(5, field_of(1, name.encode()) + field_of(3, value) + field_of(20, _INT_ATTRIBUTE))
                for name, value in (attributes or {}).items()
            ),
        )
    )


def tensor(name: str, array: NDArray[Any]) -> bytes:
    """Write a constant of float32 or int64."""
    kind = _INT64 if array.dtype == np.int64 else _FLOAT  # TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data
    sizes = b"".join(field_of(1, size) for size in array.shape)
    return sizes + field_of(2, kind) + field_of(8, name.encode()) + field_of(9, array.tobytes())


def rows_of_floats(name: str, row_axis: str) -> bytes:
    """Declare an output of float32 with a row per prompt and any number of columns."""
    axes = field_of(1, field_of(2, row_axis.encode())) + field_of(1, b"")
    kind = field_of(1, field_of(1, _FLOAT) + field_of(2, axes))
    return field_of(1, name.encode()) + field_of(2, kind)  # ValueInfoProto: 1 name, 2 type


def _read_graph(graph: memoryview, parts: GraphParts) -> None:
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
            raise Damaged
    parts.names.update(parts.inputs)


def _names_made(content: memoryview) -> Iterator[str]:
    """Outputs of a node (2), and of those in the graphs (6, 11) of its attributes (5)."""
    for number, value in fields(content):
        if number == 2:
            yield text(value)
        elif number == 5:
            for inner, attribute in fields(message(value)):
                if inner in _GRAPH_ATTRIBUTES:
                    for part, nested in fields(message(attribute)):
                        if part == _NODE:
                            yield from _names_made(message(nested))
                        elif part == _INITIALIZER:
                            yield _name(message(nested), 8)


def _name(content: memoryview, number: int) -> str:
    return next((text(value) for found, value in fields(content) if found == number), "")
