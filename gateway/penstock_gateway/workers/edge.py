"""What concerns all workers, whichever of them was asked: metrics, remembered decisions, feedback, cached answers.

Stands before the application of each worker, behind the connection's edge. A request that one process can answer by
itself passes untouched. Read `WorkerEdge.__call__`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec

from penstock_gateway.asgi import (
    ONLY_REMEMBERED,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    receive_whole,
    request_id_of,
    send_error,
)
from penstock_gateway.errors import GatewayError, Overloaded
from penstock_gateway.http_exchange import EXCHANGE
from penstock_gateway.wire.error_shapes import format_of_path
from penstock_gateway.workers.combined_metrics import combined
from penstock_gateway.workers.peers import Answer, AsgiApp, Peers, Question

MAX_BODY_BYTES: Final = 65_536
"""Of a request that the others may be asked, too; feedback has 16 kB at most."""
_METRICS: Final = "/metrics"
_CACHE: Final = "/v1/cache"
_FEEDBACK: Final = "/v1/feedback"
_REMEMBERED: Final = ("/v1/decisions/", _FEEDBACK, "/v1/cache/entries/")

_Merge = Callable[[Answer, list[Answer]], Answer]


class WorkerEdge:
    """An ASGI callable around one worker's application.

    Parameters
    ----------
    app : callable
    peers : Peers
    """

    def __init__(self, app: AsgiApp, peers: Peers) -> None:
        self._app = app
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with what the other workers know where one alone does not know it all."""
        merge = merge_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if merge is None:
            await self._app(scope, receive, send)
            return
        try:
            body = await receive_whole(receive, MAX_BODY_BYTES)
            answer = await self._own_answer({**scope, ONLY_REMEMBERED: True}, body)
            if merge is not first_that_knows or answer.status == 404:
                answer = merge(answer, await self._peers.ask_all(_question(scope, body)))
            if answer.status == 404:  # counted now; and a decision's id may say whose it is, to any worker
                answer = await self._own_answer(scope, body)
        except GatewayError as error:
            await send_error(send, error, format_of_path(scope["path"]))
            return
        except ClientGoneError:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _own_answer(self, scope: Scope, body: bytes) -> Answer:
        """Have this worker's application answer, and keep what it says."""
        answer = Answer(self._peers.index, 0, [])
        parts: list[bytes] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: MutableMapping[str, Any]) -> None:
            nonlocal answer
            if message["type"] == "http.response.start":
                answer = Answer(self._peers.index, message["status"], list(message.get("headers", ())))
            else:
                parts.append(message.get("body", b""))

        await self._app({name: value for name, value in scope.items() if name != EXCHANGE}, receive, keep)
        return msgspec.structs.replace(answer, body=b"".join(parts))


def merge_of(method: str, path: str) -> _Merge | None:
    """Return how the answers of all workers become one; None where one worker's is enough."""
    if path == _METRICS:
        return all_metrics
    if path.startswith(_REMEMBERED):
        return first_that_knows
    if path == _CACHE and method == "DELETE":
        return all_deletions
    return None


def all_metrics(own: Answer, others: list[Answer]) -> Answer:
    """Return the metrics of all workers that answer, every series with its worker."""
    if own.status != 200:
        return own
    answers = sorted([own, *(other for other in others if other.status == 200)], key=lambda answer: answer.worker)
    text = combined({answer.worker: answer.body.decode() for answer in answers})
    return _with_body(own, text.encode())


def first_that_knows(own: Answer, others: list[Answer]) -> Answer:
    """Return the answer of the worker that has what is asked for: a decision, or an entry of its memory.

    Raises
    ------
    Overloaded
        ``worker_unavailable``: nobody knows it who answers, and somebody does not answer.
    """
    for other in others:
        if other.status not in (0, 404, 504):
            return other
    _refuse_silence(others)
    return own


def all_deletions(own: Answer, others: list[Answer]) -> Answer:
    """Return how many entries all workers have deleted.

    Raises
    ------
    Overloaded
        ``worker_unavailable``: one of them has not said so; asking again is safe.
    """
    _refuse_silence(others)
    answers = [own, *(other for other in others if other.status)]
    failed = next((answer for answer in answers if answer.status >= 500), None)
    done = [answer for answer in answers if answer.status == 200]
    if failed is not None or not done:
        return failed or own
    deleted = [msgspec.json.decode(answer.body) for answer in done]
    content = {**deleted[0], "deleted": sum(part["deleted"] for part in deleted)}
    return _with_body(done[0], msgspec.json.encode(content))


def _refuse_silence(others: list[Answer]) -> None:
    silent = [str(other.worker) for other in others if other.status == 504]
    if silent:
        raise Overloaded(
            f"Worker {', '.join(silent)} of this gateway does not answer; try again shortly.",
            code="worker_unavailable",
            headers={"retry-after": "1"},
        )


def _question(scope: Scope, body: bytes) -> Question:
    """Return the request as the others get it: with its credential, and under the same id."""
    query = scope.get("query_string", b"").decode("latin-1")
    target = scope.get("raw_path", scope["path"].encode()).decode("latin-1") + (f"?{query}" if query else "")
    headers = [header for header in scope["headers"] if header[0] not in (b"x-request-id", b"accept-encoding")]
    headers.append((b"x-request-id", request_id_of(scope).encode("latin-1")))
    return Question(scope["method"], target, headers, body)


def _with_body(answer: Answer, body: bytes) -> Answer:
    headers = [header for header in answer.headers if header[0] != b"content-length"]
    headers.append((b"content-length", b"%d" % len(body)))
    return msgspec.structs.replace(answer, headers=headers, body=body)
