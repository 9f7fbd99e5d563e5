"""Whether pages of other origins may be let in as the configuration says.

Read `check_server`.
"""

from __future__ import annotations

from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_server import ANY_ORIGIN
from penstock_gateway.settings_source import SettingsSource


def check_server(settings: Settings, source: SettingsSource) -> None:
    """Report origins that would give away more than they say."""
    cors = settings.server.cors
    if ANY_ORIGIN not in cors.origins:
        return
    if len(cors.origins) > 1:
        source.report(("server", "cors", "origins"), "names '*' and others; '*' alone lets in every page")
    if cors.credentials:
        source.report(
            ("server", "cors", "credentials"),
            "cookies of every page on the web would be taken",
            "name the origins, or leave credentials out",
        )
    if not settings.asks_for_keys:
        source.report(
            ("server", "cors", "origins"),
            "'*' lets every page that somebody here opens use the models, as there are no client keys",
            "add client_keys, or name the origins",
        )
