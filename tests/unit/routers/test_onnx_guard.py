"""What the guard lets through, against graphs written by the onnx package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock_routers.bundled import bundled_folder
from penstock_routers.errors import ArtifactError, EncoderError
from penstock_routers.onnx_guard import refuse_unsafe_graph


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def _tensor(name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(2, dtype=np.float32), name)


def _external(name: str = "w") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def _model(
    nodes: list[onnx.NodeProto] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    domains: tuple[str, ...] = ("",),
) -> onnx.ModelProto:
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [_value("x")], [_value("y")], initializers or [_tensor()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 17) for domain in domains])


def _if_node(inner: onnx.NodeProto, initializers: list[onnx.TensorProto] | None = None) -> onnx.NodeProto:
    """Put a node into the second branch; the first stays plain, so that nesting doubles nothing."""
    plain = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "then", [], [_value("z")])
    branch = helper.make_graph([inner], "else", [], [_value("z")], initializers or [])
    return helper.make_node("If", ["c"], ["y"], then_branch=plain, else_branch=branch)


def _with_function() -> onnx.ModelProto:
    model = _model([helper.make_node("Twice", ["x"], ["y"], domain="local")], domains=("", "local"))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return model


def _with_training() -> onnx.ModelProto:
    model = _model()
    model.training_info.add().algorithm.name = "step"
    return model


def _nested(depth: int) -> onnx.ModelProto:
    node = helper.make_node("Neg", ["x"], ["z"])
    for _ in range(depth):
        node = _if_node(node)
    return _model([node])


def _sparse_attribute() -> onnx.ModelProto:
    sparse = onnx.SparseTensorProto(dims=[4], values=_external("values"), indices=_tensor("indices"))
    return _model([helper.make_node("Constant", [], ["y"], sparse_value=sparse)])


def _sparse_initializer() -> onnx.ModelProto:
    model = _model()
    model.graph.sparse_initializer.add().values.CopyFrom(_external("values"))
    return model


def _only_location() -> onnx.ModelProto:
    tensor = _tensor()
    tensor.data_location = TensorProto.EXTERNAL
    return _model(initializers=[tensor])


UNSAFE: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {
    "external initializer": ("graph_external_data", lambda: _model(initializers=[_external()])),
    "external by location alone": ("graph_external_data", _only_location),
    "external constant": (
        "graph_external_data",
        lambda: _model([helper.make_node("Constant", [], ["y"], value=_external())]),
    ),
    "external sparse initializer": ("graph_external_data", _sparse_initializer),
    "external sparse attribute": ("graph_external_data", _sparse_attribute),
    "external in a subgraph": (
        "graph_external_data",
        lambda: _model([_if_node(helper.make_node("Neg", ["w"], ["z"]), [_external()])]),
    ),
    "custom domain": (
        "graph_unknown_operator",
        lambda: _model([helper.make_node("Add", ["x", "w"], ["y"], domain="evil")], domains=("", "evil")),
    ),
    "custom domain that is not imported": (
        "graph_unknown_operator",
        lambda: _model([helper.make_node("Add", ["x", "w"], ["y"], domain="evil")]),
    ),
    "custom domain in a subgraph": (
        "graph_unknown_operator",
        lambda: _model([_if_node(helper.make_node("Neg", ["w"], ["z"], domain="evil"))]),
    ),
    "imported custom domain": ("graph_unknown_operator", lambda: _model(domains=("", "evil"))),
    "operator that loads a file": (
        "graph_unknown_operator",
        lambda: _model([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]),
    ),
    "model-local function": ("graph_unknown_operator", _with_function),
    "training graph": ("graph_unsupported_section", _with_training),
    "subgraphs nested too deep": ("graph_unsupported_section", lambda: _nested(20)),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_guard_unsafe_graph_is_refused_with_its_code(case: str) -> None:
    """Whatever reaches outside the file or is no known arithmetic is refused, even where contrib operators may be."""
    code, build = UNSAFE[case]
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(build().SerializeToString(), allow_contrib_operators=True)
    assert caught.value.code == code


def test_guard_function_with_a_standard_name_is_refused_as_a_section() -> None:
    """A model-local function may not redefine a standard operator either."""
    model = _model()
    body = [helper.make_node("Sub", ["a", "b"], ["c"])]
    model.functions.append(helper.make_function("", "Add", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)]))
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(model.SerializeToString(), allow_contrib_operators=True)
    assert caught.value.code == "graph_unsupported_section"


def test_guard_field_repeated_behind_the_graph_is_refused_too() -> None:
    """Protobuf merges a repeated message field; the guard visits every occurrence, so nothing hides there."""
    safe, hidden = _model().SerializeToString(), _model(initializers=[_external("v")]).SerializeToString()
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(safe + hidden, allow_contrib_operators=False)
    assert caught.value.code == "graph_external_data"


@pytest.mark.parametrize("model", [_model(), _nested(3), _model(domains=("", "ai.onnx.ml", "com.microsoft"))])
def test_guard_self_contained_graph_of_standard_operators_passes(model: onnx.ModelProto) -> None:
    """Standard operators, nested subgraphs and the imports that runtimes always write are allowed."""
    refuse_unsafe_graph(model.SerializeToString(), allow_contrib_operators=False)


def test_guard_contrib_operator_passes_only_where_allowed() -> None:
    """A fused operator of the runtime is for encoders; an artifact does without."""
    node = helper.make_node("FastGelu", ["x", "w"], ["y"], domain="com.microsoft")
    content = _model([node], domains=("", "com.microsoft")).SerializeToString()
    refuse_unsafe_graph(content, allow_contrib_operators=True)
    with pytest.raises(EncoderError) as caught:
        refuse_unsafe_graph(content, allow_contrib_operators=False, error=EncoderError)
    assert caught.value.code == "graph_unknown_operator"


def test_guard_too_large_file_is_refused_by_its_size() -> None:
    """The size limit is checked before anything is parsed."""
    content = _model().SerializeToString()
    refuse_unsafe_graph(content, allow_contrib_operators=False, max_bytes=len(content))
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(content, allow_contrib_operators=False, max_bytes=len(content) - 1)
    assert caught.value.code == "graph_too_large"


@pytest.mark.parametrize("content", [b"", b"\x00", b"not an onnx file", b"PK\x03\x04" + b"\x00" * 60, b"\xff" * 40])
def test_guard_bytes_that_are_no_model_are_refused_as_damaged(content: bytes) -> None:
    """A file that is no ONNX model is refused without a traceback of the parser."""
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(content, allow_contrib_operators=False)
    assert caught.value.code == "graph_damaged"


def test_guard_private_runtime_format_is_refused() -> None:
    """The runtime would open its own flat-buffer format from bytes as well; the guard cannot read it."""
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(b"\x18\x00\x00\x00ORTM" + b"\x00" * 64, allow_contrib_operators=True)
    assert caught.value.code == "graph_unsupported_section"


def test_guard_every_truncation_of_a_graph_is_refused() -> None:
    """A file cut anywhere inside its graph is damaged."""
    content = _model().SerializeToString()
    graph_end = len(content) - len(_model().opset_import[0].SerializeToString()) - 2
    for size in range(1, graph_end):
        with pytest.raises(ArtifactError):
            refuse_unsafe_graph(content[:size], allow_contrib_operators=False)


@pytest.mark.parametrize("name", ["static-minilm-256", "minilm-l6-v2"])
def test_guard_shipped_encoder_needs_no_contrib_operator(name: str) -> None:
    """The stored encoders consist of standard operators only; the runtime fuses them when it opens them."""
    content = Path(bundled_folder(name) / "encoder.onnx").read_bytes()
    refuse_unsafe_graph(content, allow_contrib_operators=False)
