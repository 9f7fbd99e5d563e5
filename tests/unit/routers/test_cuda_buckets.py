"""When prompts are padded to a captured graph, and what happens where that is not possible."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_routers import cuda_buckets
from penstock_routers.cuda_buckets import BucketedSession, PromptShape
from penstock_routers.cuda_buffers import BoundRun, TensorShape, size_of
from penstock_routers.cuda_capture import CaptureGate
from penstock_routers.cuda_fallback import FallbackSession, FaultCount
from penstock_routers.errors import EncoderError, RouterError

Array = NDArray[Any]
PADDING = 9
LIMIT = PromptShape(rows=8, tokens=64, padding_token_id=PADDING)


def _answer(feeds: Mapping[str, Array]) -> tuple[Array, ...]:
    """Of each row: the sum of its tokens and its features, and its number of tokens; the reference arm for all."""
    mask = feeds["attention_mask"]
    assert mask.any(axis=1).all(), "a row without a token"
    assert (feeds["input_ids"][mask == 0] == PADDING).all(), "what is masked is padding"
    sums = (feeds["input_ids"] * mask).sum(axis=1) + feeds["features"].sum(axis=1) + feeds["reference_arm"][0]
    return np.stack([sums, sums], axis=1).astype(np.float32), mask.sum(axis=1)


class FakeBound:
    """A bound run that computes on its buffers, and fails when told to."""

    def __init__(self, owner: FakeCuda, inputs: list[TensorShape], outputs: list[TensorShape]) -> None:
        self.inputs = {each.name: np.full(each.shape, 77, dtype=each.dtype) for each in inputs}
        self.size_bytes = size_of(inputs, outputs)
        self._owner, self._outputs, self._is_captured = owner, outputs, False

    def __call__(self) -> tuple[Array, ...]:
        """Capture, then replay."""
        if self._owner.failing == ("replay" if self._is_captured else "capture"):
            raise EncoderError("CUDA error 700", code="onnx_run_failed")
        self._owner.done.append("replay" if self._is_captured else "capture")
        self._is_captured = True
        found = _answer(self.inputs)
        assert [(each.shape, each.dtype) for each in self._outputs] == [(each.shape, each.dtype) for each in found]
        return found


class FakeCuda:
    """A session on CUDA that writes down what it did."""

    device = "cuda"
    fallback_reason = None
    input_names = ("input_ids", "attention_mask", "features", "reference_arm")
    output_names = ("sums", "counts")

    def __init__(self) -> None:
        self.done: list[str] = []
        self.ids: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.failing = ""

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        """Run plainly."""
        if self.failing == "plain":
            raise EncoderError("CUDA error 700", code="onnx_run_failed")
        self.done.append("plain")
        return _answer(feeds)

    def bind(self, inputs: list[TensorShape], outputs: list[TensorShape], graph_id: int) -> BoundRun:
        """Prepare a capture."""
        self.ids.append(graph_id)
        self.shapes.append(inputs[0].shape)
        return cast(BoundRun, FakeBound(self, inputs, outputs))


def _feeds(*lengths: int) -> dict[str, Array]:
    """Prompts of so many tokens each, padded to the longest."""
    mask = (np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.arange(1, mask.size + 1).reshape(mask.shape), PADDING)
    features = np.arange(2.0 * len(lengths), dtype=np.float32).reshape(len(lengths), 2)
    return {"input_ids": ids, "attention_mask": mask, "features": features, "reference_arm": np.array([3])}


def _same(found: tuple[Array, ...], feeds: Mapping[str, Array]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(found, _answer(feeds), strict=True))


def test_bucketed_session_meets_a_shape_plainly_then_captures_then_replays() -> None:
    """A shape that comes once is not worth a capture; from the third time on nothing is launched singly."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    feeds = _feeds(5, 3, 4)
    assert all(_same(session.run(feeds), feeds) for _ in range(4))
    assert cuda.done == ["plain", "capture", "replay", "replay"]
    assert (cuda.ids, cuda.shapes, session.captured) == ([1], [(4, 16)], 1)
    assert session.buffer_bytes == 8 * 256


def test_bucketed_session_gives_rows_of_the_prompts_asked_for_whatever_came_before() -> None:
    """What a longer or larger batch left in the buffers is gone in the next: padding, and rows of one padding token."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    batches = [_feeds(16, 16, 16, 16), _feeds(16, 2, 9, 16), _feeds(2, 1, 1), _feeds(12, 3, 4), _feeds(1, 1, 16)]
    assert [_same(session.run(feeds), feeds) for feeds in batches] == [True] * 5
    assert cuda.done == ["plain", "capture", "replay", "replay", "replay"]


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [((1,), (1, 16)), ((17,), (1, 32)), ((16, 2), (2, 16)), ((33,) * 5, (8, 64)), ((64,) * 8, (8, 64))],
)
def test_bucketed_session_pads_to_the_next_step(lengths: tuple[int, ...], shape: tuple[int, int]) -> None:
    """Rows by powers of two and tokens from 16 on, both up to the encoder's own limit."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    feeds = _feeds(*lengths)
    assert [_same(session.run(feeds), feeds) for _ in range(2)] == [True, True]
    assert cuda.shapes == [shape]


@pytest.mark.parametrize("lengths", [(65,), (1,) * 9])
def test_bucketed_session_with_more_than_the_largest_shape_runs_plainly(lengths: tuple[int, ...]) -> None:
    """What fits no graph is answered all the same."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    feeds = _feeds(*lengths)
    assert [_same(session.run(feeds), feeds) for _ in range(3)] == [True] * 3
    assert cuda.done == ["plain"] * 3


def test_bucketed_session_captures_no_more_graphs_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the number of graphs new shapes run plainly, and old ones are still replayed."""
    monkeypatch.setattr(cuda_buckets, "MAX_GRAPHS", 1)
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    for feeds in (_feeds(3), _feeds(20)) * 3:
        assert _same(session.run(feeds), feeds)
    assert cuda.done == ["plain", "plain", "capture", "plain", "replay", "plain"]


def test_bucketed_session_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape whose buffers do not fit any more runs plainly."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    monkeypatch.setattr(cuda_buckets, "MAX_BUFFER_BYTES", 6 * 256)
    small, large = _feeds(3), _feeds(20, 20, 20, 20, 20)
    for feeds in (small, small, large, large):
        assert _same(session.run(feeds), feeds)
    assert (session.captured, session.buffer_bytes) == (1, 6 * 256)
    assert cuda.done == ["plain", "capture", "plain", "plain"]


def test_bucketed_session_whose_captures_fail_runs_plainly_and_gives_up_after_three(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No request fails for a capture; each failure is logged, and there are three at most."""
    cuda = FakeCuda()
    cuda.failing = "capture"
    session = BucketedSession(cuda, LIMIT)
    feeds = _feeds(4)
    with caplog.at_level(logging.WARNING, "penstock_routers"):
        assert [_same(session.run(feeds), feeds) for _ in range(6)] == [True] * 6
    assert cuda.ids == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == ["cuda_graph_not_captured"] * 3
    assert (session.captured, session.buffer_bytes, cuda.done) == (0, 0, ["plain"] * 6)


def test_bucketed_session_while_others_use_the_device_captures_later() -> None:
    """Opening another graph takes a second: requests go on plainly meanwhile, and the capture is made afterwards."""
    cuda, gate = FakeCuda(), CaptureGate()
    session = BucketedSession(cuda, LIMIT, gate)
    feeds = _feeds(4)
    with gate.other_work():
        assert [_same(session.run(feeds), feeds) for _ in range(3)] == [True] * 3
    assert _same(session.run(feeds), feeds)
    assert cuda.done == ["plain", "plain", "plain", "capture"]


def test_bucketed_session_captures_for_each_thread() -> None:
    """The runtime keeps captured graphs by thread: another one may not count on them."""
    cuda = FakeCuda()
    session = BucketedSession(cuda, LIMIT)
    feeds = _feeds(4)

    def work() -> None:
        for _ in range(3):
            session.run(feeds)

    work()
    other = threading.Thread(target=work)
    other.start()
    other.join(10)
    assert cuda.done == ["plain", "capture", "replay"] * 2
    assert cuda.ids == [1, 2]


class FakeCpu:
    """The graph on the CPU."""

    device = "cpu"
    input_names = FakeCuda.input_names

    def __init__(self, reason: str) -> None:
        self.fallback_reason = reason

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        """Answer, or refuse feeds that are at fault themselves."""
        if "broken" in feeds:
            raise EncoderError("bad feeds", code="onnx_run_failed")
        return _answer(feeds)


@pytest.mark.parametrize("fault", ["plain", "replay"])
def test_fallback_from_a_bucketed_session_answers_counts_and_logs_once(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the device in a plain or a replayed run costs no request: one count, one warning, then the CPU."""
    cuda, faults = FakeCuda(), FaultCount()
    session = FallbackSession(BucketedSession(cuda, LIMIT), FakeCpu, faults)
    feeds = _feeds(4, 2)
    for _ in range(3):
        session.run(feeds)
    cuda.failing = fault
    asked = _feeds(30) if fault == "plain" else feeds
    with caplog.at_level(logging.WARNING, "penstock_routers"):
        assert [_same(session.run(asked), asked) for _ in range(3)] == [True] * 3
    assert (session.device, faults.total) == ("cpu", 1)
    assert [record.getMessage() for record in caplog.records] == ["graph_on_cpu"]
    assert "CUDA error 700" in str(session.fallback_reason)


def test_fallback_after_a_capture_that_broke_the_device_answers_from_the_cpu() -> None:
    """A capture that fails is tried plainly, and where that fails too it was the device."""
    cuda, faults = FakeCuda(), FaultCount()
    session = FallbackSession(BucketedSession(cuda, LIMIT), FakeCpu, faults)
    feeds = _feeds(4)
    session.run(feeds)
    cuda.failing = "capture"

    def plainly_too(feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        raise EncoderError("CUDA error 700", code="onnx_run_failed")

    cuda.run = plainly_too  # type: ignore[method-assign]
    assert _same(session.run(feeds), feeds)
    assert (session.device, faults.total) == ("cpu", 1)


def test_fallback_with_feeds_that_the_cpu_refuses_too_keeps_the_device() -> None:
    """Bad feeds are no fault of the device: nothing is counted and CUDA stays."""
    cuda, faults = FakeCuda(), FaultCount()
    session = FallbackSession(BucketedSession(cuda, LIMIT), FakeCpu, faults)
    cuda.failing = "plain"
    with pytest.raises(RouterError, match="bad feeds"):
        session.run(_feeds(4) | {"broken": np.zeros(1)})
    assert (session.device, faults.total) == ("cuda", 0)
