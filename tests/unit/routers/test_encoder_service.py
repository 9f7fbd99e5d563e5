"""The encoder inside an event loop: batches, bounds, cancellation, end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_routers.encoder_service import EncoderService
from penstock_routers.errors import EncoderError


class FakeEncoder:
    """Returns the text's length as its vector; a transformer waits for `gate` in every batch."""

    def __init__(self, kind: Literal["static", "transformer"] = "transformer", rows_per_run: int = 4) -> None:
        self.kind: Literal["static", "transformer"] = kind
        self.rows_per_run = rows_per_run
        self.gate = threading.Event()
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.failure: Exception | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Record the batch, wait if this is a transformer, then answer or fail."""
        self.batches.append(list(texts))
        self.threads.add(threading.current_thread().name)
        if self.kind == "transformer":
            assert self.gate.wait(timeout=20)
        if self.failure is not None:
            raise self.failure
        return np.array([[len(text)] for text in texts], dtype=np.float32)


async def _started(encoder: FakeEncoder, batches: int = 1) -> None:
    """Wait until the worker thread is inside its n-th batch."""
    while len(encoder.batches) < batches:
        await asyncio.sleep(0.001)


async def _queued(service: EncoderService, texts: Sequence[str]) -> list[asyncio.Task[NDArray[np.float32]]]:
    tasks = [asyncio.create_task(service.encode(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def test_service_static_encoder_runs_inline() -> None:
    """A static encoder is called on the event loop's own thread; a hand-over would cost more than the work."""
    encoder = FakeEncoder("static")
    service = EncoderService(encoder)
    assert (await service.encode("abc")).tolist() == [3.0]
    assert encoder.threads == {threading.current_thread().name}
    await service.aclose()


async def test_service_texts_that_arrive_during_a_batch_form_the_next() -> None:
    """What queued while the last batch ran is the next batch, and each caller gets its own vector."""
    encoder = FakeEncoder()
    service = EncoderService(encoder)
    tasks = await _queued(service, ["a"])
    await _started(encoder)
    tasks += await _queued(service, ["bb", "ccc"])
    encoder.gate.set()
    assert [vector.tolist() for vector in await asyncio.gather(*tasks)] == [[1.0], [2.0], [3.0]]
    assert encoder.batches == [["a"], ["bb", "ccc"]]
    await service.aclose()


async def test_service_batch_never_exceeds_what_the_encoder_takes() -> None:
    """A long queue is worked off in batches of `rows_per_run`, in order, in one thread."""
    encoder = FakeEncoder(rows_per_run=2)
    encoder.gate.set()
    service = EncoderService(encoder)
    await asyncio.gather(*await _queued(service, list("abcde")))
    assert encoder.batches == [["a", "b"], ["c", "d"], ["e"]]
    assert len(encoder.threads) == 1
    assert threading.current_thread().name not in encoder.threads
    await service.aclose()


async def test_service_full_queue_refuses_the_next_text() -> None:
    """The queue is bounded: one text more is an error at once, and the waiting ones are still answered."""
    encoder = FakeEncoder(rows_per_run=1)
    service = EncoderService(encoder, queue_limit=2)
    tasks = await _queued(service, ["a"])
    await _started(encoder)
    tasks += await _queued(service, ["b", "c"])
    with pytest.raises(EncoderError) as caught:
        await service.encode("d")
    assert caught.value.code == "encoder_queue_full"
    assert service.waiting == 2
    encoder.gate.set()
    assert len(await asyncio.gather(*tasks)) == 3
    await service.aclose()


async def test_service_cancelled_text_frees_its_place_and_is_not_encoded() -> None:
    """A request that goes away while it waits costs nothing and does not block the queue."""
    encoder = FakeEncoder(rows_per_run=1)
    service = EncoderService(encoder, queue_limit=1)
    first = await _queued(service, ["a"])
    await _started(encoder)
    (gone,) = await _queued(service, ["gone"])
    gone.cancel()
    await asyncio.sleep(0)
    later = await _queued(service, ["b"])
    encoder.gate.set()
    await asyncio.gather(*first, *later)
    assert encoder.batches == [["a"], ["b"]]
    await service.aclose()


async def test_service_cancelled_text_of_a_running_batch_leaves_the_others_alone() -> None:
    """Cancelling one caller of the batch that is running does not cancel the batch."""
    encoder = FakeEncoder()
    service = EncoderService(encoder)
    tasks = await _queued(service, ["a", "bb"])
    await _started(encoder)
    tasks[0].cancel()
    await asyncio.sleep(0)
    encoder.gate.set()
    assert (await tasks[1]).tolist() == [2.0]
    assert tasks[0].cancelled()
    await service.aclose()


@pytest.mark.parametrize(
    ("failure", "code"),
    [(EncoderError("no", code="onnx_run_failed"), "onnx_run_failed"), (ZeroDivisionError("secret"), "encoder_failed")],
)
async def test_service_failing_batch_fails_its_callers_and_goes_on(failure: Exception, code: str) -> None:
    """Every caller of a failed batch gets an error of its own without internals; the next batch is tried."""
    encoder = FakeEncoder()
    encoder.gate.set()
    encoder.failure = failure
    service = EncoderService(encoder)
    results = await asyncio.gather(*await _queued(service, ["a", "b"]), return_exceptions=True)
    codes = {result.code for result in results if isinstance(result, EncoderError)}
    assert codes == {code}
    assert results[0] is not results[1]
    assert "secret" not in str(results[0])
    encoder.failure = None
    assert (await service.encode("abcd")).tolist() == [4.0]
    await service.aclose()


async def test_service_close_answers_the_running_batch_and_fails_the_waiting() -> None:
    """Closing lets the running batch finish, fails who still waits, refuses who comes later; nobody hangs."""
    encoder = FakeEncoder(rows_per_run=1)
    service = EncoderService(encoder)
    running = await _queued(service, ["a"])
    await _started(encoder)
    waiting = await _queued(service, ["b"])
    closing = asyncio.create_task(service.aclose())
    await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.wait_for(closing, 20)
    assert (await running[0]).tolist() == [1.0]
    with pytest.raises(EncoderError) as caught:
        await waiting[0]
    assert caught.value.code == "encoder_closed"
    with pytest.raises(EncoderError) as late:
        await service.encode("c")
    assert late.value.code == "encoder_closed"
    assert encoder.batches == [["a"]]
    await service.aclose()


async def test_service_close_with_a_stuck_batch_fails_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not end within the closing time leaves no caller waiting."""
    monkeypatch.setattr("penstock_routers.encoder_service.CLOSE_TIMEOUT_SECONDS", 0.01)
    encoder = FakeEncoder()
    service = EncoderService(encoder)
    stuck = await _queued(service, ["a"])
    await _started(encoder)
    await service.aclose()
    with pytest.raises(EncoderError) as caught:
        await asyncio.wait_for(stuck[0], 20)
    assert caught.value.code == "encoder_closed"
    encoder.gate.set()  # lets the worker thread end


def test_service_with_an_impossible_queue_limit_is_refused() -> None:
    """A queue has room for at least one text."""
    with pytest.raises(ValueError, match="queue_limit"):
        EncoderService(FakeEncoder("static"), queue_limit=0)
