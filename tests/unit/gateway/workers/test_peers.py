"""Workers that ask each other over socket files."""

from __future__ import annotations

import asyncio
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock_gateway.asgi import Receive, Scope, Send, read_body, read_head, send_body
from penstock_gateway.reloading import ReloadOutcome, ReloadResult
from penstock_gateway.workers.peers import Peers, PeerServer, Question, socket_path
from support.running_gateway import eventually


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was asked."""
    body = await read_body(read_head(scope), receive, max_bytes=1000)
    text = (
        f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} {dict(scope['headers'])[b'x-a'].decode()} "
    )
    await send_body(send, 201, text.encode() + body, "text/plain")


async def reload(trigger: str) -> ReloadOutcome:
    """Do nothing."""
    return ReloadOutcome(ReloadResult.RELOADED, 0.0, 1)


async def test_question_arrives_whole_and_a_worker_that_does_not_run_is_told_apart_from_a_silent_one(
    tmp_path: Path,
) -> None:
    """Status 0 for a socket that nobody has, 504 for one whose owner says nothing in time."""
    server = PeerServer(echo, tmp_path, 1)
    server.start(reload)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(tmp_path, 2)))
        silent.listen()
        path = socket_path(tmp_path, 1)
        await eventually(path.exists)
        headers = [(b"content-type", b"application/json"), (b"x-a", b"b"), (b"connection", b"keep-alive")]
        question = Question("POST", "/v1/feedback?c=d", headers, b'{"e": 1}')
        answers = await Peers(tmp_path, 0, 4).ask_all(question, 0.3)
    assert [(answer.worker, answer.status) for answer in answers] == [(1, 201), (2, 504), (3, 0)]
    assert answers[0].body == b'POST /v1/feedback?c=d b {"e": 1}'
    await server.aclose()
    await server.aclose()
    assert not path.exists()


async def test_questions_to_a_silent_worker_leave_the_threads_of_the_loop_free(tmp_path: Path) -> None:
    """The loop's threads look up the names of providers; callers who ask for unknown decisions must not hold them."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(tmp_path, 1)))
        silent.listen()
        silent.setblocking(False)
        asking = asyncio.ensure_future(Peers(tmp_path, 0, 2).ask_all(Question("GET", "/v1/decisions/x"), 20.0))
        asked, _ = await loop.sock_accept(silent)
        async with asyncio.timeout(10):
            await asyncio.to_thread(asked.close)
    assert [answer.status for answer in await asking] == [0]


async def test_worker_that_cannot_listen_says_so_and_is_not_taken_for_one_that_does_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a reload would pass it over in silence."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    server = PeerServer(echo, folder, 1)
    server.start(reload)
    await eventually(lambda: any(record.message == "worker_cannot_be_asked" for record in caplog.records))
    (answer,) = await Peers(folder, 0, 2).ask_all(Question("GET", "/x"))
    assert answer.status == 504
    await server.aclose()


async def test_socket_file_of_a_worker_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    """What a killed process left does not keep its successor from listening."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(tmp_path, 1)))
    server = PeerServer(echo, tmp_path, 1)
    server.start(reload)

    def answers() -> bool:
        return stat.S_ISSOCK(socket_path(tmp_path, 1).stat().st_mode) if socket_path(tmp_path, 1).exists() else False

    await eventually(answers)
    await asyncio.sleep(0)
    headers = [(b"content-type", b"application/json"), (b"x-a", b"b")]
    (answer,) = await Peers(tmp_path, 0, 2).ask_all(Question("POST", "/x", headers))
    assert answer.status == 201
    await server.aclose()


@pytest.mark.parametrize("head", [b"", b"connection: close\r\n"])
async def test_worker_that_sends_its_answer_in_drops_is_given_up_at_the_deadline(tmp_path: Path, head: bytes) -> None:
    """The deadline holds for the whole answer; each drop alone comes in time."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"content-length: 20\r\n\r\n")
        try:
            for _ in range(20):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_unix_server(drip, str(socket_path(tmp_path, 1)))
    async with server:
        (answer,) = await Peers(tmp_path, 0, 2).ask_all(Question("GET", "/metrics"), 0.4)
    assert (answer.status, answer.body) == (504, b"")
