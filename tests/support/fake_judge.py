"""A judging model on a loopback port: an OpenAI-compatible endpoint whose judgement is a function.

Owns the server and what it remembers of requests. Read `running_judge`, then `pairwise_by`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

_ANSWERS = re.compile(r"^BEGIN (FIRST ANSWER|SECOND ANSWER|ANSWER) (\w+)\n(.*?)\nEND \1 \2$", re.MULTILINE | re.DOTALL)
Reply = str | web.Response
Judgement = Callable[[list[str]], Reply]


@dataclass
class FakeJudge:
    """What the server got.

    Attributes
    ----------
    base_url : str
    requests : list of dict
        Bodies, in order.
    authorizations : list of str or None
        The header of each.
    """

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    def texts(self, number: int) -> list[str]:
        """The answers in a request, first one first."""
        return [match[3] for match in _ANSWERS.finditer(self.requests[number]["messages"][1]["content"])]


@asynccontextmanager
async def running_judge(judgement: Judgement) -> AsyncIterator[FakeJudge]:
    """Serve a judge that calls `judgement` with the answers it finds between the marks."""

    async def complete(request: web.Request) -> web.Response:
        judge.requests.append(await request.json())
        judge.authorizations.append(request.headers.get("authorization"))
        reply = judgement(judge.texts(-1))
        if isinstance(reply, web.Response):
            return reply
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        return web.json_response({"choices": [{"message": {"content": reply}}], "usage": usage})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    judge = FakeJudge(f"http://{host}:{port}/v1")
    try:
        yield judge
    finally:
        await runner.cleanup()


def pairwise_by(merit: Callable[[str], float]) -> Judgement:
    """Judge pairs by a merit of each text, whatever the order."""

    def judge(texts: list[str]) -> str:
        first, second = map(merit, texts)
        winner = "tie" if first == second else "first" if first > second else "second"
        return json.dumps({"reason": "because", "winner": winner})

    return judge
