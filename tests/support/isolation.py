"""Keeps a test run away from the machine it runs on: no network beyond loopback, no credentials, no settings.

Installed once by ``tests/conftest.py`` before any of our code is imported. Read `install` first.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys

_CREDENTIAL = re.compile(r"(API_KEY|ACCESS_KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS?)(_ID)?$", re.IGNORECASE)
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy"})
_KEPT = frozenset({"PENSTOCK_DATA"})
_OURS = ("PENSTOCK", "LITELLM", "REDIS_")
_ADDRESSES = frozenset({"PORT", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"})
_LOOPBACK_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost", "testserver"})


def install() -> None:
    """Remove credentials, proxies and our own settings from the environment, and refuse connections off this host."""
    for name in [name for name in os.environ if is_removed(name)]:
        del os.environ[name]
    # Two workers share the machine; one thread each keeps numeric libraries from fighting over it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.addaudithook(_refuse_the_network)


def is_removed(name: str) -> bool:
    """Whether an environment variable could change what a test sees, or hand it somebody's credential."""
    if name in _KEPT:
        return False
    is_ours = name.upper().startswith(_OURS) or name in _ADDRESSES
    return is_ours or name.lower() in _PROXIES or bool(_CREDENTIAL.search(name))


def is_loopback(host: object) -> bool:
    """Whether `host`, a name or an address as given to the socket module, stays on this machine."""
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name.lower() in _LOOPBACK_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo" and not is_loopback(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, "tests never reach the network")
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise ConnectionRefusedError("tests never reach the network")
