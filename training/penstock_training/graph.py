"""Building ONNX graphs: constants and nodes with names of their own, equal ones stored once.

Owns the only use of ``onnx`` for writing routers. Must not know what is computed: heads and the frame say that. Read
`GraphBuilder.op`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock_routers.manifest import TensorSpec

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET: Final = 17  # 2022; every ONNX Runtime since 1.12 reads it
TREE_OPSET: Final = 3  # of ai.onnx.ml, which holds the standard tree operators; 2021
IR_VERSION: Final = 8


class GraphBuilder:
    """Collects nodes and constants; the same operation on the same inputs is computed once.

    Two members of an ensemble that compare a prompt with the same prototypes therefore share that product without
    knowing of each other.
    """

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._known: dict[Any, tuple[str, ...]] = {}
        self._domains: set[str] = {""}

    def constant(self, value: Any, dtype: Any = np.float32, *, name: str | None = None) -> str:
        """Add a constant, once for equal content.

        Parameters
        ----------
        value : array_like
        dtype : numpy type
        name : str, optional
            For constants that are looked up in the file later; only one may have it.

        Returns
        -------
        str
            Name of the tensor.

        Raises
        ------
        ValueError
            Another constant has the name.
        """
        from onnx import numpy_helper

        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        key = ("constant", name, str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        if name is not None and key not in self._known and any(tensor.name == name for tensor in self._constants):
            raise ValueError(f"two different constants are called {name!r}")
        if key not in self._known:
            self._known[key] = (name or f"c{len(self._constants)}",)
            self._constants.append(numpy_helper.from_array(array, self._known[key][0]))
        return self._known[key][0]

    def op(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        return self._node(operator, inputs, 1, domain, attributes)[0]

    def split(self, source: str, widths: Sequence[int]) -> tuple[str, ...]:
        """Cut the second axis into parts of the given widths."""
        if len(widths) == 1:
            return (source,)
        sizes = self.constant(list(widths), np.int64)
        return self._node("Split", (source, sizes), len(widths), "", {"axis": 1})

    def top(self, source: str, count: int) -> tuple[str, str]:
        """Find the `count` largest entries of every row: values and positions, each (n, count)."""
        values, positions = self._node("TopK", (source, self.constant([count], np.int64)), 2, "", {"axis": 1})
        return values, positions

    def smallest(self, source: str, count: int) -> str:
        """Return the `count` smallest entries of every row, rising, (n, count)."""
        return self._node("TopK", (source, self.constant([count], np.int64)), 2, "", {"axis": 1, "largest": 0})[0]

    def quantized(self, source: str) -> tuple[str, str, str]:
        """Round to whole numbers from 0 to 255: the numbers, their step, and which of them is 0."""
        numbers, step, zero = self._node("DynamicQuantizeLinear", (source,), 3, "", {})
        return numbers, step, zero

    def output(self, name: str, source: str) -> None:
        """Give a tensor its public name."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [source], [name], name=name))

    def affine(self, source: str, weight: Any, bias: Any) -> str:
        """``source @ weight + bias`` for a weight of shape (k, m) and a bias of shape (m,)."""
        return self.op("Gemm", source, self.constant(weight), self.constant(bias))

    def total(self, source: str, *, keepdims: int = 1) -> str:
        """Sum over the second axis."""
        return self.op("ReduceSum", source, self.constant([1], np.int64), keepdims=keepdims)

    def model(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
        """Serialise, after the checker has passed it; the same calls give the same bytes."""
        from onnx import TensorProto, checker, helper

        types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
        declared = [
            [helper.make_tensor_value_info(spec.name, types[spec.type], list(spec.shape)) for spec in specs]
            for specs in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, name, *declared, initializer=self._constants)
        versions = {"": OPSET, "ai.onnx.ml": TREE_OPSET}
        opsets = [helper.make_opsetid(domain, versions[domain]) for domain in sorted(self._domains)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="penstock")
        model.ir_version = IR_VERSION
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _node(
        self, operator: str, inputs: Sequence[str], outputs: int, domain: str, attributes: dict[str, Any]
    ) -> tuple[str, ...]:
        from onnx import helper

        shown = tuple((key, _hashable(value)) for key, value in sorted(attributes.items()))
        key = (operator, domain, tuple(inputs), outputs, shown)
        if key not in self._known:
            start = len(self._nodes)
            names = tuple(f"t{start}" if outputs == 1 else f"t{start}_{part}" for part in range(outputs))
            self._nodes.append(
                helper.make_node(operator, list(inputs), list(names), name=f"n{start}", domain=domain, **attributes)
            )
            self._domains.add(domain)
            self._known[key] = names
        return self._known[key]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
