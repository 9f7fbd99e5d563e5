"""Appending an arm to ``router.onnx``: the graph stays as it is, its outputs get one more column.

Owns the surgery and nothing of the fit. What the known arms get must not change by a bit as long as gains are measured
against one of them. Read `append_arm`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from penstock_routers.manifest import INPUT_NAMES, OUTPUT_NAMES
from penstock_training.calibration import QUALITY_BOUND
from penstock_training.errors import TrainingError
from penstock_training.export import output_specs
from penstock_training.onboarding.column import OnboardedColumn

_REFERENCE: Final = INPUT_NAMES[2]
_PASSED_ON: Final = ("novelty", "category")


def append_arm(graph: bytes, column: OnboardedColumn, categories: int) -> bytes:
    """Append an arm.

    Parameters
    ----------
    graph : bytes
        A router graph of m arms, made by `penstock_training.export.build_graph` or by this function.
    column : OnboardedColumn
    categories : int
        Width of the output ``category``.

    Returns
    -------
    bytes
        A router graph of m + 1 arms; the same for the same arguments.

    Raises
    ------
    TrainingError
        ``artifact_graph_unknown``: the graph cannot be extended.

    Notes
    -----
    The old outputs become inner tensors under a prefix that counts the arms, so that this can be done again. Where
    gains are measured against the new arm, the old part measures against the new arm's nearest known one instead, and
    what it says is converted (`OnboardedColumn.predict`). Adds O(m²) operations a prompt.
    """
    from onnx import checker, helper, load_model_from_string
    from onnx.shape_inference import infer_shapes

    arms = column.weight.size
    model = load_model_from_string(graph)
    inner = model.graph
    prefix = f"known{arms}_"
    if any(node.name.startswith(prefix) for node in inner.node) or {o.name for o in inner.output} != set(OUTPUT_NAMES):
        raise TrainingError("the artifact's graph is none that an arm can be added to", code="artifact_graph_unknown")
    renamed = {name: prefix + name for name in (*OUTPUT_NAMES, _REFERENCE)}
    for node in inner.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    surgery = _Surgery(prefix, column)
    surgery.write()
    body = list(inner.node)
    del inner.node[:], inner.output[:]
    # The old part reads which known arm to measure against from the first of the new nodes.
    inner.node.extend([*surgery.before, *body, *surgery.nodes])
    inner.initializer.extend(surgery.constants)
    inner.output.extend(
        helper.make_tensor_value_info(spec.name, 1, list(spec.shape)) for spec in output_specs(arms + 1, categories)
    )
    del inner.value_info[:]
    checker.check_model(infer_shapes(model, check_type=True, strict_mode=True), full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Surgery:
    """The nodes that are added, in order; names carry the prefix."""

    def __init__(self, prefix: str, column: OnboardedColumn) -> None:
        self.prefix = prefix
        self.column = column
        self.before: list[Any] = []
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def write(self) -> None:
        """Write `OnboardedColumn.predict`."""
        arms, p = self.column.weight.size, self.prefix
        is_new = self._op("Equal", _REFERENCE, self._constant([arms], np.int64), early=True)
        nearest = self._constant([self.column.nearest], np.int64)
        self._op("Where", is_new, nearest, _REFERENCE, early=True, name=f"{p}{_REFERENCE}")
        quality = self._op("Concat", f"{p}quality", self._fresh_quality(), name="quality", axis=1)
        reference = self._op("Gather", quality, _REFERENCE, axis=1)
        self._op("Sub", quality, reference, name="gain")
        self._write_errors(is_new)
        mean = self._op("ReduceMean", f"{p}output_tokens", axes=[1], keepdims=1)
        tokens = self._op("Mul", mean, self._constant(self.column.length_ratio))
        self._op("Concat", f"{p}output_tokens", tokens, name="output_tokens", axis=1)
        for name in _PASSED_ON:
            self._op("Identity", p + name, name=name)

    def _fresh_quality(self) -> str:
        weight = self._constant(self.column.weight[:, None])
        raw = self._op("Gemm", f"{self.prefix}quality", weight, self._constant([self.column.bias]))
        return self._op("Clip", raw, self._constant(QUALITY_BOUND), self._constant(1.0 - QUALITY_BOUND))

    def _write_errors(self, is_new: str) -> None:
        """Write ``quality_se`` and ``gain_se``."""
        p, column = self.prefix, self.column
        share = self._constant(np.abs(column.weight)[:, None])
        reach = self._op(
            "Gemm", f"{p}quality", self._constant(column.spread), self._constant(column.spread_bias[None, :])
        )
        square = self._op("ReduceSumSquare", reach, axes=[1], keepdims=1)
        variance = self._op("Add", square, self._constant(column.remainder))
        own = self._root(self._op("MatMul", f"{p}quality_se", share), variance)
        self._op("Concat", f"{p}quality_se", own, name="quality_se", axis=1)
        excess = self._constant(abs(float(column.weight.sum()) - 1.0))
        anchor = self._op("Gather", f"{p}quality_se", f"{p}{_REFERENCE}", axis=1)
        inherited = self._op("Add", self._op("MatMul", f"{p}gain_se", share), self._op("Mul", anchor, excess))
        to_known = self._op("Concat", f"{p}gain_se", self._root(inherited, variance), axis=1)
        through = self._root(self._op("Add", f"{p}gain_se", inherited), variance)
        zero = self._op("Mul", own, self._constant(0.0))
        to_new = self._op("Concat", through, zero, axis=1)
        self._op("Where", is_new, to_new, to_known, name="gain_se")

    def _root(self, error: str, variance: str) -> str:
        """``sqrt(error² + variance)``."""
        return self._op("Sqrt", self._op("Add", self._op("Mul", error, error), variance))

    def _op(self, operator: str, *inputs: str, early: bool = False, name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        nodes = self.before if early else self.nodes
        result = name or f"{self.prefix}t{len(self.before) + len(self.nodes)}"
        label = f"{self.prefix}n{len(self.before) + len(self.nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [result], name=label, **attributes))
        return result

    def _constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype=dtype)), name))
        return name
