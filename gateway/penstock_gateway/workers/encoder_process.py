"""``penstock encode-server`` for the workers of one gateway: it ends when the process that started it has.

Started as ``python -m penstock_gateway.workers.encoder_process ARGUMENTS``, never by a person. Read `main`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from penstock_gateway.cli import run


def main() -> int:
    """Serve until told to stop, or until standard input ends, which the process that watches holds open."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_end_with_watcher, name="penstock-watched", daemon=True).start()
    return run(["encode-server", *sys.argv[1:]])


def _end_with_watcher() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
