"""A small OpenAI-compatible server with four simulated models, for the demo, the examples and experiments.

Owns the HTTP side: requests checked and refused in OpenAI's error shape, plain and streamed answers, simulated delays.
Its texts come from `simulated_answers`, its prices and speeds from `simulated_models`. It runs no language model, needs
no key, and listens on the loopback address only. Read `create_simulated_upstream` first, or run::

    python -m penstock_gateway.demo.simulated_upstream --port 4010
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import click
import msgspec
import uvicorn

from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.demo.loopback import LOOPBACK, bind_loopback
from penstock_gateway.demo.simulated_answers import CountTokens, SimulatedAnswer, compose_answer, count_pieces
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS, SimulatedModel
from penstock_gateway.demo.simulated_wire import AnswerWire
from penstock_gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    UnsupportedMedia,
)

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_PORT = 4010
MAX_BODY_BYTES = 20 * 1024 * 1024
MAX_MESSAGES = 2_048
MAX_NAME_CHARACTERS = 200
STAND_IN = "sim-medium"
"""Whose price class and speed a model has that is answered only because any name is."""

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_JSON = [(b"content-type", b"application/json")]
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ChatBody(msgspec.Struct):
    """The part of a chat-completions body whose types the simulated upstream checks."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class SimulatedUpstream:
    """The ASGI application; see `create_simulated_upstream`."""

    def __init__(
        self,
        *,
        speed: float,
        seed: int,
        count_tokens: CountTokens,
        models: Mapping[str, SimulatedModel],
        any_model: bool,
    ) -> None:
        self._models = models
        self._any_model = any_model
        self._speed = speed
        self._seed = seed
        self._count_tokens = count_tokens
        self._decode = msgspec.json.Decoder(ChatBody).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event of the ASGI server."""
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer_http(scope, receive, send)

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._dispatch(scope, receive, send)
        except GatewayError as error:
            await _send_whole(send, error.status, error.body())
        except Exception as error:
            print(f"simulated upstream: {type(error).__name__}: {error}", file=sys.stderr)
            await _send_whole(send, 500, InternalError("The simulated upstream failed.").body())

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/v1/chat/completions":
            _require_method(method, "POST")
            await self._chat(scope, receive, send)
        elif path == "/livez":
            await _send_whole(send, 200, b'{"status":"ok"}')
        elif path == "/v1/models":
            _require_method(method, "GET")
            models = [_model_object(model) for model in self._models.values()]
            await _send_whole(send, 200, msgspec.json.encode({"object": "list", "data": models}))
        elif path.startswith("/v1/models/"):
            _require_method(method, "GET")
            model = self._find_model(path.removeprefix("/v1/models/"))
            await _send_whole(send, 200, msgspec.json.encode(_model_object(model)))
        else:
            raise NotFound(f"Unknown path {path[:200]!r}.", code="unknown_url")

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _check(self._parse(await _read_body(scope, receive)))
        model = self._find_model(body.model)
        request: dict[str, Any] = {name: value for name, value in msgspec.structs.asdict(body).items() if value}
        answer = compose_answer(model, request, seed=self._seed, count_tokens=self._count_tokens)
        if answer.input_tokens > model.context_tokens:
            raise InvalidRequest(
                f"This simulated model's context length is {model.context_tokens} tokens; the request has "
                f"{answer.input_tokens}.",
                code="context_length_exceeded",
                param="messages",
            )
        wire = AnswerWire(model.name, self._seed, request)
        if body.stream:
            has_usage = bool((body.stream_options or {}).get("include_usage"))
            await self._stream(answer, wire, has_usage, receive, send)
            return
        if await _client_left_during(answer.total_seconds / self._speed, receive):
            return
        await _send_whole(send, 200, msgspec.json.encode(wire.completion(answer)), wire.request_id)

    async def _stream(
        self, answer: SimulatedAnswer, wire: AnswerWire, has_usage: bool, receive: Receive, send: Send
    ) -> None:
        """Send the pieces at their simulated times; the schedule is absolute, so delays do not add up."""
        started = time.monotonic()
        headers = [*_SSE, (b"x-request-id", wire.request_id)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        written = 0
        for chunk, tokens in wire.chunks(answer, has_usage, self._count_tokens):
            written += tokens
            due = started + (answer.first_token_seconds + written * answer.seconds_per_token) / self._speed
            if await _client_left_during(due - time.monotonic(), receive):
                return
            event = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    def _find_model(self, name: str) -> SimulatedModel:
        model = self._models.get(name)
        if model is not None:
            return model
        if self._any_model and 0 < len(name) <= MAX_NAME_CHARACTERS:
            return replace(SIMULATED_MODELS[STAND_IN], name=name)
        known = ", ".join(self._models)
        raise NotFound(f"The model {name[:100]!r} does not exist. Simulated models: {known}.", code="model_not_found")

    def _parse(self, raw: bytes) -> ChatBody:
        try:
            return self._decode(raw)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"Invalid request: {error}.", code="invalid_type") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None


def create_simulated_upstream(
    *,
    speed: float = 1.0,
    seed: int = 0,
    count_tokens: CountTokens = count_pieces,
    more_models: Mapping[str, str] = MappingProxyType({}),
    any_model: bool = False,
) -> AsgiApp:
    """Build the simulated provider as an ASGI application.

    Parameters
    ----------
    speed : float
        Divides all simulated delays; > 0, ``math.inf`` for no delay.
    seed : int
        Changes lengths and speeds of the answers.
    count_tokens : CountTokens
        How texts are counted; words and punctuation marks unless a tokenizer is given.
    more_models : mapping of str to str
        Further names to answer to, each with the tier that it behaves like: ``small``, ``medium``, ``large``,
        ``frontier``.
    any_model : bool
        Answer to every other name as `STAND_IN` would, instead of refusing it.

    Returns
    -------
    AsgiApp

    Raises
    ------
    ValueError
        `speed` is not positive, or a tier of `more_models` is unknown.
    """
    if not speed > 0:
        raise ValueError("speed must be positive")
    models = dict(SIMULATED_MODELS)
    by_tier = {model.tier: model for model in SIMULATED_MODELS.values()}
    for name, tier in more_models.items():
        if tier not in by_tier:
            raise ValueError(f"unknown tier {tier!r}; tiers: {', '.join(by_tier)}")
        models[name] = replace(by_tier[tier], name=name)
    return SimulatedUpstream(speed=speed, seed=seed, count_tokens=count_tokens, models=models, any_model=any_model)


def upstream_server(app: AsgiApp, *, port: int = 0) -> uvicorn.Server:
    """Return a loopback server for the simulated provider that is not running yet."""
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


async def _run_lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    headers = dict(scope["headers"])
    media = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if media != b"application/json":
        raise UnsupportedMedia("Send the request as application/json.")
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise InvalidRequest("The client left before the body was complete.", code="client_left")
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise RequestTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        if not event.get("more_body"):
            return b"".join(parts)


def _check(body: ChatBody) -> ChatBody:
    """Refuse what OpenAI's API would refuse, and what a simulated model cannot do."""
    if not body.messages:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages", code="empty_array")
    if len(body.messages) > MAX_MESSAGES:
        raise InvalidRequest(f"'messages' holds more than {MAX_MESSAGES} messages.", param="messages")
    for position, message in enumerate(body.messages):
        if message.get("role") not in _ROLES:
            raise InvalidRequest(f"Unknown role in message {position}.", param=f"messages[{position}].role")
        if not isinstance(message.get("content"), str | list | None):
            raise InvalidRequest(f"Wrong content in message {position}.", param=f"messages[{position}].content")
    for name in ("max_tokens", "max_completion_tokens"):
        limit = getattr(body, name)
        if limit is not None and limit < 1:
            raise InvalidRequest(f"'{name}' must be at least 1.", param=name, code="integer_below_min_value")
    if body.n not in (None, 1):
        raise InvalidRequest("Simulated models give one choice; 'n' must be 1.", param="n", code="unsupported_value")
    for name, top in (("temperature", 2.0), ("top_p", 1.0)):
        value = getattr(body, name)
        if value is not None and not 0.0 <= value <= top:
            raise InvalidRequest(f"'{name}' must lie between 0 and {top:g}.", param=name, code="invalid_value")
    _check_tools(body)
    return body


def _check_tools(body: ChatBody) -> None:
    names = set()
    for position, tool in enumerate(body.tools or []):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type") != "function" or not isinstance(name, str):
            raise InvalidRequest(f"Tool {position} is not a named function.", param=f"tools[{position}]")
        names.add(name)
    choice = body.tool_choice
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise InvalidRequest("'tool_choice' must be none, auto, required or a function.", param="tool_choice")
    wanted = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and (not isinstance(wanted, dict) or wanted.get("name") not in names):
        raise InvalidRequest("'tool_choice' names no function of 'tools'.", param="tool_choice")


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        raise MethodNotAllowed(f"Use {wanted} here.", headers={"allow": wanted})


def _model_object(model: SimulatedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "penstock-simulation"}


async def _send_whole(send: Send, status: int, body: bytes, request_id: bytes = b"") -> None:
    headers = [*_JSON, (b"content-length", str(len(body)).encode())]
    if request_id:
        headers.append((b"x-request-id", request_id))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _client_left_during(seconds: float, receive: Receive) -> bool:
    """Wait; return True as soon as the client closes its connection."""
    if seconds <= 0:
        return False
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="Loopback port.")
@click.option(
    "--speed",
    type=click.FloatRange(0, math.inf, min_open=True),
    default=1.0,
    show_default=True,
    help="Divides all simulated delays; 'inf' for none.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Changes lengths and speeds.")
@click.option(
    "--model",
    "named",
    multiple=True,
    metavar="NAME=TIER",
    help="Answer to NAME too, like the simulated model of TIER (small, medium, large, frontier); repeatable.",
)
@click.option("--any-model", is_flag=True, help=f"Answer to every other name like {STAND_IN}.")
def main(port: int, speed: float, seed: int, named: tuple[str, ...], any_model: bool) -> None:
    """Run the simulated provider on the loopback address until interrupted."""
    try:
        app = create_simulated_upstream(
            speed=speed, seed=seed, more_models=_names_with_tiers(named), any_model=any_model
        )
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--model") from None
    try:
        listener = bind_loopback(port)
    except OSError as error:
        problem = f"{LOOPBACK}:{port} cannot be bound: {error.strerror or error}"
        raise click.ClickException(f"{problem}; stop what listens there, or use --port") from None
    with listener:
        port = listener.getsockname()[1]
        click.echo(f"Simulated provider (no language model runs) on http://{LOOPBACK}:{port}/v1", err=True)
        upstream_server(app, port=port).run(sockets=[listener])


def _names_with_tiers(named: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in named:
        name, separator, tier = text.rpartition("=")
        if not separator or not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise ValueError(f"{text[:100]!r} is not NAME=TIER")
        found[name] = tier
    return found


if __name__ == "__main__":
    main()
