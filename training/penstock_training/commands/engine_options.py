"""The options that say where work is done, and opening that place.

Owns ``--engine`` and what belongs to it. Read `opened_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from penstock_training.engines.protocol import Engine, EngineName


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What the command line says about the engine.

    Attributes
    ----------
    name : {"local", "ray"}
    address : str or None
    cpus_per_task : float
    """

    name: EngineName
    address: str | None
    cpus_per_task: float


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets one argument, `engine`, an `EngineChoice`."""

    @click.option(
        "--engine",
        "engine_name",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Work in this process, or in the tasks of a Ray cluster (docs/ray.md).",
    )
    @click.option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="ray://HOST:10001, or auto on a node of the cluster; without one Ray is started on this machine.  "
        "[env: RAY_ADDRESS]",
    )
    @click.option(
        "--ray-cpus-per-task",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        help="Processors that a task asks Ray for; more leave more memory to each.",
    )
    def wrapped(engine_name: EngineName, ray_address: str | None, ray_cpus_per_task: float, **given: Any) -> None:
        command(engine=EngineChoice(engine_name, ray_address, ray_cpus_per_task), **given)

    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    wrapped.__click_params__ = [*getattr(command, "__click_params__", []), *wrapped.__click_params__]  # type: ignore[attr-defined]  # click keeps a command's options there until it is made
    return wrapped


@contextmanager
def opened_engine(choice: EngineChoice) -> Iterator[Engine]:
    """Open the engine for as long as the context lasts.

    Raises
    ------
    TrainingError
        As `penstock_training.engines.ray_engine.connected`.
    """
    from penstock_training.engines.protocol import LOCAL

    if choice.name == "local":
        yield LOCAL
        return
    from penstock_training.engines.ray_engine import connected

    with connected(choice.address, cpus_per_task=choice.cpus_per_task) as engine:
        yield engine
