"""Counters and histograms for the request path, which one thread feeds: the event loop's.

The Prometheus client's own take a lock, check their value and look for exemplars each time, 1 to 3 µs, fifteen times a
request; these add to a number. They are read like the others, through a registry, in the same words. Read
`LoopCounter`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from penstock_gateway.metrics_text import head, labelled

_Child = TypeVar("_Child")
_number: Callable[[float], str] = floatToGoString


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add an amount, at least 0."""
        self.value += amount


class Spread:
    """How many values fell into each bucket.

    Parameters
    ----------
    bounds : sequence of float
        Upper bounds of the buckets, rising; one without a bound follows.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound is within it (Prometheus' ``le``)."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class _Labelled(Collector, Generic[_Child]):
    """What the two have in common: one child for each combination of label values.

    Parameters
    ----------
    name, documentation : str
    labels : sequence of str
    registry : CollectorRegistry
    new_child : callable
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        new_child: Callable[[], _Child],
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(labels)
        self._new_child = new_child
        self._children: dict[tuple[str, ...], _Child] = {}
        self._beginnings: dict[tuple[str, ...], tuple[str, ...]] = {}  # of each child's lines, made at a first scrape
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> _Child:
        """Return the child with these label values.

        Raises
        ------
        ValueError
            There are more or fewer values than labels.
        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}")
            child = self._children[values] = self._new_child()
        return child

    def _lines_of(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return the beginnings of a child's lines."""
        found = self._beginnings.get(values)
        if found is None:
            found = self._beginnings[values] = self._begin(dict(zip(self.label_names, values, strict=True)))
        return found

    def _begin(self, labels: dict[str, str]) -> tuple[str, ...]:
        """Make the beginnings of a child's lines."""
        raise NotImplementedError


class LoopCounter(_Labelled[Count]):
    """A counter; see `prometheus_client.Counter`, whose names and samples it has."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        super().__init__(name, documentation, labels, registry, Count)

    def inc(self, amount: float = 1.0) -> None:
        """Add to a counter without labels."""
        self.labels().inc(amount)

    def collect(self) -> Iterable[Metric]:
        """Return what a scrape shows."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.label_names)
        for values, child in tuple(self._children.items()):
            family.add_metric(values, child.value)
        return (family,)

    def text(self) -> str:
        """Return what a scrape shows, as text; see `metrics_text.WritesText`."""
        parts = [head(f"{self.name}_total", self.documentation, "counter")]
        for values, child in tuple(self._children.items()):
            parts += (self._lines_of(values)[0], _number(child.value), "\n")
        return "".join(parts)

    def _begin(self, labels: dict[str, str]) -> tuple[str, ...]:
        return (labelled(f"{self.name}_total", labels),)


class LoopHistogram(_Labelled[Spread]):
    """A histogram; see `prometheus_client.Histogram`, whose names and samples it has."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        bounds = tuple(buckets)
        self._shown = (*map(_number, bounds), "+Inf")
        super().__init__(name, documentation, labels, registry, lambda: Spread(bounds))

    def observe(self, value: float) -> None:
        """Count a value in a histogram without labels."""
        self.labels().observe(value)

    def collect(self) -> Iterable[Metric]:
        """Return what a scrape shows."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.label_names)
        for values, child in tuple(self._children.items()):
            total = 0
            buckets = []
            for bound, count in zip(self._shown, child.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric(values, buckets, child.sum)
        return (family,)

    def text(self) -> str:
        """Return what a scrape shows, as text; see `metrics_text.WritesText`."""
        parts = [head(self.name, self.documentation, "histogram")]
        for values, child in tuple(self._children.items()):
            total = 0
            *buckets, count, added = self._lines_of(values)
            for beginning, within in zip(buckets, child.counts, strict=True):
                total += within
                parts += (beginning, _number(total), "\n")
            parts += (count, _number(total), "\n", added, _number(child.sum), "\n")
        return "".join(parts)

    def _begin(self, labels: dict[str, str]) -> tuple[str, ...]:
        buckets = (labelled(f"{self.name}_bucket", labels | {"le": bound}) for bound in self._shown)
        return (*buckets, labelled(f"{self.name}_count", labels), labelled(f"{self.name}_sum", labels))
