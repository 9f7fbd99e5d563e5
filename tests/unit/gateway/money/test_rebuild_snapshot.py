"""From the public model map to the snapshot."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from penstock_gateway.money import rebuild_snapshot
from penstock_gateway.money.snapshot import Snapshot
from penstock_routers.installation import install_command

CHAT: dict[str, object] = {
    "litellm_provider": "openai",
    "mode": "chat",
    "input_cost_per_token": Decimal("2.5e-07"),
    "output_cost_per_token": Decimal("0.000002"),
    "max_input_tokens": 1000,
    "max_output_tokens": 100,
}


def _build(entries: dict[str, dict[str, object]]) -> Snapshot:
    return rebuild_snapshot.build_snapshot(entries, as_of="2026-01-02", litellm_version="1.2.3")


def test_price_per_token_becomes_an_exact_price_per_million() -> None:
    """Scaling keeps every digit: 2.5e-07 a token is 0.25 a million."""
    model = _build({"m": CHAT}).models["openai"]["m"]
    assert (str(model.input), str(model.output)) == ("0.25", "2")


def test_entry_with_everything_is_carried_over() -> None:
    """Cache and reasoning prices, abilities, surcharge bounds and marks arrive."""
    entry = CHAT | {
        "cache_read_input_token_cost": Decimal("1e-08"),
        "output_cost_per_reasoning_token": Decimal("3e-06"),
        "supports_function_calling": True,
        "supports_vision": True,
        "supports_pdf_input": False,
        "supports_reasoning": True,
        "supports_sampling_params": False,
        "default_reasoning_effort": "none",
        "input_cost_per_token_above_200k_tokens": Decimal("5e-07"),
        "input_cost_per_token_above_128k_tokens": Decimal("4e-07"),
        "deprecation_date": "2027-01-01",
    }
    model = _build({"m": entry}).models["openai"]["m"]
    assert (model.cached_input, model.reasoning) == (Decimal("0.01"), Decimal(3))
    assert model.abilities == ("streaming", "tools", "vision")
    assert model.dearer_above_tokens == 128_000
    assert (model.is_reasoning, model.has_optional_reasoning, model.takes_sampling) == (True, True, False)
    assert model.deprecated_on == "2027-01-01"


def test_entry_with_prices_of_every_kind_gives_the_price_that_it_states() -> None:
    """Cache writes, sound, pictures, long prompts and service tiers reach the bill."""
    entry = CHAT | {
        "cache_creation_input_token_cost": Decimal("3.125e-07"),
        "cache_creation_input_token_cost_above_1hr": Decimal("5e-07"),
        "input_cost_per_audio_token": Decimal("1e-06"),
        "output_cost_per_audio_token": Decimal("4e-06"),
        "input_cost_per_image_token": Decimal("3e-07"),
        "input_cost_per_request": Decimal("0.005"),
        "input_cost_per_token_above_200k_tokens": Decimal("5e-07"),
        "output_cost_per_token_above_200k_tokens": Decimal("3e-06"),
        "input_cost_per_token_priority": Decimal("5e-07"),
        "output_cost_per_token_priority": Decimal("4e-06"),
    }
    snapshot = _build({"m": entry})
    price = snapshot.models["openai"]["m"].price(snapshot)
    rates = price.standard
    written = (rates.cache_write, rates.cache_write_1h, rates.audio_input, rates.audio_output, rates.image_input)
    assert written == tuple(map(Decimal, ("0.3125", "0.5", "1", "4", "0.3")))
    assert price.per_request == Decimal("0.005")
    long, fast = price.rates_for(200_001), price.rates_for(200_001, "priority")
    assert (long.input, long.output, long.audio_input) == tuple(map(Decimal, ("0.5", "3", "1")))
    assert (fast.input, fast.output, fast.cache_write) == tuple(map(Decimal, ("1", "6", "0.625")))
    assert snapshot.models["openai"]["m"].service_tiers["priority"].multiplier == 2


def test_discount_that_the_map_does_not_state_is_not_assumed() -> None:
    """A cheaper service tier without a price for cached tokens, sound or long prompts keeps the standard one."""
    entry = CHAT | {
        "cache_read_input_token_cost": Decimal("1e-07"),
        "input_cost_per_audio_token": Decimal("1e-06"),
        "input_cost_per_token_above_200k_tokens": Decimal("5e-07"),
        "input_cost_per_token_flex": Decimal("1.25e-07"),
        "output_cost_per_token_flex": Decimal("1e-06"),
    }
    snapshot = _build({"m": entry})
    price = snapshot.models["openai"]["m"].price(snapshot)
    short, long = price.rates_for(1, "flex"), price.rates_for(200_001, "flex")
    assert (short.input, short.output) == (Decimal("0.125"), Decimal(1))
    assert (short.cached_input, short.audio_input) == (Decimal("0.1"), Decimal(1))
    assert long.input == Decimal("0.5")


@pytest.mark.parametrize(("provider", "first_long"), [("openai", 200_001), ("xai", 200_000)])
def test_long_prompt_of_each_provider_begins_where_it_says(provider: str, first_long: int) -> None:
    """xAI bills a prompt of exactly the stated length as a long one."""
    entry = CHAT | {"litellm_provider": provider, "input_cost_per_token_above_200k_tokens": Decimal("5e-07")}
    snapshot = _build({"m": entry})
    price = snapshot.models[provider]["m"].price(snapshot)
    assert price.rates_for(first_long - 1).input == Decimal("0.25")
    assert price.rates_for(first_long).input == Decimal("0.5")


def test_cache_write_below_the_prompt_price_is_taken_for_a_mistake() -> None:
    """No provider sells the writing of a token for less than the token."""
    entry = CHAT | {"cache_creation_input_token_cost": Decimal("1e-07")}
    assert _build({"m": entry}).models["openai"]["m"].cache_write is None


def test_price_finer_than_a_picodollar_per_token_stops_the_rebuild() -> None:
    """Sums of such a price would have to be rounded; nobody finds out later."""
    with pytest.raises(ValueError, match="finer than a picodollar"):
        _build({"m": CHAT | {"input_cost_per_token": Decimal("1.5e-12")}})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("m", {"mode": "embedding"}),
        ("m", {"litellm_provider": "nobody"}),
        ("m", {"input_cost_per_token": 0}),
        ("m", {"output_cost_per_token": None}),
        ("m", {"max_input_tokens": None}),
        ("ft:m", {}),
        ("eu/m", {}),
    ],
)
def test_entry_that_is_no_priced_chat_model_is_left_out(name: str, change: dict[str, object]) -> None:
    """Other modes and providers, models without price or limit, fine-tunes and regional prices are left out."""
    assert _build({name: CHAT | change}).models.get("openai", {}) == {}


def test_dated_twin_of_a_model_is_left_out_when_equal() -> None:
    """A dated name stays only where it differs from the plain one."""
    dearer = CHAT | {"input_cost_per_token": Decimal("9e-07")}
    models = _build({"m": CHAT, "m-2025-01-01": CHAT, "m-2024-01-01": dearer, "n-2025-01-01": CHAT}).models["openai"]
    assert set(models) == {"m", "m-2024-01-01", "n-2025-01-01"}


def test_snapshot_written_twice_is_equal_and_reads_back(tmp_path: Path) -> None:
    """Writing is deterministic, one model a line, and decodes to the same values."""
    snapshot = _build({"b": CHAT, "a": CHAT, "anthropic/c": CHAT | {"litellm_provider": "anthropic"}})
    content = rebuild_snapshot._encode(snapshot)
    assert content == rebuild_snapshot._encode(snapshot)
    assert msgspec.json.decode(content, type=Snapshot) == snapshot
    assert json.loads(content)["models"]["openai"]["a"]["input"] == "0.25"
    assert len(content.splitlines()) == 14


def test_rebuild_without_litellm_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without the package there is nothing to build from; nothing is written."""
    monkeypatch.setattr(rebuild_snapshot, "find_spec", lambda _: None)
    assert rebuild_snapshot.main(["--output", str(tmp_path / "s.json")]) == 1
    assert install_command("litellm") in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()


def test_rebuild_from_the_installed_package_gives_the_shipped_models(tmp_path: Path) -> None:
    """The shipped file is what the script makes of the pinned package."""
    shipped_path = Path(rebuild_snapshot.__file__).with_name("snapshot.json")
    shipped = msgspec.json.decode(shipped_path.read_bytes(), type=Snapshot)
    spec = rebuild_snapshot.find_spec("litellm")
    if spec is None or rebuild_snapshot.metadata.version("litellm") != shipped.litellm_version:
        pytest.skip(f"litellm {shipped.litellm_version} is not installed")
    assert rebuild_snapshot.main(["--as-of", shipped.as_of, "--output", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_bytes() == shipped_path.read_bytes()


@pytest.mark.parametrize(
    ("provider", "sizes", "price"),
    [
        ("anthropic", {"low": "0.01", "medium": "0.01", "high": "0.01"}, Decimal("0.01")),
        ("openai", {"low": "0.025", "medium": "0.025", "high": "0.025"}, Decimal("0.025")),
        ("openai", {"low": "0.006", "medium": "0.010", "high": "0.014"}, None),  # as large as the client asks for
        ("openai", {"low": "0", "medium": "0", "high": "0"}, None),  # rather not known than free
        ("gemini", {"low": "0.035", "medium": "0.035", "high": "0.035"}, None),  # billed by prompt
        ("openai", {}, None),
    ],
)
def test_price_of_a_search_is_taken_where_it_is_one_for_each(
    provider: str, sizes: dict[str, str], price: Decimal | None
) -> None:
    """A map that has several prices for a search, or whose provider bills something else, says nothing."""
    named = {f"search_context_size_{size}": Decimal(value) for size, value in sizes.items()}
    entry = CHAT | {"litellm_provider": provider, "search_context_cost_per_query": named}
    snapshot = _build({f"{provider}/m" if provider == "gemini" else "m": entry})
    model = snapshot.models[provider]["m"]
    assert model.web_search == price
    assert model.price(snapshot).web_search == price
