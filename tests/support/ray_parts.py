"""Functions for the workers of a Ray cluster that tests break on purpose; workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError

_WAIT_SECONDS = 60.0


def scaled(vector: NDArray[np.float64], factor: int) -> float:
    """The sum of a shared vector times a factor."""
    return float(factor * vector.sum())


def refused_from(first: int, part: int) -> int:
    """Refuse parts from a number on."""
    if part >= first:
        raise TrainingError(f"part {part} is refused", code="too_few_prompts")
    return part


def dies_once(folder: str, part: int) -> int:
    """Kill the worker at the first try of part 1, as the kernel does when memory is short."""
    tried = Path(folder) / f"tried-{part}"
    if part == 1 and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return part * part


def dies_always(shared: None, part: int) -> int:
    """Kill the worker at every try."""
    os.kill(os.getpid(), signal.SIGKILL)
    return part


def waits(folder: str, part: int) -> int:
    """Part 0 is done at once, others wait for a file and then leave one of their own."""
    if part:
        until = time.monotonic() + _WAIT_SECONDS
        while not (Path(folder) / "go").exists() and time.monotonic() < until:
            time.sleep(0.05)
        (Path(folder) / f"done-{part}").touch()
    return part


def halves(shared: None, part: Sequence[int]) -> list[list[int]]:
    """Even and odd numbers of a part."""
    return [[number for number in part if number % 2 == rest] for rest in (0, 1)]


def sums(shared: None, pieces: Sequence[list[int]]) -> tuple[int, ...]:
    """The sum of each piece, in their order."""
    return tuple(sum(piece) for piece in pieces)


def threads(shared: None, part: int) -> list[int]:
    """How many threads linear algebra may use in the worker."""
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info()]
