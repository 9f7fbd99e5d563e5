"""How an encoder chooses and gives up a device, and what it refuses from a graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock_routers import encoder as encoder_module
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import EncoderManifest, parse_manifest
from penstock_routers.errors import EncoderError

FOLDER = bundled_folder("minilm-l6-v2")


def _manifest(**changes: Any) -> EncoderManifest:
    return msgspec.structs.replace(parse_manifest((FOLDER / "manifest.json").read_bytes()), **changes)


class FakeSessions:
    """Stands for `create_session`; remembers the devices asked for and answers with `answer` on each of them."""

    def __init__(self, answer: Callable[[str, int], np.ndarray[Any, Any]]) -> None:
        self.answer = answer
        self.devices: list[str] = []

    def __call__(self, graph: bytes, *, device: str, fallback_reason: str | None, **_: Any) -> Any:
        """Open on the device asked for; ``auto`` finds CUDA."""
        self.devices.append(device)
        opened = "cuda" if device == "auto" else device
        return SimpleNamespace(
            device=opened,
            fallback_reason=fallback_reason,
            input_names=("input_ids", "attention_mask"),
            run=lambda feeds: (self.answer(opened, len(feeds["input_ids"])),),
        )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PromptEncoder]:
    """Load MiniLM's folder as if it were of another precision, over fake sessions."""

    def load(sessions: FakeSessions, *, device: Any = "auto", **changes: Any) -> PromptEncoder:
        tokenizer = (FOLDER / "tokenizer.json").read_bytes()
        monkeypatch.setattr(encoder_module, "create_session", sessions)
        monkeypatch.setattr(encoder_module, "read_encoder_folder", lambda _: (_manifest(**changes), b"", tokenizer))
        return PromptEncoder.load(Path("fake"), device=device)

    return load


def _ones(device: str, rows: int) -> np.ndarray[Any, Any]:
    return np.ones((rows, 384), dtype=np.float32)


def test_encoder_auto_with_a_float_transformer_tries_cuda(loaded: Callable[..., PromptEncoder]) -> None:
    """A transformer in fp16 goes to the GPU where there is one."""
    sessions = FakeSessions(_ones)
    assert loaded(sessions, precision="fp16").device == "cuda"
    assert sessions.devices == ["auto"]


def test_encoder_with_a_fault_of_the_device_in_a_request_answers_from_the_cpu(
    loaded: Callable[..., PromptEncoder],
) -> None:
    """A GPU that breaks after the start costs no request: the same call is computed on the CPU, and all later ones."""
    is_broken = False

    def answer(device: str, rows: int) -> np.ndarray[Any, Any]:
        if is_broken and device == "cuda":
            raise EncoderError("CUDA error 700", code="onnx_run_failed")
        return _ones(device, rows)

    sessions = FakeSessions(answer)
    encoder = loaded(sessions, precision="fp16")
    is_broken = True
    assert encoder.encode(["one", "two words"]).shape == (2, 384)
    assert (encoder.device, sessions.devices) == ("cpu", ["auto", "cpu"])
    assert "CUDA error 700" in (encoder.fallback_reason or "")


def test_encoder_auto_with_int8_stays_on_the_cpu(loaded: Callable[..., PromptEncoder]) -> None:
    """The int8 operators have no CUDA form, so ``auto`` does not try."""
    sessions = FakeSessions(_ones)
    assert loaded(sessions).device == "cpu"
    assert sessions.devices == ["cpu"]


def test_encoder_cuda_that_opens_and_cannot_run_falls_back(
    loaded: Callable[..., PromptEncoder], caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA that fails in its first run is given up at load, with a warning and a reason."""

    def answer(device: str, rows: int) -> np.ndarray[Any, Any]:
        if device == "cuda":
            raise EncoderError("no kernel image is available", code="onnx_run_failed")
        return _ones(device, rows)

    sessions = FakeSessions(answer)
    with caplog.at_level(logging.WARNING, "penstock_routers"):
        encoder = loaded(sessions, precision="fp16")
    assert (encoder.device, sessions.devices) == ("cpu", ["auto", "cpu"])
    assert "no kernel image" in str(encoder.fallback_reason)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_encoder_that_fails_on_the_cpu_is_refused(loaded: Callable[..., PromptEncoder]) -> None:
    """There is nothing to fall back to from the CPU."""

    def answer(device: str, rows: int) -> np.ndarray[Any, Any]:
        raise EncoderError("bad", code="onnx_run_failed")

    with pytest.raises(EncoderError, match="bad"):
        loaded(FakeSessions(answer), device="cpu")


@pytest.mark.parametrize(
    ("vectors", "code"),
    [
        (np.full((1, 384), np.nan, dtype=np.float32), "encoder_not_finite"),
        (np.full((1, 384), np.inf, dtype=np.float32), "encoder_not_finite"),
        (np.ones((1, 5), dtype=np.float32), "encoder_graph_mismatch"),
        (np.ones((2, 384), dtype=np.float32), "encoder_graph_mismatch"),
    ],
)
def test_encoder_graph_with_a_wrong_answer_is_refused(
    loaded: Callable[..., PromptEncoder], vectors: np.ndarray[Any, Any], code: str
) -> None:
    """Numbers that are not finite and unexpected shapes never become prompt vectors."""
    with pytest.raises(EncoderError) as caught:
        loaded(FakeSessions(lambda device, rows: vectors))
    assert caught.value.code == code


def test_encoder_batches_are_bounded_in_rows(loaded: Callable[..., PromptEncoder]) -> None:
    """A run holds at most `rows_per_run` texts, sorted by length, and the order of the result is the caller's."""
    rows_seen: list[int] = []

    def answer(device: str, rows: int) -> np.ndarray[Any, Any]:
        rows_seen.append(rows)
        return _ones(device, rows)

    encoder = loaded(FakeSessions(answer), precision="fp32", rows_per_run=3)
    rows_seen.clear()
    vectors = encoder.encode(["one", "", "two words", "three words here", "a", "b", "c", "d"])
    assert rows_seen == [3, 3, 1]
    assert np.flatnonzero(vectors.any(axis=1)).tolist() == [0, 2, 3, 4, 5, 6, 7]
