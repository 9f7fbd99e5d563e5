"""A router's graph as it is run: all estimates side by side in one output.

A run of seven outputs costs as many conversions to arrays, and as many steps for
whoever reads them: 15 µs of a prompt's 90. Made from the verified file when an artifact is loaded, so that every
artifact gets it and its content hash goes on covering what was signed.

An ensemble looks at every member's numbers and leaves out a member that gives none. `serving_graph` can take that out,
18 operators of 105 in the default router, and give the members' numbers instead: who runs it then looks once whether
all are finite, and runs the graph with its guards when they are not. Read `serving_graph`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock_routers.estimates import ROW_ORDER
from penstock_routers.graph_parts import (
    Content,
    GraphParts,
    NodeParts,
    node,
    read_parts,
    rows_of_floats,
    tensor,
    written,
)
from penstock_routers.manifest import OUTPUT_NAMES

ROWS_OUTPUT: Final = "estimates"
"""What the served graph calls its only output, shape (n, `penstock_routers.estimates.Columns.width`)."""
_PREFIX: Final = "penstock/rows/"
_LEAST_OPSET: Final = 13  # Unsqueeze takes its axes as an input


def serving_graph(router: bytes, *, has_guards: bool = True) -> bytes:
    """Put the outputs of a router's graph side by side.

    Parameters
    ----------
    router : bytes
        Content of ``router.onnx``.
    has_guards : bool
        False takes out the choices between a member's numbers and nothing. What is guarded stands behind each row, and
        a row is right only if all of that is finite.

    Returns
    -------
    bytes
        The same graph with `ROWS_OUTPUT` in the place of its outputs; `router` itself when these are not a router's.

    Raises
    ------
    Damaged
        It is no ONNX file.
    """
    parts = read_parts(router)
    is_known = set(parts.outputs) == set(OUTPUT_NAMES) and parts.operator_sets.get("", 0) >= _LEAST_OPSET
    if not is_known or ROWS_OUTPUT in parts.names or any(name.startswith(_PREFIX) for name in parts.names):
        return router
    axis, novelty = _PREFIX + "axis", _PREFIX + "novelty"
    parts.initializers.append(tensor(axis, np.array([1], dtype=np.int64)))
    guarded = () if has_guards else _remove_guards(parts)
    parts.nodes.append(node("Unsqueeze", ("novelty", axis), novelty))
    columns = (novelty if name == "novelty" else name for name in ROW_ORDER)
    parts.nodes.append(node("Concat", (*columns, *guarded), ROWS_OUTPUT, {"axis": 1}))
    parts.outputs = {ROWS_OUTPUT: rows_of_floats(ROWS_OUTPUT, "n")}
    return written(parts, "penstock_router")


def _remove_guards(parts: GraphParts) -> tuple[str, ...]:
    """Turn every ``Where(IsNaN(ReduceSum(x - x)), a, b)`` into b, and return the x; x - x is 0 for a finite x alone."""
    nodes = [NodeParts.of(content) for content in parts.nodes]
    made = {output: each for each in nodes for output in each.outputs}
    guarded: dict[str, str] = {}
    for each in nodes:
        if each.operator == "IsNaN" and (source := _guarded(each, made)) is not None:
            guarded[each.outputs[0]] = source
    kept: list[Content] = []
    for content, each in zip(parts.nodes, nodes, strict=True):
        if each.operator == "Where" and each.inputs[0] in guarded:
            kept.append(node("Identity", each.inputs[2:], each.outputs[0]))
        else:
            kept.append(content)
    parts.nodes = _without_unused(kept, frozenset(parts.outputs))
    return tuple(dict.fromkeys(guarded.values()))


def _guarded(guard: NodeParts, made: dict[str, NodeParts]) -> str | None:
    """What an ``IsNaN`` looks at, if it is ``ReduceSum(x - x)``."""
    total = made.get(guard.inputs[0])
    difference = None if total is None or total.operator != "ReduceSum" else made.get(total.inputs[0])
    if difference is None or difference.operator != "Sub" or difference.inputs[0] != difference.inputs[1]:
        return None
    return difference.inputs[0]


def _without_unused(nodes: list[Content], outputs: frozenset[str]) -> list[Content]:
    """Leave out what nobody reads, from the end: a graph is in the order in which it is computed."""
    used, kept = set(outputs), []
    for content in reversed(nodes):
        each = NodeParts.of(content)
        if each.has_graphs or not used.isdisjoint(each.outputs):
            kept.append(content)
            used.update(each.inputs)
    return kept[::-1]
