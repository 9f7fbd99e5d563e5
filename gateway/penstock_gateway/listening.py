"""Takes a TCP address before the server runs that answers there: a port in use is then an error and not an exit.

Read `bound_socket`.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

SPREADS_CONNECTIONS: Final = sys.platform == "linux"
"""Whether the kernel spreads connections over sockets that share an address (socket(7), ``SO_REUSEPORT``)."""


def bound_socket(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Bind an address.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.
    is_shared : bool
        Others may be bound to the same address, if they are shared as well.

    Returns
    -------
    socket
        Bound, not yet listening.

    Raises
    ------
    OSError
        The address cannot be taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def held_address(host: str, port: int) -> socket.socket:
    """Bind an address for workers that bind it, too, and keep every other gateway from it before they listen.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.

    Returns
    -------
    socket
        Bound. Where `SPREADS_CONNECTIONS`, it is never to listen, or the kernel would hand it connections.

    Raises
    ------
    OSError
        The address cannot be taken.
    """
    held = bound_socket(host, port, is_shared=SPREADS_CONNECTIONS)
    if SPREADS_CONNECTIONS:
        # what does not listen is in the way of `port_problem` only without this option, which binding itself needs
        # after a gateway whose connections have not timed out
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return held


def port_problem(host: str, port: int) -> str | None:
    """Return why an address cannot be bound, or None when it can.

    Parameters
    ----------
    host : str
    port : int
        0 is always free.

    Returns
    -------
    str or None
    """
    try:
        bound_socket(host, port).close()
    except OSError as error:
        return f"{host}:{port} cannot be bound: {error.strerror or error}"
    return None
