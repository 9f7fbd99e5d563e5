"""What a request's key is: the part of it that must match exactly, and the one text that may be worded otherwise.

Owns which fields of a chat request count and how they are brought to one form. Decides nothing about reuse
(`eligibility` does). Pure. Read `cache_key` first, then `UNKEYED_FIELDS` and `_DEFAULTS`.

Everything that is not named in `UNKEYED_FIELDS` counts, fields that this version has never heard of included: a field
too many in the key costs hits, a field too few serves wrong answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from penstock_cache.canonical import PlainValue, canonical_json, decode_plain, digest_of, encode_canonical
from penstock_cache.entries import CACHE_SCHEMA
from penstock_cache.errors import CacheError

UNKEYED_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "in the scope as the client asked for it, so that an alias and a model never share entries",
        "messages": "split into context and last user text, each counted by itself",
        "penstock": "our own controls; the arm and tier of an entry are judged when it is served",
        "stream": "how the answer travels; stored answers are whole and replayed either way",
        "stream_options": "likewise; usage is rebuilt on replay",
        "user": "the provider's abuse tracking; keeping end users apart is `CacheScope.end_user`",
        "safety_identifier": "the provider's abuse tracking, successor of `user`",
        "metadata": "labels for the provider's dashboard; the model never sees them",
        "store": "whether the provider keeps a copy for its dashboard",
        "prompt_cache_key": "the provider's own prefix cache: price and speed only",
        "prompt_cache_options": "likewise",
        "prompt_cache_retention": "likewise",
        "service_tier": "price and speed class of the same model",
    }
)
"""Fields of a chat request that do not change its answer, with the reason; request ids travel in headers, not here."""

# What an omitted field means, as canonical JSON: a field that says so is dropped, so that both spellings have one key.
# Source: OpenAI API reference, "Create chat completion" (2026-11); providers of the same protocol follow it. A default
# that depends on the model (reasoning_effort, verbosity) is only omitted or null.
_DEFAULTS: Final[Mapping[str, frozenset[bytes]]] = MappingProxyType(
    {name: frozenset({b"null"}) for name in ("audio", "max_completion_tokens", "max_tokens", "moderation")}
    | {name: frozenset({b"null"}) for name in ("prediction", "reasoning_effort", "seed", "top_logprobs", "verbosity")}
    | {"web_search_options": frozenset({b"null"})}
    | {name: frozenset({b"null", b"1"}) for name in ("n", "temperature", "top_p")}
    | {name: frozenset({b"null", b"0"}) for name in ("frequency_penalty", "presence_penalty")}
    | {name: frozenset({b"null", b"[]"}) for name in ("functions", "stop", "tools")}
    | {
        "logit_bias": frozenset({b"null", b"{}"}),
        "logprobs": frozenset({b"null", b"false"}),
        "modalities": frozenset({b"null", b'["text"]'}),
        "parallel_tool_calls": frozenset({b"null", b"true"}),
        "response_format": frozenset({b"null", b'{"type":"text"}'}),
    }
)
# A choice's default depends on whether there is something to choose from ("none" without, "auto" with).
_CHOICES: Final = (("tool_choice", "tools"), ("function_call", "functions"))
_TOKEN_LIMITS: Final = ("max_completion_tokens", "max_tokens")

# Clients send back what the SDK's model_dump() gave them; in these a null says what leaving them out says.
_NULLABLE_IN_MESSAGES: Final = frozenset(
    {"annotations", "audio", "content", "function_call", "name", "refusal", "tool_calls"}
)

MAX_ELEMENTS: Final = 32_768
"""Most commas and fields of a request that gets a key. Each may be an element that takes some 4 µs to bring to a form,
and nothing else runs meanwhile; those in texts count too, so past some 2 MB of prose a request has no key."""

_CONTEXT, _PARTITION, _FINGERPRINT = b"penstock-context", b"penstock-part", b"penstock-exact"


class CacheScope(msgspec.Struct, frozen=True, gc=False):
    """Who asks whom for what: requests of different scopes never meet.

    Attributes
    ----------
    tenant : str
        Authenticated; never taken from the body. In a category shared across tenants, one name for all of them.
    end_user : str or None
        Set where the policy keeps the end users of one tenant apart.
    api_family : str
        Shape of request and answer, ``"chat"``.
    requested_model : str
        Model or alias as the client asked for it.
    encoder_id : str
        Fingerprint of the encoder of prompts; empty when there is none. Not in the fingerprint: the exact tier
        survives a change of encoder.
    schema : int
        Raised when the canonical form or the document changes.
    """

    tenant: str
    end_user: str | None
    api_family: str
    requested_model: str
    encoder_id: str
    schema: int = CACHE_SCHEMA


class CacheKey(msgspec.Struct, frozen=True, gc=False):
    """Where a request's answer may be found.

    Attributes
    ----------
    partition : bytes, length 16
        Digest of the scope and of the request without its last user text: what semantic neighbours must share.
    fingerprint : bytes, length 16
        Digest of the scope without its encoder and of the whole request: key of the exact tier.
    context : bytes, length 16
        Digest of the request without its last user text and without the scope.
    last_user_text : str
        What may be worded otherwise; texts of several parts are joined by line breaks. Empty when the last message
        is not a user's or has no text.
    has_other_last_content : bool
        The last user message also has parts that are not text (an image, a file).
    has_attachments : bool
        Some message has parts that are not text.
    """

    partition: bytes
    fingerprint: bytes
    context: bytes
    last_user_text: str
    has_other_last_content: bool
    has_attachments: bool

    @property
    def is_exact_only(self) -> bool:
        """Whether there is nothing that another wording could stand for.

        An image earlier in the conversation rules other wordings out too: the question is then about something that the
        encoder of prompts has not seen.
        """
        return not self.last_user_text or self.has_attachments


class CanonicalRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in its canonical form: what its keys in every scope are made of.

    Attributes
    ----------
    fields : mapping of str to bytes
        `canonical_fields`.
    context : bytes, length 16
        As in `CacheKey`.
    asked : bytes
        The last user text, canonical.
    last_user_text : str
    has_other_last_content, has_attachments : bool
        As in `CacheKey`.
    """

    fields: Mapping[str, bytes]
    context: bytes
    asked: bytes
    last_user_text: str
    has_other_last_content: bool
    has_attachments: bool


def cache_key(scope: CacheScope, fields: Mapping[str, bytes]) -> CacheKey:
    """Find the key of a chat request: `canonical_request`, then `key_in`.

    Parameters
    ----------
    scope : CacheScope
    fields : mapping of str to bytes
        The request's top level; values are raw JSON.

    Returns
    -------
    CacheKey

    Raises
    ------
    CacheError
        Code ``cache_request_too_deep``, ``cache_request_too_large`` (more than `MAX_ELEMENTS`) or
        ``cache_request_unreadable``; the request then goes past the cache.

    Notes
    -----
    Two requests share a partition exactly when scope and request agree in all but the last user text, after: names
    sorted, numbers by value, defaults dropped (`canonical_fields`), one text part written as a string, and fields of
    `UNKEYED_FIELDS` left out. Takes time linear in the request's size.
    """
    return key_in(scope, canonical_request(fields))


def canonical_request(fields: Mapping[str, bytes]) -> CanonicalRequest:
    """Bring a chat request to its canonical form, once for all of its keys.

    Parameters
    ----------
    fields : mapping of str to bytes
        As for `cache_key`.

    Returns
    -------
    CanonicalRequest

    Raises
    ------
    CacheError
        As `cache_key`.
    """
    if len(fields) + sum(bytes(value).count(b",") for value in fields.values()) > MAX_ELEMENTS:
        raise CacheError(
            "The request has too many parts to be read in time; it is answered without the cache.",
            code="cache_request_too_large",
        )
    messages = canonical_messages(fields)
    opened = _open_last(messages)
    values = canonical_fields(fields)
    return CanonicalRequest(
        fields=values,
        context=_context_digest(values, opened),
        asked=encode_canonical(list(opened.texts)),
        last_user_text="\n".join([text for text in opened.texts if text]),
        has_other_last_content=opened.has_other_content,
        has_attachments=any(map(_has_other_parts, messages)),
    )


def key_in(scope: CacheScope, request: CanonicalRequest) -> CacheKey:
    """Return the key of a request in one scope; see `cache_key`.

    Parameters
    ----------
    scope : CacheScope
    request : CanonicalRequest

    Returns
    -------
    CacheKey
    """
    who: list[PlainValue] = [scope.tenant, scope.end_user, scope.api_family, scope.requested_model, scope.schema]
    owner = encode_canonical(who)
    return CacheKey(
        partition=digest_of(_PARTITION, (owner, scope.encoder_id.encode(), request.context)),
        fingerprint=digest_of(_FINGERPRINT, (owner, request.context, request.asked)),
        context=request.context,
        last_user_text=request.last_user_text,
        has_other_last_content=request.has_other_last_content,
        has_attachments=request.has_attachments,
    )


def canonical_fields(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Bring all fields that count, but the messages, to one form.

    Parameters
    ----------
    fields : mapping of str to bytes
        As for `cache_key`.

    Returns
    -------
    dict of str to bytes
        Canonical JSON by name, names in no order. What says only what leaving it out says is left out. The older and
        the newer name of the token limit are one, ``max_tokens``; a single stop text is a list.

    Raises
    ------
    CacheError
        As `cache_key`.
    """
    values = {name: canonical_json(raw) for name, raw in fields.items() if name not in UNKEYED_FIELDS}
    if values.get("stop", b"").startswith(b'"'):
        values["stop"] = b"[%b]" % values["stop"]
    kept = {name: value for name, value in values.items() if value not in _DEFAULTS.get(name, ())}
    for choice, offered in _CHOICES:
        if kept.get(choice) in (b"null", b'"auto"' if offered in kept else b'"none"'):
            del kept[choice]
    limits = [kept.pop(name) for name in _TOKEN_LIMITS if name in kept]
    if limits:
        # Two different limits are a request that providers read differently: a key of its own.
        kept["max_tokens"] = limits[0] if limits[0] == limits[-1] else b",".join(limits)
    return kept


def canonical_messages(fields: Mapping[str, bytes]) -> list[PlainValue]:
    """Read the messages and bring each to one form.

    Parameters
    ----------
    fields : mapping of str to bytes
        As for `cache_key`.

    Returns
    -------
    list of PlainValue
        A content of one text part is a string; a part given as a string is a text part; null fields are left out.

    Raises
    ------
    CacheError
        As `cache_key`; also ``cache_request_unreadable`` when there are none.
    """
    messages = decode_plain(fields["messages"]) if "messages" in fields else None
    if not isinstance(messages, list) or not messages:
        raise CacheError(
            "The request has no list of messages; it is answered without the cache.", code="cache_request_unreadable"
        )
    return [_canonical_message(message) for message in messages]


class _OpenedRequest(msgspec.Struct, frozen=True, gc=False):
    """The messages, with the texts of the last user message taken out.

    `context` tells apart whether texts were taken out, and from where, so no message written by a client equals it.
    """

    context: PlainValue
    texts: tuple[str, ...] = ()
    has_other_content: bool = False


def _open_last(messages: list[PlainValue]) -> _OpenedRequest:
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return _OpenedRequest(["closed", messages])
    content = last.get("content")
    rest: PlainValue = {name: value for name, value in last.items() if name != "content"}
    earlier: PlainValue = messages[:-1]
    if isinstance(content, str):
        return _OpenedRequest(["text", earlier, rest], (content,)) if content else _OpenedRequest(["closed", messages])
    texts: list[str] = []
    frames: list[PlainValue] = []
    for part in content if isinstance(content, list) else ():
        text = _text_of(part)
        if text is None:
            frames.append(["other", part])
        elif isinstance(part, dict):
            texts.append(text)
            frames.append(["text", {name: value for name, value in part.items() if name != "text"}])
    has_other_content = len(texts) < len(frames)
    if not any(texts):
        return _OpenedRequest(["closed", messages], has_other_content=has_other_content)
    return _OpenedRequest(["parts", earlier, rest, frames], tuple(texts), has_other_content)


def _context_digest(values: Mapping[str, bytes], opened: _OpenedRequest) -> bytes:
    named = [part for name in sorted(values) for part in (name.encode(), values[name])]
    return digest_of(_CONTEXT, (*named, encode_canonical(opened.context)))


def _canonical_message(message: PlainValue) -> PlainValue:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if value is not None or name not in _NULLABLE_IN_MESSAGES}
    content = kept.get("content")
    if isinstance(content, list):
        parts: list[PlainValue] = [
            {"type": "text", "text": part} if isinstance(part, str) else part for part in content
        ]
        text = _text_of(parts[0]) if len(parts) == 1 else None
        is_bare = text is not None and isinstance(parts[0], dict) and len(parts[0]) == 2
        kept["content"] = text if is_bare else parts
    return kept


def _text_of(part: PlainValue) -> str | None:
    """Return a text part's text; None for a part of any other kind."""
    if isinstance(part, dict) and part.get("type") == "text":
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None


def _has_other_parts(message: PlainValue) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(_text_of(part) is None for part in content)
