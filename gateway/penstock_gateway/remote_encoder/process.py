"""The process of `penstock encode-server`: loads the encoders, listens, says how it is, and ends well.

Owns the order of start and stop and the HTTP answers for probes and scrapes. Read `serve_encoders`.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from penstock_gateway.admin_server import AdminServer
from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.metrics import CONTENT_TYPE
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.metrics import EncodeServerMetrics
from penstock_gateway.remote_encoder.server import EncodeServer
from penstock_gateway.request_log import start_request_log
from penstock_routers.encoder import PromptEncoder
from penstock_routers.onnx_session import Device

STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class EncodeServerOptions:
    """What the command line says.

    Attributes
    ----------
    address : EncoderAddress
    folders : tuple of Path
        Of the encoders.
    device : {"auto", "cpu", "cuda"}
    threads : int
        CPU threads of one run.
    queue_limit : int
        Texts that may wait for each transformer.
    secret : bytes
        Empty for none; not shown.
    certificate, key : Path or None
        PEM files, for ``tls``.
    health : (str, int) or None
        Host and port of the HTTP answers.
    """

    address: EncoderAddress
    folders: tuple[Path, ...]
    device: Device = "auto"
    threads: int = 1
    queue_limit: int = 256
    secret: bytes = b""
    certificate: Path | None = None
    key: Path | None = None
    health: tuple[str, int] | None = None

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"EncodeServerOptions({self.address}, {len(self.folders)} encoders)"


async def serve_encoders(
    options: EncodeServerOptions, on_ready: Callable[[EncodeServer, int | None], None] = lambda *_: None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    options : EncodeServerOptions
    on_ready : callable
        Called once with the server and the port of the HTTP answers, when texts are taken.

    Raises
    ------
    RouterError
        An encoder is refused.
    OSError
        An address cannot be taken.
    ValueError
        ``tls`` without a usable certificate.
    """
    metrics = EncodeServerMetrics(CollectorRegistry())
    tls = None if options.certificate is None else server_context(options.certificate, options.key)
    encoders = [await asyncio.to_thread(_load, folder, options) for folder in options.folders]
    stop_log = start_request_log(level="info", on_drop=metrics.log_dropped.inc)
    server = EncodeServer(encoders, secret=options.secret, metrics=metrics, queue_limit=options.queue_limit)
    health = HealthAnswers(server)
    http = None
    try:
        await server.start(options.address, tls)
        if options.health is not None:
            http = AdminServer(health, host=options.health[0], port=options.health[1], http=BoundedHttp)
            await http.start()
        on_ready(server, None if http is None else http.port)
        await _asked_to_stop()
    finally:
        health.is_ending = True
        async with asyncio.timeout(STOP_SECONDS):
            await server.aclose()
            if http is not None:
                await http.aclose()
        await asyncio.to_thread(stop_log)


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return TLS 1.2 or later with a certificate.

    Raises
    ------
    ValueError
        The files cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"the certificate or its key cannot be used: {type(error).__name__}") from None
    return context


class HealthAnswers:
    """``/livez``, ``/readyz`` and ``/metrics``, by ASGI.

    Parameters
    ----------
    server : EncodeServer

    Attributes
    ----------
    is_ending : bool
        Whether it takes no new texts.
    """

    def __init__(self, server: EncodeServer) -> None:
        self._server = server
        self.is_ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        status, kind, body = 404, "text/plain; charset=utf-8", b"there is nothing here\n"
        if path == "/livez":
            status, body = 200, b"ok\n"
        elif path == "/readyz":
            status, body = (503, b"ending\n") if self.is_ending else (200, b"ok\n")
        elif path == "/metrics":
            metrics = self._server.metrics
            metrics.waiting.set(sum(service.waiting for service in self._server.services.values()))
            status, kind, body = 200, CONTENT_TYPE, generate_latest(metrics.registry)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _load(folder: Path, options: EncodeServerOptions) -> PromptEncoder:
    return PromptEncoder.load(folder, device=options.device, threads=options.threads)


async def _asked_to_stop() -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
