"""What is held for a request before it is sent: searches of the web that its provider may do."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from penstock_gateway.bounds import ASSUMED_SEARCHES, bound_picousd
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.money.prices import Price
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.requests import parse_request
from support.attempts import make_deployment

SEARCH_USD = Decimal("0.01")
MESSAGES = [{"role": "user", "content": "What is new?"}]
FUNCTION = {"type": "function", "function": {"name": "web_search", "parameters": {}}}
TOOL = {"type": "web_search_20250305", "name": "web_search"}


def searches_held_for(front: WireFormat, body: dict[str, Any]) -> int:
    """Return for how many searches money is held beyond what the tokens cost."""
    request = parse_request(front, msgspec.json.encode({"model": "m", **body}))
    plain = Price(Decimal(1), Decimal(1), Decimal(2), Decimal(2))
    bounds = [
        bound_picousd(request, make_deployment("http://127.0.0.1:9/v1", price=price), 100)
        for price in (plain, replace(plain, web_search=SEARCH_USD))
    ]
    return (bounds[1] - bounds[0]) // to_picousd(SEARCH_USD)


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([{**TOOL, "max_uses": 3}], 3),
        ([{**TOOL, "max_uses": 0}], 0),
        ([TOOL], ASSUMED_SEARCHES),
        ([{**TOOL, "max_uses": "many"}], ASSUMED_SEARCHES),
        ([{"name": "web_search", "input_schema": {"type": "object"}}], 0),  # the client's own
        ([{"type": "web_fetch_20250910", "name": "web_fetch"}], 0),
        ([], 0),
    ],
)
def test_bound_of_a_message_covers_the_searches_that_its_tool_allows(tools: list[Any], searches: int) -> None:
    """The Messages API limits a search tool by ``max_uses``."""
    body = {"max_tokens": 9, "messages": MESSAGES, "tools": tools}
    assert searches_held_for(WireFormat.MESSAGES, body) == searches


@pytest.mark.parametrize(
    ("body", "searches"),
    [
        ({"tools": [{"type": "web_search"}]}, ASSUMED_SEARCHES),
        ({"tools": [{"type": "web_search_preview"}], "max_tool_calls": 2}, 2),
        ({"tools": [{"type": "function", "name": "web_search", "parameters": {}}]}, 0),
        ({}, 0),
    ],
)
def test_bound_of_a_response_covers_the_searches_that_it_allows(body: dict[str, Any], searches: int) -> None:
    """Responses limit all calls of tools together."""
    assert searches_held_for(WireFormat.RESPONSES, {"input": "What is new?", **body}) == searches


@pytest.mark.parametrize(("body", "searches"), [({"web_search_options": {}}, 1), ({"tools": [FUNCTION]}, 0), ({}, 0)])
def test_bound_of_a_chat_completion_covers_the_one_search_that_it_asks_for(body: dict[str, Any], searches: int) -> None:
    """A chat completion searches once; a function that is called so is the client's."""
    assert searches_held_for(WireFormat.CHAT, {"messages": MESSAGES, **body}) == searches
