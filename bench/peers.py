"""The other gateways that `overhead` compares: how each is installed, configured and started.

Versions are pinned; each is installed into `.bench` on demand, and left out with one line when that fails. Read the
``*_server`` functions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from targets import LOOPBACK, PHYSICAL_MODEL, REPOSITORY, Server, free_port

LITELLM_VERSION = "1.105.3"
PORTKEY_VERSION = "1.15.2"
# What npm picks by itself breaks the gateway's streams.
PORTKEY_SERVER_VERSION = "1.8.2"
FOLDER = REPOSITORY / ".bench"
LITELLM_FOLDER = FOLDER / "litellm"
PORTKEY_FOLDER = FOLDER / "portkey"
_INSTALL_SECONDS = 900


def nginx_server(folder: Path, *, upstream_port: int, core: int | None) -> Server | None:
    """Start nginx as a reverse proxy with keep-alive on both sides; None when it is not installed."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        return None
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(_NGINX.format(folder=folder, port=port, upstream_port=upstream_port))
    command = [binary, "-p", str(folder), "-c", str(path), "-e", str(folder / "nginx-error.log")]
    return Server("nginx", command, port=port, core=core, log=folder / "nginx.log")


_NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; keepalive_timeout 600;
  upstream provider {{ server 127.0.0.1:{upstream_port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def install_litellm() -> Path | None:
    """Return the ``litellm`` program in a virtual environment of its own, made on the first call.

    Returns
    -------
    Path or None
        None when it cannot be installed (no package index, or no version that resolves).
    """
    program = LITELLM_FOLDER / "bin" / "litellm"
    if program.exists():
        return program
    LITELLM_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    (LITELLM_FOLDER.parent / ".gitignore").write_text("*\n")
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(LITELLM_FOLDER)],
        [str(LITELLM_FOLDER / "bin" / "python"), "-m", "pip", "install", "-q", f"litellm[proxy]=={LITELLM_VERSION}"],
    )
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, timeout=900)
        except (subprocess.SubprocessError, OSError):
            shutil.rmtree(LITELLM_FOLDER, ignore_errors=True)
            return None
    return program if program.exists() else None


def litellm_server(folder: Path, program: Path, *, upstream_port: int, core: int | None) -> Server:
    """Start the litellm proxy with one worker, no database, no cache, no callbacks and no key check."""
    port = free_port()
    entry = {
        "model_name": PHYSICAL_MODEL,
        "litellm_params": {
            "model": f"openai/{PHYSICAL_MODEL}",
            "api_base": f"http://{LOOPBACK}:{upstream_port}/v1",
            "api_key": "bench",
        },
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps({"model_list": [entry], "litellm_settings": {"telemetry": False}}))
    command = [str(program), "--config", str(path), "--host", LOOPBACK, "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        # Penstock runs without client keys here; without this the proxy insists on one and checks it per request.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    log = folder / "litellm.log"
    return Server("litellm", command, port=port, core=core, log=log, timeout_seconds=90.0, environment=environment)


def install_portkey() -> Path | None:
    """Return the script of Portkey's gateway, installed with npm on the first call; None when that fails."""
    script = PORTKEY_FOLDER / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if script.exists():
        return script
    if shutil.which("npm") is None:
        return None
    PORTKEY_FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    package = {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION},
        "overrides": {"@hono/node-server": PORTKEY_SERVER_VERSION},
    }
    (PORTKEY_FOLDER / "package.json").write_text(json.dumps(package))
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        subprocess.run(command, cwd=PORTKEY_FOLDER, check=True, capture_output=True, timeout=_INSTALL_SECONDS)
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(PORTKEY_FOLDER, ignore_errors=True)
        return None
    return script if script.exists() else None


def portkey_server(folder: Path, script: Path, *, core: int | None) -> Server:
    """Start Portkey's gateway, whose requests name the provider themselves; see `portkey_headers`."""
    port = free_port()
    command = ["node", str(script), f"--port={port}", "--headless"]
    environment = {"NODE_ENV": "production"}
    return Server("portkey", command, port=port, core=core, log=folder / "portkey.log", environment=environment)


def portkey_headers(upstream_port: int) -> dict[str, str]:
    """Return what a request to Portkey's gateway must say."""
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://{LOOPBACK}:{upstream_port}/v1"}
