"""One graph from token ids to per-arm estimates: encoder, unit length, exact neighbours, router.

Owns joining an encoder's graph and a router's into one, so that a GPU answers a batch by one launch, and finding the
points that a router searches. Built from the two files that serve (an encoder folder's ``encoder.onnx``, an artifact's
``router.onnx`` and the index beside it); nothing is fitted anew. Read `fuse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from penstock_routers.manifest import INPUT_NAMES, NEIGHBOUR_INPUT_NAMES, OUTPUT_NAMES, TensorSpec
from penstock_routers.neighbour_index import Neighbours
from penstock_training.errors import TrainingError
from penstock_training.fused_search import Points, Precision, Stages, add_scores, add_search
from penstock_training.graph import IR_VERSION, OPSET, GraphBuilder

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

FUSED_TOLERANCE: Final = 2e-5
"""Largest difference of an estimate from the unfused path in fp32, that of any exported graph (`check_parity`)."""
_VECTOR: Final = INPUT_NAMES[0]
_ENCODER_OUTPUT: Final = "vectors"
_JOINT_SIMILARITY: Final = "joint_similarity"
_JOINT_SCORES: Final = "joint_scores"


def fuse(
    encoder: bytes,
    router: bytes,
    *,
    neighbours: Neighbours | Points | None = None,
    precision: Precision = "fp32",
    stages: Stages = 2,
) -> bytes:
    """Join an encoder and a router.

    Parameters
    ----------
    encoder : bytes
        ``token ids [, attention mask] → vectors (n, d)``, in the precision that it shall run in.
    router : bytes
        An artifact's graph.
    neighbours : Neighbours or Points, optional
        What lies beside a graph that has an index. Its vectors go into the graph, and are all compared: more than an
        approximate index finds. Points inside a router's own graph are found there; those given take their place.
    precision : {"fp32", "fp16"}
        Of the search; see `add_search`.
    stages : {1, 2}
        Of the search; see `add_search`.

    Returns
    -------
    bytes
        The encoder's inputs, ``features`` and ``reference_arm`` → the outputs of a router, float32; one graph of
        standard operators.

    Raises
    ------
    TrainingError
        ``graphs_do_not_fit``: another width, operator set or output than expected, or neighbours are missing or of
        no use; those of `add_search`.

    Notes
    -----
    Rows of length 1, and zeros for a prompt without tokens, as `penstock_routers.encoder.PromptEncoder` gives them.
    """
    import onnx
    from onnx import checker, compose

    first, last = onnx.load_from_string(encoder), onnx.load_from_string(router)
    _check_fit(first, last)
    needs_beside = NEIGHBOUR_INPUT_NAMES[0] in {value.name for value in last.graph.input}
    if needs_beside and neighbours is None:
        raise TrainingError("the router has an index beside it, whose points are missing", code="graphs_do_not_fit")
    compose.add_prefix(first, "encoder/", rename_inputs=False, rename_outputs=False, inplace=True)
    compose.add_prefix(last, "router/", rename_inputs=False, rename_outputs=False, inplace=True)
    points = None if needs_beside else _take_points(last.graph)
    if neighbours is not None:
        if not needs_beside and points is None:
            raise TrainingError("the router searches no neighbours", code="graphs_do_not_fit")
        points = points_of(neighbours)
    middle = onnx.load_from_string(_middle(_width(last.graph), points, needs_beside, precision, stages))
    joined = onnx.ModelProto(ir_version=IR_VERSION, producer_name="penstock", opset_import=_operator_sets(first, last))
    graph = joined.graph
    graph.name = "penstock_fused"
    for part in (first, middle, last):
        graph.node.extend(part.graph.node)
        graph.initializer.extend(part.graph.initializer)
    made = {name for node in graph.node for name in node.output}
    graph.input.extend(value for part in (first, last) for value in part.graph.input if value.name not in made)
    graph.output.extend(last.graph.output)
    _prune(graph)
    checker.check_model(joined)
    return bytes(joined.SerializeToString(deterministic=True))


def points_of(neighbours: Neighbours | Points) -> Points:
    """Take the vectors out of an index, as far as it keeps their digits, with their scores."""
    if isinstance(neighbours, Points):
        return neighbours
    files = neighbours.files
    return Points(neighbours.index.vectors(0, files.points), neighbours.scores, files.neighbours)


def with_fixed_shape(model: bytes, rows: int, tokens: int) -> bytes:
    """Fix a fused graph to one shape, as a CUDA graph needs it: sizes become constants and their operators vanish.

    Parameters
    ----------
    model : bytes
        Of `fuse`.
    rows, tokens : int
        Prompts of a batch and tokens of a prompt, padding included; both >= 1.

    Returns
    -------
    bytes
        The same graph with whole numbers in the place of free dimensions.
    """
    import onnx

    found = onnx.load_from_string(model)
    for value in found.graph.input:
        for place, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_value = rows if place == 0 else tokens  # the only free second dimension is the tokens'
    for value in found.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = rows
    return bytes(found.SerializeToString(deterministic=True))


def _middle(width: int, points: Points | None, is_beside: bool, precision: Precision, stages: Stages) -> bytes:
    """Unit length and the search, from ``vectors`` to what the router's graph reads."""
    b = GraphBuilder()
    squares = b.total(b.op("Mul", _ENCODER_OUTPUT, _ENCODER_OUTPUT))
    is_empty = b.op("Equal", squares, b.constant(0.0))
    length = b.op("Sqrt", b.op("Where", is_empty, b.constant(1.0), squares))
    vector = b.op("Div", _ENCODER_OUTPUT, length)
    b.output(_VECTOR, vector)
    outputs = [TensorSpec(_VECTOR, "float32", ("n", width))]
    if points is not None:
        similarity, rows = add_search(b, vector, points, precision=precision, stages=stages)
        count, arms = points.neighbours, points.scores.shape[1]
        names = NEIGHBOUR_INPUT_NAMES if is_beside else (_JOINT_SIMILARITY, _JOINT_SCORES)
        b.output(names[0], similarity)
        outputs.append(TensorSpec(names[0], "float32", ("n", count)))
        b.output(names[1], add_scores(b, rows, points))
        outputs.append(TensorSpec(names[1], "uint8", ("n", count, arms)))
    return b.model("middle", [TensorSpec(_ENCODER_OUTPUT, "float32", ("n", width))], outputs)


def _take_points(graph: GraphProto) -> Points | None:
    """Find the points inside a router's graph and let it read the joint search's result in their place.

    `penstock_training.families.knn.SupportHead` writes them: scores as uint8, looked up by the positions of the largest
    cosines; codes as int8 in either orientation; one scale per point. None where the graph searches nothing.
    """
    from onnx import numpy_helper

    tables = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    looked_up = [node for node in gathers if _is_scores(tables[node.input[0]])]
    if not looked_up:
        return None
    if len(looked_up) > 1:
        raise TrainingError("the router searches two sets of neighbours", code="graphs_do_not_fit")
    scores = numpy_helper.to_array(tables[looked_up[0].input[0]])
    rows = looked_up[0].input[1]
    last = makers[rows] if makers[rows].op_type == "TopK" else makers[makers[rows].input[1]]
    count = int(numpy_helper.to_array(tables[last.input[1]])[0])
    vectors = _stored_vectors((numpy_helper.to_array(tensor) for tensor in graph.initializer), scores.shape[0])
    _rename_inputs(graph.node, {last.output[0]: _JOINT_SIMILARITY, looked_up[0].output[0]: _JOINT_SCORES})
    return Points(vectors, scores, count)


def _is_scores(tensor: object) -> bool:
    from onnx import TensorProto

    return getattr(tensor, "data_type", None) == TensorProto.UINT8 and len(getattr(tensor, "dims", ())) == 2


def _stored_vectors(tables: Iterable[np.ndarray], points: int) -> np.ndarray:
    """Codes times scales, (N, d)."""
    codes = scale = None
    for table in tables:
        if table.dtype == np.int8 and table.ndim == 2 and points in table.shape:
            codes = table if table.shape[0] == points else table.T
        elif table.dtype == np.float32 and table.shape == (points,):
            scale = table
    if codes is None or scale is None:
        raise TrainingError("the points of the router's graph are not stored as expected", code="graphs_do_not_fit")
    return np.ascontiguousarray(codes.astype(np.float32) * scale[:, None])


def _rename_inputs(nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
    for node in nodes:
        if node.output[0] in names or any(name in names for name in node.output):
            continue
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _prune(graph: GraphProto) -> None:
    """Drop nodes and constants that no output depends on."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            kept.append(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    nodes = list(reversed(kept))
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _reads(node: NodeProto) -> set[str]:
    """Names that a node reads, those of its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for part in (attribute.g, *attribute.graphs):
            for inner in part.node:
                names |= _reads(inner)
    return names


def _width(graph: GraphProto) -> int:
    (vector,) = (value for value in graph.input if value.name == _VECTOR)
    return int(vector.type.tensor_type.shape.dim[1].dim_value)


def _check_fit(encoder: ModelProto, router: ModelProto) -> None:
    outputs = [value.name for value in encoder.graph.output]
    if outputs != [_ENCODER_OUTPUT] or {value.name for value in router.graph.output} != set(OUTPUT_NAMES):
        raise TrainingError("these are not the graphs of an encoder and a router", code="graphs_do_not_fit")
    for model in (encoder, router):
        if any(entry.domain == "" and entry.version != OPSET for entry in model.opset_import):
            raise TrainingError(f"both graphs must use operator set {OPSET}", code="graphs_do_not_fit")
    width = encoder.graph.output[0].type.tensor_type.shape.dim[-1]
    if width.HasField("dim_value") and width.dim_value != _width(router.graph):
        message = f"the encoder gives {width.dim_value} numbers, the router reads {_width(router.graph)}"
        raise TrainingError(message, code="graphs_do_not_fit")


def _operator_sets(*models: ModelProto) -> list[object]:
    found = {entry.domain: entry for model in models for entry in model.opset_import}
    return [found[domain] for domain in sorted(found)]
