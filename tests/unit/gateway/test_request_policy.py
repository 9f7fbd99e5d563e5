"""Rules of whose limits apply to a request: its own, its key's, the gateway's."""

from __future__ import annotations

import json
import statistics

import pytest

from penstock_gateway.asgi import read_head
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import ChatRequest, encode_object, parse_chat_request
from penstock_gateway.request_policy import UNLIMITED, PolicyBook, draw_from, header_policy, rules_of
from penstock_gateway.settings_models import ClientKeySettings, ExploreSettings, RoutingSettings, Settings

SETTINGS = Settings(
    routing=RoutingSettings(
        category_floors={"medical": "large", "coding": "medium"}, explore=ExploreSettings(rate=0.01)
    ),
    client_keys=(
        ClientKeySettings(
            name="careful",
            min_quality=0.8,
            max_cost_usd=0.05,
            explore_rate=0.0,
            category_floors={"medical": "small", "coding": "frontier", "legal": "large"},
        ),
        ClientKeySettings(name="thrifty", tradeoff="cost"),
    ),
)


def request(**controls: object) -> ChatRequest:
    """Return a parsed request with controls in its body."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "penstock": controls}
    return parse_chat_request(json.dumps(body).encode())


def test_policy_of_an_unknown_tenant_is_the_gateways() -> None:
    """Without a key of one's own the gateway's floors and exploration hold, and nothing else."""
    policy = PolicyBook(SETTINGS).resolve("default", request(), UNLIMITED, None)
    assert (policy.tradeoff, policy.max_cost_usd, policy.min_quality) == (None, None, None)
    assert policy.floors == {"medical": 2, "coding": 1}
    assert policy.explore_rate == 0.01


def test_policy_of_a_key_takes_its_defaults_and_only_raises_floors() -> None:
    """A key's defaults come before the gateway's; a floor of its own below the gateway's does nothing."""
    policy = PolicyBook(SETTINGS).resolve("careful", request(), UNLIMITED, None)
    assert (policy.min_quality, policy.max_cost_usd, policy.explore_rate) == (0.8, 0.05, 0.0)
    assert policy.floors == {"medical": 2, "coding": 3, "legal": 2}
    assert PolicyBook(SETTINGS).resolve("thrifty", request(), UNLIMITED, None).tradeoff == "cost"


def test_policy_request_takes_the_place_of_its_keys_knob() -> None:
    """A trade-off replaces the key's minimum of quality and the other way round: they set one thing."""
    book = PolicyBook(SETTINGS)
    asked = book.resolve("careful", request(), UNLIMITED, "quality")
    assert (asked.tradeoff, asked.min_quality) == ("quality", None)
    asked = book.resolve("thrifty", request(min_quality=0.9), UNLIMITED, None)
    assert (asked.tradeoff, asked.min_quality) == (None, 0.9)


@pytest.mark.parametrize(("own", "expected"), [(0.01, 0.01), (0.5, 0.05)])
def test_policy_request_can_lower_its_keys_cap_but_not_raise_it(own: float, expected: float) -> None:
    """The lower of the two caps holds, and the rest of the key's defaults stay."""
    policy = PolicyBook(SETTINGS).resolve("careful", request(max_cost_usd=own), UNLIMITED, None)
    assert (policy.max_cost_usd, policy.min_quality) == (expected, 0.8)


def test_policy_header_and_body_that_agree_are_one() -> None:
    """The same limit may be given twice."""
    header = header_policy(max_cost_usd="0.01", min_quality="0.50", tradeoff=None)
    policy = PolicyBook(SETTINGS).resolve("x", request(max_cost_usd=0.01, min_quality=0.5), header, None)
    assert (policy.max_cost_usd, policy.min_quality) == (0.01, 0.5)


@pytest.mark.parametrize(
    ("header", "body", "alias", "code"),
    [
        ({"max_cost_usd": "0.02"}, {"max_cost_usd": 0.01}, None, "conflicting_controls"),
        ({"min_quality": "0.5"}, {"min_quality": 0.6}, None, "conflicting_controls"),
        ({"min_quality": "0.5"}, {}, "cost", "conflicting_controls"),
        ({}, {"tradeoff": 0.2, "min_quality": 0.6}, None, "conflicting_controls"),
        ({}, {"tradeoff": "quality"}, "cost", "conflicting_tradeoff"),
    ],
)
def test_policy_contradicting_controls_are_refused(
    header: dict[str, str], body: dict[str, object], alias: str | None, code: str
) -> None:
    """Nothing is guessed when two places ask for different things, or one asks for two ways to decide."""
    given = header_policy(**{"max_cost_usd": None, "min_quality": None, "tradeoff": None, **header})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        PolicyBook(SETTINGS).resolve("x", request(**body), given, alias)
    assert caught.value.code == code


@pytest.mark.parametrize("value", ["", "-1", "nan", "inf", "1e999", "1_0", "0x1", "1" * 30, "a", "1,5", " 1"])
def test_header_limit_that_is_no_plain_number_is_refused(value: str) -> None:
    """A limit in a header is a decimal number, written as such."""
    with pytest.raises(InvalidRequest) as caught:
        header_policy(max_cost_usd=value, min_quality=None, tradeoff=None)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "x-penstock-max-cost-usd")


@pytest.mark.parametrize(("value", "expected"), [("0", 0.0), ("0.05", 0.05), (".5", 0.5), ("5e-05", 5e-5), ("2.", 2.0)])
def test_header_limit_in_any_decimal_notation_is_read(value: str, expected: float) -> None:
    """What programs print for small numbers of dollars is understood."""
    assert header_policy(max_cost_usd=value, min_quality=None, tradeoff=None).max_cost_usd == expected


@pytest.mark.parametrize(
    ("controls", "code"),
    [
        ({"max_cost_usd": -0.1}, "invalid_value"),
        ({"min_quality": 1.1}, "invalid_value"),
        ({"max_cost_usd": "0.1"}, "invalid_type"),
        ({"min_quality": True}, "invalid_type"),
        ({"explore_rate": 1}, "unknown_control"),
        ({"category_floors": {}}, "unknown_control"),
    ],
)
def test_body_limit_out_of_range_or_not_the_clients_is_refused(controls: dict[str, object], code: str) -> None:
    """Limits have ranges, and exploration and floors are the operator's to set."""
    with pytest.raises(InvalidRequest) as caught:
        request(**controls)
    assert caught.value.code == code


def test_body_limits_never_reach_the_provider() -> None:
    """The control field is taken out of what is passed on."""
    parsed = request(max_cost_usd=0.1, min_quality=0.5)
    assert (parsed.max_cost_usd, parsed.min_quality) == (0.1, 0.5)
    assert b"penstock" not in encode_object(parsed.fields)


def test_head_limits_are_read_from_their_headers() -> None:
    """Both limits have a header of their own name."""
    head = read_head({"headers": [(b"x-penstock-max-cost-usd", b"0.1"), (b"x-penstock-min-quality", b"0.9")]})
    assert (head.max_cost_usd, head.min_quality) == ("0.1", "0.9")


def test_draw_of_one_id_is_always_the_same_and_needs_the_secret() -> None:
    """Whoever has the secret can check a draw; another secret gives another."""
    assert draw_from(b"a")("dec_1") == draw_from(b"a")("dec_1")
    assert draw_from(b"a")("dec_1") != draw_from(b"b")("dec_1")
    assert draw_from(b"a")("dec_1") != draw_from(b"a")("dec_2")


def test_draw_over_many_ids_is_uniform() -> None:
    """Both numbers lie in [0, 1), with the mean and the spread of a uniform one, and do not go together."""
    draw = draw_from(b"secret")
    pairs = [draw(f"dec_{number}") for number in range(4000)]
    for column in zip(*pairs, strict=True):
        assert all(0.0 <= value < 1.0 for value in column)
        assert statistics.fmean(column) == pytest.approx(0.5, abs=0.023)  # five standard errors of 0.2887 / √4000
        assert statistics.pstdev(column) == pytest.approx(0.2887, abs=0.015)
    assert abs(statistics.correlation(*zip(*pairs, strict=True))) < 0.08  # five standard errors of 1 / √4000


def test_rules_without_a_secret_draw_differently_in_every_process() -> None:
    """A secret that is not configured is a random one, so that no client can foresee the draws."""
    assert rules_of(SETTINGS).draw("dec_1") != rules_of(SETTINGS).draw("dec_1")
    with_key = Settings(routing=RoutingSettings(explore=ExploreSettings(key="0123456789abcdef")))  # type: ignore[arg-type]
    assert rules_of(with_key).draw("dec_1") == draw_from(b"0123456789abcdef")("dec_1")
    assert "0123456789abcdef" not in repr(with_key)
