"""One JSON line per request and per event, written in batches by a thread.

Prompts, answers and keys are never logged. When too many lines wait, further ones are dropped and counted; the
event loop never waits.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Any

import msgspec

_MAX_WAITING_LINES = 10_000
_BATCH_SECONDS = 0.05
_STOP_SECONDS = 5.0  # a reader that does not read must not keep the process alive
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _BatchHandler(logging.Handler):
    """Keeps formatted lines for a thread that writes them in batches, and counts the ones that do not fit.

    Notes
    -----
    The standard library's queue listener wakes its thread for every line and formats there. Each wake-up fights the
    event loop for the interpreter lock: 50 µs of processor time a request, 550 µs when ONNX Runtime has just given
    the lock away. Formatting here takes 15 µs, and the thread wakes 20 times a second at most.
    """

    def __init__(self, stream: IO[str], on_drop: Callable[[], None]) -> None:
        super().__init__()
        self.setFormatter(JsonLineFormatter())
        self._stream = stream
        self._on_drop = on_drop
        self._lines: deque[str] = deque()
        self._has_lines = threading.Event()
        self._is_stopping = threading.Event()
        self._writer = threading.Thread(target=self._write, name="penstock-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line, or drop it when too many are waiting."""
        if len(self._lines) >= _MAX_WAITING_LINES:
            self._on_drop()
            return
        self._lines.append(self.format(record) + "\n")
        if not self._has_lines.is_set():
            self._has_lines.set()

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._is_stopping.set()
        self._has_lines.set()
        self._writer.join(_STOP_SECONDS)
        super().close()

    def _write(self) -> None:
        is_open = True
        while is_open:
            self._has_lines.wait()
            is_open = not self._is_stopping.wait(_BATCH_SECONDS)
            self._has_lines.clear()
            batch = "".join(self._lines.popleft() for _ in range(len(self._lines)))
            try:
                self._stream.write(batch)
                self._stream.flush()
            except (OSError, ValueError):  # the reader has closed its end: nowhere left to say so
                self._on_drop()


def start_request_log(*, level: str, on_drop: Callable[[], None], stream: IO[str] | None = None) -> Callable[[], None]:
    """Send the ``penstock`` loggers, and the server's errors, to a stream, in batches and bounded.

    Parameters
    ----------
    level : str
        ``debug``, ``info``, ``warning`` or ``error``.
    on_drop : callable
        Called once for every line that did not fit.
    stream : text stream, optional
        Standard error by default.

    Returns
    -------
    callable
        Stops the writer after flushing what is queued; the loggers are as they were.
    """
    handler = _BatchHandler(stream or sys.stderr, on_drop)
    before = logging.getLogger("penstock").level
    set_log_level(level)
    # uvicorn warns about every malformed request, so that anyone who can connect could fill the log: errors only.
    logging.getLogger("uvicorn.error").setLevel("ERROR")
    loggers = (logging.getLogger("penstock"), logging.getLogger("uvicorn.error"))
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(handler)

    def stop() -> None:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        logging.getLogger("penstock").setLevel(before)
        handler.close()

    return stop


def set_log_level(level: str) -> None:
    """Write lines from this level on: ``debug``, ``info``, ``warning`` or ``error``."""
    logging.getLogger("penstock").setLevel(level.upper())
