"""Running a fixed-shape graph on a device with everything bound, and the ceilings of that device.

Needs onnxruntime (or onnxruntime-gpu). Read `BoundGraph`.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from penstock_routers.cuda_buffers import LockedMemory, cuda_runtime
from penstock_training.graph import IR_VERSION, OPSET

Kind = Literal["cpu", "cuda", "cuda graph", "tensorrt"]
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


def providers_here() -> list[str]:
    """Providers that this build of ONNX Runtime offers; whether they start is another question."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every library it does not find with print
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    return list(onnxruntime.get_available_providers())


def describe_device(device: str) -> str:
    """Name, memory and driver of the GPU, or the word for the CPU."""
    if device != "cuda":
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "cuda, unknown card"


class BoundGraph:
    """A graph of one shape whose inputs and outputs stay where they are; calling it answers one batch.

    Parameters
    ----------
    model : bytes
        Without free dimensions.
    feeds : mapping of str to ndarray
        Copied into page-locked memory once, and from there to the device in every call, as new prompts would be.
    kind : {"cpu", "cuda", "cuda graph", "tensorrt"}

    Attributes
    ----------
    remark : str
        What is not as the kind promises; empty when all is.
    """

    def __init__(self, model: bytes, feeds: Mapping[str, NDArray[Any]], kind: Kind) -> None:
        self._session = _session(model, kind)
        offered = self._session.get_providers()[0]
        wanted = {"cpu": "CPUExecutionProvider", "tensorrt": _TENSORRT}.get(kind, _CUDA)
        if offered != wanted:
            raise RuntimeError(f"{wanted} did not start; {offered} would have run")
        place = "cpu" if kind == "cpu" else "cuda"
        self._binding = self._session.io_binding()
        runtime = cuda_runtime() if place == "cuda" else None
        self._locked = {name: LockedMemory(feeds[name].nbytes, runtime) for name in self._names()}
        self._host = {
            name: memory.block.view(feeds[name].dtype).reshape(feeds[name].shape)
            for name, memory in self._locked.items()
        }
        for name, array in self._host.items():
            array[...] = feeds[name]
        self._inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array, place, 0) for name, array in self._host.items()
        }
        self._outputs = {
            entry.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(entry.shape, _element(entry.type), place, 0)
            for entry in self._session.get_outputs()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        is_locked = all(memory.is_locked for memory in self._locked.values())
        self.remark = "" if is_locked or place == "cpu" else "host buffers are not page-locked"

    def __call__(self) -> dict[str, NDArray[Any]]:
        """Copy the prompts in, launch, and fetch the estimates."""
        for name, value in self._inputs.items():
            value.update_inplace(self._host[name])
        self.launch()
        return {name: value.numpy() for name, value in self._outputs.items()}

    def launch(self) -> None:
        """Run on what is already on the device; returns when it is done."""
        self._session.run_with_iobinding(self._binding)

    def close(self) -> None:
        """Give the device's memory back, and the host's to be paged."""
        del self._binding, self._inputs, self._outputs, self._session
        for memory in self._locked.values():
            memory.release()

    def _names(self) -> list[str]:
        return [entry.name for entry in self._session.get_inputs()]


def ceilings(device: str, precision: str, *, is_small: bool) -> dict[str, float]:
    """Measure what a graph can reach at most.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    precision : {"fp16", "fp32"}
    is_small : bool
        Matrices of 1,024 and 64 MB instead of 8,192 and 1 GB.

    Returns
    -------
    dict of str to float
        ``bytes_per_second``: read and written by adding 1 to a large tensor; ``operations_per_second``: of one square
        matrix product on random numbers.
    """
    kind: Kind = "cuda" if device == "cuda" else "cpu"
    element = np.float16 if precision == "fp16" else np.float32
    side, numbers = (1_024, 1 << 24) if is_small else (8_192, (1 << 30) // np.dtype(element).itemsize)
    random = np.random.default_rng(0)
    matrix = random.standard_normal((side, side), dtype=np.float32).astype(element)
    product = _launch_seconds("MatMul", {"x": matrix, "y": matrix.T.copy()}, kind)
    stream = _launch_seconds("Add", {"x": np.ones(numbers, dtype=element), "y": np.ones(1, dtype=element)}, kind)
    return {
        "operations_per_second": 2.0 * side**3 / product,
        "bytes_per_second": 2.0 * numbers * np.dtype(element).itemsize / stream,
    }


def _launch_seconds(operator: str, feeds: Mapping[str, NDArray[Any]], kind: Kind, runs: int = 20) -> float:
    """Median time of one operator on data that is already there."""
    first = next(iter(feeds.values()))
    element = helper.np_dtype_to_tensor_dtype(first.dtype)
    inputs = [helper.make_tensor_value_info(name, element, list(value.shape)) for name, value in feeds.items()]
    output = helper.make_tensor_value_info("z", element, list(first.shape))
    graph = helper.make_graph([helper.make_node(operator, list(feeds), ["z"])], operator, inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    bound = BoundGraph(model.SerializeToString(), feeds, kind)
    taken = []
    for _ in range(runs + 3):
        started = time.perf_counter()
        bound.launch()
        taken.append(time.perf_counter() - started)
    bound.close()
    return float(np.median(taken[3:]))


def _session(model: bytes, kind: Kind) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda: Any = (_CUDA, {"enable_cuda_graph": "1" if kind == "cuda graph" else "0"})
    providers: list[Any] = {
        "cpu": ["CPUExecutionProvider"],
        "tensorrt": [(_TENSORRT, {"trt_fp16_enable": "1", "trt_cuda_graph_enable": "1"}), cuda],
    }.get(kind, [cuda])
    if kind == "cpu":
        options.intra_op_num_threads = 1
    with contextlib.redirect_stdout(sys.stderr):  # where a provider does not start, it says so with print
        return onnxruntime.InferenceSession(model, options, providers=providers)


def _element(declared: str) -> Any:
    """The numpy type of ``tensor(float)`` and its like."""
    names = {"float": np.float32, "float16": np.float16, "int64": np.int64, "uint8": np.uint8}
    return names[declared.removeprefix("tensor(").removesuffix(")")]
