"""Whatever is sent to the admin API, it answers in its own shape and never with a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_gateway.settings_accounts import KeyFields
from support.account_parts import admin_api

FIELDS = [*KeyFields.model_fields, "name", "scope", "period", "limit_usd", "soft_share", "overlap_seconds", "id"]
ROUTES = [
    ("POST", "/admin/keys"),
    ("PATCH", "/admin/keys/ci"),
    ("POST", "/admin/keys/ci/rotate"),
    ("POST", "/admin/keys/ci/revoke"),
    ("POST", "/admin/teams"),
    ("PATCH", "/admin/teams/search"),
    ("POST", "/admin/tags"),
    ("PATCH", "/admin/tags/batch"),
    ("PUT", "/admin/budgets"),
    ("POST", "/admin/restore"),
]

_plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**4000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(), max_size=20)
    | st.sampled_from(["day", "total", "auto", "auto@0.5", "small", "cost", "team:search", "key:ci", "1e400", "NaN"])
)
_values = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), inner),
    max_leaves=12,
)
_objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), _values, max_size=6)


async def _statuses(route: tuple[str, str], content: bytes) -> list[tuple[int, Any]]:
    method, path = route
    async with admin_api() as api:
        await api.ask("POST", "/admin/teams", {"name": "search"})
        await api.ask("POST", "/admin/tags", {"name": "batch"})
        await api.ask("POST", "/admin/keys", {"name": "ci", "team": "search", "tags": ["batch"]})
        first = await api.ask(method, path, content)
        listed = [await api.ask("GET", f"/admin/{what}") for what in ("keys", "teams", "tags", "budgets")]
        return [(reply.status_code, reply.json()) for reply in (first, *listed)]


def _encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


@settings(max_examples=80)
@given(route=st.sampled_from(ROUTES), content=_objects)
def test_admin_body_of_any_json_is_answered_without_a_failure(route: tuple[str, str], content: Any) -> None:
    """Fields of any type and size are taken or refused, and what was taken can be listed."""
    first, *listed = asyncio.run(_statuses(route, _encoded(content)))
    assert first[0] < 500, first
    assert first[0] < 400 or set(first[1]["error"]) == {"message", "type", "param", "code"}
    assert [status for status, _ in listed] == [200] * 4


@settings(max_examples=60)
@given(route=st.sampled_from(ROUTES), content=st.binary(max_size=200))
def test_admin_body_of_any_bytes_is_answered_without_a_failure(route: tuple[str, str], content: bytes) -> None:
    """Bytes that are no JSON are refused as such."""
    first, *_ = asyncio.run(_statuses(route, content))
    assert first[0] < 500, first


@settings(max_examples=60)
@given(
    path=st.sampled_from(["keys", "teams", "tags", "budgets", "spend", "status"]),
    query=st.dictionaries(
        st.sampled_from(["limit", "after", "team", "name", "scope", "by", "period", "at"]) | st.text(max_size=5),
        st.text(max_size=20) | st.sampled_from(["10", "team:search", "day", "key", "2026-01-01"]),
        max_size=3,
    ),
)
def test_admin_query_of_any_text_is_answered_without_a_failure(path: str, query: dict[str, str]) -> None:
    """Parameters of any text are taken or refused."""

    async def status() -> int:
        async with admin_api() as api:
            return (await api.ask("GET", f"/admin/{path}", params=query)).status_code

    assert asyncio.run(status()) < 500
