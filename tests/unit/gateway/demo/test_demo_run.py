"""Rules of the demonstration's set-up: settings, ports, trade-offs, token counts."""

from __future__ import annotations

import signal
import socket

import click
import pytest

from penstock_gateway.demo.cache_scene import CATEGORY
from penstock_gateway.demo.loopback import bind_loopback
from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.run import BASELINE_MODEL, DEFAULT_MODEL, demo, demo_settings, parse_tradeoff, token_counter
from penstock_gateway.demo.simulated_answers import count_pieces
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS
from penstock_gateway.settings import build_deployments
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder


def test_demo_settings_hold_the_four_simulated_models_at_their_prices() -> None:
    """The gateway sees the simulated list prices exactly, and only loopback addresses."""
    settings = demo_settings(4010, 4000)
    deployments = {deployment.name: deployment for deployment in build_deployments(settings)}
    assert set(deployments) == set(SIMULATED_MODELS)
    for name, model in SIMULATED_MODELS.items():
        price = deployments[name].price
        assert (price.input, price.output) == (model.input_usd_per_million_tokens, model.output_usd_per_million_tokens)
        assert deployments[name].base_url == "http://127.0.0.1:4010/v1"
    assert (settings.default_arm, settings.baseline) == (DEFAULT_MODEL, BASELINE_MODEL)
    assert settings.server.host == "127.0.0.1"


def test_demo_settings_let_a_request_name_the_category_that_is_shown() -> None:
    """Other wordings are answered by the bundled rule, and no key is needed to ask for it."""
    settings = demo_settings(4010, 4000)
    assert (settings.cache.mode, settings.cache.rule) == ("semantic", "default")
    assert settings.cache.header_categories == (CATEGORY,)
    assert settings.client_keys == ()


@pytest.mark.parametrize(
    ("text", "setting"),
    [("cost", "cost"), ("balanced", "balanced"), ("quality", "quality"), ("0.25", 0.25), ("1", 1.0)],
)
def test_tradeoff_of_a_known_kind_is_read(text: str, setting: str | float) -> None:
    """Names pass as they are, numbers become numbers."""
    assert parse_tradeoff(text) == setting


@pytest.mark.parametrize("text", ["best", "", "-0.1", "1.5", "nan", "inf"])
def test_tradeoff_of_another_kind_is_refused_with_the_choices(text: str) -> None:
    """An unknown setting is a user's mistake: one sentence, no traceback."""
    with pytest.raises(click.BadParameter, match="cost, balanced, quality") as refused:
        parse_tradeoff(text)
    assert refused.value.exit_code == 2


def test_demo_with_an_unknown_tradeoff_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong usage is refused before a port is bound."""

    def refuse(port: int) -> socket.socket:
        raise AssertionError(f"bound {port}")

    monkeypatch.setattr("penstock_gateway.demo.run.bind_loopback", refuse)
    with pytest.raises(click.BadParameter):
        demo(once=True, port=0, tradeoff="bananas")


def test_demo_once_over_leaves_the_signal_handlers_as_they_were() -> None:
    """Its handlers are in force only while it runs, also where interrupts were ignored before."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        demo(once=True, port=0, prompts=DEMO_PROMPTS[:1])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_demo_on_a_taken_port_is_refused_with_the_way_out() -> None:
    """A port that was asked for and is taken is an error that names the option."""
    with bind_loopback(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(click.ClickException, match=f"Port {port} is taken; choose another with --port"):
            demo(once=True, port=port)


def test_bind_loopback_of_any_port_listens_on_loopback_only() -> None:
    """The servers of the demonstration cannot be reached from another machine."""
    with bind_loopback(0) as listener:
        address = listener.getsockname()
    assert isinstance(listener, socket.socket)
    assert address[0] == "127.0.0.1"


def test_token_counter_on_demo_prompts_agrees_with_the_tokenizer() -> None:
    """Counting word by word gives what the bundled tokenizer gives for the whole text."""
    encoder = PromptEncoder.load(bundled_folder("static-minilm-256"), device="cpu")
    count_tokens = token_counter()
    assert [count_tokens(prompt) for prompt in DEMO_PROMPTS] == [
        len(encoder.token_ids(prompt)) for prompt in DEMO_PROMPTS
    ]


def test_token_counter_without_the_encoder_falls_back_to_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation still demonstrates: words and marks are counted then."""
    monkeypatch.setattr("penstock_gateway.demo.run.ENCODER_NAME", "no-such-encoder")
    assert token_counter() is count_pieces
