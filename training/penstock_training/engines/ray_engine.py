"""Work by the tasks of a Ray cluster: what is shared is put into its object store once, parts become tasks.

Owns the import of Ray, the connection and the life of tasks. Must not know what is computed, writes no file, and keeps
no pickle: Ray's own serialisation travels between the processes of a cluster that is trusted with our code anyway
(docs/ray.md). Read `connected`, then `RayEngine.map`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from penstock_routers.installation import install_command
from penstock_training.engines.protocol import (
    Common,
    EngineName,
    Part,
    Piece,
    Report,
    Result,
    Shared,
    unreported,
)
from penstock_training.errors import TrainingError
from penstock_training.fit import single_threaded

ADDRESS_VARIABLE: Final = "RAY_ADDRESS"
RETRIES: Final = 3  # of a task whose worker died; an error that our code raised is never retried
_CANCEL_SECONDS: Final = 5.0  # a cancelled task ends when its worker is told, which a busy machine delays
_IN_FLIGHT_PER_CPU: Final = 2  # one that runs, and one whose arguments are on their way
_JOIN_SECONDS: Final = 60.0  # that a cluster without a single worker is given
_PACKAGES: Final = ("penstock", "numpy", "scipy", "scikit-learn", "onnxruntime")


@dataclass(frozen=True, slots=True)
class RayEngine:
    """The tasks of a cluster that this process is connected to.

    Attributes
    ----------
    cpus_per_task : float
        What each task asks the cluster for, > 0.
    """

    cpus_per_task: float

    @property
    def name(self) -> EngineName:
        """``"ray"``."""
        return "ray"

    @property
    def in_flight(self) -> int:
        """Tasks handed to the cluster at a time, >= 1: two per task that its present nodes can run."""
        slots = sum(int(cpus // self.cpus_per_task) for cpus in _node_cpus())
        return max(1, _IN_FLIGHT_PER_CPU * slots)

    def share(self, common: Common) -> Shared[Common]:
        """Put it into the object store; it leaves the store with the last reference to it."""
        import ray

        return Shared(ray.put(common))

    def map(
        self,
        function: Callable[[Common, Part], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        report: Report = unreported,
    ) -> list[Result]:
        """Apply a function to every part, each in a task; see `penstock_training.engines.protocol.Engine.map`.

        Notes
        -----
        At most `in_flight` tasks, as counted at the beginning, are with the cluster at a time, so arguments and results
        do not pile up in its store.
        A task whose worker dies is run again, `RETRIES` times. Whatever ends this call early, Ctrl-C included, cancels
        what is still running.
        """
        task, in_flight = self._task(_applied), self.in_flight
        found: dict[int, Result] = {}
        pending: dict[Any, int] = {}
        queue = iter(enumerate(parts))
        report(0, len(parts))
        with _cancelling(pending):
            while len(found) < len(parts):
                while len(pending) < in_flight and (following := next(queue, None)) is not None:
                    number, part = following
                    pending[task.remote(function, shared.held, part)] = number
                for ref in _finished(pending):
                    number = pending.pop(ref)
                    found[number] = _fetched(ref)
                report(len(found), len(parts))
        return [_unwrapped(found[number]) for number in range(len(parts))]

    def shuffle(
        self,
        spread: Callable[[Common, Part], Sequence[Piece]],
        gather: Callable[[Common, Sequence[Piece]], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        pieces: int,
    ) -> list[Result]:
        """Spread in tasks, gather in tasks; pieces stay in the store; see the protocol's `Engine.shuffle`.

        Notes
        -----
        A piece that was lost with its node is made again by running its part once more, which is Ray's own affair.
        """
        task, gathered = self._task(_spread, num_returns=pieces), self._task(_gathered)
        refs = [task.remote(spread, shared.held, part, pieces) for part in parts]
        columns = [[row if pieces == 1 else row[number] for row in refs] for number in range(pieces)]
        pending = {gathered.remote(gather, shared.held, *column): number for number, column in enumerate(columns)}
        found: dict[int, Any] = {}
        with _cancelling(pending):
            while pending:
                for ref in _finished(pending):
                    found[pending.pop(ref)] = _fetched(ref)
        return [_unwrapped(found[number]) for number in range(pieces)]

    def _task(self, function: Callable[..., Any], **options: Any) -> Any:
        import ray

        made = ray.remote(function)
        return made.options(num_cpus=self.cpus_per_task, max_retries=RETRIES, retry_exceptions=False, **options)


@contextmanager
def connected(address: str | None, *, cpus_per_task: float = 1.0) -> Iterator[RayEngine]:
    """Connect to a Ray cluster, or start one on this machine, for as long as the context lasts.

    Parameters
    ----------
    address : str or None
        ``ray://host:10001`` from anywhere, ``auto`` or ``host:6379`` on a node of the cluster; None takes the variable
        ``RAY_ADDRESS``, and without that a cluster of this machine's processors, which ends with the context.
    cpus_per_task : float
        > 0. Linear algebra keeps to one thread whatever it says; more leave memory to each task.

    Yields
    ------
    RayEngine

    Raises
    ------
    TrainingError
        ``missing_extra``: Ray is not installed; ``ray_unreachable``; ``ray_too_small``: no node has as many
        processors as a task asks for; ``ray_version_mismatch``: workers would compute with other packages.
    """
    if importlib.util.find_spec("ray") is None:
        message = f"--engine ray needs Ray, which is not installed; run: {install_command('cpu,fit,ray')}"
        raise TrainingError(message, code="missing_extra")
    import ray

    address = address or os.environ.get(ADDRESS_VARIABLE) or None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    if (address or "").startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise TrainingError(
            f"an address of the form ray:// needs grpcio; run: {install_command('cpu,fit,ray')}", code="missing_extra"
        )
    local = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "Ray cannot be started here"
        if address:
            where = f"no Ray cluster answers at {address}: look at address, port and token (RAY_AUTH_TOKEN)"
        raise TrainingError(f"{where} ({type(error).__name__})", code="ray_unreachable") from error
    try:
        yield _checked(cpus_per_task)
    finally:
        ray.shutdown()


def _node_cpus() -> list[float]:
    """Processors of each node that is there."""
    import ray

    return [float(node["Resources"].get("CPU", 0.0)) for node in ray.nodes() if node["Alive"]]


def _checked(cpus_per_task: float) -> RayEngine:
    """Refuse a cluster that could not run a task, or would run other code than ours."""
    until = time.monotonic() + _JOIN_SECONDS
    while not (largest := max(_node_cpus(), default=0.0)) and time.monotonic() < until:
        time.sleep(1.0)  # a cluster that was made for this run: its workers are still on their way
    if largest < cpus_per_task:
        raise TrainingError(
            f"a task asks for {cpus_per_task:g} processors and the largest Ray node has {largest:g}; "
            "lower --ray-cpus-per-task, or add nodes",
            code="ray_too_small",
        )
    engine = RayEngine(cpus_per_task)
    here, there = installed(None, 0), engine.map(installed, engine.share(None), [0])[0]
    if differing := [
        f"{name} {here[name]} here, {there.get(name)} there" for name in here if here[name] != there.get(name)
    ]:
        raise TrainingError(
            f"the Ray workers have other packages than this process: {'; '.join(differing)}. Run both from one image",
            code="ray_version_mismatch",
        )
    return engine


def installed(shared: None, part: int) -> dict[str, str]:
    """Versions of what a result depends on, where this is called."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "missing"


# ----------------------------------------------------------------------------------------------------- in the workers


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error of ours, as a value: Ray would wrap it, and a caller may go on without the part."""

    error: TrainingError


def _applied(function: Callable[[Any, Any], Any], common: Any, part: Any) -> Any:
    try:
        with single_threaded():
            return function(common, part)
    except TrainingError as error:
        return _Raised(error)


def _spread(function: Callable[[Any, Any], Sequence[Any]], common: Any, part: Any, pieces: int) -> Any:
    found = _applied(function, common, part)
    if isinstance(found, _Raised):
        found = [found] * pieces
    return found[0] if pieces == 1 else tuple(found)


def _gathered(function: Callable[[Any, Sequence[Any]], Any], common: Any, *pieces: Any) -> Any:
    raised = next((piece for piece in pieces if isinstance(piece, _Raised)), None)
    return raised if raised is not None else _applied(function, common, pieces)


# ------------------------------------------------------------------------------------------------------ in the driver


def _finished(pending: dict[Any, int]) -> list[Any]:
    """Wait for a task; a second at a time, so that an interruption is seen."""
    import ray

    while True:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        if ready:
            return list(ready)


def _fetched(ref: Any) -> Any:
    """Fetch what a task returned.

    Raises
    ------
    TrainingError
        ``ray_task_failed``: its worker died too often, or its node ran out of memory.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError:
        raise  # a fault in our code: with its own traceback, as it would have here
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"a Ray task was lost {RETRIES + 1} times or could not run ({type(error).__name__}); "
            "workers that die are mostly short of memory",
            code="ray_task_failed",
        ) from error


def _unwrapped(found: Any) -> Any:
    if isinstance(found, _Raised):
        raise found.error
    return found


@contextmanager
def _cancelling(pending: dict[Any, int]) -> Iterator[None]:
    """Cancel the tasks that are left when the body ends early, whatever ended it, and wait until they have ended."""
    try:
        yield
    except BaseException:
        import ray

        refs = list(pending)
        for ref in refs:
            ray.cancel(ref, force=True)
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_SECONDS, fetch_local=False)
        raise
