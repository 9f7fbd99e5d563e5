"""The console over HTTP: who may come in, what changes need, what is shown and what never is."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock_gateway.console.app import CHANGES, PAGES
from penstock_gateway.console.sessions import COOKIE, SESSION_SECONDS, Sessions
from penstock_gateway.console.sign_in_limits import PER_ADDRESS, WINDOW_SECONDS
from support.account_parts import ADMIN_KEY as OTHER_KEY
from support.account_parts import admin_api
from support.console_gateway import ADMIN_KEY, CLIENT_KEY, HOSTILE, ConsoleGateway, console_gateway

SHOWN_PAGES = [path for path in PAGES if path != "/decision"]
_TOKEN = re.compile(r'name="token" value="([^"]+)"')


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleGateway]:
    """A gateway under traffic, with contents captured."""
    with console_gateway(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture(scope="module")
def discreet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleGateway]:
    """A gateway under traffic that captures no content."""
    with console_gateway(tmp_path_factory.mktemp("discreet"), captures=False) as running:
        yield running


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleGateway]:
    """A gateway that nobody has asked anything."""
    with console_gateway(tmp_path_factory.mktemp("idle"), has_traffic=False) as running:
        yield running


@contextlib.contextmanager
def signed_in(gateway: ConsoleGateway) -> Iterator[httpx.Client]:
    """Yield a client with a session."""
    with httpx.Client(base_url=gateway.console, timeout=30) as client:
        assert client.post("/sign-in", data={"key": ADMIN_KEY}).status_code == 303
        yield client


def token_of(client: httpx.Client, path: str) -> str:
    """Return the token of the forms on a page."""
    found = _TOKEN.search(client.get(path).text)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("path", [*PAGES, "/artifacts/picture?name=calibration.png", "/nothing"])
def test_console_page_without_a_session_asks_to_sign_in(gateway: ConsoleGateway, path: str) -> None:
    """No page, not even one that does not exist, shows anything to who has not signed in."""
    reply = httpx.get(gateway.console + path)
    assert reply.status_code in (401, 403)
    assert "sim-medium" not in reply.text
    assert "Overview" not in reply.text


@pytest.mark.parametrize("path", ["/sign-out", *CHANGES])
def test_console_change_without_a_session_is_refused(gateway: ConsoleGateway, path: str) -> None:
    """Nothing is changed for who has not signed in."""
    reply = httpx.post(gateway.console + path, data={"token": "x"})
    assert reply.status_code == 403
    assert "console_signed_out" in reply.text


@pytest.mark.parametrize("token", ["", "x", "é"])
@pytest.mark.parametrize("path", ["/sign-out", *CHANGES])
def test_console_change_without_its_token_is_refused(gateway: ConsoleGateway, path: str, token: str) -> None:
    """A session alone changes nothing: each change carries the token of that session."""
    with signed_in(gateway) as client:
        reply = client.post(path, data={"token": token})
        assert (reply.status_code, "console_token" in reply.text) == (403, True)
        with signed_in(gateway) as other:
            reply = client.post(path, data={"token": token_of(other, "/playground")})
            assert (reply.status_code, "console_token" in reply.text) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
def test_console_change_from_a_foreign_page_is_refused(gateway: ConsoleGateway, headers: dict[str, str]) -> None:
    """What another site's page sends is refused even with cookie and token, signing in too."""
    with signed_in(gateway) as client:
        token = token_of(client, "/playground")
        for path, data in (("/playground", {"token": token, "prompt": "x"}), ("/sign-in", {"key": ADMIN_KEY})):
            reply = client.post(path, data=data, headers=headers)
            assert (reply.status_code, "console_foreign_origin" in reply.text) == (403, True)


def test_console_cookie_of_a_session_is_out_of_reach_of_scripts(gateway: ConsoleGateway) -> None:
    """The cookie is HttpOnly, SameSite=Strict, for the console only, Secure behind TLS, and is not the key."""
    for headers, is_secure in (({}, False), ({"x-forwarded-proto": "https"}, True)):
        cookie = httpx.post(f"{gateway.console}/sign-in", data={"key": ADMIN_KEY}, headers=headers).headers[
            "set-cookie"
        ]
        assert ("Secure" in cookie) is is_secure
        assert {"HttpOnly", "SameSite=Strict", "Path=/console", f"Max-Age={SESSION_SECONDS}"} <= set(cookie.split("; "))
        assert ADMIN_KEY not in cookie


def test_console_sign_in_with_a_wrong_key_gives_no_session(gateway: ConsoleGateway) -> None:
    """A wrong key is refused in plain words, and no cookie comes with it."""
    for key in ("", "wrong", CLIENT_KEY, ADMIN_KEY + "x"):
        reply = httpx.post(f"{gateway.console}/sign-in", data={"key": key})
        assert (reply.status_code, "set-cookie" in reply.headers) == (401, False)
        assert "not the admin key" in reply.text


def test_console_sign_in_after_too_many_wrong_keys_is_told_when_to_come_back(tmp_path: Path) -> None:
    """Then even the right key is not looked at; the page and a header say for how long, and sessions go on."""
    with console_gateway(tmp_path, has_traffic=False) as running, signed_in(running) as client:
        replies = [httpx.post(f"{running.console}/sign-in", data={"key": f"wrong {n}"}) for n in range(PER_ADDRESS + 1)]
        assert [reply.status_code for reply in replies] == [401] * PER_ADDRESS + [429]
        refused = httpx.post(f"{running.console}/sign-in", data={"key": ADMIN_KEY})
        assert (refused.status_code, "set-cookie" in refused.headers) == (429, False)
        assert 0 < int(refused.headers["retry-after"]) <= WINDOW_SECONDS
        assert f"Try again in {refused.headers['retry-after']} second" in refused.text
        assert client.get("/models").status_code == 200
        api = running.console.removesuffix("/console")
        assert httpx.get(f"{api}/admin/keys", headers={"authorization": f"Bearer {ADMIN_KEY}"}).status_code == 200


def test_console_that_is_switched_off_is_not_there_and_the_api_is(tmp_path: Path) -> None:
    """`admin.console: false`: the same answers as for any path that does not exist."""
    with console_gateway(tmp_path, has_traffic=False, has_console=False) as running:
        key = {"authorization": f"Bearer {ADMIN_KEY}"}
        for path in ("", "/sign-in", "/static/console.css", "/models"):
            assert httpx.get(running.console + path).status_code == 401
            assert httpx.get(running.console + path, headers=key).status_code == 404
        assert httpx.post(f"{running.console}/sign-in", data={"key": ADMIN_KEY}).status_code == 401
        api = running.console.removesuffix("/console")
        assert httpx.get(f"{api}/admin/keys", headers=key).status_code == 200


def test_console_session_that_was_tampered_with_or_has_ended_is_none() -> None:
    """A cookie is good for its time, its key and its content only."""
    now = [1_000_000.0]
    sessions = Sessions(ADMIN_KEY, clock=lambda: now[0])
    cookie = sessions.open()
    assert sessions.is_open(cookie)
    assert Sessions(ADMIN_KEY, clock=lambda: now[0]).is_open(cookie)
    assert not Sessions("another-admin-key-0123", clock=lambda: now[0]).is_open(cookie)
    ends_at, nonce, signature = cookie.split(".")
    assert not sessions.is_open(f"{int(ends_at) + 1}.{nonce}.{signature}")
    assert not any(sessions.is_open(value) for value in (None, "", ".", "..", f"{ends_at}.{nonce}.", "9999999999.x.é"))
    now[0] += SESSION_SECONDS
    assert not sessions.is_open(cookie)


@pytest.mark.parametrize("path", SHOWN_PAGES)
def test_console_page_of_any_state_is_private_and_tells_no_secret(
    gateway: ConsoleGateway, idle: ConsoleGateway, path: str
) -> None:
    """Pages are not kept by caches, run no inline script, and hold neither the admin key nor a client's."""
    for running in (gateway, idle):
        with signed_in(running) as client:
            reply = client.get(path)
        assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store"), reply.text
        assert "script-src 'self'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert ADMIN_KEY not in reply.text
        assert CLIENT_KEY not in reply.text
        assert "simulated" not in reply.text.replace("Simulated answer", "")  # the provider's credential
        assert not re.search(r"<script(?! src=\"/console/static/)", reply.text)
        assert not re.search(r"\son[a-z]+=|\sstyle=|https?://(?!127\.0\.0\.1)", reply.text)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", "No requests yet"),
        ("/events", "No requests yet"),
        ("/events?kind=feedback", "Nothing here"),
        ("/accounts", "penstock keys create"),
    ],
)
def test_console_page_with_nothing_to_show_says_what_to_do(idle: ConsoleGateway, path: str, wanted: str) -> None:
    """An empty page is not a blank one."""
    with signed_in(idle) as client:
        assert wanted in client.get(path).text


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", ["Spend this month", "Cache hit rate", "sim-medium", "upstream_unreachable", "<svg"]),
        ("/models", ["sim-frontier", "healthy", "open", "baseline"]),
        ("/cache", ["knowledge", "Audits and quotas", "shop"]),
        ("/artifacts", ["Operating points", "Put in force", "cheaper at the same quality", "calibration.png"]),
        ("/accounts", ["retail", "Set a budget", "<progress", "Revoke"]),
        ("/events", ["broken", "cached", "upstream_unreachable"]),
        ("/events?kind=outcome", ["sim-medium", "dec_"]),
        ("/events?errors=1", ["upstream_unreachable"]),
    ],
)
def test_console_page_of_a_busy_gateway_shows_its_figures(
    gateway: ConsoleGateway, path: str, wanted: list[str]
) -> None:
    """Each page shows what it is for."""
    with signed_in(gateway) as client:
        text = client.get(path).text
    assert [word for word in wanted if word not in text] == []


def test_console_playground_decides_and_sends_like_any_client(gateway: ConsoleGateway) -> None:
    """A decision alone leaves no trace; a sent prompt is answered, charged, remembered, and cached the next time."""
    prompt = "How many minutes are in three and a half hours?"
    with signed_in(gateway) as client:
        before = client.get("/events").text.count("/console/decision?id=")
        form = {"token": token_of(client, "/playground"), "prompt": prompt, "model": "auto", "key": "shop"}
        decided = client.post("/playground", data={**form, "action": "decide"}).text
        assert all(word in decided for word in ("<svg", "95 % interval", "no_entry", "Nearest known prompts"))
        assert client.get("/events").text.count("/console/decision?id=") == before
        sent = client.post("/playground", data={**form, "action": "send"}).text
        assert "Simulated answer" in sent
        assert client.get("/events").text.count("/console/decision?id=") == before + 1
        again = client.post("/playground", data={**form, "action": "decide"}).text
        assert "hit-exact" in again
        entry = re.search(r"/console/cache\?entry=([0-9a-f]{32})", again)
        assert entry is not None
        shown = client.get(f"/cache?entry={entry[1]}").text
        assert "Simulated answer" in shown
        deleted = client.post("/cache/entry", data={"token": form["token"], "entry": entry[1]})
        assert deleted.headers["location"] == "/console/cache?done=entry-deleted"
        assert "There is no such entry" in client.get(f"/cache?entry={entry[1]}").text


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"prompt": "  "}, "Type a prompt first"),
        ({"prompt": "x" * 33_000}, "longer than 32,000"),
        ({"prompt": "x", "key": "nobody"}, "Choose the key"),
        ({"prompt": "x", "model": "nothing"}, "model_not_found"),
        ({"prompt": "x", "max_cost_usd": "0.000000001"}, "max_cost_exceeded"),
        ({"prompt": "x", "tradeoff": "<b>"}, "&lt;b&gt;"),
    ],
)
def test_console_playground_with_a_wrong_field_says_so(
    gateway: ConsoleGateway, fields: dict[str, str], wanted: str
) -> None:
    """A mistake is a sentence above the form, which keeps what was typed."""
    with signed_in(gateway) as client:
        form = {"token": token_of(client, "/playground"), "key": "shop", "model": "auto", "action": "decide", **fields}
        reply = client.post("/playground", data=form)
    assert reply.status_code in (400, 404)
    assert wanted in reply.text
    assert 'role="alert"' in reply.text


def test_console_contents_without_capture_are_shown_nowhere(discreet: ConsoleGateway) -> None:
    """With capture off no page shows what callers asked or were answered, not even an entry of the cache."""
    entry = discreet.chat("What is the capital of Australia?") and discreet.chat("What is the capital of Australia?")
    with signed_in(discreet) as client:
        paths = [*SHOWN_PAGES, "/events?kind=decision", f"/cache?entry={entry['x-penstock-cache-entry']}"]
        pages = {path: client.get(path).text for path in paths}
    assert all("Australia" not in text and "onerror" not in text for text in pages.values())
    assert "are not shown" in pages[paths[-1]]


def test_console_contents_captured_earlier_are_hidden_once_capture_is_off(tmp_path: Path) -> None:
    """What is on disk from before is not shown any more, neither as an event nor as a nearest prompt."""
    question = "Which river flows through Prague?"
    for captures in (True, False):
        with console_gateway(tmp_path, has_traffic=False, captures=captures) as running:
            running.chat(question)
            with signed_in(running) as client:
                form = {"token": token_of(client, "/playground"), "prompt": "Rivers of Prague?", "key": "shop"}
                events = client.get("/events?kind=decision").text
                nearest = client.post("/playground", data={**form, "model": "auto"}).text
        assert [question in text for text in (events, nearest)] == [captures, captures]
        assert "dec_" in events


def test_console_hostile_text_on_any_page_is_escaped(gateway: ConsoleGateway) -> None:
    """Markup and template code in a prompt or in an address stay text."""
    with signed_in(gateway) as client:
        form = {"token": token_of(client, "/playground"), "prompt": HOSTILE, "key": "shop", "model": "auto"}
        texts = [client.get("/events?kind=decision").text, client.post("/playground", data=form).text]
        for path in ("/accounts?find={}", "/cache?entry={}", "/decision?id={}", "/events?kind={}", "/?done={}"):
            texts.append(client.get(path.format("%3Cscript%3Ealert(1)%3C/script%3E")).text)
    assert html.escape(HOSTILE[:8], quote=False) in texts[0]
    assert "{{ 7*7 }}" in texts[0]
    assert all("<script>" not in text and "<img src=x" not in text for text in texts)


def test_console_budget_of_a_stored_team_is_set_and_removed(gateway: ConsoleGateway) -> None:
    """A budget is set by a form, shown, and removed again; a wrong one is refused in words and changes nothing."""
    create(gateway, "/admin/teams", "console-team")
    with signed_in(gateway) as client:
        form = {"token": token_of(client, "/playground"), "scope": "team:console-team", "period": "day"}
        done = client.post("/accounts/budget", data={**form, "action": "set", "limit_usd": "3.25"})
        assert done.headers["location"] == "/console/accounts?done=budget-set"
        assert "$3.25" in client.get("/accounts?done=budget-set").text
        wrong = client.post("/accounts/budget", data={**form, "action": "set", "limit_usd": "much"})
        assert (wrong.status_code, "invalid_value" in wrong.text) == (400, True)
        nobody = client.post("/accounts/budget", data={**form, "action": "set", "limit_usd": "1", "scope": "team:x"})
        assert (nobody.status_code, "team_not_found" in nobody.text) == (404, True)
        done = client.post("/accounts/budget", data={**form, "action": "remove"})
        assert done.headers["location"] == "/console/accounts?done=budget-removed"
        assert "$3.25" not in client.get("/accounts").text


def test_console_key_that_is_revoked_stops_working(gateway: ConsoleGateway) -> None:
    """A stored key is shown by its prefix, never by its secret, and ends at the press of a button."""
    made = create(gateway, "/admin/keys", "console-key")
    with signed_in(gateway) as client:
        page = client.get("/accounts?find=console-key").text
        assert (made["prefix"] in page, made["secret"] in page) == (True, False)
        done = client.post("/accounts/key", data={"token": token_of(client, "/accounts"), "key": made["id"]})
        assert done.headers["location"] == "/console/accounts?done=key-revoked"
        assert "revoked" in client.get("/accounts?find=console-key").text
    reply = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {made['secret']}"})
    assert reply.json()["error"]["code"] == "api_key_revoked"


def create(gateway: ConsoleGateway, path: str, name: str) -> dict[str, Any]:
    """Create a key or a team with the admin API."""
    api = gateway.console.removesuffix("/console")
    reply = httpx.post(f"{api}{path}", json={"name": name}, headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert reply.status_code == 201
    made: dict[str, Any] = reply.json()
    return made


def test_console_artifact_of_the_registry_is_compared_and_put_in_force(tmp_path: Path) -> None:
    """Two versions are compared in words; the earlier one is put in force and serves at once."""
    with console_gateway(tmp_path, has_traffic=False) as running, signed_in(running) as client:
        page = client.get("/artifacts").text
        older = re.search(r'name="artifact" value="(sha256:[0-9a-f]{64})"', page)
        assert older is not None
        newer = next(i for i in re.findall(r'value="(sha256:[0-9a-f]{64})"', page) if i != older[1])
        compared = client.get("/artifacts", params={"first": older[1], "second": newer}).text
        assert re.search(r"<pre.*guard", compared, re.DOTALL)
        done = client.post("/artifacts/force", data={"token": token_of(client, "/artifacts"), "artifact": older[1]})
        assert done.headers["location"].endswith("done=artifact-in-force")
        assert f"In force <code>{older[1][7:19]}" in client.get("/artifacts").text
        again = client.post("/artifacts/force", data={"token": token_of(client, "/playground"), "artifact": older[1]})
        assert (again.status_code, "in force already" in again.text) == (409, True)


@pytest.mark.parametrize("name", ["../manifest.json", "manifest.json", "router.onnx", "x.png", "..%2Fcalibration.png"])
def test_console_picture_that_is_none_of_the_artifacts_is_refused(gateway: ConsoleGateway, name: str) -> None:
    """Only pictures beside the artifact in force can be read, by their names."""
    with signed_in(gateway) as client:
        assert client.get(f"/artifacts/picture?name={name}").status_code == 404
        right = client.get("/artifacts/picture?name=calibration.png")
        assert (right.status_code, right.content[:4]) == (200, b"\x89PNG")


def test_console_form_that_is_too_large_or_none_is_refused(gateway: ConsoleGateway) -> None:
    """Forms are bounded, and nothing but a form is read."""
    with signed_in(gateway) as client:
        large = client.post("/playground", data={"token": "x", "prompt": "x" * 300_000})
        assert large.status_code == 413
        assert client.post("/playground", json={"token": "x"}).status_code == 400
        assert client.put("/playground").status_code == 400


async def test_console_path_of_an_api_without_a_console_needs_the_admin_key() -> None:
    """Where there is no console, its path is one of the API."""
    async with admin_api(key=None) as api:
        assert (await api.ask("GET", "/console")).status_code == 401
    async with admin_api(key=OTHER_KEY) as api:
        assert (await api.ask("GET", "/console")).status_code == 404


def test_console_cookie_opens_no_path_of_the_api(gateway: ConsoleGateway) -> None:
    """A session is good for the console only; the API asks for the key itself, and a foreign host gets nothing."""
    with signed_in(gateway) as client:
        api = gateway.console.removesuffix("/console")
        cookies = {COOKIE: client.cookies[COOKIE]}
        assert httpx.get(f"{api}/admin/keys", cookies=cookies).status_code == 401
        assert httpx.get(f"{gateway.console}/sign-in", headers={"host": "evil.example"}).status_code == 403
