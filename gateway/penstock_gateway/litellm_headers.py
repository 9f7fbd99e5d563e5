"""The response headers that LiteLLM's proxy sends, for tools that read them, from our own facts.

Sent on request only. Pure. Read `litellm_headers`.

Names and units: docs.litellm.ai/docs/proxy/response_headers. Left out on purpose: ``x-litellm-model-api-base``, which
tells clients where the provider is, ``x-litellm-version``, as this is not LiteLLM, and ``x-litellm-key-spend``, which
here depends on a period.
"""

from __future__ import annotations

import re
from typing import Final

from penstock_gateway.attempts.records import AttemptKind
from penstock_gateway.decisions import Settlement
from penstock_gateway.money.prices import format_usd
from penstock_gateway.settling import Passage

_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")


def litellm_headers(passage: Passage, settlement: Settlement | None = None) -> dict[str, str]:
    """Return LiteLLM's headers of one answered request.

    Parameters
    ----------
    passage : Passage
    settlement : Settlement or None
        None while it is not known: the head of a stream is sent before its cost is, and goes without one.

    Returns
    -------
    dict of str to str
        ``x-litellm-call-id``
            Our request id.
        ``x-litellm-model-id``
            Deployment that answered, or whose stored answer was served.
        ``x-litellm-model-group``
            What the client asked for.
        ``x-litellm-response-cost``
            USD, of all attempts; absent when it is not known.
        ``x-litellm-response-duration-ms``, ``x-litellm-overhead-duration-ms``
            The request until now, and the gateway's own time before the provider was called, milliseconds.
        ``x-litellm-attempted-retries``, ``x-litellm-attempted-fallbacks``
            Counts; hedges are neither.
    """
    kinds = [record.kind for record in passage.records]
    served = passage.decision.chosen if passage.served is None else passage.served.deployment
    duration_ms = passage.since_start_ms() if settlement is None else settlement.duration_ms
    headers = {
        "x-litellm-call-id": _printable(passage.caller.request_id),
        "x-litellm-model-id": _printable(served),
        "x-litellm-model-group": _printable(passage.request.model),
        "x-litellm-response-duration-ms": f"{duration_ms:.3f}",
        "x-litellm-overhead-duration-ms": f"{passage.overhead_ms:.3f}",
        "x-litellm-attempted-retries": str(kinds.count(AttemptKind.RETRY)),
        "x-litellm-attempted-fallbacks": str(kinds.count(AttemptKind.FALLBACK)),
    }
    if settlement is not None and settlement.cost_usd is not None:
        headers["x-litellm-response-cost"] = format_usd(settlement.cost_usd)
    return headers


def _printable(text: str) -> str:
    """Replace what may not stand in a header."""
    return _NOT_PRINTABLE.sub("?", text)
