"""Joining two graphs byte by byte, against graphs written by the onnx package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock_routers.errors import ArtifactError
from penstock_routers.graph_join import join_graphs
from penstock_routers.onnx_session import create_session
from penstock_routers.onnx_wire import field_of, fields


def _encoder(*, output: str = "vectors", constant: str = "weight", version: int = 17) -> bytes:
    """``token_ids (n, t) → vectors (n, 2)``: how many tokens there are, times (3, 4)."""
    nodes = [
        helper.make_node("Cast", ["token_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["sums"]),
        helper.make_node("Mul", ["sums", constant], [output]),
    ]
    tensors = [
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
        numpy_helper.from_array(np.array([3.0, 4.0], dtype=np.float32), constant),
    ]
    ids = helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["texts", "tokens"])
    vectors = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["texts", 2])
    return _saved(helper.make_graph(nodes, "encoder", [ids], [vectors], tensors), version)


def _router(*, input_name: str = "prompt_vector", constant: str = "bias", branch: str = "inner") -> bytes:
    """``prompt_vector (n, 2) → quality (n, 2)``: the vector plus 1, by a branch that is always taken."""
    inner = helper.make_graph(
        [helper.make_node("Add", [input_name, constant], [branch])],
        "then",
        [],
        [helper.make_tensor_value_info(branch, TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], ["quality"], then_branch=inner, else_branch=inner)]
    tensors = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array([1.0], dtype=np.float32), constant),
    ]
    vector = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", 2])
    quality = helper.make_tensor_value_info("quality", TensorProto.FLOAT, ["n", 2])
    return _saved(helper.make_graph(nodes, "router", [vector], [quality], tensors), 17)


def _saved(graph: onnx.GraphProto, version: int) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def test_join_graphs_gives_a_valid_model_of_both() -> None:
    """The result passes the onnx checker and computes router(unit(encoder)); a row of zeros stays one."""
    joined = join_graphs(_encoder(), _router())
    onnx.checker.check_model(onnx.load_from_string(joined), full_check=True)
    session = create_session(joined)
    assert session.input_names == ("token_ids",)
    found = dict(zip(session.output_names, session.run({"token_ids": np.array([[1, 4], [0, 0]])}), strict=True))
    np.testing.assert_allclose(found["prompt_vector"], [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
    np.testing.assert_allclose(found["quality"], [[1.6, 1.8], [1.0, 1.0]], atol=1e-7)


@pytest.mark.parametrize(
    ("encoder", "router"),
    [
        (_encoder(output="embedding"), _router()),
        (_encoder(), _router(input_name="vector")),
        (_encoder(version=12), _router()),
        (_encoder(version=18), _router()),
        (_encoder(constant="bias"), _router()),
        (_encoder(constant="inner"), _router()),
        (_encoder(constant="penstock/unit/axis"), _router()),
        (b"\xff" * 9, _router()),
    ],
    ids=["output", "input", "operators", "other operators", "name", "name in a branch", "our name", "no graph"],
)
def test_join_graphs_that_do_not_fit_are_refused(encoder: bytes, router: bytes) -> None:
    """Another shape of graph, another operator set, or a name that both use: nothing is joined."""
    with pytest.raises(ArtifactError) as caught:
        join_graphs(encoder, router)
    assert caught.value.code == "graphs_do_not_fit"


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**40, b"", b"x", b"y" * 200])
def test_field_of_is_read_back(value: int | bytes) -> None:
    """What is written is read as it was, numbers of more than seven bits and long contents included."""
    ((number, found),) = fields(memoryview(field_of(300, value)))
    assert number == 300
    assert (found if isinstance(found, int) else bytes(found)) == value
