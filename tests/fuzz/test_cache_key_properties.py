"""Any change of a request but of its last user text changes its partition; any other spelling changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from penstock_cache.canonical import canonical_json, decode_plain, encode_canonical
from penstock_cache.errors import CacheError
from penstock_cache.keys import UNKEYED_FIELDS, CacheKey, CacheScope, cache_key

SCOPE = CacheScope("acme", None, "chat", "auto", "enc-1")

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers(-(10**25), 10**25) | st.decimals(-1000, 1000, places=4).map(float)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PARTS = st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.builds(
    lambda url: {"type": "image_url", "image_url": {"url": url}}, TEXT
)
CONTENTS = TEXT | st.lists(PARTS | TEXT, max_size=3)
MESSAGES = st.builds(
    lambda role, content, others: {**others, "role": role, "content": content},
    st.sampled_from(["system", "user", "assistant", "tool"]),
    CONTENTS,
    st.dictionaries(st.sampled_from(["name", "tool_call_id", "x"]), TEXT, max_size=1),
)
KEYED = st.sampled_from(
    ["temperature", "top_p", "max_tokens", "seed", "tools", "response_format", "stop", "user_id", "x"]
)
REQUESTS = st.builds(
    lambda earlier, asked, others: {**others, "messages": [*earlier, {"role": "user", "content": asked}]},
    st.lists(MESSAGES, max_size=3),
    TEXT.filter(bool),
    st.dictionaries(KEYED, VALUES, max_size=3),
)


def _fields(request: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in request.items()}


def _key(request: Mapping[str, Any]) -> CacheKey:
    return cache_key(SCOPE, _fields(request))


def _slots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value inside a JSON value, the value itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for step, each in inner for found in _slots(each, (*path, step)))]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = _replaced(copied[path[0]], path[1:], new)
    return copied


def _meaning(request: Mapping[str, Any]) -> str:
    """The request without differences that do not count, by rules written anew for this test."""
    defaults: dict[str, Any] = {
        "temperature": 1,
        "top_p": 1,
        "stop": [],
        "tools": [],
        "response_format": {"type": "text"},
    }
    kept = {}
    for name, value in request.items():
        value = [value] if name == "stop" and isinstance(value, str) else value
        is_default = name in defaults and json.dumps(_plain(value)) == json.dumps(_plain(defaults[name]))
        is_null = value is None and name in (*defaults, "max_tokens", "seed")
        if name not in UNKEYED_FIELDS and not is_default and not is_null:
            kept[name] = value
    messages = request["messages"]
    if isinstance(messages, list):
        messages = [_message_meaning(message) for message in messages]
    return json.dumps(_plain([kept, messages]), sort_keys=True)


def _message_meaning(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if value is not None or name not in ("name", "content")}
    if isinstance(kept.get("content"), list):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in kept["content"]]
        alone = parts[0] if len(parts) == 1 and isinstance(parts[0], dict) else {}
        is_text = set(alone) == {"type", "text"} and alone["type"] == "text" and isinstance(alone["text"], str)
        kept["content"] = alone["text"] if is_text else parts
    return kept


def _plain(value: Any) -> Any:
    """Whole floats as integers, so that equal numbers are written alike."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _respelled(value: Any, chance: random.Random) -> str:
    """The same JSON value with other blanks, order of names, escapes and spelling of numbers."""
    blank = chance.choice(["", " ", "\n\t", "  "])
    if isinstance(value, dict):
        items = [f"{blank}{_respelled(name, chance)}{blank}:{_respelled(each, chance)}" for name, each in value.items()]
        chance.shuffle(items)
        return "{" + f"{blank},".join(items) + blank + "}"
    if isinstance(value, list):
        return "[" + f"{blank},".join(_respelled(each, chance) for each in value) + blank + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=chance.random() < 0.5)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value}" + chance.choice(["", ".0", "e0", ".00e+00"] + ["0E-1"] * bool(value))
    if isinstance(value, float):
        return chance.choice([repr(value), f"{value!r}0e0" if "e" not in repr(value) else repr(value)])
    return json.dumps(value)


@given(REQUESTS, st.data())
def test_partition_of_a_request_changed_anywhere_is_another(request: dict[str, Any], data: st.DataObject) -> None:
    """One value anywhere but in the last user text is replaced, and neither partition nor fingerprint survives."""
    asked = ("messages", len(request["messages"]) - 1, "content")
    path = data.draw(st.sampled_from([path for path in _slots(request) if path and path != asked]))
    changed = _replaced(request, path, data.draw(VALUES))
    assume(_meaning(changed) != _meaning(request))
    try:
        key = _key(changed)
    except CacheError:
        return  # refused, which shares nothing either
    assert key.partition != _key(request).partition
    assert key.fingerprint != _key(request).fingerprint
    assert key.context != _key(request).context


@given(REQUESTS, KEYED | TEXT, VALUES)
def test_partition_of_a_request_with_one_field_more_is_another(request: dict[str, Any], name: str, value: Any) -> None:
    """A field more, known or not, makes another partition unless it says only what leaving it out says."""
    assume(name not in request)
    grown = {**request, name: value}
    assert (_key(grown).partition == _key(request).partition) is (_meaning(grown) == _meaning(request))


@given(REQUESTS, TEXT.filter(bool))
def test_partition_of_a_request_asked_otherwise_is_the_same(request: dict[str, Any], asked: str) -> None:
    """Another last user text keeps partition and context and changes the fingerprint, however the text is wrapped."""
    assume(asked != request["messages"][-1]["content"])
    for content in (asked, [asked], [{"type": "text", "text": asked}]):
        last = {**request["messages"][-1], "content": content}
        here, there = _key(request), _key({**request, "messages": [*request["messages"][:-1], last]})
        assert (here.partition, here.context) == (there.partition, there.context)
        assert here.fingerprint != there.fingerprint
        assert there.last_user_text == asked


@given(REQUESTS, st.integers(0, 2**32))
def test_key_of_a_request_spelled_otherwise_is_the_same(request: dict[str, Any], seed: int) -> None:
    """Blanks, order of names, escapes and the spelling of numbers do not count."""
    chance = random.Random(seed)
    items = list(request.items())
    chance.shuffle(items)
    respelled = {name: _respelled(value, chance).encode() for name, value in items}
    assert cache_key(SCOPE, respelled) == _key(request)


@given(REQUESTS, st.dictionaries(st.sampled_from(sorted(set(UNKEYED_FIELDS) - {"messages"})), VALUES))
def test_key_of_a_request_with_unkeyed_fields_is_the_same(request: dict[str, Any], unkeyed: dict[str, Any]) -> None:
    """What does not change an answer does not change its key."""
    assert _key({**request, **unkeyed}) == _key(request)


@given(TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, REQUESTS)
def test_scopes_of_two_callers_never_share_a_key(
    tenant: str, other_tenant: str, end_user: str | None, other_end_user: str | None, request: dict[str, Any]
) -> None:
    """Whatever tenants and end users are called, different ones share neither tier."""
    assume((tenant, end_user) != (other_tenant, other_end_user))
    here = cache_key(CacheScope(tenant, end_user, "chat", "auto", "e"), _fields(request))
    there = cache_key(CacheScope(other_tenant, other_end_user, "chat", "auto", "e"), _fields(request))
    assert here.partition != there.partition
    assert here.fingerprint != there.fingerprint


@given(VALUES, VALUES)
def test_canonical_form_of_two_values_is_equal_exactly_when_they_are(one: Any, other: Any) -> None:
    """Equal forms mean equal values, numbers compared by value and never with booleans."""
    forms = [canonical_json(json.dumps(value).encode()) for value in (one, other)]
    meanings = [json.dumps(_plain(value), sort_keys=True) for value in (one, other)]
    assert (forms[0] == forms[1]) is (meanings[0] == meanings[1])
    assert encode_canonical(decode_plain(forms[0])) == forms[0]


@given(st.binary(max_size=64) | st.text('[]{}",:0123456789.eE-+tfn \\u', max_size=40).map(str.encode))
def test_bytes_of_any_kind_are_read_or_refused(raw: bytes) -> None:
    """Nothing but a CacheError ever comes out of reading, and what was read reads the same again."""
    try:
        form = canonical_json(raw)
    except CacheError:
        return
    assert canonical_json(form) == form


@given(st.dictionaries(KEYED | TEXT | st.just("messages"), st.binary(max_size=24), max_size=4))
def test_fields_of_any_bytes_make_a_key_or_are_refused(fields: dict[str, bytes]) -> None:
    """A request that cannot be read is refused as one, never with another error."""
    try:
        key = cache_key(SCOPE, fields)
    except CacheError:
        return
    assert len(key.partition) == len(key.fingerprint) == len(key.context) == 16
