"""The guard against arbitrary and mutated files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from penstock_routers.errors import ArtifactError
from penstock_routers.onnx_guard import refuse_unsafe_graph


def _valid() -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    return bytes(helper.make_model(graph).SerializeToString())


VALID = _valid()
VERDICTS = {
    "accepted",
    "graph_damaged",
    "graph_external_data",
    "graph_unknown_operator",
    "graph_unsupported_section",
}


def _verdict(content: bytes) -> str:
    """Return the guard's code; any other exception fails the test."""
    try:
        refuse_unsafe_graph(content, allow_contrib_operators=False)
    except ArtifactError as refusal:
        return refusal.code
    return "accepted"


@given(st.binary(max_size=200))
def test_guard_on_arbitrary_bytes_raises_its_own_error_or_nothing(content: bytes) -> None:
    """No input makes the guard raise anything but its coded error."""
    assert _verdict(content) in VERDICTS


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_guard_on_a_file_with_one_changed_byte_raises_its_own_error_or_nothing(at: int, byte: int) -> None:
    """A flipped byte is refused or harmless; it never crashes the guard."""
    content = VALID[:at] + bytes([byte]) + VALID[at + 1 :]
    assert _verdict(content) in VERDICTS


@given(st.binary(min_size=1, max_size=30).filter(lambda name: name not in (b"ai.onnx", b"ai.onnx.ml")))
def test_guard_on_a_node_of_any_other_domain_refuses(domain: bytes) -> None:
    """Whatever a domain is called, only the standard ones pass."""
    node = b"\x22\x03Add" + b"\x3a" + bytes([len(domain)]) + domain  # NodeProto: 4 op_type, 7 domain
    graph = b"\x0a" + bytes([len(node)]) + node
    model = b"\x3a" + bytes([len(graph)]) + graph
    with pytest.raises(ArtifactError) as caught:
        refuse_unsafe_graph(model, allow_contrib_operators=False)
    assert caught.value.code in ("graph_unknown_operator", "graph_damaged")
