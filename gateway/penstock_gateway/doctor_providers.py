"""Whether providers can be reached and take their keys, without a call that costs anything.

Owns the provider's part of ``penstock doctor``: name, connection, certificate, and ``GET …/models``, which no provider
charges for. It never sends a prompt and shows no credential. Read `look_at_provider`.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, urlsplit

from penstock_gateway.deployments import Deployment
from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.findings import Finding
from penstock_gateway.upstream.direct import ANTHROPIC_VERSION
from penstock_gateway.wire.formats import WireFormat

STEP_SECONDS: Final = 5.0
"""Longest that connecting, the handshake, or a part of the answer may take."""
_EXPIRY_DAYS: Final = 14
_ADDRESSES: Final = 3  # of a name, tried one after the other
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ProviderPlace:
    """One address with one credential.

    Attributes
    ----------
    provider : str
    base_url : str
    names : tuple of str
        Of the deployments that use it.
    is_messages : bool
        Whether it speaks Anthropic's format, with its own header for the key.
    api_key : str
    headers : mapping of str to str
        From the configuration.
    """

    provider: str
    base_url: str
    names: tuple[str, ...]
    is_messages: bool
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def subject(self) -> str:
        """What findings are called."""
        shown = ", ".join(self.names[:3]) + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        return f"provider {self.provider} ({shown})"


def places_of(deployments: Sequence[Deployment]) -> tuple[ProviderPlace, ...]:
    """Return every address with every credential once, in the order of the configuration."""
    found: dict[tuple[object, ...], list[Deployment]] = {}
    for each in deployments:
        if each.adapter == "direct":
            key = (each.base_url, each.api_key, tuple(sorted(each.headers.items())))
            found.setdefault(key, []).append(each)
    return tuple(
        ProviderPlace(
            provider=group[0].provider,
            base_url=group[0].base_url,
            names=tuple(each.name for each in group),
            is_messages=WireFormat.MESSAGES in group[0].wires,
            api_key=group[0].api_key,
            headers=group[0].headers,
        )
        for group in found.values()
    )


def look_at_provider(
    place: ProviderPlace,
    clocks: Clocks,
    *,
    context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    step_seconds: float = STEP_SECONDS,
) -> tuple[Finding, ...]:
    """Resolve, connect, shake hands, and ask for the list of models.

    Parameters
    ----------
    place : ProviderPlace
    clocks : Clocks
        Told what time the provider has.
    context : callable
        Makes the TLS context; tests trust an authority of their own.
    step_seconds : float
        Longest that one step may take.

    Returns
    -------
    tuple of Finding
        The first thing that is wrong, or that all is well, and a certificate that ends soon.
    """
    parts = urlsplit(place.base_url)
    try:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return (Finding("fail", place.subject, "its base_url is no address", "correct base_url"),)
    began = time.monotonic()
    try:
        connection = _connected(host, port, step_seconds)
    except OSError as error:
        return (_unreachable(place, host, port, error),)
    with connection:
        certificate: tuple[Finding, ...] = ()
        if parts.scheme == "https":
            try:
                connection = context().wrap_socket(connection, server_hostname=host)
            except (OSError, ValueError) as error:
                return (_no_handshake(place, host, error),)
            certificate = _certificate(place, connection)
        try:
            status, date = _ask(place, parts, connection)
        except (OSError, http.client.HTTPException, ValueError) as error:
            detail = f"{host}:{port} takes the connection and gives no HTTP answer ({_word(error)})"
            fix = "check base_url: is it an HTTP server, and http or https?"
            return (Finding("fail", place.subject, detail, fix), *certificate)
    clocks.note(host, date)
    return (_reading(place, host, status, (time.monotonic() - began) * 1000.0), *certificate)


def _connected(host: str, port: int, step_seconds: float) -> socket.socket:
    """Return a connection to one of a name's addresses."""
    last: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:_ADDRESSES]:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(step_seconds)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last or OSError("no address")


def _unreachable(place: ProviderPlace, host: str, port: int, error: OSError) -> Finding:
    if isinstance(error, socket.gaierror):
        detail = f"the name {host} cannot be resolved ({error.strerror or 'no address'})"
        return Finding("fail", place.subject, detail, "check base_url, and the DNS of this machine or pod")
    if isinstance(error, TimeoutError):
        detail = f"{host}:{port} does not answer in time"
        return Finding("fail", place.subject, detail, "check firewall, network policy and proxy: is egress allowed?")
    if isinstance(error, ConnectionRefusedError):
        return Finding("fail", place.subject, f"nothing listens on {host}:{port}", "start it, or correct base_url")
    return Finding("fail", place.subject, f"{host}:{port} cannot be reached ({_word(error)})", "check the network")


def _no_handshake(place: ProviderPlace, host: str, error: Exception) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"the certificate of {host} is not trusted: {error.verify_message}"
        fix = "is a proxy in between? install its authority (SSL_CERT_FILE), correct base_url, or renew the certificate"
        return Finding("fail", place.subject, detail, fix)
    if isinstance(error, TimeoutError):
        detail = f"{host} takes the connection and gives no TLS handshake in time"
    else:
        detail = f"{host} does not speak TLS ({_word(error)})"
    return Finding("fail", place.subject, detail, "check the scheme and port of base_url, and what is in between")


def _certificate(place: ProviderPlace, connection: ssl.SSLSocket) -> tuple[Finding, ...]:
    ends = (connection.getpeercert() or {}).get("notAfter")
    if not isinstance(ends, str):
        return ()
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / _DAY
    if days >= _EXPIRY_DAYS:
        return ()
    detail = f"its certificate ends in {days:.0f} days, on {ends}"
    return (Finding("warn", place.subject, detail, "whoever runs the server should renew it"),)


def _ask(place: ProviderPlace, parts: SplitResult, connection: socket.socket) -> tuple[int, float | None]:
    """Return the status of ``GET …/models``, and the server's time."""
    path = f"{parts.path.rstrip('/')}/models"
    client = http.client.HTTPConnection(parts.netloc)
    client.sock = connection
    headers = {"accept": "application/json", "user-agent": "penstock-doctor"}
    if place.is_messages:
        headers |= {"anthropic-version": ANTHROPIC_VERSION, "x-api-key": place.api_key}
    elif place.api_key:
        headers["authorization"] = f"Bearer {place.api_key}"
    headers |= {name.lower(): value for name, value in place.headers.items()}
    client.request("GET", f"{path}?{parts.query}" if parts.query else path, headers=headers)
    reply = client.getresponse()
    try:
        told = reply.getheader("date")
        return reply.status, None if told is None else parsedate_to_datetime(told).timestamp()
    except (ValueError, TypeError):  # a date that is none
        return reply.status, None


def _reading(place: ProviderPlace, host: str, status: int, ms: float) -> Finding:
    """Say what a status means for a list of models."""
    subject, seen = place.subject, f"{host} answers in {ms:.0f} ms"
    has_key = bool(place.api_key or place.headers)
    if 200 <= status < 300:
        return Finding("ok", subject, f"{seen}{', the key is taken' if has_key else ', no key is asked for'}")
    if status in (401, 403):
        if has_key:
            detail = f"{seen}, and refuses the key ({status})"
            return Finding("fail", subject, detail, "check api_key: is it of this provider, whole, and not revoked?")
        return Finding("fail", subject, f"{seen}, and asks for a key ({status})", "set api_key: '${VARIABLE}'")
    if status in (404, 405, 501):
        return Finding("ok", subject, f"{seen}; it lists no models ({status}), so the key was not tried")
    if status == 429:
        return Finding("warn", subject, f"{seen}: too many requests at the moment (429)", "look at its quota")
    if 300 <= status < 400:
        return Finding("warn", subject, f"{seen} with a redirection ({status})", "set base_url to where it leads")
    if status >= 500:
        return Finding("warn", subject, f"{seen} with a failure ({status})", "look at the provider's status page")
    return Finding("warn", subject, f"{seen} with status {status}", "check base_url: does it end before /models?")


def _word(error: Exception) -> str:
    """Return what kind of error it is; its text might repeat what was sent."""
    return type(error).__name__
