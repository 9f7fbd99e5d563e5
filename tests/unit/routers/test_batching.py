"""Continuous batching with a bounded wait, and the way from CUDA to the CPU within a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_routers.batching import Batcher
from penstock_routers.cuda_fallback import FallbackSession
from penstock_routers.errors import EncoderError

LONG = 0.9  # longer than any test may take to notice that it should not have waited


class Runs:
    """Doubles numbers and records the batches; waits for `gate` in each when told to."""

    def __init__(self, *, is_gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.started = asyncio.Event()
        self.threads: set[int] = set()
        self._loop = asyncio.get_running_loop()
        if not is_gated:
            self.gate.set()

    def __call__(self, items: list[int]) -> list[int]:
        """Run one batch."""
        self.batches.append(items)
        self.threads.add(threading.get_ident())
        self._loop.call_soon_threadsafe(self.started.set)
        assert self.gate.wait(timeout=20)
        return [2 * item for item in items]


def _batcher(runs: Runs, *, rows: int = 4, wait: float = 0.0, limit: int = 16) -> Batcher[int, int]:
    return Batcher(runs, max_rows=lambda: rows, queue_limit=limit, max_wait_seconds=wait)


async def _submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_batcher_with_a_full_batch_does_not_wait_for_more() -> None:
    """The item that fills the batch ends the wait, whatever is left of it."""
    runs = Runs()
    batcher = _batcher(runs, rows=3, wait=LONG)
    first = await _submitted(batcher, 1, 2)
    await asyncio.sleep(0)
    assert runs.batches == []  # the wait is on
    began = asyncio.get_running_loop().time()
    last = await _submitted(batcher, 3)
    assert await asyncio.gather(*first, *last) == [2, 4, 6]
    assert runs.batches == [[1, 2, 3]]
    assert asyncio.get_running_loop().time() - began < LONG  # or it was the time that ended it
    await batcher.aclose(1.0)


async def test_batcher_with_few_items_runs_them_when_the_wait_is_over() -> None:
    """Nobody waits for company that does not come; the thread is not the event loop's."""
    runs = Runs()
    batcher = _batcher(runs, wait=0.005)
    tasks = await _submitted(batcher, 1, 2)
    assert runs.batches == []
    assert await asyncio.gather(*tasks) == [2, 4]
    assert runs.batches == [[1, 2]]
    assert threading.get_ident() not in runs.threads
    await batcher.aclose(1.0)


async def test_batcher_without_a_wait_starts_with_the_first_item() -> None:
    """At 0 an idle batcher adds nothing, and what arrives meanwhile is the next batch."""
    runs = Runs(is_gated=True)
    batcher = _batcher(runs)
    tasks = await _submitted(batcher, 1)
    await runs.started.wait()
    tasks += await _submitted(batcher, 2, 3, 4, 5, 6)
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12]
    assert runs.batches == [[1], [2, 3, 4, 5], [6]]
    await batcher.aclose(1.0)


async def test_batcher_counts_the_wait_from_an_items_arrival() -> None:
    """An item that sat behind a run for longer than the wait goes at once when that run ends."""
    runs = Runs(is_gated=True)
    now = [100.0]
    loop = asyncio.get_running_loop()
    real, loop.time = loop.time, lambda: now[0]  # type: ignore[method-assign]
    try:
        batcher = _batcher(runs, rows=2, wait=LONG)
        tasks = await _submitted(batcher, 1, 2)
        await runs.started.wait()
        tasks += await _submitted(batcher, 3)
        now[0] += LONG
        runs.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]  # with the clock standing still a wait would never end
    finally:
        loop.time = real  # type: ignore[method-assign]
    assert runs.batches == [[1, 2], [3]]
    await batcher.aclose(1.0)


async def test_batcher_closed_during_the_wait_fails_the_waiting_at_once() -> None:
    """The end does not wait for company either, and nothing is run for callers that were told so."""
    runs = Runs()
    batcher = _batcher(runs, wait=LONG)
    tasks = await _submitted(batcher, 1)
    await batcher.aclose(1.0)
    (failure,) = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failure, EncoderError)
    assert failure.code == "encoder_closed"
    assert runs.batches == []
    with pytest.raises(EncoderError, match="shutting down"):
        await batcher.submit(2)


async def test_batcher_with_a_full_queue_refuses_and_forgets_who_left() -> None:
    """Memory is bounded, and a cancelled item makes room."""
    runs = Runs(is_gated=True)
    batcher = _batcher(runs, rows=1, limit=2)
    tasks = await _submitted(batcher, 1)
    await runs.started.wait()
    tasks += await _submitted(batcher, 2, 3)
    with pytest.raises(EncoderError) as caught:
        await batcher.submit(4)
    assert caught.value.code == "encoder_queue_full"
    tasks.pop().cancel()
    await asyncio.sleep(0)
    tasks += await _submitted(batcher, 5)
    runs.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 10]
    assert runs.batches == [[1], [2], [5]]
    await batcher.aclose(1.0)


async def test_batcher_with_too_few_results_fails_its_callers_and_goes_on() -> None:
    """A run that loses an answer hangs nobody."""
    batcher: Batcher[int, int] = Batcher(lambda items: items[1:], max_rows=lambda: 4, queue_limit=4)
    with pytest.raises(EncoderError) as caught:
        await batcher.submit(1)
    assert caught.value.code == "encoder_failed"
    assert batcher.waiting == 0
    await batcher.aclose(1.0)


@pytest.mark.parametrize("wait", [-0.1, 1.0, float("nan")])
async def test_batcher_with_an_impossible_wait_is_refused(wait: float) -> None:
    """A wait of a second or more is a mistake of units."""
    with pytest.raises(ValueError, match="max_wait_seconds"):
        _batcher(Runs(), wait=wait)


class FakeSession:
    """A session that adds one, or fails."""

    def __init__(self, device: str, reason: str | None = None) -> None:
        self.device = device
        self.fallback_reason = reason
        self.input_names = ("x",)
        self.fails_on: set[float] = set()
        self.runs = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run once."""
        self.runs += 1
        if float(feeds["x"][0]) in self.fails_on:
            raise EncoderError("CUDA error 700: an illegal memory access", code="onnx_run_failed")
        return (feeds["x"] + 1,)


class Pair:
    """A session on CUDA with a CPU behind it."""

    def __init__(self) -> None:
        self.cuda, self.cpu = FakeSession("cuda"), FakeSession("cpu")
        self.opened: list[str] = []
        self.session = FallbackSession(self.cuda, self._open)

    def run(self, value: float) -> float:
        """Run one number."""
        return float(self.session.run({"x": np.array([value])})[0][0])

    def _open(self, reason: str) -> FakeSession:
        self.opened.append(reason)
        self.cpu.fallback_reason = reason
        return self.cpu


def test_fallback_session_without_a_fault_never_opens_the_cpu() -> None:
    """The second copy of the weights costs nothing until it is needed."""
    pair = Pair()
    assert pair.run(1.0) == 2.0
    assert (pair.session.device, pair.opened, pair.cpu.runs) == ("cuda", [], 0)


def test_fallback_session_after_a_device_fault_answers_from_the_cpu_and_stays_there() -> None:
    """The run that met the fault succeeds, the device is not asked again, and the reason can be read."""
    pair = Pair()
    pair.cuda.fails_on = {1.0}
    assert pair.run(1.0) == 2.0
    assert pair.run(2.0) == 3.0
    assert pair.cuda.runs == 1
    assert pair.session.device == "cpu"
    assert "illegal memory access" in (pair.session.fallback_reason or "")
    assert len(pair.opened) == 1


def test_fallback_session_with_feeds_that_fail_everywhere_keeps_the_device() -> None:
    """A bad input is not the device's fault: its caller gets the error, everybody else the GPU."""
    pair = Pair()
    pair.cuda.fails_on = pair.cpu.fails_on = {1.0}
    for _ in range(2):
        with pytest.raises(EncoderError):
            pair.run(1.0)
    assert pair.run(2.0) == 3.0
    assert pair.session.device == "cuda"
    assert (pair.cuda.runs, len(pair.opened)) == (3, 1)


async def test_batch_that_meets_a_device_fault_fails_no_request() -> None:
    """All callers of the batch get their results, computed on the CPU."""
    pair = Pair()
    pair.cuda.fails_on = {1.0}
    batcher: Batcher[float, float] = Batcher(
        lambda items: pair.session.run({"x": np.array(items)})[0].tolist(),
        max_rows=lambda: 3,
        queue_limit=8,
        max_wait_seconds=LONG,
    )
    assert await asyncio.gather(*(batcher.submit(value) for value in (1.0, 2.0, 3.0))) == [2.0, 3.0, 4.0]
    assert (pair.session.device, pair.cpu.runs) == ("cpu", 1)
    await batcher.aclose(1.0)
