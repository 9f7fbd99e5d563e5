"""The simulated provider over real HTTP: OpenAI's shapes, plain and streamed, and its errors."""

from __future__ import annotations

import http.client
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from penstock_gateway.demo.loopback import bind_loopback
from penstock_gateway.demo.server_thread import ServerThread
from penstock_gateway.demo.simulated_answers import count_pieces
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS
from penstock_gateway.demo.simulated_upstream import create_simulated_upstream, main, upstream_server

MESSAGES: list[Any] = [{"role": "user", "content": "Name two uses of a brick."}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a simulated provider without delays."""
    server = upstream_server(create_simulated_upstream(speed=math.inf))
    with ServerThread("simulated provider", server, bind_loopback(0)) as running:
        yield running.port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[openai.OpenAI]:
    """The official client, pointed at the simulated provider."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as made:
        yield made


def _call(port: int, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": content_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize("model", SIMULATED_MODELS)
def test_chat_with_each_model_gives_a_labelled_answer_with_usage(client: openai.OpenAI, model: str) -> None:
    """Every model answers with text that says it is simulated, and with the tokens of that text."""
    reply = client.chat.completions.create(model=model, messages=MESSAGES)
    text = reply.choices[0].message.content
    assert text is not None
    assert text.startswith(f"[Simulated answer from {model};")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == count_pieces(text)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_stream_of_an_answer_joins_to_the_plain_answer(client: openai.OpenAI) -> None:
    """Streaming changes the packaging, not the text, the finish reason or the usage."""
    plain = client.chat.completions.create(model="sim-large", messages=MESSAGES)
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="sim-large", messages=MESSAGES, stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage == plain.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_without_the_usage_option_has_no_usage_chunk(client: openai.OpenAI) -> None:
    """Usage is streamed only when asked for."""
    chunks = list(client.chat.completions.create(model="sim-small", messages=MESSAGES, stream=True))
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools_in_a_request_are_called_plain_and_streamed(client: openai.OpenAI, is_stream: bool) -> None:
    """A request with tools is answered by one call with JSON arguments."""
    if is_stream:
        chunks = list(client.chat.completions.create(model="sim-small", messages=MESSAGES, tools=[TOOL], stream=True))
        calls: Any = chunks[0].choices[0].delta.tool_calls
        finish = chunks[-1].choices[0].finish_reason
    else:
        reply = client.chat.completions.create(model="sim-small", messages=MESSAGES, tools=[TOOL])
        calls = reply.choices[0].message.tool_calls
        finish = reply.choices[0].finish_reason
    assert (calls[0].function.name, calls[0].function.arguments, finish) == ("add", '{"a":0}', "tool_calls")


def test_models_of_the_provider_are_listed_and_shown(client: openai.OpenAI) -> None:
    """The list holds the four simulated models, and each can be retrieved."""
    assert [model.id for model in client.models.list()] == list(SIMULATED_MODELS)
    assert client.models.retrieve("sim-medium").id == "sim-medium"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"model":"sim-small","messages":[{"role":"user","content":' + b"[" * 100_000, 400, "invalid_json"),
        (b'{"model":"sim-small"}', 400, "invalid_type"),
        (b'{"model":7,"messages":[]}', 400, "invalid_type"),
        (b'{"model":"sim-small","messages":[]}', 400, "empty_array"),
        (b'{"model":"sim-small","messages":[{"role":"king","content":"x"}]}', 400, "invalid_request"),
        (b'{"model":"sim-small","messages":[{"role":"user","content":7}]}', 400, "invalid_request"),
        (b'{"model":"gpt-4","messages":[{"role":"user","content":"x"}]}', 404, "model_not_found"),
        (b'{"model":"sim-small","messages":[{"role":"user","content":"x"}],"n":2}', 400, "unsupported_value"),
        (
            b'{"model":"sim-small","messages":[{"role":"user","content":"x"}],"max_tokens":0}',
            400,
            "integer_below_min_value",
        ),
        (b'{"model":"sim-small","messages":[{"role":"user","content":"x"}],"temperature":3}', 400, "invalid_value"),
        (b'{"model":"sim-small","messages":[{"role":"user","content":"x"}],"tools":[{}]}', 400, "invalid_request"),
        (
            b'{"model":"sim-small","messages":[{"role":"user","content":"x"}],"tool_choice":"all"}',
            400,
            "invalid_request",
        ),
        (
            b'{"model":"sim-small","messages":[{"role":"user","content":"' + b"x " * 140_000 + b'"}]}',
            400,
            "context_length_exceeded",
        ),
    ],
)
def test_bad_request_of_each_kind_is_answered_in_openais_error_shape(
    port: int, body: bytes, status: int, code: str
) -> None:
    """A refused request has the status, the code and the four fields that OpenAI's clients read."""
    found, answer = _call(port, "POST", "/v1/chat/completions", body)
    assert (found, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status"),
    [
        ("GET", "/v1/chat/completions", "application/json", 405),
        ("POST", "/v1/models", "application/json", 405),
        ("POST", "/v1/chat/completions", "text/plain", 415),
        ("GET", "/v1/nothing", "application/json", 404),
        ("GET", "/livez", "application/json", 200),
    ],
)
def test_path_and_method_of_each_kind_have_their_status(
    port: int, method: str, path: str, content_type: str, status: int
) -> None:
    """Wrong methods, media types and paths are told apart."""
    assert _call(port, method, path, b"{}", content_type)[0] == status


def test_client_that_leaves_a_stream_does_not_disturb_the_next(port: int, client: openai.OpenAI) -> None:
    """Closing a connection in the middle of a slow stream ends that stream alone."""
    server = upstream_server(create_simulated_upstream(speed=0.5))
    with ServerThread("slow provider", server, bind_loopback(0)) as slow:
        connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=10)
        body = json.dumps({"model": "sim-frontier", "messages": MESSAGES, "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.read(10).startswith(b"data:")
        connection.close()
        assert _call(slow.port, "GET", "/livez")[0] == 200


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_speed_that_is_not_positive_is_refused(speed: float) -> None:
    """Time cannot stand still or run backwards."""
    with pytest.raises(ValueError, match="positive"):
        create_simulated_upstream(speed=speed)


def test_tier_of_a_further_name_that_does_not_exist_is_refused() -> None:
    """A name can only behave like one of the four models."""
    with pytest.raises(ValueError, match="unknown tier 'tiny'; tiers: small, medium, large, frontier"):
        create_simulated_upstream(more_models={"gpt-5": "tiny"})


def test_names_of_real_models_are_answered_where_they_are_mapped() -> None:
    """A configuration for a real provider can be rehearsed; answers still say that they are simulated."""
    app = create_simulated_upstream(speed=math.inf, more_models={"gpt-5": "frontier"}, any_model=True)
    with (
        ServerThread("simulated provider", upstream_server(app), bind_loopback(0)) as running,
        openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none", max_retries=0) as client,
    ):
        for name in ("gpt-5", "gpt-5-nano"):
            reply = client.chat.completions.create(model=name, messages=MESSAGES)
            assert reply.model == name
            assert (reply.choices[0].message.content or "").startswith(f"[Simulated answer from {name}; no language")
        assert [model.id for model in client.models.list()] == [*SIMULATED_MODELS, "gpt-5"]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="x" * 300, messages=MESSAGES)


PROGRAM = [sys.executable, "-m", "penstock_gateway.demo.simulated_upstream", "--speed", "inf"]


def test_simulated_provider_on_a_taken_port_says_so_and_claims_nothing() -> None:
    """One sentence with the way out, before any claim to be running, and no traceback."""
    with bind_loopback(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*PROGRAM, "--port", str(port)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Error: 127.0.0.1:{port} cannot be bound: Address already in use; stop what listens there, or use --port"
    )


@pytest.mark.parametrize("text", ["gpt-5", "=small", "gpt-5=tiny"])
def test_simulated_provider_with_a_wrong_model_option_is_refused_as_wrong_usage(text: str) -> None:
    """A name without a tier, a tier without a name and an unknown tier are mistakes of the caller."""
    done = CliRunner().invoke(main, ["--model", text])
    assert done.exit_code == 2
    assert "--model" in done.stderr


def test_simulated_provider_alone_serves_the_port_that_it_was_given() -> None:
    """The module is a program of its own, for examples and experiments, and ends when it is interrupted."""
    with bind_loopback(0) as probe:
        port = probe.getsockname()[1]
    command = [*PROGRAM, "--port", str(port), "--model", "vendor/model=x=small"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            with suppress(ConnectionRefusedError):
                body = json.dumps({"model": "vendor/model=x", "messages": MESSAGES}).encode()
                status, answer = _call(port, "POST", "/v1/chat/completions", body)
                break
            time.sleep(0.05)
        assert (status, answer["model"]) == (200, "vendor/model=x")
        process.send_signal(signal.SIGINT)
        assert "no language model runs" in process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
