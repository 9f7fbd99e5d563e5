"""Rules of filtering and translating a request for one deployment."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from penstock_gateway.compatibility import body_for, outgoing, reject
from penstock_gateway.deployments import Ability, ParameterRules
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import ChatRequest, encode_object, parse_chat_request
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from penstock_routers.policy import RejectReason
from support.fakes import ALL_ABILITIES, deployment

REASONING = ParameterRules(
    max_tokens_field="max_completion_tokens",
    unsupported=frozenset({"logit_bias"}),
    droppable={"temperature": 1, "top_p": 1},
)


def request(**fields: object) -> ChatRequest:
    """Return a parsed chat request with further fields."""
    given = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    return parse_chat_request(json.dumps(given).encode())


def sent(body: dict) -> dict:
    """Return what would go over the wire, decoded."""
    return json.loads(encode_object(body))


@pytest.mark.parametrize(
    ("fields", "ability", "reason"),
    [
        ({"stream": True}, Ability.STREAMING, RejectReason.NO_STREAMING),
        ({"tools": [{}]}, Ability.TOOLS, RejectReason.NO_TOOLS),
        ({"response_format": {"type": "json_schema"}}, Ability.JSON, RejectReason.NO_JSON),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, Ability.VISION, RejectReason.NO_VISION),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, Ability.AUDIO, RejectReason.NO_AUDIO),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, Ability.DOCUMENTS, RejectReason.NO_DOCUMENTS),
    ],
)
def test_reject_missing_ability_names_it(fields: dict, ability: Ability, reason: RejectReason) -> None:
    """A deployment without a needed ability is filtered under that ability's reason, and only then."""
    rejection = reject(request(**fields), deployment("d", abilities=ALL_ABILITIES - {ability}))
    assert rejection is not None
    assert rejection.reason is reason
    assert reject(request(**fields), deployment("d")) is None


def test_reject_long_prompt_names_both_numbers() -> None:
    """A prompt beyond the context is filtered with the numbers in the detail."""
    rejection = reject(
        request(messages=[{"role": "user", "content": "a" * 8000}]), deployment("d", context_tokens=1000)
    )
    assert rejection is not None
    assert rejection.reason is RejectReason.CONTEXT_LENGTH
    assert "2004" in rejection.detail
    assert "1000" in rejection.detail


def test_reject_too_many_output_tokens_is_output_length() -> None:
    """A limit above what the model can write is filtered."""
    rejection = reject(request(max_tokens=5000), deployment("d", max_output_tokens=4096))
    assert rejection is not None
    assert rejection.reason is RejectReason.OUTPUT_LENGTH


def test_reject_unsupported_parameter_names_it() -> None:
    """A field that the model refuses filters the arm, unless it is null."""
    arm = deployment("d", parameters=REASONING)
    rejection = reject(request(logit_bias={"1": 2}), arm)
    assert rejection is not None
    assert rejection.reason is RejectReason.PARAMETER_UNSUPPORTED
    assert "logit_bias" in rejection.detail
    assert reject(request(logit_bias=None), arm) is None


@pytest.mark.parametrize(("value", "is_rejected"), [(1, False), (1.0, False), (None, False), (0.2, True)])
def test_reject_fixed_parameter_only_at_other_values(value: object, is_rejected: bool) -> None:
    """A parameter with one fixed value filters the arm only when the request asks for another."""
    assert (reject(request(temperature=value), deployment("d", parameters=REASONING)) is not None) is is_rejected


@pytest.mark.parametrize(
    ("url", "reason"), [("https://example.org/a.png", RejectReason.REMOTE_MEDIA), ("data:image/png;base64,AA==", None)]
)
def test_reject_remote_media_through_litellm(url: str, reason: RejectReason | None) -> None:
    """The litellm adapter might fetch a URL itself, so routing avoids it for anything but inline media."""
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    asked = request(messages=[{"role": "user", "content": parts}])
    rejection = reject(asked, deployment("d", adapter="litellm"))
    assert (rejection and rejection.reason) == reason
    assert reject(asked, deployment("d")) is None


def test_reject_streamed_choices_through_litellm() -> None:
    """The litellm adapter cannot stream several choices, so routing avoids it for them."""
    rejection = reject(request(stream=True, n=2), deployment("d", adapter="litellm"))
    assert rejection is not None
    assert rejection.reason is RejectReason.PARAMETER_UNSUPPORTED
    assert reject(request(stream=True, n=1), deployment("d", adapter="litellm")) is None


def test_body_routed_request_is_translated() -> None:
    """A routed request gets the model's own name, token field and no redundant fixed parameters."""
    body = sent(
        body_for(
            request(max_tokens=50, temperature=1, seed=3),
            deployment("d", parameters=REASONING),
            is_routed=True,
            asks_usage=False,
        )
    )
    assert body == {
        "model": "upstream-d",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 50,
        "seed": 3,
    }


def test_body_both_token_fields_keep_the_models_own() -> None:
    """When a client sends both limits, the model's own field wins and the other is removed."""
    body = sent(
        body_for(
            request(max_tokens=50, max_completion_tokens=40),
            deployment("d", parameters=REASONING),
            is_routed=True,
            asks_usage=False,
        )
    )
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 40


def test_body_physical_request_is_left_as_written() -> None:
    """A request for a physical model keeps every parameter; only the model's name changes."""
    asked = request(model="d", max_tokens=50, temperature=1)
    body = sent(body_for(asked, deployment("d", parameters=REASONING), is_routed=False, asks_usage=False))
    assert body == {**json.loads(encode_object(asked.fields)), "model": "upstream-d"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}),
    ],
)
def test_body_usage_is_asked_for_beside_other_options(given: dict, expected: dict) -> None:
    """Asking a stream for its usage keeps the client's other stream options."""
    body = body_for(request(stream=True, **given), deployment("d"), is_routed=True, asks_usage=True)
    assert sent(body)["stream_options"] == expected


def test_body_request_object_is_not_changed() -> None:
    """Translating for one arm leaves the request intact for the next."""
    asked = request(max_tokens=50)
    before = encode_object(asked.fields)
    body_for(asked, deployment("d", parameters=REASONING), is_routed=True, asks_usage=True)
    assert encode_object(asked.fields) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "%s"),
        ("stream_options", '{"x":%s}'),
        ("response_format", '{"type":"text","x":%s}'),
        ("messages", '[{"role":"user","content":"x","x":%s}]'),
    ],
)
def test_any_depth_is_taken_or_refused(name: str, value: str) -> None:
    """However deep a field is nested, nothing but our own refusal leaves the gateway's decoders."""
    reasoning = deployment("d", parameters=REASONING, adapter="litellm")
    codes = set()
    for depth in range(1, 1100):
        fields = {"model": '"auto"', "stream": "true", "messages": '[{"role":"user","content":"x"}]'}
        fields[name] = value % ("[" * depth + "]" * depth)
        body = "{" + ",".join(f'"{key}":{text}' for key, text in fields.items()) + "}"
        try:
            asked = parse_chat_request(body.encode())
            reject(asked, reasoning)
            body_for(asked, reasoning, is_routed=False, asks_usage=True)
        except InvalidRequest as error:
            codes.add(error.code)
    assert codes == {"json_too_deep"}


@pytest.mark.parametrize("number", ["1e999", "1" * 5000])
def test_reject_unreadable_number_is_the_clients_mistake(number: str) -> None:
    """A number beyond what Python holds is refused with the field's name."""
    body = '{"model":"auto","messages":[{"role":"user","content":"x"}],"temperature":' + number + "}"
    with pytest.raises(InvalidRequest) as caught:
        reject(parse_chat_request(body.encode()), deployment("d", parameters=REASONING))
    assert caught.value.param == "temperature"


def test_reject_takes_how_another_format_asks_for_no_reason_to_go_elsewhere() -> None:
    """An effort that was made of a Messages client's thinking filters nobody; one that a chat client names does."""
    strict = deployment("d", parameters=ParameterRules(unsupported=frozenset({"reasoning_effort", "stop"})))
    chat = request(reasoning_effort="low")
    translated = structs.replace(chat, native=NativeRequest(WireFormat.MESSAGES, {}))
    rejection = reject(chat, strict)
    assert rejection is not None
    assert "reasoning_effort" in rejection.detail
    assert reject(translated, strict) is None
    assert reject(structs.replace(request(stop=["x"]), native=translated.native), strict) is not None
    assert outgoing(translated, strict, is_routed=True).dropped == ("reasoning_effort",)
