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
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import IO, Any

import msgspec

_MAX_WAITING_LINES = 10_000
_BATCH_SECONDS = 0.05
_STOP_SECONDS = 5.0  # a reader that does not read must not keep the process alive
_PARENT = logging.getLogger("penstock")
_encode = msgspec.json.Encoder(enc_hook=str).encode
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the record's extra fields.

    Parameters
    ----------
    fields : mapping of str to JSON value
        Of every line.
    """

    def __init__(self, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        fields = self.fields | {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        return _line(record.created, record.levelname.lower(), record.name, record.getMessage(), fields)


def _line(created: float, level: str, logger: str, event: str, fields: Mapping[str, Any]) -> str:
    """Return one line without its line end; `created` is in seconds since 1970."""
    second = int(created)
    line = {
        "time": f"{_moment(second)}.{int((created - second) * 1000):03d}Z",
        "level": level,
        "logger": logger,
        "event": event,
        **fields,
    }
    return _encode(line).decode()


@lru_cache(maxsize=2)
def _moment(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class _BatchHandler(logging.Handler):
    """Keeps formatted lines for a thread that writes them in batches, and counts the ones that do not fit.

    Notes
    -----
    The standard library's queue listener wakes its thread for every line and formats there. Each wake-up fights the
    event loop for the interpreter lock: 50 µs of processor time a request, 550 µs when ONNX Runtime has just given
    the lock away. Formatting here takes 15 µs, and the thread wakes 20 times a second at most.
    """

    def __init__(self, stream: IO[str], on_drop: Callable[[], None], fields: Mapping[str, Any]) -> None:
        super().__init__()
        self.setFormatter(JsonLineFormatter(fields))
        self.fields = dict(fields)
        self._stream = stream
        self._on_drop = on_drop
        self._lines: deque[str] = deque()
        self._has_lines = threading.Event()
        self._is_stopping = threading.Event()
        self._writer = threading.Thread(target=self._write, name="penstock-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line, or drop it when too many are waiting."""
        self.keep(self.format(record))

    def keep(self, line: str) -> None:
        """Keep one line that is formatted already."""
        if len(self._lines) >= _MAX_WAITING_LINES:
            self._on_drop()
            return
        self._lines.append(line + "\n")
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


def start_request_log(
    *,
    level: str,
    on_drop: Callable[[], None],
    stream: IO[str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Callable[[], None]:
    """Send the ``penstock`` loggers, and the server's errors, to a stream, in batches and bounded.

    Parameters
    ----------
    level : str
        ``debug``, ``info``, ``warning`` or ``error``.
    on_drop : callable
        Called once for every line that did not fit.
    stream : text stream, optional
        Standard error by default.
    fields : mapping of str to JSON value, optional
        Of every line.

    Returns
    -------
    callable
        Stops the writer after flushing what is queued; the loggers are as they were.
    """
    handler = _BatchHandler(stream or sys.stderr, on_drop, fields or {})
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


def log_request(logger: logging.Logger, fields: Mapping[str, Any]) -> None:
    """Write the line of a request that is over.

    Parameters
    ----------
    logger : Logger
        Below ``penstock``.
    fields : mapping of str to JSON value

    Notes
    -----
    A log record looks for its caller in the stack, the process and the thread, and travels through filters, 20 µs a
    request; where only our own writer listens, the line is made without one.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    parent = _PARENT
    if not logger.handlers and not parent.propagate and len(parent.handlers) == 1:
        handler = parent.handlers[0]
        if isinstance(handler, _BatchHandler):
            shown = {**handler.fields, **fields} if handler.fields else fields
            handler.keep(_line(time.time(), "info", logger.name, "request", shown))
            return
    logger.info("request", extra=dict(fields))


def set_log_level(level: str) -> None:
    """Write lines from this level on: ``debug``, ``info``, ``warning`` or ``error``."""
    logging.getLogger("penstock").setLevel(level.upper())
