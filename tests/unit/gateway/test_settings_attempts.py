"""The `attempts` section, groups and fallbacks: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.deployments import members, named_plan
from penstock_gateway.settings import ConfigurationError, Settings, build_deployments, load_settings
from support.fakes import deployment

HEAD = """
routing: {artifact: none}
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", price: {input: 1, output: 1}%s}
  - {name: large, base_url: "http://127.0.0.1:9/v1", price: {input: 1, output: 1}%s}
"""


def _load(folder: Path, text: str = "", small: str = "", large: str = "") -> Settings:
    path = folder / "penstock.yaml"
    path.write_text(HEAD % (small, large) + text)
    return load_settings(path, {})


def _problems(folder: Path, text: str = "", small: str = "", large: str = "") -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        _load(folder, text, small, large)
    return [f"{problem.setting}: {problem.message} ({problem.hint})" for problem in caught.value.problems]


def test_attempt_settings_of_a_deployment_reach_the_request_path(tmp_path: Path) -> None:
    """Group, fallbacks, limit and what happens on disconnect are part of the deployment."""
    small = ", group: g, fallbacks: [large], max_parallel_requests: 8, on_disconnect: drain"
    built = build_deployments(_load(tmp_path, small=small))
    assert (built[0].group, built[0].fallbacks, built[0].max_parallel_requests, built[0].on_disconnect) == (
        "g",
        ("large",),
        8,
        "drain",
    )
    assert (built[1].group, built[1].fallbacks, built[1].max_parallel_requests, built[1].on_disconnect) == (
        None,
        (),
        None,
        "cancel",
    )


@pytest.mark.parametrize(("written", "expected"), [("off", "off"), ("p95", "p95"), ("1.5", 1.5), ("2", 2.0)])
def test_attempt_settings_take_a_hedge_in_each_form(tmp_path: Path, written: str, expected: object) -> None:
    """Off, a quantile or seconds."""
    assert _load(tmp_path, f"attempts: {{hedge: {{after: {written}}}}}").attempts.hedge.after == expected


@pytest.mark.parametrize(
    ("text", "small", "expected"),
    [
        ("", ", fallbacks: [larg]", "no deployment or group 'larg' (did you mean 'large'?)"),
        ("", ", fallbacks: [small]", "'small' cannot be its own fallback"),
        ("", ", group: large", "'large' is the name of a deployment"),
        ("", ", group: 'auto:fast'", "'auto:fast' is how clients let Penstock choose"),
        ("", ", max_parallel_requests: 0", "deployments[0].max_parallel_requests"),
        ("", ", on_disconnect: ignore", "deployments[0].on_disconnect"),
        ("attempts: {retries: 11}", "", "attempts.retries"),
        ("attempts: {hedge: {after: p5}}", "", "attempts.hedge.after"),
        ("attempts: {retry_on: [sometimes]}", "", "attempts.retry_on"),
        ("attempts: {breaker: {open_seconds: 500}}", "", "attempts.breaker.max_open_seconds: is below open_seconds"),
        ("attempts: {backoff_seconds: 9}", "", "attempts.max_backoff_seconds: is below backoff_seconds"),
        ("attempts: {balance: {pressure_low: 0.9}}", "", "attempts.balance.pressure_high: is below pressure_low"),
    ],
)
def test_attempt_settings_that_cannot_work_are_refused(tmp_path: Path, text: str, small: str, expected: str) -> None:
    """Each mistake is named with its setting."""
    assert any(expected in line for line in _problems(tmp_path, text, small))


def test_named_plan_of_a_deployment_is_itself_and_its_fallbacks_once() -> None:
    """A name leads to a deployment or to the first of a group; of its fallbacks each stands once."""
    a, b = deployment("a", fallbacks=("pool", "c", "a", "gone")), deployment("b", group="pool")
    c, d = deployment("c"), deployment("d", group="pool", fallbacks=("c",))
    all_of_them = {each.name: each for each in (a, b, c, d)}
    assert [each.name for each in named_plan(all_of_them, "a")] == ["a", "b", "c"]
    assert [each.name for each in named_plan(all_of_them, "pool")] == ["b"]
    assert named_plan(all_of_them, "nobody") == ()
    assert members(all_of_them.values(), "pool") == (b, d)
