"""A router's graph as it is run: all estimates side by side in one output.

A run of seven outputs costs as many conversions to arrays, and as many steps for
whoever reads them: 15 µs of a prompt's 90. Made from the verified file when an artifact is loaded, so that every
artifact gets it and its content hash goes on covering what was signed. Read `serving_graph`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock_routers.estimates import ROW_ORDER
from penstock_routers.graph_parts import node, read_parts, rows_of_floats, tensor, written
from penstock_routers.manifest import OUTPUT_NAMES

ROWS_OUTPUT: Final = "estimates"
"""What the served graph calls its only output, shape (n, `penstock_routers.estimates.Columns.width`)."""
_PREFIX: Final = "penstock/rows/"
_LEAST_OPSET: Final = 13  # Unsqueeze takes its axes as an input


def serving_graph(router: bytes) -> bytes:
    """Put the outputs of a router's graph side by side.

    Parameters
    ----------
    router : bytes
        Content of ``router.onnx``.

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
    parts.nodes.append(node("Unsqueeze", ("novelty", axis), novelty))
    columns = (novelty if name == "novelty" else name for name in ROW_ORDER)
    parts.nodes.append(node("Concat", columns, ROWS_OUTPUT, {"axis": 1}))
    parts.outputs = {ROWS_OUTPUT: rows_of_floats(ROWS_OUTPUT, "n")}
    return written(parts, "penstock_router")
