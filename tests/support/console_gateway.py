"""A gateway with everything that its console shows: simulated models, keys, budgets, a registry, captured prompts.

Owns the traffic: real requests over sockets, some of them repeated, some failing, one hostile. Read `console_gateway`.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from penstock_gateway.app import create_app
from penstock_gateway.demo.loopback import bind_loopback
from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.run import demo_settings, token_counter
from penstock_gateway.demo.server_thread import ServerThread
from penstock_gateway.demo.simulated_upstream import create_simulated_upstream, upstream_server
from penstock_gateway.server import server_for
from penstock_gateway.settings_accounts import AccountsSettings, AdminSettings, TeamSettings
from penstock_gateway.settings_events import EventSettings
from penstock_gateway.settings_models import ClientKeySettings, DeploymentSettings, Settings
from penstock_routers.bundled import bundled_folder
from penstock_training.publishing.registry import Registry

ADMIN_KEY = "console-admin-key-0123456789"
CLIENT_KEY = "client-key-0123456789abcdef"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> {{ 7*7 }}"


class ConsoleGateway:
    """A running gateway, and what talks to it."""

    def __init__(self, port: int, admin_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.console = f"http://127.0.0.1:{admin_port}/console"

    def chat(self, prompt: str, model: str = "auto") -> dict[str, str]:
        """Send one prompt and return the headers of the answer, whatever its status."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {CLIENT_KEY}"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                response.read()
                return {name.lower(): value for name, value in response.headers.items()}
        except urllib.error.HTTPError as error:
            error.close()
            return {name.lower(): value for name, value in error.headers.items()}


@contextlib.contextmanager
def console_gateway(
    folder: Path, *, has_traffic: bool = True, captures: bool = True, has_console: bool = True
) -> Iterator[ConsoleGateway]:
    """Run a gateway in front of simulated models, and send it traffic unless told otherwise.

    Parameters
    ----------
    folder : Path
        For its events, accounts and registry.
    has_traffic : bool
    captures : bool
        Whether contents are captured, and thereby shown.
    has_console : bool
    """
    listener = bind_loopback(0)
    simulated = create_simulated_upstream(speed=math.inf, seed=0, count_tokens=token_counter())
    with ServerThread("simulated provider", upstream_server(simulated), bind_loopback(0)) as upstream:
        settings = _settings(folder, upstream.port, listener.getsockname()[1], captures=captures)
        admin = settings.admin.model_copy(update={"console": has_console})
        settings = settings.model_copy(update={"admin": admin})
        app = create_app(settings)
        server = server_for(app, host="127.0.0.1", port=settings.server.port)
        with ServerThread("gateway", server, listener) as served:
            assert app.running.admin_port is not None
            gateway = ConsoleGateway(served.port, app.running.admin_port)
            if has_traffic:
                _send_traffic(gateway)
            yield gateway


def registry_with_two_versions(folder: Path) -> Path:
    """Return a registry of the bundled router and of the same one with another guard."""
    place = folder / "registry"
    if place.exists():
        return place
    registry = Registry(place)
    original = bundled_folder("default-router")
    other = folder / "other"
    shutil.copytree(original, other)
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["guard"]["z"] = manifest["guard"]["z"] + 0.5
    _rename(other, manifest)
    with registry.locked():
        registry.publish(other, verdict="forced", reason="the first one")
        registry.publish(original, verdict="better", reason="cheaper at the same quality")
    return place


def _rename(folder: Path, manifest: dict[str, object]) -> None:
    """Write a changed manifest with the id that it has now."""
    from penstock_routers.manifest import artifact_id, decode_manifest

    path = folder / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    manifest["id"] = artifact_id(decode_manifest(path.read_bytes()), (folder / "router.onnx").read_bytes())
    path.write_text(json.dumps(manifest))


def _settings(folder: Path, upstream_port: int, port: int, *, captures: bool) -> Settings:
    demo = demo_settings(upstream_port, port)
    broken = DeploymentSettings(
        name="broken", base_url="http://127.0.0.1:9/v1", tier="large", routable=False, price=demo.deployments[0].price
    )
    budget = {"period": "month", "limit_usd": "5"}
    return demo.model_copy(
        update={
            "deployments": (*demo.deployments, broken),
            "routing": demo.routing.model_copy(update={"artifact": str(registry_with_two_versions(folder))}),
            "events": EventSettings(folder=str(folder / "events"), capture_content=captures),
            "accounts": AccountsSettings(store="file", folder=str(folder / "accounts")),
            "admin": AdminSettings(port=0, key=SecretStr(ADMIN_KEY)),
            "teams": (TeamSettings(name="retail", budgets=[budget]),),  # type: ignore[arg-type]
            "client_keys": (ClientKeySettings(name="shop", key=SecretStr(CLIENT_KEY), team="retail"),),
        }
    )


def _send_traffic(gateway: ConsoleGateway) -> None:
    for prompt in (*DEMO_PROMPTS, *DEMO_PROMPTS[:8], HOSTILE):
        gateway.chat(prompt)
    for _ in range(3):
        gateway.chat("Is anybody there?", model="broken")
