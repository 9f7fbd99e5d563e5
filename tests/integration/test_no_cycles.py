"""Requests leave nothing to the garbage collector: it seldom looks at old objects, and what it would find is memory."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from pathlib import Path

from penstock_gateway.app import create_app
from penstock_gateway.server import server_for
from penstock_gateway.settings import load_settings
from support.replay_upstream import running_replay_upstream

CONFIG = """
version: 1
deployments:
  - {{name: steady, model: openai-text, base_url: "{url}", tier: small, price: {{input: 1, output: 2}}}}
  - {{name: cut, model: "openai-text!cut-after-1", base_url: "{url}", price: {{input: 1, output: 2}}}}
  - {{name: busy, model: "openai-text!status-503", base_url: "{url}", price: {{input: 1, output: 2}}}}
  - {{name: reset, model: "openai-text!reset", base_url: "{url}", price: {{input: 1, output: 2}}}}
routing: {{artifact: none, default_arm: steady}}
cache: {{mode: exact}}
attempts: {{retries: 0}}
"""
KINDS = [
    {"model": "steady"},
    {"model": "steady", "stream": True},
    {"model": "auto"},
    {"model": "cut"},
    {"model": "cut", "stream": True},
    {"model": "busy"},
    {"model": "reset", "stream": True},
    {"model": "unknown"},
]


async def _ask(port: int, fields: dict[str, object], *, leaves: bool) -> None:
    """Send one request on a connection of its own; read to its end, or leave after the first bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **fields}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    )
    writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
    await (reader.read(10) if leaves else reader.read())
    writer.close()
    await writer.wait_closed()


async def test_no_request_of_any_kind_leaves_a_cycle(tmp_path: Path) -> None:
    """Answers, streams, errors, broken providers, clients that leave: all of them are freed when they are over."""
    async with running_replay_upstream() as provider:
        path = tmp_path / "penstock.yaml"
        path.write_text(CONFIG.format(url=provider.base_url))
        server = server_for(create_app(load_settings(path, {})), host="127.0.0.1", port=0)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def round_of_all() -> None:
            for fields in KINDS:
                for leaves in (False, True):
                    await _ask(port, fields, leaves=leaves)
            while server.server_state.tasks or server.server_state.connections:
                await asyncio.sleep(0.005)

        await round_of_all()  # what is made once and kept
        gc.collect()
        gc.disable()
        try:
            await round_of_all()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(found).__qualname__ for found in gc.garbage if _is_ours(found))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            server.should_exit = True
            await serving
    assert not left


def _is_ours(found: object) -> bool:
    return type(found).__module__.startswith("penstock_") or isinstance(found, BaseException)
