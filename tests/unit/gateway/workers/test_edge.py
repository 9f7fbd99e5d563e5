"""Requests that concern all workers, whichever was asked."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.asgi import ONLY_REMEMBERED, Receive, Scope, Send, send_body
from penstock_gateway.workers.edge import MAX_BODY_BYTES, WorkerEdge
from penstock_gateway.workers.peers import Answer, Peers, Question


class FakePeers(Peers):
    """Other workers that say what they are told to."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        super().__init__(Path("nowhere"), 0, len(answers) + 1)
        self.asked: list[Question] = []
        self._answers = [
            Answer(number + 1, status, [], content if isinstance(content, bytes) else json.dumps(content).encode())
            for number, (status, content) in enumerate(answers)
        ]

    async def ask_all(self, question: Question, seconds: float = 0.0) -> list[Answer]:
        """Note the question."""
        self.asked.append(question)
        return self._answers


async def ask(
    peers: FakePeers,
    method: str,
    path: str,
    own: tuple[int, Any],
    *,
    unremembered: tuple[int, Any] | None = None,
    body: bytes = b"",
    query: bytes = b"",
) -> tuple[int, Any, dict[bytes, bytes]]:
    """Send one request to the worker whose application answers `own` by what it remembers.

    Returns status, content and headers. `unremembered` is what it answers besides.
    """
    sent: list[MutableMapping[str, Any]] = []
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        seen.append(message["body"])
        status, content = own if unremembered is None or ONLY_REMEMBERED in scope else unremembered
        await send_body(send, status, json.dumps(content).encode(), "application/json")

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"authorization", b"Bearer key"), (b"accept-encoding", b"gzip")],
    }
    await WorkerEdge(app, peers)(scope, receive, send)
    assert seen in ([], [body], [body, body])
    content = b"".join(message.get("body", b"") for message in sent)
    headers = dict(sent[0]["headers"])
    assert int(headers.get(b"content-length", len(content))) == len(content)
    return sent[0]["status"], json.loads(content), headers


DECISION = "/v1/decisions/dec_1"


async def test_what_this_worker_knows_is_asked_of_nobody_else() -> None:
    """Only a 404 sends the question on."""
    peers = FakePeers((200, {"id": "other"}))
    assert (await ask(peers, "GET", DECISION, (200, {"id": "own"})))[:2] == (200, {"id": "own"})
    assert (await ask(peers, "GET", DECISION, (401, {"id": "none"})))[:2] == (401, {"id": "none"})
    assert peers.asked == []


async def test_what_another_worker_knows_is_its_answer() -> None:
    """It is asked with the caller's credential, path, query and body, under one request id."""
    peers = FakePeers((404, {}), (201, {"id": "found"}), (0, b""))
    answer = await ask(peers, "POST", "/v1/feedback", (404, {}), body=b'{"score": 1}', query=b"a=b")
    assert answer[:2] == (201, {"id": "found"})
    (question,) = peers.asked
    assert (question.method, question.target, question.body) == ("POST", "/v1/feedback?a=b", b'{"score": 1}')
    headers = dict(question.headers)
    assert headers[b"authorization"] == b"Bearer key"
    assert headers[b"x-request-id"].startswith(b"req_")
    assert b"accept-encoding" not in headers


async def test_what_no_worker_knows_is_not_found_unless_one_is_silent() -> None:
    """A worker that does not run has nothing; one that does not answer may have it, so the caller is to try again."""
    assert (await ask(FakePeers((404, {}), (0, b"")), "GET", DECISION, (404, {"error": "own"})))[:2] == (
        404,
        {"error": "own"},
    )
    own, counted = (404, {"error": "own"}), (404, {"error": "counted"})
    assert (await ask(FakePeers((404, {})), "GET", DECISION, own, unremembered=counted))[:2] == counted
    status, content, headers = await ask(FakePeers((404, {}), (504, b"")), "GET", DECISION, (404, {}))
    assert (status, content["error"]["code"], headers[b"retry-after"]) == (503, "worker_unavailable", b"1")


async def test_feedback_that_no_worker_remembers_is_this_workers_to_take() -> None:
    """Who remembers the decision comes first; only then its id alone is enough, and never while one is silent."""
    taken, unknown = (201, {"id": "sealed"}), (404, {"error": "own"})
    path = "/v1/feedback"
    assert (await ask(FakePeers((404, {})), "POST", path, unknown, unremembered=taken))[:2] == taken
    assert (await ask(FakePeers((0, b"")), "POST", path, unknown, unremembered=unknown))[:2] == unknown
    remembered = FakePeers((201, {"id": "remembered"}))
    assert (await ask(remembered, "POST", path, unknown, unremembered=taken))[1] == {"id": "remembered"}
    assert (await ask(FakePeers((504, b"")), "POST", path, unknown, unremembered=taken))[0] == 503


async def test_deletions_are_added_up_and_a_failure_of_one_is_the_answer() -> None:
    """Nobody is told that something is gone which may still be answered from."""
    own = (200, {"object": "cache.deletion", "category": None, "deleted": 2})
    status, content, _ = await ask(FakePeers((200, {"deleted": 3}), (0, b"")), "DELETE", "/v1/cache", own)
    assert (status, content) == (200, {"object": "cache.deletion", "category": None, "deleted": 5})
    assert (await ask(FakePeers((503, {"error": 1})), "DELETE", "/v1/cache", own))[:2] == (503, {"error": 1})
    assert (await ask(FakePeers((504, b"")), "DELETE", "/v1/cache", own))[0] == 503
    unknown_here = (400, {"error": "unknown category"})
    status, content, _ = await ask(FakePeers((200, {"deleted": 1})), "DELETE", "/v1/cache", unknown_here)
    assert (status, content["deleted"]) == (200, 1)
    assert (await ask(FakePeers((400, {})), "DELETE", "/v1/cache", unknown_here))[:2] == unknown_here


async def test_report_of_the_cache_and_calls_of_models_go_straight_through() -> None:
    """One worker answers by itself."""
    peers = FakePeers((200, {}))
    for method, path in (("GET", "/v1/cache"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        assert (await ask(peers, method, path, (200, {"own": True})))[:2] == (200, {"own": True})
    assert peers.asked == []


async def test_body_beyond_any_that_others_may_be_asked_is_refused() -> None:
    """It is not kept in memory whole."""
    status, content, _ = await ask(
        FakePeers((200, {})), "POST", "/v1/feedback", (404, {}), body=b" " * MAX_BODY_BYTES + b" "
    )
    assert (status, content["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/v1/cache/entries/0123", "/v1/cache/entries/0123/wrong"])
async def test_entry_of_another_workers_memory_is_found(path: str) -> None:
    """Entries are shown, deleted and reported wherever they lie."""
    assert (await ask(FakePeers((200, {"id": "e"})), "DELETE", path, (404, {})))[:2] == (200, {"id": "e"})
