"""A run of one shape whose inputs and outputs stay in place: one copy to the device, one launch, one copy back.

Owns the layout of both blocks and the page lock of the host's. The runtime comes as an argument: only
`penstock_routers.onnx_session` imports it. Read `BoundRun.__call__`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.cuda_capture import DEVICE_GATE
from penstock_routers.errors import RouterError

_ALIGNMENT: Final = 256  # what CUDA gives its own allocations
_CUDA_RUNTIMES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_DEVICE: Final = ("cuda", 0)


@dataclass(frozen=True, slots=True)
class TensorShape:
    """A tensor in a block.

    Attributes
    ----------
    name : str
    shape : tuple of int
    dtype : dtype
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Of its numbers, without what aligns the next."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class LockedMemory:
    """Host memory that a device reads directly, where CUDA's runtime library lets itself be asked.

    Parameters
    ----------
    size_bytes : int
    runtime : CDLL or None
        Of `cuda_runtime`; None: ordinary memory.

    Attributes
    ----------
    block : ndarray of uint8
    is_locked : bool
        Whether its pages stay where they are until `release`. Memory that is freed while it is locked spoils what is
        allocated there next: cuBLAS does not start any more.
    """

    def __init__(self, size_bytes: int, runtime: ctypes.CDLL | None) -> None:
        self.block: NDArray[np.uint8] = np.zeros(size_bytes, dtype=np.uint8)
        self._runtime = runtime
        self.is_locked = runtime is not None and self._locked(runtime)

    def _locked(self, runtime: ctypes.CDLL) -> bool:
        pointer, size = ctypes.c_void_p(self.block.ctypes.data), ctypes.c_size_t(self.block.nbytes)
        if runtime.cudaHostRegister(pointer, size, ctypes.c_uint(0)) == 0:
            return True
        runtime.cudaGetLastError()  # or the next library that looks takes the error for its own
        return False

    def release(self) -> None:
        """Let the pages move again; safe to call twice."""
        if self._runtime is not None and self.is_locked:
            self._runtime.cudaHostUnregister(ctypes.c_void_p(self.block.ctypes.data))
            self.is_locked = False

    def __del__(self) -> None:
        self.release()


def cuda_runtime() -> ctypes.CDLL | None:
    """CUDA's runtime library, or None where it is not found."""
    for name in _CUDA_RUNTIMES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


class BoundRun:
    """A graph of fixed shape, bound to memory of its own; called from one thread at a time.

    Parameters
    ----------
    runtime : module
        ``onnxruntime``.
    session : onnxruntime.InferenceSession
        On CUDA.
    inputs, outputs : sequence of TensorShape
        All of the graph's.
    options : onnxruntime.RunOptions
        With the number under which the runtime keeps the captured graph. The first call captures it.
    failed : callable
        Makes the error that a call raises out of the runtime's.

    Attributes
    ----------
    inputs : dict of str to ndarray
        To be filled before a call; what is left from the last one stays.
    size_bytes : int
        Of both blocks, held on the device and, for the inputs, on the host too.
    """

    def __init__(
        self,
        runtime: Any,
        session: Any,
        inputs: Sequence[TensorShape],
        outputs: Sequence[TensorShape],
        options: Any,
        failed: Callable[[Exception], RouterError],
    ) -> None:
        places, given_bytes = _layout(inputs)
        self._places, found_bytes = _layout(outputs)
        self.size_bytes = given_bytes + found_bytes
        self._host = LockedMemory(given_bytes, cuda_runtime())
        self._given = runtime.OrtValue.ortvalue_from_shape_and_type([given_bytes], np.uint8, *_DEVICE)
        self._found = runtime.OrtValue.ortvalue_from_shape_and_type([found_bytes], np.uint8, *_DEVICE)
        self.inputs = {tensor.name: _view(self._host.block, tensor, places[tensor.name]) for tensor in inputs}
        self._outputs = tuple(outputs)
        self._session = session
        self._binding = session.io_binding()
        for tensor in inputs:
            pointer = self._given.data_ptr() + places[tensor.name]
            self._binding.bind_input(tensor.name, *_DEVICE, tensor.dtype, tensor.shape, pointer)
        for tensor in outputs:
            pointer = self._found.data_ptr() + self._places[tensor.name]
            self._binding.bind_output(tensor.name, *_DEVICE, tensor.dtype, tensor.shape, pointer)
        self._options = options
        self._failed = failed

    def __del__(self) -> None:
        DEVICE_GATE.retire(self.__dict__)

    def __call__(self) -> tuple[NDArray[Any], ...]:
        """Answer what is in `inputs`.

        Returns
        -------
        tuple of ndarray
            In the order of `outputs`; views of one block that nobody else holds.

        Raises
        ------
        RouterError
            What `failed` makes.
        """
        try:
            self._given.update_inplace(self._host.block)
            self._session.run_with_iobinding(self._binding, self._options)
            block = self._found.numpy()
        except Exception as failure:  # the runtime raises a dozen unrelated classes of its own
            raise self._failed(failure) from failure
        return tuple(_view(block, tensor, self._places[tensor.name]) for tensor in self._outputs)


def size_of(inputs: Sequence[TensorShape], outputs: Sequence[TensorShape]) -> int:
    """Bytes that a `BoundRun` of these would hold."""
    return _layout(inputs)[1] + _layout(outputs)[1]


def _layout(tensors: Sequence[TensorShape]) -> tuple[dict[str, int], int]:
    """Offsets of the tensors in their block, and its size."""
    places, end = {}, 0
    for tensor in tensors:
        places[tensor.name] = end
        end += -(-tensor.size_bytes // _ALIGNMENT) * _ALIGNMENT
    return places, end


def _view(block: NDArray[np.uint8], tensor: TensorShape, place: int) -> NDArray[Any]:
    view: NDArray[Any] = block[place : place + tensor.size_bytes].view(tensor.dtype).reshape(tensor.shape)
    return view
