"""From the settings to the client of an encode server.

Read `remote_encoder`.
"""

from __future__ import annotations

import ssl
from functools import partial

from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.service import RemoteEncoderService, RemotePlace
from penstock_gateway.remote_encoder.wire import Precision
from penstock_gateway.settings_deployments import model_folder
from penstock_gateway.settings_models import Settings
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import read_manifest
from penstock_routers.errors import EncoderError


def remote_encoder(settings: Settings, metrics: GatewayMetrics) -> RemoteEncoderService | None:
    """Return the client that the settings ask for; None where prompts are encoded in this process.

    Parameters
    ----------
    settings : Settings
    metrics : GatewayMetrics

    Returns
    -------
    RemoteEncoderService or None
        Not connected yet: the first prompt is what connects it, and a server that is away costs no start.

    Raises
    ------
    RouterError
        The encoder's own folder has no manifest that can be read, or the certificates of `encoder.ca_file` none.
    """
    wanted, routing = settings.encoder, settings.routing
    if wanted.remote is None or routing.artifact == "none":
        return None
    folder = model_folder(routing.encoder)
    address = EncoderAddress.parse(wanted.remote)
    place = RemotePlace(
        address,
        wanted.timeout_seconds,
        b"" if wanted.secret is None else wanted.secret.get_secret_value().encode(),
        Precision.FLOAT16 if wanted.precision == "float16" else Precision.FLOAT32,
        _context(wanted.ca_file) if address.kind == "tls" else None,
    )
    load = partial(PromptEncoder.load, folder, device=routing.device)
    return RemoteEncoderService(
        read_manifest(folder),
        place,
        load_local=load if wanted.fallback == "local" else None,
        metrics=metrics.remote_encoder,
    )


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        message = f"the certificates of encoder.ca_file cannot be used: {type(error).__name__}"
        raise EncoderError(message, code="encoder_remote_tls") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
