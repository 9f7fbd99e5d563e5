"""ONNX Runtime: opens a graph, on the CPU or on CUDA, and runs it.

The only file that imports ``onnxruntime``, and only when a session is created. `create_session` refuses every graph
that `penstock_routers.onnx_guard` objects to before the runtime sees it. Read `create_session` first.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.cuda_buffers import BoundRun, TensorShape
from penstock_routers.cuda_capture import DEVICE_GATE
from penstock_routers.errors import ArtifactError, MissingExtraError, RouterError
from penstock_routers.installation import install_command
from penstock_routers.onnx_guard import MAX_GRAPH_BYTES, refuse_unsafe_graph

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]
FloatArray = NDArray[np.float32]

__all__ = ["MAX_GRAPH_BYTES", "Device", "OnnxSession", "create_session", "refuse_unsafe_graph"]

_LOG = logging.getLogger(__name__)
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_NO_GRAPH = -1


class _OnDevice:
    """A runtime's session on CUDA, which neither runs nor frees memory while another thread captures."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def __del__(self) -> None:
        DEVICE_GATE.retire(self.__dict__)

    def run(self, names: list[str], feeds: Mapping[str, NDArray[Any]], options: Any) -> Any:
        """As the runtime's."""
        with DEVICE_GATE.other_work():
            return self._session.run(names, feeds, options)

    def io_binding(self) -> Any:
        """As the runtime's."""
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """As the runtime's, and without a look at who captures: it may be this very run."""
        self._session.run_with_iobinding(binding, options)


@dataclass(frozen=True, slots=True)
class OnnxSession:
    """An opened graph.

    Attributes
    ----------
    device : str
        ``"cpu"`` or ``"cuda"``: where it really runs.
    fallback_reason : str or None
        Why it runs on the CPU although CUDA was asked for or found; None when nothing was given up.
    input_names, output_names : tuple of str
        In the graph's order.
    error : type of RouterError
        What `run` raises when the runtime fails.
    """

    device: Literal["cpu", "cuda"]
    fallback_reason: str | None
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    error: type[RouterError]
    _session: onnxruntime.InferenceSession | _OnDevice = field(repr=False)
    _runtime: Any = field(repr=False)
    _plainly: Any = field(repr=False)  # run options; None: the runtime's own
    _run: Callable[..., Any] = field(repr=False)
    _names: list[str] = field(repr=False)

    @property
    def can_capture(self) -> bool:
        """Whether `bind` works: the graph was opened on CUDA with all of its operators there."""
        return self._plainly is not None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the graph once; blocks, and may be called from several threads.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            One array per input, of the type and rank that the graph declares.

        Returns
        -------
        tuple of ndarray
            In the order of `output_names`.

        Raises
        ------
        RouterError
            Of the class given to `create_session`, code ``onnx_run_failed``.
        """
        try:
            return tuple(self._run(self._names, feeds, self._plainly))
        except Exception as failure:  # the runtime raises a dozen unrelated classes of its own
            raise self._failed(failure) from failure

    def bind(self, inputs: list[TensorShape], outputs: list[TensorShape], graph_id: int) -> BoundRun:
        """Prepare runs of one shape, the first of which captures a CUDA graph; see `can_capture`.

        Parameters
        ----------
        inputs, outputs : list of TensorShape
            All of the graph's, in its order.
        graph_id : int
            Another for each capture; >= 1.

        Returns
        -------
        BoundRun

        Raises
        ------
        RouterError
            As `run`; the calls of what is returned raise the same.
        """
        try:
            options = _graph_options(self._runtime, graph_id)
            return BoundRun(self._runtime, self._session, inputs, outputs, options, self._failed)
        except Exception as failure:  # as in `run`
            raise self._failed(failure) from failure

    def _failed(self, failure: Exception) -> RouterError:
        return self.error(f"the ONNX graph failed: {first_line(failure)}", code="onnx_run_failed")


def create_session(
    model: bytes,
    *,
    device: Device = "cpu",
    threads: int = 1,
    allow_contrib_operators: bool = False,
    max_bytes: int = MAX_GRAPH_BYTES,
    error: type[RouterError] = ArtifactError,
    fallback_reason: str | None = None,
    capture: bool = False,
) -> OnnxSession:
    """Check a graph and open it.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model without external data.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes CUDA when the installed runtime offers it. When CUDA cannot be initialised, the CPU is
        used, a warning is logged and `OnnxSession.fallback_reason` says why; it never fails for that.
    threads : int
        Threads of one run; >= 1. They sleep between runs instead of spinning.
    allow_contrib_operators : bool
        See `refuse_unsafe_graph`.
    max_bytes : int
        Largest graph accepted.
    error : type of RouterError
        Class of the errors raised: `ArtifactError` or `EncoderError`.
    fallback_reason : str, optional
        Recorded in the session when the caller itself has already given CUDA up.
    capture : bool
        Open it so that runs can be captured as CUDA graphs (`OnnxSession.bind`). Where the runtime finds an operator
        that has no CUDA form it is opened without, and `OnnxSession.can_capture` says so.

    Returns
    -------
    OnnxSession

    Raises
    ------
    MissingExtraError
        ONNX Runtime is not installed.
    RouterError
        Of class `error`: the graph is refused, or the runtime cannot open it (``onnx_load_failed``).
    """
    refuse_unsafe_graph(model, allow_contrib_operators=allow_contrib_operators, max_bytes=max_bytes, error=error)
    runtime = _import_runtime()
    if device == "cpu":
        return _open(runtime, model, "cpu", threads, error, fallback_reason)
    if _CUDA not in runtime.get_available_providers():
        reason = None if device == "auto" else "the installed ONNX Runtime has no CUDA provider"
        return _open(runtime, model, "cpu", threads, error, reason)
    _preload_cuda_libraries(runtime)
    try:
        with DEVICE_GATE.other_work():
            session = _open_on_cuda(runtime, model, threads, error, capture)
    except error as failure:
        return _open(runtime, model, "cpu", threads, error, f"CUDA could not be initialised: {failure}")
    if session.device == "cpu":
        return _open(runtime, model, "cpu", threads, error, "CUDA could not be initialised; is the driver present?")
    return session


def first_line(failure: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters; runtimes add stack traces below it."""
    lines = str(failure).strip().splitlines()
    return (lines[0] if lines else type(failure).__name__)[:200]


def _open_on_cuda(runtime: Any, model: bytes, threads: int, error: type[RouterError], capture: bool) -> OnnxSession:
    """Open for capturing if that is wanted and the graph lets it."""
    if capture:
        try:
            return _open(runtime, model, "cuda", threads, error, None, capture=True)
        except error as failure:
            _LOG.info("cuda_graphs_off", extra={"problem": failure.message})
    return _open(runtime, model, "cuda", threads, error, None)


def _graph_options(runtime: Any, graph_id: int) -> Any:
    """Options of a run that captures or replays the graph of this number; -1: neither."""
    options = runtime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def _open(
    runtime: Any,
    model: bytes,
    device: str,
    threads: int,
    error: type[RouterError],
    reason: str | None,
    *,
    capture: bool = False,
) -> OnnxSession:
    if reason is not None:
        _LOG.warning("encoder or router graph runs on the CPU: %s", reason)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions; the runtime's own log lines carry no more
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    cuda = (_CUDA, {"enable_cuda_graph": "1"}) if capture else _CUDA
    providers = [cuda, _CPU] if device == "cuda" else [_CPU]
    try:
        session = runtime.InferenceSession(model, sess_options=options, providers=providers)
        session.disable_fallback()  # it would go on on the CPU by itself, and say so with print
        plainly = _graph_options(runtime, _NO_GRAPH) if capture and _CUDA in session.get_providers() else None
    except Exception as failure:  # the runtime raises a dozen unrelated classes of its own
        raise error(f"ONNX Runtime cannot open the graph: {first_line(failure)}", code="onnx_load_failed") from failure
    is_on_cuda = _CUDA in session.get_providers()
    opened = _OnDevice(session) if is_on_cuda else session
    names = [node.name for node in session.get_outputs()]
    return OnnxSession(
        device="cuda" if is_on_cuda else "cpu",
        fallback_reason=reason,
        input_names=tuple(node.name for node in session.get_inputs()),
        output_names=tuple(names),
        error=error,
        _session=opened,
        _runtime=runtime,
        _plainly=plainly,
        # What its `run` calls after looking at WebGPU, at names and at who owns values: 5 to 20 µs of a run of 90.
        _run=opened.run if is_on_cuda else getattr(session, "_sess", session).run,
        _names=names,
    )


def _preload_cuda_libraries(runtime: Any) -> None:
    """Let the GPU build find CUDA libraries that came as Python packages; silent where that does not apply."""
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports every library it does not find with print
            preload()


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as missing:
        raise MissingExtraError(
            f"ONNX Runtime is not installed; run: {install_command('cpu')} (extra gpu on a CUDA machine)"
        ) from missing
    return onnxruntime
