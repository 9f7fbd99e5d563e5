"""The metrics of all workers as one exposition: every series says which worker it is of.

Each worker's counters go on by themselves, so a worker that is started anew is one series that begins again at zero,
which Prometheus knows; a sum of all would seem to begin again as a whole. Pure. Read `combined`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_HELP: Final = "# HELP "


@dataclass(slots=True)
class _Metric:
    """The lines before a metric's samples, and its samples."""

    head: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def combined(texts: Mapping[int, str]) -> str:
    r"""Return one exposition of several workers'.

    Parameters
    ----------
    texts : mapping of int to str
        Each worker's in Prometheus' text format, without the label ``worker``.

    Returns
    -------
    str
        Samples of one metric stand together, as the format demands, in the order in which metrics appear first.

    Examples
    --------
    >>> print(combined({0: '# HELP a_total A.\\na_total 1\\n', 1: '# HELP a_total A.\\na_total{b="c"} 2\\n'}), end="")
    # HELP a_total A.
    a_total{worker="0"} 1
    a_total{worker="1",b="c"} 2

    Notes
    -----
    O(lines).
    """
    metrics: dict[str, _Metric] = {}
    for worker, text in texts.items():
        label = f'worker="{worker}"'
        metric, is_new = metrics.setdefault("", _Metric()), False
        for line in text.split("\n"):
            if line.startswith(_HELP):
                name = line[len(_HELP) :].partition(" ")[0]
                is_new = name not in metrics
                metric = metrics.setdefault(name, _Metric())
            if line.startswith("#"):
                if is_new:
                    metric.head.append(line)
            elif line:
                metric.samples.append(_labelled(line, label))
    return "".join(line + "\n" for metric in metrics.values() for line in (*metric.head, *metric.samples))


def _labelled(line: str, label: str) -> str:
    """Return a sample with one more label; before the first brace or blank there is only its name."""
    brace, blank = line.find("{"), line.find(" ")
    if brace < 0 or blank < brace:
        return f"{line[:blank]}{{{label}}}{line[blank:]}"
    return f"{line[: brace + 1]}{label},{line[brace + 1 :]}"
