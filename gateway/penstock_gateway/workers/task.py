"""What the process that watches says to a worker when it starts it, and by one byte later.

Light to import: the process that watches loads nothing of the gateway for it. Read `WorkerTask`.
"""

from __future__ import annotations

from typing import Final

import msgspec

READY: Final = b"R"
"""From a worker: it takes requests."""
ALIVE: Final = b"."
"""From a worker, every `ALIVE_SECONDS`: its event loop turns."""
ALIVE_SECONDS: Final = 2.0
RELOAD: Final = b"H"
"""To a worker: it is to read the configuration, and tell the others."""


class WorkerTask(msgspec.Struct, frozen=True):
    """What a worker is to do.

    Attributes
    ----------
    config : str or None
    host : str or None
    port : int or None
    workers : int or None
        Command-line options.
    is_insecure : bool
        Command-line option.
    index : int
        From 0.
    count : int
        Of workers.
    listener, control : int
        File descriptors: the socket on the address, bound; and the one to the process that watches this one.
    folder : str
        Where workers listen for each other.
    encoder : str or None
        Address of the process that encodes for all.
    starts : int
        How often this place has been filled, this time included.
    """

    config: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    is_insecure: bool = False
    index: int = 0
    count: int = 1
    listener: int = -1
    control: int = -1
    folder: str = ""
    encoder: str | None = None
    starts: int = 1
