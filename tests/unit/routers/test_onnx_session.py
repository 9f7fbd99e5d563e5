"""Opening and running graphs, with and without CUDA."""

from __future__ import annotations

import logging
import re
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from penstock_routers import onnx_session
from penstock_routers.cuda_buffers import TensorShape
from penstock_routers.cuda_capture import CaptureGate
from penstock_routers.errors import ArtifactError, EncoderError, MissingExtraError
from penstock_routers.installation import install_command
from penstock_routers.onnx_session import create_session

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def _graph() -> bytes:
    """``y = -x`` over vectors of two numbers."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


class FakeRuntime:
    """An ONNX Runtime whose CUDA provider is offered and then behaves as told."""

    def __init__(self, *, cuda: str) -> None:
        self.cuda = cuda
        self.opened: list[list[Any]] = []
        self.calls: list[Any] = []
        self.sessions: list[Any] = []
        self.SessionOptions = lambda: SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def get_available_providers(self) -> list[str]:
        """CUDA first, as the GPU build says."""
        return [CUDA, CPU]

    def InferenceSession(self, model: bytes, *, sess_options: Any, providers: list[Any]) -> Any:  # noqa: N802
        """Open, fail, or silently open on the CPU alone."""
        self.opened.append(providers)
        captures = (CUDA, {"enable_cuda_graph": "1"}) in providers
        if CUDA in providers and self.cuda == "raises":
            raise RuntimeError("CUDA failure 35: driver too old\n stack trace line")
        if captures and self.cuda == "works without graphs":
            raise RuntimeError("This session cannot use the graph capture feature")
        works = (CUDA in providers or captures) and self.cuda.startswith("works")
        opened = SimpleNamespace(
            get_providers=lambda: [CUDA, CPU] if works else [CPU],
            get_inputs=lambda: [SimpleNamespace(name="x")],
            get_outputs=lambda: [SimpleNamespace(name="y")],
            disable_fallback=lambda: self.calls.append("disable_fallback"),
            run=lambda names, feeds, options: [feeds["x"], self.calls.append(options)],
        )
        self.sessions.append(opened)
        return opened

    def RunOptions(self) -> Any:  # noqa: N802
        """Options that remember their entries."""
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_run_config_entry=entries.__setitem__)


def test_session_on_the_cpu_runs_the_graph() -> None:
    """An opened graph names its inputs and outputs and computes."""
    session = create_session(_graph(), device="cpu")
    (result,) = session.run({"x": np.array([1.0, -2.0], dtype=np.float32)})
    assert (session.device, session.input_names, session.output_names) == ("cpu", ("x",), ("y",))
    assert result.tolist() == [-1.0, 2.0]


def test_session_fed_with_a_wrong_shape_raises_a_coded_error() -> None:
    """The runtime's own exceptions never reach the caller."""
    session = create_session(_graph(), device="cpu", error=EncoderError)
    with pytest.raises(EncoderError) as caught:
        session.run({"x": np.zeros((3, 3), dtype=np.float32)})
    assert caught.value.code == "onnx_run_failed"


def test_session_of_an_invalid_graph_raises_a_coded_error() -> None:
    """A graph that passes the guard and that the runtime cannot open is refused with one line."""
    content = _graph().replace(b"Neg", b"Nag")
    with pytest.raises(ArtifactError) as caught:
        create_session(content, device="cpu")
    assert caught.value.code == "onnx_load_failed"
    assert "\n" not in caught.value.message


def test_session_checks_the_graph_before_the_runtime_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard runs first: a damaged file never reaches the runtime."""
    runtime = FakeRuntime(cuda="works")
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    with pytest.raises(ArtifactError) as caught:
        create_session(b"damaged", device="auto")
    assert (caught.value.code, runtime.opened) == ("graph_damaged", [])


def test_session_without_onnxruntime_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing runtime is an error that says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("cpu"))):
        create_session(_graph())


def test_session_auto_with_working_cuda_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is taken when it works, without a warning."""
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(cuda="works"))
    session = create_session(_graph(), device="auto")
    assert (session.device, session.fallback_reason) == ("cuda", None)


@pytest.mark.parametrize(("behaviour", "reason"), [("raises", "driver too old"), ("ignored", "initialised")])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_session_with_failing_cuda_falls_back_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, behaviour: str, reason: str, device: Any
) -> None:
    """A CUDA provider that fails, loudly or silently, costs a warning and nothing else."""
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(cuda=behaviour))
    with caplog.at_level(logging.WARNING, "penstock_routers"):
        session = create_session(_graph(), device=device)
    assert session.device == "cpu"
    assert session.fallback_reason is not None
    assert reason in session.fallback_reason
    assert "stack trace" not in session.fallback_reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_session_cuda_with_a_cpu_build_falls_back_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for CUDA where the build has none is answered on the CPU and explained; ``auto`` needs no reason."""
    runtime = FakeRuntime(cuda="works")
    monkeypatch.setattr(runtime, "get_available_providers", lambda: [CPU])
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert "no CUDA provider" in str(create_session(_graph(), device="cuda").fallback_reason)
    assert create_session(_graph(), device="auto").fallback_reason is None


def test_session_opened_for_capturing_runs_plainly_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime would capture each run of such a session: a plain one says that it is none, by the number -1."""
    runtime = FakeRuntime(cuda="works")
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    session = create_session(_graph(), device="cuda", capture=True)
    session.run({"x": np.zeros(2, dtype=np.float32)})
    assert (session.device, session.can_capture) == ("cuda", True)
    assert runtime.opened == [[(CUDA, {"enable_cuda_graph": "1"}), CPU]]
    assert runtime.calls[-1].entries == {"gpu_graph_id": "-1"}


def test_session_with_an_operator_without_a_cuda_form_opens_without_capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that cannot be captured still runs on CUDA, launch by launch."""
    runtime = FakeRuntime(cuda="works without graphs")
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    session = create_session(_graph(), device="cuda", capture=True)
    session.run({"x": np.zeros(2, dtype=np.float32)})
    assert (session.device, session.can_capture, session.fallback_reason) == ("cuda", False, None)
    assert runtime.opened[-1] == [CUDA, CPU]
    assert runtime.calls[-1] is None


def test_session_on_the_cpu_never_captures() -> None:
    """Asked for capturing where there is no CUDA, a session is as without."""
    session = create_session(_graph(), device="auto", capture=True)
    (result,) = session.run({"x": np.array([1.0, -2.0], dtype=np.float32)})
    assert (session.device, session.can_capture, result.tolist()) == ("cpu", False, [-1.0, 2.0])


def test_session_goes_over_to_the_cpu_by_our_own_doing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's own way to the CPU, which prints and tells nobody, is off."""
    runtime = FakeRuntime(cuda="works")
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    create_session(_graph(), device="cuda")
    assert runtime.calls == ["disable_fallback"]


def test_session_that_cannot_bind_raises_a_coded_error() -> None:
    """Where the device gives no memory, here because there is none, `bind` says so with the session's own error."""
    session = create_session(_graph(), device="cpu", error=EncoderError)
    numbers = [TensorShape("x", (2,), np.dtype(np.float32))]
    with pytest.raises(EncoderError) as caught:
        session.bind(numbers, numbers, 1)
    assert caught.value.code == "onnx_run_failed"


def test_session_on_cuda_runs_and_is_freed_outside_of_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a run nor the end of a session falls into another session's capture, which would be lost by it."""
    runtime, gate = FakeRuntime(cuda="works"), CaptureGate()
    granted: list[bool] = []

    def run(names: None, feeds: Any, options: Any) -> Any:
        with gate.capture() as is_granted:
            granted.append(is_granted)
        return [feeds["x"]]

    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(onnx_session, "DEVICE_GATE", gate)
    session = create_session(_graph(), device="cuda")
    opened = runtime.sessions[-1]
    opened.run = run
    session.run({"x": np.zeros(2, dtype=np.float32)})
    assert granted == [False]
    opened.memory = FakeRuntime(cuda="works")  # some object that is freed with it
    kept = weakref.ref(opened.memory)
    runtime.sessions.clear()
    with gate.capture() as is_granted:
        assert is_granted
        del session, opened
        assert kept() is not None
    assert kept() is None
