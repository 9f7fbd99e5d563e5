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


def _service_tier(request: ChatRequest) -> str | None:
    """Return the service tier that the request asks for; None when it leaves that to the provider (``auto``)."""
    asked = plain_field(request.fields, "service_tier") if "service_tier" in request.fields else ""
    return None if not isinstance(asked, str) or asked == "auto" else read_service_tier(asked)
