"""Who may use the device while a CUDA graph is captured."""

from __future__ import annotations

import threading

from penstock_routers.cuda_capture import CaptureGate


def test_gate_without_other_work_grants_one_capture() -> None:
    """One capture at a time: a second one is refused and not made to wait."""
    gate = CaptureGate()
    with gate.capture() as first, gate.capture() as second:
        assert (first, second) == (True, False)
    with gate.capture() as later:
        assert later


def test_gate_with_other_work_refuses_a_capture() -> None:
    """An allocation of another thread would spoil the capture, so there is none while others are at work."""
    gate = CaptureGate()
    with gate.other_work(), gate.other_work(), gate.capture() as is_granted:
        assert not is_granted
    with gate.capture() as is_granted:
        assert is_granted


def test_gate_makes_other_work_wait_for_the_end_of_a_capture() -> None:
    """Other work begins when the capture is over, also when it failed."""
    gate = CaptureGate()
    order: list[str] = []
    is_asking = threading.Event()

    def work() -> None:
        is_asking.set()
        with gate.other_work():
            order.append("work")

    other = threading.Thread(target=work)
    try:
        with gate.capture() as is_granted:
            assert is_granted
            other.start()
            assert is_asking.wait(10)
            order.append("captured")
            raise RuntimeError("the capture failed")
    except RuntimeError:
        other.join(10)
    assert order == ["captured", "work"]


class Freed:
    """Says when it is let go of."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __del__(self) -> None:
        self._log.append("freed")


def test_gate_frees_what_is_deleted_during_a_capture_after_it() -> None:
    """Freeing spoils a capture, as allocating does; it never waits, since the capturing thread itself may free."""
    gate = CaptureGate()
    log: list[str] = []
    with gate.capture():
        gate.retire({"memory": Freed(log)})
        log.append("captured")
    assert log == ["captured", "freed"]
    gate.retire({"memory": Freed(log)})
    assert log == ["captured", "freed", "freed"]
    with gate.capture() as is_granted:
        assert is_granted


def test_gate_grants_no_capture_while_memory_is_freed() -> None:
    """Freeing takes its time, and is other work for as long."""
    gate = CaptureGate()
    granted: list[bool] = []

    class Slow:
        def __del__(self) -> None:
            with gate.capture() as is_granted:
                granted.append(is_granted)

    gate.retire({"memory": Slow()})
    assert granted == [False]
