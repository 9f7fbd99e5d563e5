"""What a Redis URL may say, and where it leads.

Owns schemes, options and the escaping of credentials; opens nothing. Read `read_url`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from penstock_gateway.errors import GatewayError

DEFAULT_PORT = 6379

_SCHEMES = {
    "redis": False,
    "rediss": False,
    "unix": False,
    "redis+cluster": True,
    "rediss+cluster": True,
}
_URL_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class RedisNotUsable(GatewayError):
    """The redis extra is missing (``missing_extra``), or the URL is not one of Redis (``invalid_redis_url``)."""

    default_code = "invalid_redis_url"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates of a TLS connection; None: the system's authorities, and no certificate of our own."""

    authorities_file: str | None = None
    authorities_folder: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    checks_host_name: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a context that demands a trusted certificate.

        Raises
        ------
        OSError
            A file cannot be read, or holds no certificate (`ssl.SSLError`).
        """
        context = ssl.create_default_context(cafile=self.authorities_file, capath=self.authorities_folder)
        context.check_hostname = self.checks_host_name
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """One server, or one node of a cluster.

    Attributes
    ----------
    host : str
        Empty for a Unix socket.
    port : int
    socket_path : str
        Empty for TCP.
    is_cluster : bool
    database : int
    user, password : str or None
        Unescaped; never shown.
    tls : TlsFiles or None
        None: not encrypted.
    """

    host: str
    port: int
    socket_path: str
    is_cluster: bool
    database: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: TlsFiles | None = None

    @property
    def shown(self) -> str:
        """Address without user, password and options."""
        return self.socket_path or f"{self.host}:{self.port}"


def read_url(url: str) -> RedisPlace:
    """Read and check a URL.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+cluster://`` or ``rediss+cluster://``.

    Returns
    -------
    RedisPlace

    Raises
    ------
    RedisNotUsable
        Without any part of the URL in its message.
    """
    try:
        parts = urlsplit(url)
        port = parts.port  # raises when it is no number
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        raise RedisNotUsable("The Redis URL cannot be read: is something in the password to be escaped?") from None
    if parts.scheme not in _SCHEMES:
        raise RedisNotUsable(f"A Redis URL begins with one of {', '.join(f'{name}://' for name in _SCHEMES)}.")
    if set(options) - _URL_OPTIONS:
        raise RedisNotUsable(f"A Redis URL may have the options {', '.join(sorted(_URL_OPTIONS))} and no other.")
    is_socket = parts.scheme == "unix"
    return RedisPlace(
        host="" if is_socket else parts.hostname or "localhost",
        port=port or DEFAULT_PORT,
        socket_path=unquote(parts.path) if is_socket else "",
        is_cluster=_SCHEMES[parts.scheme],
        database=_database(parts, options),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=_tls(options) if parts.scheme.startswith("rediss") else None,
    )


def _database(parts: SplitResult, options: dict[str, str]) -> int:
    """Return the number after ``db=``, else the one in the path; a path without one is database 0."""
    in_path = "" if parts.scheme == "unix" else parts.path.strip("/")
    text = options.get("db", in_path or "0")
    if not (text.isascii() and text.isdecimal()):
        raise RedisNotUsable("The database in the Redis URL is not a number.")
    return int(text)


def _tls(options: dict[str, str]) -> TlsFiles:
    checks = options.get("ssl_check_hostname", "true").lower()
    if checks not in _WORDS:
        raise RedisNotUsable("In the Redis URL, ssl_check_hostname is either true or false.")
    return TlsFiles(
        options.get("ssl_ca_certs"),
        options.get("ssl_ca_path"),
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
        _WORDS[checks],
    )
