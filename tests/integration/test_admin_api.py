"""The admin API, called without a socket: who may come in, what it does, how it refuses."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.directory import LOST
from penstock_gateway.endpoints.admin import AdminNotSafe, admin_app
from penstock_gateway.endpoints.admin_requests import MAX_BODY_BYTES
from penstock_gateway.ledger.contract import Period
from penstock_gateway.model_spend import SpentOnModel
from penstock_gateway.settings_accounts import AccountsSettings, AdminSettings, TagSettings, TeamSettings
from penstock_gateway.settings_models import ClientKeySettings
from support.account_parts import ADMIN_KEY, NOW, ToldLedger, admin_api, open_parts, settings_of

ROUTES = [
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys"),
    ("GET", "/admin/keys/x"),
    ("PATCH", "/admin/keys/x"),
    ("DELETE", "/admin/keys/x"),
    ("POST", "/admin/keys/x/rotate"),
    ("POST", "/admin/keys/x/revoke"),
    ("GET", "/admin/teams"),
    ("POST", "/admin/teams"),
    ("PATCH", "/admin/teams/x"),
    ("DELETE", "/admin/teams/x"),
    ("GET", "/admin/tags"),
    ("POST", "/admin/tags"),
    ("GET", "/admin/budgets"),
    ("PUT", "/admin/budgets"),
    ("DELETE", "/admin/budgets"),
    ("GET", "/admin/spend"),
    ("GET", "/admin/status"),
    ("POST", "/admin/restore"),
    ("GET", "/admin/openapi.json"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({}, "missing_admin_key"),
        ({"authorization": "Bearer wrong"}, "invalid_admin_key"),
        ({"authorization": f"Bearer {ADMIN_KEY[:-1]}"}, "invalid_admin_key"),
        ({"x-api-key": "k" * 20}, "invalid_admin_key"),
    ],
)
async def test_request_of_any_route_without_the_admin_key_is_refused(
    method: str, path: str, header: dict[str, str], code: str
) -> None:
    """No route, not even one that does not exist, says anything to who has no admin key; a client key is none."""
    settings = settings_of(client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),))
    async with admin_api(settings, key=None) as api:
        reply = await api.ask(method, path, {} if method in ("POST", "PUT", "PATCH") else None, headers=header)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, code)
    assert reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost@evil.example:1"])
async def test_request_with_a_foreign_host_header_is_refused(host: str) -> None:
    """A web page that reaches the API under a name of its own gets nothing, even where no key is asked for."""
    settings = settings_of(admin=AdminSettings(port=0))
    async with admin_api(settings, key=None) as api:
        reply = await api.ask("GET", "/admin/keys", headers={"host": host})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "host_not_allowed")
        assert (await api.ask("GET", "/admin/keys", headers={"host": "localhost:4001"})).status_code == 200


async def test_request_under_an_allowed_host_is_answered() -> None:
    """Names and domains of admin.allowed_hosts are accepted."""
    admin = AdminSettings(port=0, key=SecretStr(ADMIN_KEY), allowed_hosts=("admin.example.org", "*.corp.example"))
    async with admin_api(settings_of(admin=admin)) as api:
        for host, status in (("Admin.Example.org:4001", 200), ("a.corp.example", 200), ("corp.example.net", 403)):
            assert (await api.ask("GET", "/admin/status", headers={"host": host})).status_code == status


def test_admin_app_for_other_machines_without_a_credential_is_not_made() -> None:
    """An open admin API on a network is refused before it listens."""
    settings = settings_of(admin=AdminSettings(port=4001, host="0.0.0.0"))
    with pytest.raises(AdminNotSafe, match=r"admin\.key"):
        admin_app(settings, open_parts(settings).directory, ToldLedger())


async def test_life_of_a_key_from_creation_to_deletion() -> None:
    """A key is made, shown, changed, rotated, revoked and deleted; its secret is in two answers only."""
    async with admin_api() as api:
        made = await api.ask("POST", "/admin/keys", {"name": "ci", "max_cost_usd": 0.5})
        key = made.json()
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert api.parts.directory.authenticate(key["secret"]).key_id == key["id"]
        assert key["secret"].startswith(key["prefix"])
        shown = (await api.ask("GET", "/admin/keys/ci")).json()
        assert shown == {name: value for name, value in key.items() if name != "secret"}
        assert (shown["state"], shown["created_at"]) == ("active", "2026-11-30T00:53:20Z")
        changed = (await api.ask("PATCH", f"/admin/keys/{key['id']}", {"name": "cd", "priority": "low"})).json()
        assert (changed["name"], changed["priority"], changed["max_cost_usd"]) == ("cd", "low", 0.5)
        rotated = (await api.ask("POST", "/admin/keys/cd/rotate", {"overlap_seconds": 60})).json()
        assert rotated["secret"] != key["secret"]
        assert rotated["secrets"] == [{"ends_at": None}, {"ends_at": "2026-11-30T00:54:20Z"}]
        revoked = (await api.ask("POST", "/admin/keys/cd/revoke", {})).json()
        assert revoked["state"] == "revoked"
        gone = (await api.ask("DELETE", "/admin/keys/cd")).json()
        assert gone == {"object": "deletion", "kind": "key", "id": key["id"], "name": "cd"}
        assert (await api.ask("GET", "/admin/keys/cd")).json()["error"]["code"] == "key_not_found"


async def test_list_of_keys_is_paged_and_selected() -> None:
    """Every key comes once over all pages, configured ones marked as such."""
    settings = settings_of(
        client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),), teams=(TeamSettings(name="search"),)
    )
    async with admin_api(settings) as api:
        for index in range(7):
            await api.ask("POST", "/admin/keys", {"name": f"k{index}", "team": "search" if index % 2 else None})
        names, after = [], None
        while True:
            query = {"limit": 3} | ({} if after is None else {"after": after})
            reply = (await api.ask("GET", "/admin/keys", params=query)).json()
            assert len(reply["data"]) <= 3
            names += [key["name"] for key in reply["data"]]
            after = reply["next"]
            if after is None:
                break
        assert sorted(names) == ["acme", *(f"k{index}" for index in range(7))]
        team = (await api.ask("GET", "/admin/keys", params={"team": "search"})).json()
        assert sorted(key["name"] for key in team["data"]) == ["k1", "k3", "k5"]
        (configured,) = (await api.ask("GET", "/admin/keys", params={"name": "acme"})).json()["data"]
        assert (configured["source"], configured["prefix"], configured["secrets"]) == ("configuration", None, [])


async def test_teams_and_tags_are_created_changed_and_deleted() -> None:
    """Teams and tags have the same five operations, names with a slash included."""
    async with admin_api() as api:
        for path, kind in (("/admin/teams", "team"), ("/admin/tags", "tag")):
            budget = {"period": "month", "limit_usd": 12.50}
            made = await api.ask("POST", path, {"name": "eu/search", "budgets": [budget]})
            assert (made.status_code, made.json()["object"]) == (201, kind)
            assert made.json()["budgets"] == [{"period": "month", "limit_usd": "12.5", "soft_share": 0.8}]
            limits = {"limits": {"parallel_requests": 4}}
            changed = (await api.ask("PATCH", f"{path}/eu%2Fsearch", limits)).json()
            assert changed["limits"]["parallel_requests"] == 4
            assert (await api.ask("GET", f"{path}/eu/search")).json() == changed
            assert [entry["name"] for entry in (await api.ask("GET", path)).json()["data"]] == ["eu/search"]
            assert (await api.ask("DELETE", f"{path}/eu/search")).json()["kind"] == kind
            assert (await api.ask("GET", path)).json() == {"object": "list", "data": [], "next": None}


async def test_budgets_are_set_shown_with_their_use_and_removed() -> None:
    """A budget is set by scope and period, money is exact decimal text, and its use comes from the ledger."""
    async with admin_api() as api:
        key = (await api.ask("POST", "/admin/keys", {"name": "ci"})).json()
        await api.ask("POST", "/admin/teams", {"name": "search"})
        for scope in ("key:ci", "team:search"):
            content = {"scope": scope, "period": "day", "limit_usd": "0.3", "soft_share": 0.5}
            assert (await api.ask("PUT", "/admin/budgets", content)).status_code == 200
        api.ledger.spent = {f"key:{key['id']}": 100_000_000_001}
        listed = (await api.ask("GET", "/admin/budgets")).json()["data"]
        assert [(state["scope"], state["name"]) for state in listed] == [
            (f"key:{key['id']}", "ci"),
            ("team:search", "search"),
        ]
        assert listed[0]["spent_usd"] == "0.100000000001"
        assert (listed[0]["limit_usd"], listed[0]["used_share"]) == ("0.3", 0.333333)
        (one,) = (await api.ask("GET", "/admin/budgets", params={"scope": "key:ci"})).json()["data"]
        assert one == listed[0]
        await api.ask("DELETE", "/admin/budgets", params={"scope": "key:ci", "period": "day"})
        assert len((await api.ask("GET", "/admin/budgets")).json()["data"]) == 1


async def test_spend_is_shown_by_each_dimension_for_one_window() -> None:
    """Who has spent comes first, who has not is left out, and the window is that of the moment asked for."""
    settings = settings_of(
        client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),),
        teams=(TeamSettings(name="search"), TeamSettings(name="ads")),
        tags=(TagSettings(name="batch"),),
    )
    async with admin_api(settings) as api:
        api.ledger.spent = {"team:search": 10**12, "team:ads": 2 * 10**12, "key:acme": 5, "tag:batch": 7}
        teams = (await api.ask("GET", "/admin/spend", params={"by": "team", "period": "day"})).json()
        assert [(row["name"], row["spent_usd"]) for row in teams["data"]] == [("ads", "2"), ("search", "1")]
        assert (teams["total_usd"], teams["at"]) == ("3", "2026-11-30T00:53:20Z")
        keys = (await api.ask("GET", "/admin/spend")).json()
        assert (keys["period"], keys["data"][0]["spent_usd"]) == ("month", "0.000000000005")
        await api.ask("GET", "/admin/spend", params={"by": "tag", "at": "2026-01-31T00:00:00Z"})
        assert api.ledger.asked[-1] == (("tag:batch",), Period.MONTH, 1_769_817_600.0)
        assert api.ledger.asked[-2][2] == NOW
        refused = await api.ask("GET", "/admin/spend", params={"by": "model"})
        assert refused.json()["error"]["code"] == "spend_by_model_unavailable"


async def test_spend_by_model_comes_from_who_knows_it() -> None:
    """With a source of spend by model it is shown like the others."""

    async def model_spend(period: Period, at: float) -> dict[str, SpentOnModel]:
        usd = {"small": 1, "large": 3, "idle": 0}
        return {name: SpentOnModel(amount * 10**12, {"reasoning_tokens": amount}) for name, amount in usd.items()}

    async with admin_api() as api:
        app = admin_app(settings_of(), api.parts.directory, ToldLedger(), model_spend=model_spend)
        api.http._transport.app = app  # type: ignore[attr-defined]
        rows = (await api.ask("GET", "/admin/spend", params={"by": "model"})).json()["data"]
    assert [(row["name"], row["spent_usd"]) for row in rows] == [("large", "3"), ("small", "1")]
    assert [row["usage"] for row in rows] == [{"reasoning_tokens": 3}, {"reasoning_tokens": 1}]


async def test_tokens_of_keys_come_from_the_events_and_say_what_they_cost() -> None:
    """The ledger counts money alone; where the log no longer reaches back so far, the two amounts differ."""

    async def usage(period: Period, at: float) -> dict[str, SpentOnModel]:
        return {"key:gone": SpentOnModel(1), "team:eu": SpentOnModel(2 * 10**12, {"input_tokens": 9})}

    async with admin_api() as api:
        await api.ask("POST", "/admin/teams", {"name": "eu"})
        await api.ask("POST", "/admin/teams", {"name": "us"})
        ledger = ToldLedger()
        ledger.spent = {"team:eu": 3 * 10**12, "team:us": 10**12}
        app = admin_app(settings_of(), api.parts.directory, ledger, account_usage=usage)
        api.http._transport.app = app  # type: ignore[attr-defined]
        rows = (await api.ask("GET", "/admin/spend", params={"by": "team", "tokens": "true"})).json()["data"]
        plain = (await api.ask("GET", "/admin/spend", params={"by": "team"})).json()["data"]
    assert [(row["name"], row["spent_usd"], row["usage_cost_usd"]) for row in rows] == [
        ("eu", "3", "2"),
        ("us", "1", "0"),
    ]
    assert [row["usage"].get("input_tokens") for row in rows] == [9, 0]
    assert "usage" not in plain[0]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("POST", "/admin/keys", b"{", 400, "invalid_json"),
        ("POST", "/admin/keys", b'{"name": "a", "name": "b"}', 400, "invalid_json"),
        ("POST", "/admin/keys", b'{"name": "a", "max_cost_usd": NaN}', 400, "invalid_json"),
        ("POST", "/admin/keys", b"[" * 60_000, 400, "invalid_json"),
        ("POST", "/admin/keys", b"9" * 60_000, 400, "invalid_json"),
        ("POST", "/admin/keys", b"\xff", 400, "invalid_json"),
        ("POST", "/admin/keys", [], 400, "invalid_type"),
        ("POST", "/admin/keys", {}, 400, "invalid_value"),
        ("POST", "/admin/keys", {"name": 7}, 400, "invalid_value"),
        ("POST", "/admin/keys", {"name": "a b"}, 400, "invalid_value"),
        ("POST", "/admin/keys", {"name": "\ud800"}, 400, "invalid_value"),
        ("POST", "/admin/keys", {"name": "a", "\ud800": 1}, 400, "unknown_field"),
        ("POST", "/admin/keys", {"name": "a", "secrets": []}, 400, "unknown_field"),
        ("POST", "/admin/keys", b'{"name": "a", "max_cost_usd": 1e999999}', 400, "invalid_value"),
        ("POST", "/admin/keys", {"name": "a", "team": "nobody"}, 400, "invalid_value"),
        ("POST", "/admin/keys/x/rotate", {"overlap_seconds": -1}, 400, "invalid_value"),
        ("POST", "/admin/keys/x/rotate", {"overlap": 1}, 400, "unknown_field"),
        ("POST", "/admin/keys/x/revoke", {"now": True}, 400, "unknown_parameter"),
        ("POST", "/admin/keys/x/revoke", {}, 404, "key_not_found"),
        ("PUT", "/admin/budgets", {"period": "day", "limit_usd": 1}, 400, "invalid_value"),
        ("PUT", "/admin/budgets", {"scope": "model:x", "period": "day", "limit_usd": 1}, 400, "invalid_value"),
        ("PUT", "/admin/budgets", {"scope": "team:x", "period": "day", "limit_usd": 1}, 404, "team_not_found"),
        ("PUT", "/admin/budgets", {"scope": "team:x", "period": "day", "limit_usd": "1e-13"}, 400, "invalid_value"),
        ("GET", "/admin/keys?limit=0", None, 400, "invalid_value"),
        ("GET", "/admin/keys?limit=\u0661", None, 400, "invalid_value"),
        ("GET", "/admin/keys?tema=x", None, 400, "unknown_parameter"),
        ("GET", "/admin/budgets?scope=team:x", None, 404, "team_not_found"),
        ("DELETE", "/admin/budgets?scope=team:x&period=decade", None, 400, "invalid_value"),
        ("GET", "/admin/spend?by=tema", None, 400, "invalid_request"),
        ("GET", "/admin/spend?at=yesterday", None, 400, "invalid_value"),
        ("GET", "/admin/spend?tokens=yes", None, 400, "invalid_value"),
        ("GET", "/admin/nothing", None, 404, "unknown_path"),
        ("PUT", "/admin/keys", {}, 405, "method_not_allowed"),
    ],
)
async def test_request_that_is_wrong_is_refused_in_openais_shape(
    method: str, path: str, content: Any, status: int, code: str
) -> None:
    """Every refusal has a status, a stable code and a message, and changes nothing."""
    async with admin_api() as api:
        reply = await api.ask(method, path, content)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert api.parts.store.commits == 0
        assert api.errors == [code]


async def test_body_of_another_type_or_too_large_is_refused() -> None:
    """A body must be JSON, so that no web page can send it unasked, and is bounded."""
    async with admin_api() as api:
        plain = await api.http.post("/admin/keys", content=b"{}", headers={"content-type": "text/plain"})
        bare = await api.http.post("/admin/restore")
        large = await api.ask("POST", "/admin/keys", b" " * (MAX_BODY_BYTES + 1))
    assert [reply.status_code for reply in (plain, bare, large)] == [415, 415, 413]


async def test_answer_to_a_browser_of_another_origin_lets_it_read_nothing() -> None:
    """There is no CORS header on any answer, preflights included."""
    async with admin_api() as api:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        for method in ("OPTIONS", "GET"):
            reply = await api.ask(method, "/admin/keys", headers=headers)
            assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_store_or_ledger_that_is_away_is_said_so() -> None:
    """What cannot be done now is 503 with Retry-After, what is lost 409 with what to do; reading goes on."""
    async with admin_api() as api:
        await api.ask("POST", "/admin/keys", {"name": "ci", "budgets": [{"period": "day", "limit_usd": 1}]})
        api.parts.store.is_away = True
        away = await api.ask("POST", "/admin/keys", {"name": "cd"})
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert away.json()["error"]["code"] == "accounts_store_unavailable"
        assert (await api.ask("GET", "/admin/keys")).status_code == 200
        api.parts.store.is_away = False
        api.ledger.is_away = True
        for path in ("/admin/budgets", "/admin/spend"):
            assert (await api.ask("GET", path)).json()["error"]["code"] == "ledger_unavailable"
        api.parts.store.flush()
        await api.parts.directory.refresh()
        lost = await api.ask("POST", "/admin/keys", {"name": "cd"})
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "accounts_store_lost")
        assert (await api.ask("GET", "/admin/status")).json()["problem"] == LOST
        assert (await api.ask("POST", "/admin/restore", {})).json()["records"] == 1
        assert (await api.ask("POST", "/admin/restore", {})).json()["error"]["code"] == "accounts_conflict"


async def test_gateway_without_a_store_says_what_to_add() -> None:
    """Where nothing is stored, reading works and changing names the setting."""
    settings = settings_of(accounts=AccountsSettings())
    async with admin_api(settings) as api:
        api.parts.directory.store = None
        reply = await api.ask("POST", "/admin/teams", {"name": "search"})
        assert reply.json()["error"]["code"] == "accounts_store_off"
        assert "accounts: {store: file" in reply.json()["error"]["message"]
        assert (await api.ask("GET", "/admin/status")).json()["store"] == "none"


async def test_no_secret_or_digest_is_in_any_log_list_repr_or_error(caplog: pytest.LogCaptureFixture) -> None:
    """What was shown once is nowhere else: no answer, log record, error, repr or OpenAPI document holds it."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with admin_api() as api:
        key = (await api.ask("POST", "/admin/keys", {"name": "ci"})).json()
        rotated = (await api.ask("POST", "/admin/keys/ci/rotate", {})).json()
        secrets = [key.pop("secret"), rotated.pop("secret")]
        stored = api.parts.store.snapshot.keys[key["id"]]
        digests = [secret.digest for secret in stored.secrets]
        seen += [json.dumps(key), json.dumps(rotated)]
        for method, path, content in [
            ("GET", "/admin/keys", None),
            ("GET", "/admin/keys/ci", None),
            ("PATCH", "/admin/keys/ci", {"name": secrets[0]}),
            ("PATCH", "/admin/keys/ci", {secrets[0]: 1}),
            ("POST", "/admin/keys", {"name": "cd", "team": secrets[0] + " "}),
            ("POST", "/admin/keys", {"name": "cd", "secrets": [secrets[0]]}),
            ("GET", "/admin/openapi.json", None),
            ("POST", "/admin/keys/ci/revoke", {}),
            ("DELETE", "/admin/keys/ci", None),
        ]:
            reply = await api.ask(method, path, content)
            if secrets[0] not in json.dumps(content):
                seen.append(reply.text)
        directory = api.parts.directory
        for thing in (directory, directory.table, directory.snapshot, directory.configured, stored, stored.secrets):
            seen += [repr(thing), str(thing)]
        seen += [repr(api.app), repr(directory.table.keys), repr(directory.table.secrets.values())]
    logged = [str(record.__dict__) for record in caplog.records if record.name.startswith("penstock")]
    assert len(logged) >= 3
    for text in [*seen, *logged]:
        assert not [part for part in [*digests, *secrets, *(s[-43:] for s in secrets), ADMIN_KEY] if part in text]


async def test_answer_has_the_requests_own_id_or_a_new_one_and_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    """As on the port for models: what was sent comes back where it can, also with a refusal, and names the change."""
    caplog.set_level(logging.INFO, "penstock.admin")
    async with admin_api() as api:
        sent = {"x-request-id": "deploy-17"}
        made = await api.ask("POST", "/admin/keys", {"name": "ci"}, headers=sent)
        refused = [
            await api.ask("GET", "/admin/keys/none", headers=sent),
            await api.ask("GET", "/admin/none", headers=sent),
            await api.ask("GET", "/admin/keys", headers={**sent, "authorization": "Bearer wrong"}),
            await api.ask("GET", "/admin/keys", headers={**sent, "host": "evil.example"}),
        ]
        others = [
            await api.ask("GET", "/admin/keys"),
            await api.ask("GET", "/admin/keys", headers={"x-request-id": ""}),
        ]
    assert [reply.status_code for reply in refused] == [404, 404, 401, 403]
    assert {str(reply.headers.get_list("x-request-id")) for reply in (made, *refused)} == {"['deploy-17']"}
    made_up = [reply.headers["x-request-id"] for reply in others]
    assert all(name.startswith("req_") for name in made_up)
    assert len(set(made_up)) == 2
    changes = [record for record in caplog.records if record.message == "account_changed"]
    assert [record.request_id for record in changes] == ["deploy-17"]  # type: ignore[attr-defined]


async def test_each_change_leaves_one_audit_line_with_names_of_fields_only(caplog: pytest.LogCaptureFixture) -> None:
    """Who did what to which record is logged; what the fields were set to is not."""
    caplog.set_level(logging.INFO, "penstock.admin")
    async with admin_api() as api:
        key = (await api.ask("POST", "/admin/keys", {"name": "ci", "max_cost_usd": 0.123})).json()
        await api.ask("PATCH", "/admin/keys/ci", {"priority": "low"})
        await api.ask("PATCH", "/admin/keys/ci", {"priority": "lowest"})
        await api.ask("GET", "/admin/keys/ci")
    lines = [record for record in caplog.records if record.message == "account_changed"]
    assert [(r.action, r.kind, r.account, r.fields) for r in lines] == [  # type: ignore[attr-defined]
        ("created", "key", key["id"], ["max_cost_usd"]),
        ("updated", "key", key["id"], ["priority"]),
    ]
    assert "0.123" not in str([record.__dict__ for record in lines])


async def test_openapi_document_of_the_admin_api_resolves_all_its_references() -> None:
    """Every body is described without a reference that leads nowhere."""
    async with admin_api() as api:
        document = (await api.ask("GET", "/admin/openapi.json")).json()
    assert "$defs" not in json.dumps(document)
    create = document["paths"]["/admin/keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert create["required"] == ["name"]
    assert create["properties"]["budgets"]["items"]["properties"]["limit_usd"]


async def test_unexpected_failure_shows_nothing_of_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is a clean 500 for the caller and a traceback in the log."""
    async with admin_api() as api:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("internal detail")

        monkeypatch.setattr(api.parts.registrar.directory.__class__, "change", broken)
        reply = await api.ask("POST", "/admin/teams", {"name": "search"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "internal detail" not in reply.text
    assert [record.message for record in caplog.records if record.exc_info] == ["admin_unexpected_error"]
