"""Writes metrics as Prometheus' text: what `prometheus_client.generate_latest` writes, at a fraction of its time.

Owns the registry that remembers its collectors in their order. The counters and histograms of `loop_metrics` keep the
beginning of every line, name and labels, and write only the value at each scrape; all others are left to the client.
Read `exposition`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector


@runtime_checkable
class WritesText(Protocol):
    """A collector that writes its own part of the exposition."""

    def text(self) -> str:
        """Return its lines in Prometheus' text format, version 0.0.4."""
        ...


class OrderedRegistry(CollectorRegistry):
    """A registry that can be asked for its collectors; the client's own keeps them to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Add a collector.

        Raises
        ------
        ValueError
            Another one has a metric of that name.
        """
        super().register(collector)
        self.collectors.append(collector)

    def unregister(self, collector: Collector) -> None:
        """Take a collector out."""
        super().unregister(collector)
        self.collectors.remove(collector)


def exposition(registry: OrderedRegistry) -> bytes:
    """Return all metrics of a registry in Prometheus' text format, in the order in which they were registered.

    Parameters
    ----------
    registry : OrderedRegistry

    Returns
    -------
    bytes
        UTF-8, byte for byte what `prometheus_client.generate_latest` returns.

    Notes
    -----
    O(series). ``bench/scrape.py`` measures the processor time.
    """
    return b"".join(
        collector.text().encode() if isinstance(collector, WritesText) else generate_latest(collector)
        for collector in registry.collectors
    )


def escaped(value: str) -> str:
    """Return a label's value as it stands between quotation marks."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def labelled(name: str, labels: dict[str, str]) -> str:
    """Return the beginning of a sample's line: its name, its labels by name, and the space before the value.

    Examples
    --------
    >>> labelled("requests_total", {"status": "200", "model": "small"})
    'requests_total{model="small",status="200"} '
    """
    if not labels:
        return f"{name} "
    inside = ",".join(f'{label}="{escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}} "


def head(name: str, documentation: str, kind: str) -> str:
    """Return the two lines that stand before a metric's samples."""
    shown = documentation.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {shown}\n# TYPE {name} {kind}\n"
