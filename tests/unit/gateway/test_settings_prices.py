"""Prices in the configuration: what may be written, what is refused with its line, and what stands for none."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.deployments import Deployment
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.settings import Settings, build_deployments, load_settings, note_settings
from penstock_gateway.settings_models import DeploymentSettings
from penstock_gateway.settings_money import MoneySettings
from penstock_gateway.settings_report import summarise, summary_text

Write = Callable[[str], Path]
D = Decimal


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes one deployment, with the given lines below its price, as penstock.yaml."""
    monkeypatch.chdir(tmp_path)

    def write_price(lines: str) -> Path:
        indented = "".join(f"      {line}\n" for line in lines.splitlines())
        head = "deployments:\n  - name: mine\n    base_url: http://127.0.0.1:9/v1\n    price:\n"
        path = tmp_path / "penstock.yaml"
        path.write_text(head + indented)
        return Path(path.name)

    return write_price


def _problems(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {})
    return [str(problem) for problem in caught.value.problems]


def test_price_with_everything_reaches_the_deployment(write: Write) -> None:
    """Parts, tiers and services of a price are what a request is billed at."""
    path = write(
        "input: 3\noutput: 15\ncached_input: 0.3\ncache_write: 3.75\ncache_write_1h: 6\nreasoning: 16\n"
        "audio_input: 30\naudio_output: 60\nimage_input: 3.5\nper_request: 0.000000000001\n"
        "above: [{tokens: 200000, input: 6, output: 22.5}]\n"
        "service_tiers: {flex: {multiplier: 0.5}, priority: {input: 6, above: [{tokens: 200000, input: 9}]}}"
    )
    price = build_deployments(load_settings(path, {}))[0].price
    rates = price.standard
    assert (rates.cache_write, rates.cache_write_1h, rates.reasoning) == (D("3.75"), D(6), D(16))
    assert (rates.audio_input, rates.audio_output, rates.image_input) == (D(30), D(60), D("3.5"))
    assert price.per_request == D("1e-12")
    assert (price.rates_for(200_001).input, price.rates_for(200_001).cached_input) == (D(6), D("0.3"))
    assert (price.rates_for(1, "flex").cache_write_1h, price.rates_for(200_001, "flex").output) == (D(3), D("11.25"))
    assert [price.rates_for(tokens, "priority").input for tokens in (1, 200_001)] == [D(6), D(9)]
    assert price.source == "configuration"


BASE = "input: 3\noutput: 15\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "input: 0.0000001\noutput: 1",
            "penstock.yaml:5: deployments[0].price.input: should have at most six decimals",
        ),
        (BASE + "per_request: 0.0000000000001", "price.per_request: should have at most twelve decimals"),
        (
            BASE + "cashed_input: 1",
            "penstock.yaml:7: deployments[0].price.cashed_input: there is no such setting (did ",
        ),
        (BASE + "above: [{input: 1}]", "price.above[0].tokens: is required"),
        (BASE + "above: [{tokens: 0, input: 1}]", "price.above[0].tokens: should be at least 1"),
        (BASE + "above: [{tokens: 9}]", "penstock.yaml:7: deployments[0].price.above[0]: changes no price"),
        (
            BASE + "above:\n  - {tokens: 9, input: 4}\n  - {tokens: 9, input: 5}",
            "penstock.yaml:9: deployments[0].price.above[1].tokens: 9 does not come after 9 (write the tiers in",
        ),
        (
            BASE + "above: [{tokens: 9, inptu: 4}]",
            "price.above[0].inptu: there is no such setting (did you mean 'input'?)",
        ),
        (
            BASE + "service_tiers: {priorty: {multiplier: 2}}",
            "should be one of 'batch', 'flex', 'balanced', 'priority'",
        ),
        (BASE + "service_tiers: {flex: {}}", "penstock.yaml:7: deployments[0].price.service_tiers.flex: says no price"),
        (BASE + "service_tiers: {flex: {multiplier: 0}}", "service_tiers.flex.multiplier: should be more than 0"),
        (
            BASE + "service_tiers: {flex: {multiplyer: 2}}",
            "service_tiers.flex.multiplyer: there is no such setting (did you mean 'multiplier'?)",
        ),
        (
            BASE + "service_tiers: {flex: {multiplier: 0.3333333}}",
            "service_tiers.flex.multiplier: gives a price of 0.9999999, which has more than six decimals (write the",
        ),
        (
            BASE + "service_tiers: {flex: {input: 1, above: [{tokens: 9, input: 2}, {tokens: 8, input: 2}]}}",
            "service_tiers.flex.above[1].tokens: 8 does not come after 9",
        ),
    ],
)
def test_price_that_makes_no_sense_is_refused_with_its_line(write: Write, lines: str, expected: str) -> None:
    """One problem, at its line, that says what to write instead; no second one about a missing price."""
    problems = _problems(write(lines))
    assert len(problems) == 1, problems
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (BASE + "cached_input: 4", "its cached_input of 4 is dearer than its input of 3"),
        (BASE + "cache_write: 1", "its cache_write of 1 is cheaper than its input of 3"),
        (BASE, None),
    ],
)
def test_price_that_looks_like_a_mistake_is_noted(write: Write, lines: str, expected: str | None) -> None:
    """It may be right, so the gateway starts."""
    notes = [note.message for note in note_settings(load_settings(write(lines), {}))]
    assert [note for note in notes if "its cache" in note] == ([] if expected is None else [expected])


def test_price_without_the_cache_writes_that_its_provider_charges_is_noted() -> None:
    """A configured price replaces the snapshot's whole; what it then forgets is said."""
    entry = DeploymentSettings.model_validate(
        {"name": "claude-sonnet-4-6", "provider": "anthropic", "price": {"input": 3, "output": 15}}
    )
    messages = [note.message for note in note_settings(Settings(deployments=(entry,)))]
    assert any("charges 1.25 times the input price for cache writes" in message for message in messages)


def _unknown(name: str = "mine", **fields: object) -> DeploymentSettings:
    return DeploymentSettings.model_validate({"name": name, "base_url": "http://127.0.0.1:9/v1", **fields})


def _built(*entries: DeploymentSettings, policy: str = "estimate") -> tuple[Deployment, ...]:
    money = MoneySettings.model_validate({"unknown_price": policy})
    return build_deployments(Settings(deployments=entries, money=money))


def test_unknown_price_is_denied_unless_somebody_says_otherwise() -> None:
    """The default refuses the deployment by name."""
    with pytest.raises(ConfigurationError, match="'mine' has no price"):
        _built(_unknown(), policy="deny")


def test_unknown_price_in_a_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """The message names the model, the setting to add, and the way around."""
    path = tmp_path / "c.yaml"
    path.write_text("deployments: [{name: mine, base_url: 'http://127.0.0.1:9/v1'}]\n")
    problems = _problems(path)
    assert "c.yaml:1: deployments[0].price: the price of openai_compatible model 'mine' is not known" in problems[0]
    assert "unknown_price: estimate" in problems[0]
    path.write_text(path.read_text() + "money: {unknown_price: estimat}\n")
    problems = _problems(path)
    assert len(problems) == 1
    assert "c.yaml:2: money.unknown_price: should be one of 'deny', 'estimate' or 'allow', not 'estimat'" in problems[0]


def test_unknown_price_of_a_listed_provider_is_estimated_at_its_dearest() -> None:
    """The estimate is marked, says where it comes from, and is below no model of the provider that can be called."""
    price = _built(_unknown(provider="azure"))[0].price
    snapshot = load_snapshot()
    prices = {name: model.price(snapshot) for name, model in snapshot.models["azure"].items()}
    gone = {name for name, model in snapshot.models["azure"].items() if "" < model.deprecated_on <= snapshot.as_of}
    assert price.is_estimate
    assert price.source.startswith("estimate: dearest of the azure models")
    for kind in ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output"):
        dearest = max(
            getattr(rates, kind)
            for name in prices.keys() - gone
            for rates in (prices[name].standard, *(step.rates for step in prices[name].above))
        )
        assert getattr(price.standard, kind) == dearest
    assert max(prices[name].output for name in gone) > price.output


def test_unknown_price_of_an_own_server_is_estimated_from_its_tier() -> None:
    """Without a listed provider the deployments of the same tier stand for it, else every model there is."""
    small = _unknown("small", tier="small", price={"input": 1, "output": 2})
    dear = _unknown("dear", tier="large", price={"input": 10, "output": 20})
    prices = {built.name: built.price for built in _built(small, dear, _unknown(tier="small"), _unknown("lost"))}
    assert (prices["mine"].input, prices["mine"].output) == (D(1), D(2))
    assert prices["mine"].source == "estimate: dearest of the other deployments of tier small"
    assert prices["lost"].input > 10
    assert prices["lost"].source.startswith("estimate: dearest of all models")


def test_unknown_price_that_is_allowed_keeps_an_estimate_for_the_choice_only() -> None:
    """Choosing by cost does not take the model for a free one, and its costs are unknown."""
    price = _built(_unknown(provider="mistral"), policy="allow")[0].price
    assert (price.is_unknown, price.is_estimate) == (True, False)
    assert price.input > 0


def test_unknown_price_of_one_deployment_may_differ_from_the_rest() -> None:
    """The deployment's own setting comes before the common one."""
    allowed = _unknown(unknown_price="allow")
    assert _built(allowed, policy="deny")[0].price.is_unknown
    with pytest.raises(ConfigurationError, match="has no price"):
        _built(_unknown(unknown_price="deny"), policy="allow")


def test_price_of_zero_is_known_and_free() -> None:
    """A model of one's own may cost nothing, whatever the policy."""
    price = _built(_unknown(price={"input": 0, "output": 0}), policy="deny")[0].price
    assert price.is_known
    assert (price.input, price.output) == (D(0), D(0))


@pytest.mark.parametrize(
    ("policy", "note", "shown"),
    [("estimate", "its costs are estimated at", "~"), ("allow", "keys with a budget cannot use it", "?")],
)
def test_price_that_is_not_the_models_own_is_noted_and_marked(policy: str, note: str, shown: str) -> None:
    """Whoever checks the configuration sees that a bill will not be exact."""
    settings = Settings(deployments=(_unknown(),), money=MoneySettings.model_validate({"unknown_price": policy}))
    assert any(note in found.message for found in note_settings(settings))
    assert f"  {shown}" in summary_text(summarise(settings))
