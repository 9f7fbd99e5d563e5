"""The most that a request may cost at a deployment, as far as that can be known before it is sent.

Pure. Read `bound_picousd`, then `hides_reasoning`.
"""

from __future__ import annotations

from typing import Final

from penstock_gateway.deployments import Deployment, HiddenReasoning, wire_between
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.money.prices import upper_bound_usd
from penstock_gateway.request_body import ChatRequest, plain_field
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.upstream.usage import read_service_tier
from penstock_gateway.wire.chat_over_responses_request import LEAST_OUTPUT_TOKENS
from penstock_gateway.wire.formats import WireFormat
from penstock_routers.token_counts import TOKENS_PER_MESSAGE, tokens_at_most

_REASONING_FIELDS: Final = ("reasoning_effort", "reasoning", "thinking")
_OFF: Final = (None, False, "none", "disabled")
_MAX_CHOICES: Final = 128  # of one prompt; providers take no more
_MAX_PROMPTS: Final = 10_000
_SEARCH: Final = b"web_search"

ASSUMED_SEARCHES: Final = 10
"""Searches of the web for which money is held when the request does not limit them: 0.10 USD at the usual price."""


def bound_picousd(request: ChatRequest, deployment: Deployment, output_tokens: int) -> int:
    """Return the most that one attempt may cost, picodollars.

    Parameters
    ----------
    request : ChatRequest
    deployment : Deployment
    output_tokens : int
        Most completion tokens, of all choices together.
    """
    has_media = request.attachments > 0
    bound = upper_bound_usd(
        deployment.price,
        _input_tokens_at_most(request),
        output_tokens,
        service_tier=_service_tier(request),
        has_audio=has_media or "audio" in request.fields,
        has_images=has_media,
        web_searches=_searches_at_most(request),
    )
    return to_picousd(bound)


def choices_at_most(request: ChatRequest) -> int:
    """Return how many completions a request is billed for at most."""
    if request.native is None or request.native.format is not WireFormat.COMPLETIONS:
        return request.choices
    fields = request.native.fields
    found = (plain_field(fields, name) for name in ("n", "best_of") if name in fields)
    wanted = [min(count, _MAX_CHOICES) for count in found if isinstance(count, int)]
    return max(request.choices, *wanted, 1) * _prompts(fields)


def least_output_tokens(request: ChatRequest, deployment: Deployment) -> int:
    """Return the smallest limit on output tokens that can be sent: a Responses server takes none below 16."""
    wire = wire_between(request.front, deployment)
    return LEAST_OUTPUT_TOKENS if wire is WireFormat.RESPONSES is not request.front else 0


def _prompts(fields: JsonObject) -> int:
    """Return how many prompts a text completion has; a list of numbers is one, of tokens."""
    prompt = plain_field(fields, "prompt") if "prompt" in fields else None
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return min(len(prompt), _MAX_PROMPTS)


def hides_reasoning(request: ChatRequest, deployment: Deployment) -> bool:
    """Whether a deployment may write tokens for a request that no byte of its stream shows before the usage does."""
    hidden = deployment.hidden_reasoning
    return hidden is HiddenReasoning.ALWAYS or (hidden is HiddenReasoning.ON_REQUEST and _asks_to_reason(request))


def _asks_to_reason(request: ChatRequest) -> bool:
    fields = request.fields if request.native is None else {**request.fields, **request.native.fields}
    for name in _REASONING_FIELDS:
        asked = plain_field(fields, name) if name in fields else None
        if isinstance(asked, dict):
            asked = asked.get("effort", asked.get("type"))
        if asked not in _OFF:
            return True
    return False


def _input_tokens_at_most(request: ChatRequest) -> int:
    """Return an upper bound of the prompt's tokens; what has no text (pictures, sound) keeps its estimate."""
    estimated_bytes = request.input_tokens * 4  # `estimate_tokens` is bytes over four
    if request.native is not None and request.native.obstacle is not None:  # its chat form says next to nothing
        estimated_bytes = max(estimated_bytes, sum(len(value) for value in request.native.fields.values()))
    return max(request.input_tokens, tokens_at_most(estimated_bytes)) + TOKENS_PER_MESSAGE


def _searches_at_most(request: ChatRequest) -> int:
    """Return how many searches of the web the provider may do: what the request allows, else `ASSUMED_SEARCHES`.

    The limits are those of the Messages API (``max_uses`` of the tool) and of Responses (``max_tool_calls``); a chat
    completion with ``web_search_options`` searches once.
    """
    fields = request.fields if request.native is None else request.native.fields
    tools = bytes(fields.get("tools", b""))
    if _SEARCH not in tools:
        return int("web_search_options" in fields)
    limits = [_limit_of(tool) for tool in _as_list(plain_field(fields, "tools"))]
    most = sum(limit for limit in limits if limit is not None)
    allowed = plain_field(fields, "max_tool_calls") if "max_tool_calls" in fields else None
    return min(most, allowed) if isinstance(allowed, int) and allowed >= 0 else most


def _limit_of(tool: object) -> int | None:
    """Return how often a tool may search the web; None for another one."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or not isinstance(kind, str) or not kind.startswith("web_search"):
        return None
    uses = tool.get("max_uses")
    return uses if isinstance(uses, int) and uses >= 0 else ASSUMED_SEARCHES


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _service_tier(request: ChatRequest) -> str | None:
    """Return the service tier that the request asks for; None when it leaves that to the provider (``auto``)."""
    asked = plain_field(request.fields, "service_tier") if "service_tier" in request.fields else ""
    return None if not isinstance(asked, str) or asked == "auto" else read_service_tier(asked)
