"""Runs bound to memory of their own, on the CPU's runtime in the place of a GPU's."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from penstock_routers import cuda_buffers
from penstock_routers.cuda_buffers import BoundRun, LockedMemory, TensorShape, size_of
from penstock_routers.errors import EncoderError

INPUTS = [TensorShape("a", (2, 3), np.dtype(np.int64)), TensorShape("b", (2,), np.dtype(np.float32))]
OUTPUTS = [TensorShape("c", (2,), np.dtype(np.float32)), TensorShape("d", (2, 3), np.dtype(np.int64))]


def _session() -> Any:
    """``c = -b`` and ``d = a + a``, of any number of rows."""
    given = [
        helper.make_tensor_value_info("a", TensorProto.INT64, ["n", 3]),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"]),
    ]
    found = [
        helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("d", TensorProto.INT64, ["n", 3]),
    ]
    nodes = [helper.make_node("Neg", ["b"], ["c"]), helper.make_node("Add", ["a", "a"], ["d"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, found), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _bound(session: Any, outputs: list[TensorShape]) -> BoundRun:
    def failed(failure: Exception) -> EncoderError:
        return EncoderError(type(failure).__name__, code="onnx_run_failed")

    return BoundRun(onnxruntime, session, INPUTS, outputs, onnxruntime.RunOptions(), failed)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_buffers, "_DEVICE", ("cpu", 0))
    monkeypatch.setattr(cuda_buffers, "cuda_runtime", lambda: None)


def test_bound_run_answers_what_its_inputs_hold_at_each_call() -> None:
    """Inputs are written in place, and the outputs come in the order of their names."""
    bound = _bound(_session(), OUTPUTS)
    bound.inputs["a"][:] = [[1, 2, 3], [4, 5, 6]]
    bound.inputs["b"][:] = [1.0, -2.0]
    assert [output.tolist() for output in bound()] == [[-1.0, 2.0], [[2, 4, 6], [8, 10, 12]]]
    bound.inputs["b"][:] = [7.0, 8.0]
    assert [output.tolist() for output in bound()] == [[-7.0, -8.0], [[2, 4, 6], [8, 10, 12]]]


def test_bound_run_holds_what_size_of_foretells() -> None:
    """The size of the blocks is known before they are taken: each tensor from a multiple of 256 bytes on."""
    assert _bound(_session(), OUTPUTS).size_bytes == size_of(INPUTS, OUTPUTS) == 4 * 256


def test_bound_run_that_fails_raises_the_error_it_was_given() -> None:
    """The runtime's own exceptions never reach the caller."""
    bound = _bound(_session(), [TensorShape("c", (3,), np.dtype(np.float32)), OUTPUTS[1]])
    with pytest.raises(EncoderError) as caught:
        bound()
    assert caught.value.code == "onnx_run_failed"


@pytest.mark.parametrize(("answer", "is_locked"), [(0, True), (2, False)])
def test_locked_memory_is_given_back_once_where_it_was_locked(answer: int, is_locked: bool) -> None:
    """Pages that CUDA locked are unlocked before they are freed, and only those; a refusal leaves ordinary memory."""
    calls: list[str] = []

    def called(name: str, result: int) -> Any:
        def call(*_: Any) -> int:
            calls.append(name)
            return result

        return call

    runtime = SimpleNamespace(
        cudaHostRegister=called("lock", answer),
        cudaHostUnregister=called("unlock", 0),
        cudaGetLastError=called("clear", 0),
    )
    memory = LockedMemory(512, cast(ctypes.CDLL, runtime))
    assert memory.is_locked is is_locked
    memory.release()
    memory.release()
    assert calls == (["lock", "unlock"] if is_locked else ["lock", "clear"])
    assert (memory.block.nbytes, memory.is_locked) == (512, False)
