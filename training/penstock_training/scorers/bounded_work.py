"""Work with a time limit that holds: in a process of its own, killed when it is late.

Owns that process. Python's regular expressions backtrack, so a pattern can take longer than the universe on a short
text, and a thread cannot be stopped. Read `BoundedWorker.ask`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from importlib import resources
from typing import Any

from penstock_training.errors import TrainingError

_START_SECONDS = 30.0  # for starting Python on a busy machine


class BoundedWorker:
    """A process that answers one question at a time; started when first asked.

    Parameters
    ----------
    limit_seconds : float
        For one question, > 0.
    """

    def __init__(self, limit_seconds: float = 1.0) -> None:
        self._limit_seconds = limit_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, **question: Any) -> dict[str, Any] | None:
        """Ask.

        Parameters
        ----------
        **question
            As `bounded_worker.answer` takes it.

        Returns
        -------
        dict or None
            Its answer; None when it took too long, or the process died of it.

        Raises
        ------
        TrainingError
            Code ``scorer_worker``: the process cannot be started.
        """
        async with self._turn:
            process = await self._started()
            try:
                return await asyncio.wait_for(_exchange(process, question), self._limit_seconds)
            except (TimeoutError, TrainingError):
                await self._stop()
                return None
            except BaseException:
                await self._stop()
                raise

    async def aclose(self) -> None:
        """End the process."""
        await self._stop()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            process = await asyncio.create_subprocess_exec(
                *_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}
            )
            self._process = process
            # A first question, so that starting Python is not counted as work.
            await asyncio.wait_for(_exchange(process, {"work": "regex", "pattern": "", "text": ""}), _START_SECONDS)
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


def ask_once(question: dict[str, Any], *, limit_seconds: float = _START_SECONDS) -> dict[str, Any]:
    """Ask one question of a fresh process; blocks.

    Raises
    ------
    TrainingError
        Code ``scorer_worker``: it takes too long, or the process ends by itself.
    """
    line = json.dumps(question).encode() + b"\n"
    try:
        done = subprocess.run(_command(), input=line, capture_output=True, timeout=limit_seconds, env={}, check=False)
    except subprocess.TimeoutExpired as error:
        raise TrainingError(f"the check took longer than {limit_seconds:g} s", code="scorer_worker") from error
    if not done.stdout:
        raise _ended()
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _command() -> list[str]:
    return [sys.executable, "-I", str(resources.files(__package__).joinpath("bounded_worker.py"))]


async def _exchange(process: asyncio.subprocess.Process, question: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise _ended()
    process.stdin.write(json.dumps(question).encode() + b"\n")
    try:
        await process.stdin.drain()
        line = await process.stdout.readline()
    except (ConnectionError, BrokenPipeError) as error:
        raise _ended() from error
    if not line:
        raise _ended()
    result: dict[str, Any] = json.loads(line)
    return result


def _ended() -> TrainingError:
    return TrainingError("the process that checks answers ended by itself", code="scorer_worker")
