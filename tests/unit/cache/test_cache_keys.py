"""Keys of requests: what must be equal to share an answer, and what may differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from msgspec import structs

from penstock_cache.errors import CacheError
from penstock_cache.keys import UNKEYED_FIELDS, CacheKey, CacheScope, cache_key, canonical_fields

SCOPE = CacheScope("acme", "u1", "chat", "auto", "enc-1", 1)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}

# Partition, fingerprint and context of three requests. A change of any of them loses the stored entries: raise
# entries.CACHE_SCHEMA.
GOLDEN_TEXT = (
    "42a441f2609eee72e124ba23e86ce923",
    "ff004cc86e894dacf9ea2dbf47ade19f",
    "0d95782beb81184caa2088d7ecb43734",
)
GOLDEN_IMAGE = (
    "69ee6e90dddee1886410ba2fa7c4ea28",
    "35854316088aeaf179635f7ca1b2f2fc",
    "49407520a3855d840f1975ba049a1efd",
)
GOLDEN_CLOSED = (
    "e59d85f3e34933058e30664668df7f07",
    "07860dd88ace09dc5760e3af175fa84a",
    "a8a5b2cd49950724f4b332e9fe00de58",
)


def _fields(messages: Any = MESSAGES, **others: Any) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in {"messages": messages, **others}.items()}


def _key(messages: Any = MESSAGES, **others: Any) -> CacheKey:
    return cache_key(SCOPE, _fields(messages, **others))


def _user(content: Any, **others: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **others}]


def _text(text: str, **others: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **others}


@pytest.mark.parametrize(
    ("fields", "partition", "fingerprint", "context"),
    [
        pytest.param(_fields(temperature=0.20, max_completion_tokens=300), *GOLDEN_TEXT, id="text"),
        pytest.param(_fields(_user([_text("What is this?"), IMAGE]), temperature=0.2), *GOLDEN_IMAGE, id="image"),
        pytest.param(
            _fields(
                [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}],
                tools=[{"type": "function", "function": {"name": "f", "parameters": {"minimum": 1.0}}}],
            ),
            *GOLDEN_CLOSED,
            id="closed",
        ),
    ],
)
def test_key_of_golden_requests_is_as_it_always_was(
    fields: Mapping[str, bytes], partition: str, fingerprint: str, context: str
) -> None:
    """Digests of known requests never change under one schema."""
    key = cache_key(SCOPE, fields)
    assert (key.partition.hex(), key.fingerprint.hex(), key.context.hex()) == (partition, fingerprint, context)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "acme2"},
        {"end_user": "u2"},
        {"end_user": None},
        {"end_user": ""},
        {"api_family": "responses"},
        {"requested_model": "auto:cost"},
        {"schema": 2},
    ],
)
def test_scope_that_differs_in_any_field_shares_nothing(change: dict[str, Any]) -> None:
    """Tenant, end user, API family, model and schema each separate both tiers, and leave the context as it is."""
    here, there = _key(), cache_key(structs.replace(SCOPE, **change), _fields())
    assert here.partition != there.partition
    assert here.fingerprint != there.fingerprint
    assert here.context == there.context


def test_scope_with_another_encoder_shares_the_exact_tier_only() -> None:
    """A new encoder invalidates vectors, not answers to the same request."""
    here, there = _key(), cache_key(structs.replace(SCOPE, encoder_id="enc-2"), _fields())
    assert here.partition != there.partition
    assert here.fingerprint == there.fingerprint


def test_scope_fields_that_join_to_the_same_text_stay_apart() -> None:
    """A tenant's name cannot be chosen so that it runs into the next field."""
    one = structs.replace(SCOPE, tenant='a","u', end_user="1")
    other = structs.replace(SCOPE, tenant="a", end_user='u","1')
    assert cache_key(one, _fields()).fingerprint != cache_key(other, _fields()).fingerprint


def test_last_user_text_alone_differs_within_one_partition() -> None:
    """Only the last user text is fuzzy: it leaves the partition and changes the fingerprint."""
    here, there = _key(_user("What is 2 + 2?")), _key(_user("What's two plus two?"))
    assert here.partition == there.partition
    assert here.fingerprint != there.fingerprint
    assert there.last_user_text == "What's two plus two?"


@pytest.mark.parametrize(
    "others",
    [
        {"temperature": 0.2},
        {"top_p": 0.9},
        {"n": 2},
        {"n": True},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logprobs": True},
        {"logprobs": 0},
        {"top_logprobs": 0},
        {"stop": "END"},
        {"stop": [""]},
        {"seed": 0},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 1},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"max_tokens": 2, "max_completion_tokens": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
        {"tool_choice": "auto"},
        {"tool_choice": "required"},
        {"parallel_tool_calls": False},
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"logit_bias": {"50256": -100}},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {}},
        {"top_k": 40},
        {"unheard_of": None},
        {"Temperature": 1},
    ],
)
def test_field_of_any_other_value_makes_another_partition(others: dict[str, Any]) -> None:
    """Everything that may change an answer separates both tiers, unknown fields included."""
    everywhere = [_key(), *(_key(**each) for each in ({"seed": 7}, {"max_tokens": 3}, {"max_completion_tokens": 4}))]
    key = _key(**others)
    assert key.partition not in {each.partition for each in everywhere}
    assert key.fingerprint not in {each.fingerprint for each in everywhere}


@pytest.mark.parametrize(
    "others",
    [
        {"temperature": 1},
        {"temperature": 1.0, "top_p": 1.0, "n": 1},
        {"temperature": None, "seed": None, "stop": None, "tools": None, "max_tokens": None},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False},
        {"stop": [], "tools": [], "functions": [], "logit_bias": {}},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"tool_choice": "none", "function_call": "none", "parallel_tool_calls": True},
        {"tool_choice": None},
    ],
)
def test_field_that_says_its_default_is_as_if_omitted(others: dict[str, Any]) -> None:
    """A default that is written out, or null, has the key of one that is left out."""
    assert _key(**others) == _key()


def test_tool_choice_beside_tools_has_another_default() -> None:
    """With tools an omitted choice means auto, so none counts there."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert _key(tools=tools, tool_choice="auto") == _key(tools=tools)
    assert _key(tools=tools, tool_choice="none") != _key(tools=tools)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"max_tokens": 300}, {"max_completion_tokens": 300}),
        ({"max_tokens": 300}, {"max_completion_tokens": 300, "max_tokens": 300}),
        ({"stop": "END"}, {"stop": ["END"]}),
    ],
)
def test_field_with_two_spellings_has_one_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The older and the newer name of the token limit are one, and so are a stop text and a list of it."""
    assert _key(**one) == _key(**other)


@pytest.mark.parametrize("name", sorted(set(UNKEYED_FIELDS) - {"messages"}))
def test_unkeyed_field_of_any_value_changes_nothing(name: str) -> None:
    """A field of the table is not even read."""
    assert _key(**{name: "x"}) == _key(**{name: {"deep": [1, 2]}}) == _key()


def test_unkeyed_field_for_each_name_has_a_reason() -> None:
    """Leaving a field out of the key is a decision that says why."""
    assert all(len(reason) > 5 for reason in UNKEYED_FIELDS.values())


def test_raw_values_of_the_gateway_are_read_like_bytes() -> None:
    """The gateway hands over msgspec.Raw values, which only look like bytes to a type checker."""
    raw = {name: msgspec.Raw(value) for name, value in _fields(temperature=0.5, stop="x").items()}
    assert cache_key(SCOPE, raw) == _key(temperature=0.5, stop="x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_user("Hi"), _user([_text("Hi")])),
        (_user("Hi"), _user(["Hi"])),
        (_user(["Hi", IMAGE]), _user([_text("Hi"), IMAGE])),
        (
            [{"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}, *_user("Hi")],
            [{"role": "assistant", "content": [_text("x")]}, *_user("Hi", name=None)],
        ),
    ],
)
def test_message_with_two_spellings_has_one_key(one: list[Any], other: list[Any]) -> None:
    """One text part is a string, a bare string is a text part, and a null says nothing."""
    assert _key(one) == _key(other)


@pytest.mark.parametrize(
    "messages",
    [
        _user([_text("a"), _text("b")]),
        _user([_text("a\nb", cache_control={"type": "ephemeral"})]),
        _user("a\nb", name="Ann"),
        [{"role": "user", "content": "a\nb"}, {"role": "user", "content": "a\nb"}],
        [{"role": "system", "content": ""}, *_user("a\nb")],
        _user([_text("a\nb"), {"type": "text"}]),
        _user([{"type": "text"}, _text("a\nb")]),
        _user([_text("a\nb"), {"type": "text", "text": None}]),
        _user([_text("a\nb"), ""]),
        _user([_text("a\nb"), IMAGE]),
        _user([IMAGE, _text("a\nb")]),
    ],
)
def test_messages_of_another_structure_never_share_a_partition(messages: list[Any]) -> None:
    """Same text, other frame: parts, their order and their extra fields count."""
    others = [_user("a\nb"), _user([_text("a\nb"), {"type": "other"}]), _user([_text("a"), _text("b"), _text("c")])]
    key = _key(messages)
    assert key.partition not in {_key(other).partition for other in others}
    assert key.fingerprint not in {_key(other).fingerprint for other in others}


def test_message_texts_split_elsewhere_have_other_fingerprints() -> None:
    """Two texts that join to the same prompt are still two requests."""
    one, other = _key(_user([_text("a\nb"), _text("c")])), _key(_user([_text("a"), _text("b\nc")]))
    assert one.last_user_text == other.last_user_text == "a\nb\nc"
    assert one.partition == other.partition
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("messages", "text", "has_other", "has_attachments", "is_exact_only"),
    [
        (_user("Hi"), "Hi", False, False, False),
        (_user([_text("a"), _text(""), _text("b")]), "a\nb", False, False, False),
        (_user([_text("a"), IMAGE]), "a", True, True, True),
        (_user([IMAGE]), "", True, True, True),
        (_user(""), "", False, False, True),
        (_user(None), "", False, False, True),
        (_user([]), "", False, False, True),
        ([*_user([_text("a"), IMAGE]), {"role": "assistant", "content": "b"}, *_user("c")], "c", False, True, True),
        ([*_user("a"), {"role": "assistant", "content": "prefill"}], "", False, False, True),
        ([*_user("a"), {"role": "tool", "content": "42", "tool_call_id": "1"}], "", False, False, True),
        (["not an object"], "", False, False, True),
    ],
)
def test_last_message_of_any_kind_says_whether_other_wordings_may_match(
    messages: list[Any], text: str, has_other: bool, has_attachments: bool, is_exact_only: bool
) -> None:
    """Only a text of a user in the last place, without attachments anywhere, may be worded otherwise."""
    key = _key(messages)
    assert (key.last_user_text, key.has_other_last_content) == (text, has_other)
    assert (key.has_attachments, key.is_exact_only) == (has_attachments, is_exact_only)


def test_closed_request_that_imitates_an_opened_one_has_its_own_partition() -> None:
    """A client cannot write messages that look like those with their text taken out."""
    opened = _key(_user("Hi"))
    imitations = [[{"role": "user"}], [{"role": "user"}, {"role": "assistant"}], ["text", [], {"role": "user"}]]
    assert opened.context not in {_key(imitation).context for imitation in imitations}


@pytest.mark.parametrize("messages", [None, [], {}, "Hi", 3])
def test_request_without_messages_is_refused_with_its_code(messages: Any) -> None:
    """No list of messages, no key."""
    with pytest.raises(CacheError) as caught:
        _key(messages)
    assert caught.value.code == "cache_request_unreadable"


def test_request_without_the_field_messages_is_refused_with_its_code() -> None:
    """A missing field is the same error as an empty one."""
    with pytest.raises(CacheError) as caught:
        cache_key(SCOPE, {"temperature": b"1"})
    assert caught.value.code == "cache_request_unreadable"


def test_canonical_fields_of_a_request_hold_only_what_differs_from_defaults() -> None:
    """What is left is what the request says beyond its messages."""
    fields = _fields(temperature=1.0, top_p=0.50, stream=True, max_completion_tokens=10, stop="x")
    assert canonical_fields(fields) == {"top_p": b"5e-1", "max_tokens": b"10", "stop": b'["x"]'}
