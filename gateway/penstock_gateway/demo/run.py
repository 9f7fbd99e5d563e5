"""The keyless demonstration: simulated provider, real gateway, real routing decisions.

Owns the order of events: start both servers on loopback ports, send the prompts through the gateway as any client
would, show what it decided, stay up. It draws nothing itself (`table`) and knows no policy. Read `demo`.
"""

from __future__ import annotations

import errno
import functools
import http.client
import json
import math
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from pydantic import SecretStr

from penstock_gateway.app import create_app
from penstock_gateway.demo.cache_scene import CATEGORY, play_cache_scene
from penstock_gateway.demo.loopback import LOOPBACK, bind_loopback
from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.results import DemoRow, SettingOutlook, is_abstention, outlook, row_from_decision, strategies
from penstock_gateway.demo.server_thread import ServerThread
from penstock_gateway.demo.simulated_answers import CountTokens, count_pieces, split_pieces
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS, SimulatedModel
from penstock_gateway.demo.simulated_upstream import create_simulated_upstream, upstream_server
from penstock_gateway.demo.table import Display, open_display
from penstock_gateway.deployments import Ability
from penstock_gateway.server import server_for
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_models import (
    DeploymentSettings,
    LogSettings,
    RoutingSettings,
    ServerSettings,
    Settings,
)
from penstock_gateway.settings_prices import PriceSettings
from penstock_gateway.wire.formats import WireFormat
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.errors import RouterError

PREFERRED_PORT = 4000
ENCODER_NAME = "static-minilm-256"
# A mid-priced default, as many applications have: the router leaves it upwards where the predicted gain is real by its
# own standard error, downwards where little is lost. Savings are counted against always using the dearest model.
DEFAULT_MODEL = "sim-medium"
BASELINE_MODEL = "sim-frontier"
OTHER_SETTINGS = ("quality", "balanced", "cost", "0.8", "0.6", "0.4", "0.2", "0")
DEFAULT_TRADEOFF = "balanced"
SEED = 0
# Where somebody watches, the simulated latencies pass a hundred times faster: forty rows, one after another, in about
# three seconds. No figure depends on them, so a pipe, which nobody watches, does not wait at all.
WATCHED_SPEED = 100.0
EXAMPLE_PROMPT = "A train covers 180 km in 2.5 hours. How fast is it?"
REQUEST_TIMEOUT_SECONDS = 60.0


def demo(
    *,
    once: bool = False,
    as_json: bool = False,
    port: int | None = None,
    tradeoff: str = DEFAULT_TRADEOFF,
    speed: float | None = None,
    prompts: Sequence[str] = DEMO_PROMPTS,
) -> None:
    """Run the demonstration until Ctrl-C, or once.

    Parameters
    ----------
    once : bool
        Return after the totals.
    as_json : bool
        Write one JSON document to standard output; messages go to standard error.
    port : int, optional
        Loopback port of the gateway, 0 for any free one; None takes `PREFERRED_PORT` when it is free, else any.
    tradeoff : str
        ``cost``, ``balanced``, ``quality``, or a number from 0 (cheapest) to 1 (best).
    speed : float, optional
        Divides the simulated delays; > 0. None takes `WATCHED_SPEED` in a terminal and no delays elsewhere.
    prompts : sequence of str
        At least one.

    Raises
    ------
    click.ClickException
        A port is taken, a server did not start, or a request failed; `click.BadParameter`, before anything is started,
        when `tradeoff` is unknown.
    """
    setting = parse_tradeoff(tradeoff)
    if speed is None:
        speed = WATCHED_SPEED if sys.stdout.isatty() and not as_json else math.inf
    with _stopped_by_signals():
        _run(setting, speed, prompts, port=port, once=once, as_json=as_json)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a shell that starts ``demo &`` has SIGINT ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _run(
    setting: str | float, speed: float, prompts: Sequence[str], *, port: int | None, once: bool, as_json: bool
) -> None:
    """Start both servers, show the run, and stay up unless `once`."""
    count_tokens = token_counter()
    gateway_socket = _gateway_socket(port)
    try:
        upstream = ServerThread(
            "simulated provider",
            upstream_server(create_simulated_upstream(speed=speed, seed=SEED, count_tokens=count_tokens)),
            bind_loopback(0),
        )
        with upstream, open_display(sys.stdout, as_json=as_json) as display:
            settings = demo_settings(upstream.port, gateway_socket.getsockname()[1], setting)
            server = server_for(create_app(settings), host=LOOPBACK, port=settings.server.port)
            with ServerThread("gateway", server, gateway_socket) as gateway:
                _show(display, gateway.port, settings, prompts, count_tokens)
                if not once:
                    display.say(_paste_lines(gateway.port))
                    _wait_for_interrupt(display)
    except RuntimeError as error:
        raise click.ClickException(f"{error}; see the message above.") from error
    finally:
        gateway_socket.close()


def demo_settings(upstream_port: int, gateway_port: int, tradeoff: str | float = DEFAULT_TRADEOFF) -> Settings:
    """Build the gateway's settings for the four simulated models.

    Parameters
    ----------
    upstream_port, gateway_port : int
        Loopback ports.
    tradeoff : str or float
        From `parse_tradeoff`.

    Returns
    -------
    Settings
    """
    base_url = f"http://{LOOPBACK}:{upstream_port}/v1"
    return Settings(
        server=ServerSettings(host=LOOPBACK, port=gateway_port),
        deployments=tuple(_deployment(model, base_url) for model in SIMULATED_MODELS.values()),
        routing=RoutingSettings(
            encoder=ENCODER_NAME,
            default_arm=DEFAULT_MODEL,
            baseline=BASELINE_MODEL,
            tradeoff=tradeoff,
        ),
        cache=CacheSettings(mode="semantic", header_categories=(CATEGORY,)),
        log=LogSettings(level="error"),
    )


def parse_tradeoff(value: str) -> str | float:
    """Return the knob's setting as the settings want it.

    Raises
    ------
    click.BadParameter
        Neither a known name nor a number from 0 to 1.
    """
    if value in ("cost", "balanced", "quality"):
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 1.0:
        wanted = "use cost, balanced, quality or a number from 0 (cheapest) to 1 (best)."
        raise click.BadParameter(f"'{value[:100]}' is no trade-off; {wanted}", param_hint="--tradeoff")
    return number


def token_counter() -> CountTokens:
    """Return a counter that uses the bundled encoder's tokenizer; words and marks when it cannot be loaded.

    Returns
    -------
    CountTokens
        Tokens of each word or mark, summed; a WordPiece tokenizer splits at the same places, so the sum is the count.
    """
    try:
        encoder = PromptEncoder.load(bundled_folder(ENCODER_NAME), device="cpu")
    except RouterError:
        return count_pieces

    @functools.lru_cache(maxsize=8_192)
    def tokens_of(piece: str) -> int:
        return len(encoder.token_ids(piece))

    def count(text: str) -> int:
        return sum(tokens_of(piece.strip()) for piece in split_pieces(text))

    return count


def _deployment(model: SimulatedModel, base_url: str) -> DeploymentSettings:
    return DeploymentSettings(
        name=model.name,
        adapter="direct",
        base_url=base_url,
        wire_formats=(WireFormat.CHAT,),
        api_key=SecretStr("simulated"),
        tier=model.tier,  # type: ignore[arg-type]  # checked by the model
        price=PriceSettings(input=model.input_usd_per_million_tokens, output=model.output_usd_per_million_tokens),
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        abilities=(Ability.STREAMING, Ability.TOOLS, Ability.VISION, Ability.JSON),
    )


def _gateway_socket(port: int | None) -> socket.socket:
    """Bind the asked port, or the preferred one, or any free one."""
    try:
        return bind_loopback(PREFERRED_PORT if port is None else port)
    except OSError as error:
        if port is None:
            return bind_loopback(0)
        reason = "is taken" if error.errno == errno.EADDRINUSE else "cannot be opened"
        raise click.ClickException(f"Port {port} {reason}; choose another with --port, or 0 for a free one.") from None


def _show(display: Display, port: int, settings: Settings, prompts: Sequence[str], count_tokens: CountTokens) -> None:
    """Send every prompt and show rows, totals and what the cache does."""
    ready = _call(port, "GET", "/readyz")
    display.begin(f"Penstock demo: http://{LOOPBACK}:{port}/v1 in front of four simulated models.", len(prompts))
    opinions = [_has_opinion(port, prompt) for prompt in prompts]
    rows: list[DemoRow] = []
    for number, (prompt, has_opinion) in enumerate(zip(prompts, opinions, strict=True), start=1):
        rows.append(_ask(port, number, prompt, has_opinion=has_opinion))
        display.add(rows[-1])
    fixed_models = tuple(SIMULATED_MODELS)[::-1]
    totals = strategies(rows, fixed_models=fixed_models, seed=SEED, count_tokens=count_tokens)
    facts = {
        "base_url": f"http://{LOOPBACK}:{port}/v1",
        "artifact": ready.get("artifact") or "none (every decision is an abstention)",
        "tradeoff": settings.routing.tradeoff,
        "default_model": settings.default_arm,
        "baseline_model": settings.baseline,
    }
    outlooks = _other_settings(port, prompts, opinions)
    scene = play_cache_scene(functools.partial(_ask_with, port), lambda: _call(port, "GET", "/v1/cache"))
    display.finish(totals, outlooks, scene, facts)


def _has_opinion(port: int, prompt: str) -> bool:
    """Ask at a setting above 0: with the knob at 0 the reason is always `cheapest`, known prompt or not."""
    return not is_abstention(_route(port, prompt, DEFAULT_TRADEOFF))


def _other_settings(port: int, prompts: Sequence[str], opinions: Sequence[bool]) -> list[SettingOutlook]:
    """Ask for the decisions at other trade-offs, without calling a model."""
    outlooks = []
    for setting in OTHER_SETTINGS:
        decisions = [_route(port, prompt, setting) for prompt in prompts]
        rows = [
            row_from_decision(0, prompt, made, has_opinion=has_opinion)
            for prompt, made, has_opinion in zip(prompts, decisions, opinions, strict=True)
        ]
        outlooks.append(outlook(setting, rows))
    return outlooks


def _route(port: int, prompt: str, setting: str) -> dict[str, Any]:
    return _call(port, "POST", "/v1/route", _body(prompt), controls={"x-penstock-tradeoff": setting})


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": prompt}]}


def _ask(port: int, number: int, prompt: str, *, has_opinion: bool) -> DemoRow:
    """Send one prompt to ``auto`` and read back what the gateway decided and what it came to."""
    headers = _ask_with(port, _body(prompt), {})
    decision = _call(port, "GET", f"/v1/decisions/{headers['x-penstock-decision-id']}")
    return row_from_decision(number, prompt, decision, has_opinion=has_opinion)


def _ask_with(port: int, body: dict[str, Any], controls: Mapping[str, str]) -> dict[str, str]:
    """Send one chat request with control headers and return the response's headers."""
    headers: dict[str, str] = {}
    _call(port, "POST", "/v1/chat/completions", body, controls=controls, on_headers=headers.update)
    return headers


def _call(
    port: int,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    controls: Mapping[str, str] = MappingProxyType({}),
    on_headers: Callable[[dict[str, str]], None] | None = None,
) -> dict[str, Any]:
    """Make one loopback HTTP call; `http.client` ignores proxy variables, which must not matter here."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=REQUEST_TIMEOUT_SECONDS)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"content-type": "application/json", **controls})
        response = connection.getresponse()
        content = response.read()
    except OSError as error:
        raise click.ClickException(f"The gateway did not answer {path}: {error}.") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise click.ClickException(f"The gateway answered {path} with {response.status}: {content[:500]!r}")
    if on_headers is not None:
        on_headers({name.lower(): value for name, value in response.getheaders()})
    document: dict[str, Any] = json.loads(content)
    return document


def _paste_lines(port: int) -> str:
    """Lines to paste, none longer than 80 columns; the JSON is broken where white space means nothing."""
    url = f"http://{LOOPBACK}:{port}"
    base_url = f"{url}/v1"
    request = f"""-H 'content-type: application/json' \\
  -d '{{"model": "auto", "messages": [{{"role": "user", "content":
       "{EXAMPLE_PROMPT}"}}]}}'"""
    return f"""
The gateway stays up. Ask it yourself (answers are still simulated):

curl -i {base_url}/chat/completions \\
  {request}

The decision alone, with every candidate, without calling a model:

curl -s {base_url}/route \\
  {request}

What the cache holds, and what keeps it from answering:

{_python_command()} -m penstock_gateway cache show --url {url}
{_python_command()} -m penstock_gateway cache doctor --url {url}

From Python (OpenAI's client: {_python_command()} -m pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="unused")
question = "{EXAMPLE_PROMPT}"
reply = client.chat.completions.create(
    model="auto", messages=[{{"role": "user", "content": question}}]
)
print(reply.model, reply.choices[0].message.content)
"""


def _python_command() -> str:
    """Return the interpreter that runs this, as one types it: in a checkout that of its virtual environment."""
    program = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


def _wait_for_interrupt(display: Display) -> None:
    try:
        display.say("Press Ctrl-C to stop.")
        threading.Event().wait()
    except KeyboardInterrupt:
        display.say("Stopped.")
