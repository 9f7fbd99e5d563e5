"""Building graphs: equal work is done once, names are stable, named constants are unique."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from penstock_routers.manifest import TensorSpec
from penstock_training.graph import IR_VERSION, OPSET, GraphBuilder

INPUTS = (TensorSpec("x", "float32", ("n", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("n", 2)),)


def _model(weight: np.ndarray) -> bytes:
    b = GraphBuilder()
    b.output("y", b.op("Relu", b.affine("x", weight, np.zeros(2))))
    return b.model("small", INPUTS, OUTPUTS)


def test_op_equal_operation_on_equal_inputs_is_computed_once() -> None:
    """Two members that need the same product share it; other attributes or inputs are other work."""
    b = GraphBuilder()
    weight = np.ones((3, 2))
    first = b.affine("x", weight, np.zeros(2))
    assert b.affine("x", weight.copy(), np.zeros(2)) == first
    assert b.affine("x", 2.0 * weight, np.zeros(2)) != first
    assert b.op("Concat", first, first, axis=1) != b.op("Concat", first, first, axis=0)
    assert b.top("x", 2) == b.top("x", 2)
    b.output("y", first)
    model = onnx.load_model_from_string(b.model("small", INPUTS, OUTPUTS))
    assert sum(node.op_type == "Gemm" for node in model.graph.node) == 2


def test_constant_equal_content_is_stored_once_and_types_are_kept_apart() -> None:
    """The same numbers as another type or shape are another constant."""
    b = GraphBuilder()
    assert b.constant([1.0, 2.0]) == b.constant(np.array([1.0, 2.0]))
    assert b.constant([1], np.int64) != b.constant([1], np.float32)
    assert b.constant([[1.0]]) != b.constant([1.0])


def test_constant_name_belongs_to_one_content() -> None:
    """A later fit looks constants up by name, so two of one name would be a silent mistake."""
    b = GraphBuilder()
    assert b.constant([1.0], name="weight") == "weight"
    assert b.constant([1.0], name="weight") == "weight"
    with pytest.raises(ValueError, match="weight"):
        b.constant([2.0], name="weight")
    assert b.constant([1.0]) != "weight"


def test_model_same_calls_give_the_same_bytes_and_names() -> None:
    """Names count nodes and constants; nothing depends on addresses, hashes or the time."""
    one, two = _model(np.ones((3, 2))), _model(np.ones((3, 2)))
    assert one == two
    other = onnx.load_model_from_string(_model(np.full((3, 2), 5.0)))
    model = onnx.load_model_from_string(one)
    assert [node.name for node in model.graph.node] == [node.name for node in other.graph.node]
    assert [tensor.name for tensor in model.graph.initializer] == [tensor.name for tensor in other.graph.initializer]


def test_model_declares_old_versions_and_only_domains_in_use() -> None:
    """A runtime of some years ago opens a router."""
    model = onnx.load_model_from_string(_model(np.ones((3, 2))))
    assert model.ir_version == IR_VERSION
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]


def test_constant_is_stored_as_float32_of_the_given_number() -> None:
    """Weights are rounded once, to nearest."""
    model = onnx.load_model_from_string(_model(np.full((3, 2), 0.1)))
    stored = numpy_helper.to_array(model.graph.initializer[0])
    assert stored.dtype == np.float32
    assert stored[0, 0] == np.float32(0.1)


def test_split_into_one_part_needs_no_node() -> None:
    """A part as wide as the whole is the whole."""
    b = GraphBuilder()
    assert b.split("x", (3,)) == ("x",)
    assert len(b.split("x", (1, 2))) == 2
