"""Whether the encoder in another process is reached as safely as it must be.

Read `check_encoder`.
"""

from __future__ import annotations

from pathlib import Path

from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import SettingsSource


def check_encoder(settings: Settings, source: SettingsSource) -> None:
    """Report a server on another machine that nothing tells from somebody else's, and a missing file."""
    encoder = settings.encoder
    if encoder.remote is None:
        return
    address = EncoderAddress.parse(encoder.remote)
    if address.kind == "tcp" and not address.is_local and encoder.secret is None:
        source.report(
            ("encoder", "remote"),
            "is on another machine, and whoever answers there would be believed",
            "add encoder.secret, the same as the server's, or use tls://",
        )
    if encoder.ca_file is not None and not Path(encoder.ca_file).is_file():
        source.report(("encoder", "ca_file"), f"{encoder.ca_file} is no file")
