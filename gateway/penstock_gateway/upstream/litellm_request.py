"""What of a client's request may reach litellm, and under which name.

litellm reads hundreds of keyword arguments, among them the host, the credential, the provider, retries, fallbacks and
mock answers. This file decides what a client's body field becomes: an argument (a closed list of chat parameters), a
field of ``extra_body`` (unknown fields, for the provider), or nothing (names that litellm or one of its providers gives
a meaning of its own). Pure; imports no litellm. Read `split_body` first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

CHAT_ARGUMENTS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
"""Body fields passed to litellm as arguments: OpenAI's chat parameters, and ``thinking`` and ``top_k`` of others."""

_OURS = frozenset({"model", "stream", "stream_options"})  # set by the adapter from the deployment and the request

# litellm owns the name too, but for a client it is a field of the chat API: it goes to the provider.
_CLIENTS_TOO = frozenset({"metadata"})

# Where litellm's providers look for an address, a credential or a switch; some merge extra_body into the place they
# read these from (watsonx), and Azure takes its token out of extra_body by name.
_RESERVED_PREFIXES = (
    "_",
    "anthropic-",
    "anthropic_",
    "aws_",
    "azure_",
    "bedrock_",
    "client_",
    "databricks_",
    "gcp_",
    "gigachat_",
    "google_",
    "litellm",
    "mock_",
    "oci_",
    "predibase_",
    "sagemaker_",
    "vertex_",
    "watsonx_",
    "wx_",
    "zen_",
)
_RESERVED_SUFFIXES = (
    "_credentials",
    "_endpoint",
    "_endpoint_id",
    "_key",
    "_key_file",
    "_secret",
    "_token",
    "_token_provider",
    "_uri",
    "_url",
)
_RESERVED_PARTS = ("api_base", "api_key", "apikey", "base_url", "credential", "password")
_RESERVED_NAMES = frozenset(
    {
        "account_id",
        "additional_drop_params",
        "client",
        "credentials",
        "drop_params",
        "endpoint",
        "engine",
        "extra_body",
        "extra_headers",
        "extra_query",
        "fake_stream",
        "headers",
        "host",
        "http_client",
        "json_mode",
        "model_id",
        "organization",
        "project",
        "project_id",
        "proxies",
        "proxy",
        "region",
        "session_id",
        "space_id",
        "token",
        "url",
        "use_ssl",
        "verify",
    }
)


_WITHOUT_EXTRA_BODY = frozenset({"anthropic", "anthropic_text", "bedrock", "bedrock_converse"})
_WITHOUT_EXTRA_BODY_FOR_CLAUDE = frozenset({"azure_ai", "vertex_ai"})

# Fields of a content part that hold words, not places.
_PROSE = frozenset(
    {"detail", "filename", "format", "name", "refusal", "signature", "text", "thinking", "title", "type"}
)
_PLACES = frozenset({"file", "image_url", "url", "video_url"})


def split_body(body: dict[str, Any], owned_names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a decoded request body into litellm arguments and fields for the provider.

    Parameters
    ----------
    body : dict
        The request as it shall reach the model.
    owned_names : collection of str
        Every keyword that the installed litellm gives a meaning.

    Returns
    -------
    arguments : dict
        Subset of `CHAT_ARGUMENTS`; fields that are null are left out.
    extra_body : dict
        Fields that neither we nor litellm know; the provider may.

    Notes
    -----
    Reserved names are dropped, not refused: a provider would ignore or refuse them, and no provider needs one.
    """
    arguments: dict[str, Any] = {}
    extra_body: dict[str, Any] = {}
    for name, value in body.items():
        if name in CHAT_ARGUMENTS:
            if value is not None:
                arguments[name] = value
        elif name not in _OURS and not is_reserved(name, owned_names):
            extra_body[name] = value
    return arguments, extra_body


def takes_extra_body(model: str) -> bool:
    """Return whether litellm merges ``extra_body`` into what it sends for a model.

    Parameters
    ----------
    model : str
        As litellm names it, the provider in front.

    Notes
    -----
    Tried with litellm 1.105.3 and 20 providers: Anthropic's and Bedrock's code sends a field that is literally called
    ``extra_body``, which the provider refuses; Claude on Vertex and Azure goes through the same code.
    """
    provider, _, name = model.lower().partition("/")
    if provider in _WITHOUT_EXTRA_BODY:
        return False
    return not (provider in _WITHOUT_EXTRA_BODY_FOR_CLAUDE and "claude" in name)


def is_reserved(name: str, owned_names: Collection[str]) -> bool:
    """Return whether a body field must not reach litellm under any name.

    Parameters
    ----------
    name : str
        Field name as the client sent it; compared without regard to case.
    owned_names : collection of str
        Every keyword that the installed litellm gives a meaning.
    """
    if name in _CLIENTS_TOO:
        return False
    lower = name.lower()
    return (
        name in owned_names
        or lower in owned_names
        or lower in _RESERVED_NAMES
        or lower.startswith(_RESERVED_PREFIXES)
        or lower.endswith(_RESERVED_SUFFIXES)
        or any(part in lower for part in _RESERVED_PARTS)
    )


def has_remote_media(messages: object) -> bool:
    """Return whether a message refers to an image, audio or document by anything but its own bytes or an id.

    Parameters
    ----------
    messages : object
        The body's ``messages``, decoded.

    Returns
    -------
    bool
        True when a part other than text holds a string with a URL scheme other than ``data:``, or an image whose
        URL has no scheme (a path). For some providers litellm fetches such a URL itself, from inside our network.

    Notes
    -----
    In litellm 1.105 the fetching ones are Ollama, Gemini, Vertex, Bedrock, GigaChat, Anthropic for ``http:``, the
    OpenAI adapter for PDF documents, and the token counter for any image of high detail.
    """
    if not isinstance(messages, list):
        return False
    return any(
        _is_remote(key, value)
        for message in messages
        if isinstance(message, dict)
        for part in _parts(message)
        for key, value in _strings(part)
    )


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the content parts of a message that are not text."""
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and not (part.get("type") == "text" and set(part) <= {"type", "text"}):
            yield part


def _strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string inside a part with the name of the field that holds it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            # {"image_url": {"url": ...}}: the outer name says what the URL is of.
            yield from _strings(inner, key if name in ("url", "detail", "format") and key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)


def _is_remote(key: str, text: str) -> bool:
    if key in _PROSE:
        return False
    head = text[:64].lstrip().lower()
    if head.startswith("data:"):
        return False
    scheme, separator, _ = head.partition("://")
    if separator and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum():
        return True
    return head.startswith(("file:", "//", "/", "./", "../", "~")) and key in _PLACES
