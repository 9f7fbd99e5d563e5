"""A client's request put to a model once more, in the background, for nobody to see but an audit.

Owns the request as it is sent then, and what it costs. It neither retries nor counts anything towards a tenant. Read
`ModelCalls.ask`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from msgspec.structs import replace

from penstock_gateway.compatibility import outgoing
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import InvalidRequest, UpstreamError, UpstreamRejectedKey, UpstreamUnreachable
from penstock_gateway.money.prices import cost_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import ChatRequest, is_alias
from penstock_gateway.upstream.protocol import Upstream, UpstreamReply, UpstreamRequest
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.pairs import find_translator
from penstock_gateway.wire.replies import TranslatedReply, Translation
from penstock_gateway.wire.translation import Asked
from penstock_routers.token_counts import estimate_tokens

_STREAM_FIELDS = ("stream", "stream_options")


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What came of a call.

    Attributes
    ----------
    body : bytes or None
        None when there is no answer.
    cost_usd : Decimal or None
        None when the provider may have worked but nobody knows how much.
    """

    body: bytes | None
    cost_usd: Decimal | None


class ModelCalls:
    """Calls deployments without a client.

    Parameters
    ----------
    deployments : callable
        Returns the deployments in force by name.
    upstreams : mapping of str to Upstream
        By adapter name.
    """

    def __init__(self, deployments: Callable[[], Mapping[str, Deployment]], upstreams: Mapping[str, Upstream]) -> None:
        self._deployments = deployments
        self._upstreams = upstreams

    def has(self, name: str) -> bool:
        """Whether a deployment of this name is in force."""
        return name in self._deployments()

    def most_usd(self, request: ChatRequest, name: str) -> Decimal:
        """Return what a call may cost: the estimated prompt, and the longest answer that the request allows.

        Parameters
        ----------
        request : ChatRequest
        name : str
            Of the deployment.
        """
        deployment = self._deployments()[name]
        limit = deployment.max_output_tokens
        output_tokens = limit if request.max_tokens is None else min(request.max_tokens, limit)
        plain = Usage(input_tokens=request.input_tokens, output_tokens=output_tokens)
        return max(
            cost_usd(plain, deployment.price),
            cost_usd(replace(plain, reasoning_tokens=output_tokens), deployment.price),
        )

    async def ask(self, request: ChatRequest, name: str, request_id: str) -> ModelReply:
        """Send a request, without streaming, and return the whole answer.

        Parameters
        ----------
        request : ChatRequest
        name : str
            Of the deployment.
        request_id : str
            Passed on as ``x-request-id``.

        Returns
        -------
        ModelReply
            Errors of the provider are in it; none is raised.
        """
        deployment = self._deployments()[name]
        fields = {field: value for field, value in request.fields.items() if field not in _STREAM_FIELDS}
        whole = replace(request, fields=fields, is_stream=False, wants_usage=False, native=None)
        try:
            sent = outgoing(whole, deployment, is_routed=is_alias(request.model))
        except InvalidRequest:  # it was answered in a form that this deployment does not take
            return ModelReply(None, Decimal(0))
        attempt = UpstreamRequest(deployment, sent.body, False, False, request_id, wire=sent.wire)
        try:
            reply = await self._upstreams[deployment.adapter].send(attempt)
        except (UpstreamUnreachable, UpstreamRejectedKey):
            return ModelReply(None, Decimal(0))
        except UpstreamError:
            return ModelReply(None, None)
        translator = find_translator(WireFormat.CHAT, sent.wire)
        if translator is not None:
            reply = TranslatedReply(reply, Translation(translator, Asked(fields, request_id, int(time.time()))))
        try:
            content = await reply.read()
        except UpstreamError:
            return ModelReply(None, None)
        finally:
            await reply.aclose()
        if reply.status >= 400:
            return ModelReply(None, Decimal(0))
        return ModelReply(content, cost_usd(_usage(request, reply), deployment.price))


def _usage(request: ChatRequest, reply: UpstreamReply) -> Usage:
    if reply.usage is not None:
        return reply.usage
    return Usage(request.input_tokens, estimate_tokens(reply.output_bytes), is_estimated=True)
