"""Where an encode server listens: ``unix:/path``, ``tcp://host:port`` or ``tls://host:port``.

Read `EncoderAddress.parse`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

_MAX_UNIX_PATH = 107  # sun_path of Linux, less its zero


@dataclass(frozen=True, slots=True)
class EncoderAddress:
    """One address.

    Attributes
    ----------
    kind : {"unix", "tcp", "tls"}
    path : str
        Of the socket; empty unless `kind` is ``unix``.
    host : str
    port : int
        0 takes a free one, for a server.
    """

    kind: Literal["unix", "tcp", "tls"]
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises
        ------
        ValueError
            With what is wrong with it, in a clause.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/") or len(path.encode()) > _MAX_UNIX_PATH:
                raise ValueError(f"a socket's path starts with / and has at most {_MAX_UNIX_PATH} bytes")
            return cls("unix", path=path)
        parts = urlsplit(text)
        if parts.scheme not in ("tcp", "tls") or parts.path or parts.query or parts.username or not parts.hostname:
            raise ValueError("should be unix:/path, tcp://host:port or tls://host:port")
        try:
            port = parts.port
        except ValueError:
            port = None
        if port is None:
            raise ValueError("the port is missing or no number from 0 to 65535")
        return cls("tls" if parts.scheme == "tls" else "tcp", host=parts.hostname, port=port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return it as it is written."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"{self.kind}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
