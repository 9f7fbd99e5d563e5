"""Listening sockets of the demonstration, on the loopback address and nowhere else.

Owns the address and the binding. A port is bound before its server starts, so that it is known and cannot be lost to
another process in between. Read `bind_loopback`.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def bind_loopback(port: int) -> socket.socket:
    """Bind a loopback port; 0 takes a free one.

    Parameters
    ----------
    port : int

    Returns
    -------
    socket
        Bound, not listening yet.

    Raises
    ------
    OSError
        The port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener
