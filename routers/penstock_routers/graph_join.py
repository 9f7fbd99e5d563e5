"""One graph out of an encoder's and a router's, joined byte by byte when an artifact is loaded.

Owns the joint: unit length between the two, and the prompt vector as one more output. Nothing inside either graph is
touched, and neither the ``onnx`` package nor a second copy of the weights on disk is needed; the search among a
router's points stays as the router's graph has it (`penstock_training.fused_graph.fuse` replaces it for large sets on a
GPU). Read `join_graphs`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock_routers.errors import ArtifactError
from penstock_routers.graph_parts import GraphParts, node, read_parts, tensor, written
from penstock_routers.manifest import INPUT_NAMES
from penstock_routers.onnx_wire import Damaged

VECTOR_OUTPUT: Final = INPUT_NAMES[0]
"""What the joined graph calls the prompt vector: the name of the router's input."""
_ENCODER_OUTPUT: Final = "vectors"
_SMALLEST_LENGTH: Final = 1e-30  # a prompt without tokens keeps its zeros
_MIDDLE: Final = "penstock/unit/"
_OPSETS: Final = range(13, 18)  # ReduceSum takes its axes as an input, and ReduceMax does not yet


def join_graphs(encoder: bytes, router: bytes) -> bytes:
    """Join an encoder's graph and a router's.

    Parameters
    ----------
    encoder : bytes
        ``token ids [, attention mask] → vectors (n, d)``.
    router : bytes
        ``prompt_vector (n, d), features, reference_arm → `` the outputs of a router.

    Returns
    -------
    bytes
        The encoder's inputs, ``features`` and ``reference_arm`` → the router's outputs and ``prompt_vector``, whose
        rows have length 1, or are zeros for a prompt without a token.

    Raises
    ------
    ArtifactError
        ``graphs_do_not_fit``: another input, output or operator set than expected, or both use one name.

    Notes
    -----
    Both have been checked by `penstock_routers.onnx_guard` before; the result is checked again when it is opened.
    ``v / max(√Σv², 10⁻³⁰)`` is what `penstock_routers.encoder.PromptEncoder` divides by, to the last digit or two.
    """
    try:
        first, last = read_parts(encoder), read_parts(router)
    except Damaged:
        raise _unfit("one of the files is no ONNX file, or holds sparse tensors") from None
    if list(first.outputs) != [_ENCODER_OUTPUT] or VECTOR_OUTPUT not in last.inputs:
        raise _unfit("these are not the graphs of an encoder and a router")
    if first.operator_sets.get("") not in _OPSETS or first.operator_sets.get("") != last.operator_sets.get(""):
        raise _unfit("the two graphs use different operator sets, or one that cannot be joined")
    common = first.names & last.names | {name for name in first.names | last.names if name.startswith(_MIDDLE)}
    if common or VECTOR_OUTPUT in first.names:
        raise _unfit(f"both graphs use the name {min(common, default=VECTOR_OUTPUT)!r}")
    nodes, constants = _unit_length()
    vector = last.inputs.pop(VECTOR_OUTPUT)
    joined = GraphParts(
        ir_version=max(first.ir_version, last.ir_version),
        operator_sets=last.operator_sets | first.operator_sets,
        nodes=[*first.nodes, *nodes, *last.nodes],
        initializers=[*first.initializers, *constants, *last.initializers],
        inputs=first.inputs | last.inputs,
        outputs={**last.outputs, VECTOR_OUTPUT: vector},
    )
    return written(joined, "penstock_joined")


def _unit_length() -> tuple[list[bytes], list[bytes]]:
    """Nodes and constants of ``vectors / max(√Σ vectors², 10⁻³⁰)``."""
    squares, total, length, divisor = (_MIDDLE + name for name in ("squares", "total", "length", "divisor"))
    axis, smallest = _MIDDLE + "axis", _MIDDLE + "smallest"
    nodes = [
        node("Mul", (_ENCODER_OUTPUT, _ENCODER_OUTPUT), squares),
        node("ReduceSum", (squares, axis), total),
        node("Sqrt", (total,), length),
        node("Max", (length, smallest), divisor),
        node("Div", (_ENCODER_OUTPUT, divisor), VECTOR_OUTPUT),
    ]
    return nodes, [
        tensor(axis, np.array([1], dtype=np.int64)),
        tensor(smallest, np.array(_SMALLEST_LENGTH, dtype=np.float32)),
    ]


def _unfit(why: str) -> ArtifactError:
    return ArtifactError(f"encoder and router are run one after the other: {why}", code="graphs_do_not_fit")
