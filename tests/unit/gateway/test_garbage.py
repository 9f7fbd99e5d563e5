"""Full collections: while nobody waits, and in any case after a while."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from penstock_gateway import garbage
from penstock_gateway.garbage import (
    LATEST_AFTER_SECONDS,
    LOOK_SECONDS,
    QUIET_AFTER_SECONDS,
    collect_when_quiet,
    give_free_memory_back,
)


class Hours:
    """A clock that the sleeper moves, and that ends the test at its end."""

    def __init__(self, end: float) -> None:
        self.now = 0.0
        self._end = end

    async def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds
        if self.now > self._end:
            raise asyncio.CancelledError


async def _collections(*, is_quiet: bool, hours: Hours) -> list[float]:
    made: list[float] = []
    with pytest.raises(asyncio.CancelledError):
        await collect_when_quiet(
            lambda: is_quiet, collect=lambda: made.append(hours.now), sleep=hours.sleep, clock=lambda: hours.now
        )
    return made


async def test_garbage_of_a_quiet_gateway_is_collected_after_a_while() -> None:
    """Nobody notices, and nothing piles up."""
    made = await _collections(is_quiet=True, hours=Hours(3 * QUIET_AFTER_SECONDS + LOOK_SECONDS))
    assert made == [QUIET_AFTER_SECONDS, 2 * QUIET_AFTER_SECONDS, 3 * QUIET_AFTER_SECONDS]


async def test_garbage_of_a_busy_gateway_is_collected_late_but_is() -> None:
    """A gateway that is never idle stops for a moment every quarter of an hour."""
    made = await _collections(is_quiet=False, hours=Hours(2 * LATEST_AFTER_SECONDS + LOOK_SECONDS))
    assert made == [LATEST_AFTER_SECONDS, 2 * LATEST_AFTER_SECONDS]


def test_garbage_of_old_objects_is_left_to_the_quiet_moments() -> None:
    """The interpreter itself never looks at old objects; in a process of its own, since it is one setting for all."""
    code = (
        "import gc\nfrom penstock_gateway.garbage import spare_old_objects\nspare_old_objects()\n"
        "before = gc.get_stats()[2]['collections']\nkept = [[number] for number in range(400_000)]\n"
        "stats = gc.get_stats()\nassert stats[1]['collections'] > 10, stats\n"
        "assert stats[2]['collections'] == before, stats\nassert gc.get_freeze_count() > 1000"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("has_trim", [True, False])
def test_free_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch, has_trim: bool) -> None:
    """Without glibc nothing happens, and nothing breaks."""
    asked: list[int] = []
    library = SimpleNamespace(malloc_trim=asked.append) if has_trim else SimpleNamespace()
    monkeypatch.setattr(garbage, "ctypes", SimpleNamespace(CDLL=lambda _: library))
    give_free_memory_back()
    assert asked == ([0] if has_trim else [])
