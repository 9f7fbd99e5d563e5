"""Whether the configured encode server answers, in time, with the router's encoder.

Owns that part of ``penstock doctor``. It sends a handshake and a few short texts of its own. Read `look_at_encoder`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from penstock_gateway.findings import Finding
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.remote_encoder.connection import RemoteFailure
from penstock_gateway.remote_encoder.opening import remote_encoder
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_gateway.settings_models import Settings
from penstock_routers.errors import RouterError

SUBJECT: Final = "encode server"
SECONDS: Final = 3.0
"""For the handshake, and for each text: what is too slow should be measured, not given up."""
_FIXES: Final = {
    "unreachable": "start it (penstock encode-server), or correct encoder.remote",
    "late": "start it anew, or look at the network in between",
    "refused": "give both sides the same encoder (routing.encoder, --encoder), secret and version",
    "overloaded": "raise --queue or --threads, or start another one",
}


def look_at_encoder(settings: Settings, *, seconds: float = SECONDS) -> tuple[Finding, ...]:
    """Ask the encode server of the configuration for a few vectors.

    Parameters
    ----------
    settings : Settings
        With ``encoder.remote``.
    seconds : float

    Returns
    -------
    tuple of Finding
        A server that is away is a warning where the gateway encodes by itself meanwhile.
    """
    try:
        service = remote_encoder(settings, GatewayMetrics())
    except RouterError as error:
        return (Finding("fail", SUBJECT, error.message, "correct routing.encoder or encoder.ca_file"),)
    if service is None:
        return (Finding("ok", SUBJECT, "not asked: routing.artifact is none"),)
    address = settings.encoder.remote
    try:
        latency = asyncio.run(_latency(service, seconds))
    except RemoteFailure as error:
        goes_on = settings.encoder.fallback == "local"
        meanwhile = "each gateway encodes by itself" if goes_on else "the default model answers every request for auto"
        fix = _FIXES.get(error.kind, "look at its log")
        return (Finding("warn" if goes_on else "fail", SUBJECT, f"{error.message}; {meanwhile} meanwhile", fix),)
    limit = settings.encoder.timeout_seconds
    detail = f"{address}: {latency * 1000:.1f} ms a prompt"
    if latency > limit / 2:
        is_late = latency > limit
        detail += f", {'and it is given up after' if is_late else 'which is near the deadline of'} {limit * 1000:g} ms"
        fix = "bring it nearer, or raise encoder.timeout_seconds"
        return (Finding("fail" if is_late else "warn", SUBJECT, detail, fix),)
    return (Finding("ok", SUBJECT, detail),)


async def _latency(service: RemoteEncoderService, seconds: float) -> float:
    try:
        return await service.latency(seconds)
    finally:
        await service.aclose()
