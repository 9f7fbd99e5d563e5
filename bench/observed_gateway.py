"""The gateway as ``penstock serve`` runs it, with a task beside it that writes down how much of everything there is.

For `soak` only: tasks, tracked objects and collections can be counted from inside alone. One JSON object a line, once
a second. Run it with ``python bench/observed_gateway.py --config FILE --samples FILE``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, cast

import click

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.server import serve
from penstock_gateway.settings import load_settings

SAMPLE_SECONDS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Observer:
    """An ASGI application around the gateway's own that samples the process while it serves.

    Parameters
    ----------
    app : PenstockApp
    path : Path
        Where samples are written, one JSON object a line.
    """

    def __init__(self, app: PenstockApp, path: Path) -> None:
        self._app = app
        self.pipeline = app.pipeline  # the server reads its settings in force from it
        self._path = path
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand everything on; the first call starts the sampling."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._sample())
        await self._app(scope, receive, send)

    async def _sample(self) -> None:
        _fill_worker_threads()
        with self._path.open("w", encoding="utf-8", buffering=1) as file:
            while True:
                await asyncio.sleep(SAMPLE_SECONDS)
                file.write(json.dumps(sample()) + "\n")


def _fill_worker_threads() -> None:
    """Start every thread of the loop's pool, as a busy moment would: filling up to a bound is no growth."""
    count = min(32, (os.cpu_count() or 1) + 4)  # of `concurrent.futures.ThreadPoolExecutor`, which the loop makes
    everybody = threading.Barrier(count)
    for _ in range(count):
        asyncio.get_running_loop().run_in_executor(None, everybody.wait)


def sample() -> dict[str, float]:
    """Return how much of everything this process has; call it on the event loop."""
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "time": time.monotonic(),
        "rss_mb": resident_pages * _PAGE_BYTES / 1e6,
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
        "collections": sum(generation["collections"] for generation in gc.get_stats()),
        "uncollectable": sum(generation["uncollectable"] for generation in gc.get_stats()),
    }


@click.command()
@click.option("--config", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--samples", type=click.Path(path_type=Path), required=True)
def main(config: Path, samples: Path) -> None:
    """Serve until interrupted, and write samples."""
    settings = load_settings(config, os.environ)
    serve(settings, cast(PenstockApp, Observer(create_app(settings), samples)))


if __name__ == "__main__":
    main()
