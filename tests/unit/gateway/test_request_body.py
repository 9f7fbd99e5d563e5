"""Rules of the thin view of a chat request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.deployments import Ability
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import encode_object, parse_alias, parse_chat_request, parse_tradeoff


def body(**fields: object) -> bytes:
    """Return a minimal chat body with further fields."""
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def test_parse_unknown_fields_survive_byte_for_byte() -> None:
    """What we do not know keeps its spelling: number forms, key order, escapes, big integers."""
    odd = b'{"b":1e2,"a":[123456789012345678901234567890, 1.0 ,"\\u0041"]}'
    sent = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"vendor_field":' + odd + b"}"
    assert odd in encode_object(parse_chat_request(sent).fields)


@given(
    st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
)
def test_parse_any_extra_fields_come_out_equal(extra) -> None:
    """Any JSON value in an unknown field means the same after parsing and encoding."""
    reserved = {"model", "messages", "penstock", "stream", "n", "tools", "functions", "response_format"}
    reserved |= {"stream_options", "max_tokens", "max_completion_tokens"}
    extra = {key: value for key, value in extra.items() if key not in reserved}
    encoded = json.dumps({**extra, "model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
    assert json.loads(encode_object(parse_chat_request(encoded).fields)) == json.loads(encoded)


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model":"auto","messages":[]} x', "invalid_json", None),
        (b'{"model":"a\xff"}', "invalid_json", None),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "json_too_deep", None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "missing_field", "model"),
        (b'{"model":"auto"}', "missing_field", "messages"),
        (body(messages=[]), "empty_messages", "messages"),
        (body(messages="hi"), "invalid_type", "messages"),
        (body(messages=[{"content": "x"}]), "invalid_type", "messages"),
        (body(messages=[{"role": "user", "content": 5}]), "invalid_type", "messages"),
        (body(model=5), "invalid_type", "model"),
        (body(stream="yes"), "invalid_type", "stream"),
        (body(max_tokens="many"), "invalid_type", "max_tokens"),
        (body(max_tokens=0), "invalid_value", "max_tokens"),
        (body(n=0), "invalid_value", "n"),
        (body(response_format="json"), "invalid_type", "response_format"),
        (body(penstock={"tradeof": 1}), "unknown_control", "penstock"),
        (body(penstock={"tradeoff": 1.5}), "unknown_tradeoff", "penstock.tradeoff"),
        (body(penstock={"tradeoff": "ballanced"}), "unknown_tradeoff", "penstock.tradeoff"),
        (body(penstock=3), "invalid_type", "penstock"),
    ],
)
def test_parse_bad_input_names_code_and_param(sent: bytes, code: str, param: str | None) -> None:
    """Each kind of bad body is a 400 with its own stable code and the field at fault."""
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_request(sent)
    assert caught.value.status == 400
    assert (caught.value.code, caught.value.param) == (code, param)


def test_parse_misspelt_control_suggests_the_right_one() -> None:
    """A misspelt control names its nearest match."""
    with pytest.raises(InvalidRequest, match="Did you mean 'tradeoff'"):
        parse_chat_request(body(penstock={"tradeof": "cost"}))


def test_parse_control_field_is_stripped() -> None:
    """The control field is read and never reaches the model."""
    request = parse_chat_request(body(penstock={"tradeoff": 0.25, "include_cost": True}))
    assert "penstock" not in request.fields
    assert (request.tradeoff, request.includes_cost) == (0.25, True)


def test_parse_needs_follow_the_request() -> None:
    """Images, tools, JSON output and streaming become hard needs; empty tools and text format do not."""
    parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    full = parse_chat_request(
        body(
            messages=[{"role": "user", "content": parts}],
            tools=[{"type": "function"}],
            response_format={"type": "json_object"},
            stream=True,
        )
    )
    assert full.needs == {Ability.VISION, Ability.TOOLS, Ability.JSON, Ability.STREAMING}
    assert (full.routing_text, full.attachments) == ("what is it", 1)
    assert parse_chat_request(body(tools=[], response_format={"type": "text"})).needs == frozenset()


def test_parse_routing_text_is_last_user_turn() -> None:
    """Routing looks at the last user turn, not at the system prompt or later tool messages."""
    conversation = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "second"},
        {"role": "tool", "content": "42", "tool_call_id": "x"},
    ]
    assert parse_chat_request(body(messages=conversation)).routing_text == "second"


def test_parse_long_prompt_estimates_a_token_per_four_bytes() -> None:
    """The token estimate counts UTF-8 bytes, so that it does not undercount other scripts."""
    assert parse_chat_request(body(messages=[{"role": "user", "content": "a" * 4000}])).input_tokens == 1004
    assert parse_chat_request(body(messages=[{"role": "user", "content": "字" * 4000}])).input_tokens == 3004


@pytest.mark.parametrize(
    ("alias", "value"), [("auto", None), ("auto:cost", "cost"), ("auto@0.7", 0.7), ("auto@0", 0.0), ("auto@1", 1.0)]
)
def test_parse_alias_known_suffix_gives_value(alias: str, value: object) -> None:
    """Aliases carry a mode or a number."""
    assert parse_alias(alias) == value


@pytest.mark.parametrize(
    "alias", ["auto:", "auto:fast", "auto@", "auto@2", "auto@-0.1", "auto@nan", "auto:0.5", "auto@1e-1"]
)
def test_parse_alias_unknown_suffix_is_refused(alias: str) -> None:
    """An unknown mode or a number outside [0, 1] is a 400, never a silent default."""
    with pytest.raises(InvalidRequest) as caught:
        parse_alias(alias)
    assert caught.value.code == "unknown_tradeoff"


def test_parse_tradeoff_bool_like_text_is_refused() -> None:
    """Words that are neither modes nor numbers are refused with the choices named."""
    with pytest.raises(InvalidRequest, match="cost, balanced, quality"):
        parse_tradeoff("true", param="x-penstock-tradeoff")
