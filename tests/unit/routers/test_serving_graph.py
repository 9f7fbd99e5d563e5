"""The graph as it is run: outputs side by side, guards taken out, nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penstock_routers.bundled import bundled_folder
from penstock_routers.estimates import ROW_ORDER, Columns, Estimate
from penstock_routers.manifest import OUTPUT_NAMES
from penstock_routers.onnx_session import create_session
from penstock_routers.onnx_wire import Damaged
from penstock_routers.serving_graph import ROWS_OUTPUT, serving_graph

ROUTER = (bundled_folder("default-router") / "router.onnx").read_bytes()


def _guarded_router() -> bytes:
    """Two arms; the quality is that of a member that divides by the vector's first number, or else of 0.5."""
    names = [name for name in OUTPUT_NAMES if name not in ("quality", "novelty", "category")]
    nodes = [
        helper.make_node("Gather", ["prompt_vector", "place"], ["first"], axis=1),
        helper.make_node("Div", ["prompt_vector", "first"], ["member"]),
        helper.make_node("Sub", ["member", "member"], ["spread"]),
        helper.make_node("ReduceSum", ["spread", "axis"], ["total"], keepdims=1),
        helper.make_node("IsNaN", ["total"], ["is_bad"]),
        helper.make_node("Where", ["is_bad", "half", "member"], ["chosen"]),
        helper.make_node("Identity", ["chosen"], ["quality"]),
        *(helper.make_node("Mul", ["prompt_vector", "half"], [name]) for name in names),
        helper.make_node("Squeeze", ["first", "axis"], ["novelty"]),
        helper.make_node("Softmax", ["prompt_vector"], ["category"], axis=1),
    ]
    tensors = [
        numpy_helper.from_array(np.array([0], dtype=np.int64), "place"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
        numpy_helper.from_array(np.array([0.5], dtype=np.float32), "half"),
    ]
    vector = helper.make_tensor_value_info("prompt_vector", TensorProto.FLOAT, ["n", 2])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"] if name == "novelty" else ["n", 2])
        for name in OUTPUT_NAMES
    ]
    graph = helper.make_graph(nodes, "router", [vector], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _rows(graph: bytes, vectors: list[list[float]]) -> NDArray[np.float32]:
    session = create_session(graph)
    assert session.output_names == (ROWS_OUTPUT,)
    return session.run({"prompt_vector": np.array(vectors, dtype=np.float32)})[0]


def _operators(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("has_guards", [True, False])
def test_serving_graph_gives_the_numbers_of_the_router_to_the_last_digit(has_guards: bool) -> None:
    """The shipped router's outputs stand in its rows, in the order that `Columns` says, and the model is valid."""
    served = serving_graph(ROUTER, has_guards=has_guards)
    onnx.checker.check_model(onnx.load_from_string(served), full_check=True)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((9, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    feeds = {
        "prompt_vector": vectors,
        "features": random.random((9, 10)).astype(np.float32),
        "reference_arm": np.array([2]),
    }
    plain = create_session(ROUTER)
    wanted = dict(zip(plain.output_names, plain.run(feeds), strict=True))
    rows = create_session(served).run(feeds)[0]
    columns = Columns(("a",) * wanted["quality"].shape[1], ("c",) * wanted["category"].shape[1])
    for name in OUTPUT_NAMES:
        np.testing.assert_array_equal(rows[:, columns.span(name)], wanted[name].reshape(9, -1), err_msg=name)
    assert rows.shape[1] == columns.width + (0 if has_guards else 3 * len(columns.arms))  # three members are guarded
    assert np.isfinite(rows).all()


def test_serving_graph_without_guards_runs_none_of_their_operators() -> None:
    """What only a guard needed is gone, and what it guarded stands behind the row."""
    router = _guarded_router()
    assert {"IsNaN", "Where", "ReduceSum"} <= set(_operators(serving_graph(router)))
    served = serving_graph(router, has_guards=False)
    assert not {"IsNaN", "Where", "Sub", "ReduceSum"} & set(_operators(served))
    guarded, bare = _rows(serving_graph(router), [[2.0, 1.0]]), _rows(served, [[2.0, 1.0]])
    np.testing.assert_array_equal(bare[:, : guarded.shape[1]], guarded)
    np.testing.assert_array_equal(bare[:, guarded.shape[1] :], [[1.0, 0.5]])


@pytest.mark.parametrize("first", [0.0, np.nan])
def test_serving_graph_without_guards_shows_where_one_was_needed(first: float) -> None:
    """A member that gives no number, or an infinite one, is seen behind the row; with guards it is left out."""
    router = _guarded_router()
    guarded = _rows(serving_graph(router), [[first, 1.0]])
    np.testing.assert_array_equal(guarded[0, :2], [0.5, 0.5])
    bare = _rows(serving_graph(router, has_guards=False), [[first, 1.0]])
    assert not np.isfinite(bare[0, guarded.shape[1] :]).all()


def test_serving_graph_of_another_graph_is_that_graph() -> None:
    """What has not a router's outputs is left alone, for the artifact's check to refuse."""
    model = onnx.load_from_string(ROUTER)
    del model.graph.output[0]
    assert serving_graph(model.SerializeToString()) == model.SerializeToString()
    with pytest.raises(Damaged):
        serving_graph(b"\xff\xff not a graph")


def test_estimate_gives_back_what_it_is_made_of() -> None:
    """Every name is read from its own place in the row."""
    parts = {name: [float(10 * place), 10.0 * place + 1] for place, name in enumerate(ROW_ORDER[:5])}
    estimate = Estimate.of(
        ("a", "b"), "a", **parts, novelty=0.25, category="maths", shares={"maths": 0.75, "code": 0.25}
    )
    for name, wanted in parts.items():
        assert getattr(estimate, name).tolist() == wanted
    assert estimate.category_shares() == {"maths": 0.75, "code": 0.25}
    assert (estimate.row[estimate.columns.span("novelty")].tolist(), estimate.novelty) == ([0.25], 0.25)
    order = ("quality", "quality_se", "gain", "gain_se", "output_tokens")
    assert estimate.numbers() == [tuple(parts[name][arm] for name in order) for arm in (0, 1)]
    assert estimate.columns.width == estimate.row.size
