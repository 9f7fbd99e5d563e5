"""What a bench ran on: processor, cores, kernel, Python and package versions, printed with every result.

Read `describe_machine`. Standard library only, so that any bench can import it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

DEFAULT_PACKAGES = (
    "penstock",
    "aiohttp",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "numpy",
    "tokenizers",
    "onnxruntime",
)


class Machine(TypedDict):
    """A machine at one moment."""

    processor: str
    cores: int
    usable_cores: int
    kernel: str
    architecture: str
    memory_gb: float | None
    load_average: float | None
    python: str
    packages: dict[str, str]


def describe_machine(packages: Iterable[str] = DEFAULT_PACKAGES) -> Machine:
    """Collect what a reader needs to judge a measurement.

    Parameters
    ----------
    packages : iterable of str
        Distributions whose versions matter; missing ones are shown as ``"absent"``.

    Returns
    -------
    Machine
        `load_average` is the one-minute mean: near 0 on a quiet machine.
    """
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        usable_cores=len(usable_cores()),
        kernel=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        memory_gb=_memory_gb(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        packages={name: _version(name) for name in packages},
    )


def machine_lines(machine: Machine) -> list[str]:
    """Return the description as two lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb']:.0f} GB"
    return [
        f"machine: {machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores usable{memory}, "
        f"{machine['kernel']} {machine['architecture']}, load average {machine['load_average']}",
        f"versions: Python {machine['python']}, {versions}",
    ]


def usable_cores() -> list[int]:
    """Cores that this process may run on; all of them where the system cannot say."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    print("\n".join(machine_lines(describe_machine())))
