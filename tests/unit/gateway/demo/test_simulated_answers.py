"""Rules of the simulated answers: labelled, seeded, counted, bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.demo.simulated_answers import (
    TOKENS_PER_IMAGE,
    SimulatedAnswer,
    compose_answer,
    count_input_tokens,
    count_pieces,
    split_pieces,
)
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS
from penstock_gateway.deployments import TIERS

SMALL = SIMULATED_MODELS["sim-small"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        },
    },
}


def _request(text: str = "Why is the sky blue?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def _answer(request: dict[str, Any], *, model: str = "sim-small", seed: int = 0) -> SimulatedAnswer:
    return compose_answer(SIMULATED_MODELS[model], request, seed=seed, count_tokens=count_pieces)


def test_simulated_models_of_all_tiers_say_that_they_are_simulated() -> None:
    """There is one model per tier, its name begins with sim-, and dearer tiers cost more."""
    models = list(SIMULATED_MODELS.values())
    assert tuple(model.tier for model in models) == TIERS
    assert all(model.name == f"sim-{model.tier}" for model in models)
    assert models == sorted(models, key=lambda model: model.output_usd_per_million_tokens)
    assert models == sorted(models, key=lambda model: model.input_usd_per_million_tokens)


@pytest.mark.parametrize("model", SIMULATED_MODELS)
def test_answer_of_every_model_opens_with_the_label_and_the_prompt(model: str) -> None:
    """A reader can see in the text itself that no model ran, and what was asked."""
    answer = _answer(_request(), model=model)
    assert answer.text.startswith(f"[Simulated answer from {model}; no language model ran.]")
    assert "Why is the sky blue?" in answer.text
    assert answer.finish_reason == "stop"


def test_answer_to_the_same_request_is_the_same() -> None:
    """Model, request and seed fix the answer, its length and its speed."""
    assert _answer(_request()) == _answer(_request())


def test_answer_with_another_seed_has_another_length_or_speed() -> None:
    """The seed changes what is drawn."""
    assert _answer(_request(), seed=1) != _answer(_request(), seed=2)


def test_answer_tokens_are_the_count_of_its_text() -> None:
    """The reported output tokens are the tokens of the text that is sent."""
    answer = _answer(_request())
    assert answer.output_tokens == count_pieces(answer.text) == len(answer.pieces)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_answer_beyond_the_asked_limit_is_cut_and_says_so(field: str) -> None:
    """Either length field cuts the text and sets the finish reason."""
    answer = _answer(_request(**{field: 7}))
    assert (answer.output_tokens, answer.finish_reason) == (7, "length")


def test_answer_of_a_larger_model_costs_more_time_on_average() -> None:
    """Simulated latency grows with the tier, as the mean over forty requests."""
    prompts = [_request(f"question number {number}") for number in range(40)]
    means = [sum(_answer(p, model=name).total_seconds for p in prompts) / 40 for name in SIMULATED_MODELS]
    assert means == sorted(means)


def test_tools_in_a_request_give_one_call_with_typed_arguments() -> None:
    """The first function is called once, with values of the types that its schema names."""
    answer = _answer(_request(tools=[WEATHER]))
    assert answer.tool_call == ("look_up_weather", '{"city":"simulated","days":0,"unit":"C"}')
    assert (answer.finish_reason, answer.pieces) == ("tool_calls", ())


@pytest.mark.parametrize(
    ("choice", "last_role", "is_called"),
    [("none", "user", False), ("auto", "tool", False), ("required", "tool", True), ("auto", "user", True)],
)
def test_tool_choice_of_each_kind_decides_whether_a_call_is_made(choice: str, last_role: str, is_called: bool) -> None:
    """None forbids a call, required forces one, auto makes none once a result is there."""
    request = _request(tools=[WEATHER], tool_choice=choice)
    request["messages"].append({"role": last_role, "content": "12 degrees"})
    assert (_answer(request).tool_call is not None) is is_called


def test_tool_choice_naming_a_function_calls_that_function() -> None:
    """A named function wins over the order of the tools."""
    other = {"type": "function", "function": {"name": "send_mail"}}
    choice = {"type": "function", "function": {"name": "send_mail"}}
    answer = _answer(_request(tools=[WEATHER, other], tool_choice=choice))
    assert answer.tool_call == ("send_mail", "{}")


def test_json_schema_in_a_request_gives_an_instance_of_it() -> None:
    """In JSON mode the text is JSON of the schema's shape."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"type": "array"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert _answer(_request(response_format=response_format)).text == '{"ok": true, "tags": [{}]}'


def test_input_tokens_of_images_and_tools_are_counted() -> None:
    """Images have a fixed price, tools count as their JSON."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    plain = count_input_tokens(_request("hi"), count_pieces)
    image = count_input_tokens({"messages": [{"role": "user", "content": parts}]}, count_pieces)
    tools = count_input_tokens(_request("hi", tools=[WEATHER]), count_pieces)
    assert image == plain + TOKENS_PER_IMAGE
    assert tools > plain


@given(st.text(max_size=300))
def test_pieces_of_any_text_join_to_the_text_without_trailing_space(text: str) -> None:
    """Cutting a text into pieces loses nothing but white space at its end."""
    assert "".join(split_pieces(text)) == text.rstrip()
    assert len(split_pieces(text)) == count_pieces(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(schema=st.dictionaries(st.sampled_from(["type", "properties", "items", "enum", "const"]), _json))
def test_json_schema_of_any_shape_is_answered_without_an_error(schema: dict[str, Any]) -> None:
    """A nonsensical schema gives some value, never an exception."""
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert _answer(_request(response_format=response_format)).output_tokens >= 1
