"""LiteLLM's response headers from our own facts."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.decisions import Settlement
from penstock_gateway.litellm_headers import litellm_headers
from penstock_gateway.settling import Passage

RECORDS = [
    AttemptRecord("small", AttemptKind.FIRST, 0.0),
    AttemptRecord("small", AttemptKind.RETRY, 1.0),
    AttemptRecord("small", AttemptKind.HEDGE, 1.0),
    AttemptRecord("large", AttemptKind.FALLBACK, 2.0),
]


def passage(records: list[AttemptRecord], *, model: str = "auto") -> Passage:
    """Return the facts of a request that the last attempt answered."""
    parts: Any = SimpleNamespace(
        records=records,
        served=records[-1] if records else None,
        decision=SimpleNamespace(chosen="small"),
        caller=SimpleNamespace(request_id="req_1"),
        request=SimpleNamespace(model=model),
        overhead_ms=0.25,
        since_start_ms=lambda: 12.5,
    )
    return cast(Passage, parts)


def settlement(cost: Decimal | None) -> Settlement:
    """Return an outcome with a cost."""
    return Settlement(200, None, None, cost, duration_ms=80.0, overhead_ms=0.25)


def test_headers_of_a_plain_answer_say_who_answered_how_and_for_how_much() -> None:
    """Names and units are LiteLLM's; a hedge is neither a retry nor a fallback."""
    assert litellm_headers(passage(RECORDS), settlement(Decimal("0.00002"))) == {
        "x-litellm-call-id": "req_1",
        "x-litellm-model-id": "large",
        "x-litellm-model-group": "auto",
        "x-litellm-response-duration-ms": "80.000",
        "x-litellm-overhead-duration-ms": "0.250",
        "x-litellm-attempted-retries": "1",
        "x-litellm-attempted-fallbacks": "1",
        "x-litellm-response-cost": "0.00002",
    }


@pytest.mark.parametrize("settled", [None, settlement(None)])
def test_headers_without_a_known_cost_name_none(settled: Settlement | None) -> None:
    """A stream's head is sent before its cost is known, and an unknown price is no zero."""
    headers = litellm_headers(passage(RECORDS[:1]), settled)
    assert "x-litellm-response-cost" not in headers
    assert headers["x-litellm-response-duration-ms"] == ("12.500" if settled is None else "80.000")


def test_headers_of_a_stored_answer_name_the_model_that_was_chosen() -> None:
    """No attempt was made, so none is counted."""
    headers = litellm_headers(passage([]), settlement(Decimal(0)))
    assert (headers["x-litellm-model-id"], headers["x-litellm-attempted-retries"]) == ("small", "0")
    assert headers["x-litellm-response-cost"] == "0"


def test_headers_never_hold_what_may_not_stand_in_one() -> None:
    """The model's name is the client's; a line break in it must not make a header."""
    assert litellm_headers(passage([], model="a\r\nset-cookie: é"))["x-litellm-model-group"] == "a??set-cookie: ?"


def test_headers_never_say_where_the_provider_is() -> None:
    """The provider's address is the operator's business."""
    assert not any("api-base" in name for name in litellm_headers(passage(RECORDS)))
