"""The admin API on a real port, and the commands that speak to it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.start import open_directory
from penstock_gateway.admin_server import AdminServer
from penstock_gateway.bounded_http import MAX_HEAD_BYTES, BoundedHttp
from penstock_gateway.cli import penstock
from penstock_gateway.endpoints.admin import admin_app
from penstock_gateway.endpoints.admin_requests import ModelSpend
from penstock_gateway.ledger.contract import Period
from penstock_gateway.model_spend import SpentOnModel
from penstock_gateway.settings_accounts import AccountsSettings
from support.account_parts import ADMIN_KEY, ToldLedger, settings_of

EXPIRY = "2099-01-01T00:00:00Z"


class Running:
    """An admin API that listens, with the commands that reach it."""

    def __init__(self, server: AdminServer, directory: Directory, ledger: ToldLedger) -> None:
        self.server = server
        self.directory = directory
        self.ledger = ledger
        self.url = f"http://127.0.0.1:{server.port}"

    async def run(self, *arguments: str, key: str = ADMIN_KEY, url: str | None = None) -> Result:
        """Run a command in a thread, as its HTTP client blocks."""
        environ = {"PENSTOCK_ADMIN_KEY": key, "COLUMNS": "200"}
        full = [*arguments, "--url", url or self.url]
        return await asyncio.to_thread(CliRunner().invoke, penstock, full, env=environ)

    async def json(self, *arguments: str) -> Any:
        """Run a command that succeeds and return its JSON."""
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@asynccontextmanager
async def running(folder: Path, model_spend: ModelSpend | None = None) -> AsyncIterator[Running]:
    """Run the admin API over a file store, as the gateway does."""
    settings = settings_of(accounts=AccountsSettings(store="file", folder=str(folder), timeout_seconds=5.0))
    directory, ledger = open_directory(settings), ToldLedger()
    await directory.start()
    app = admin_app(settings, directory, ledger, known=lambda: Known.from_settings(settings), model_spend=model_spend)
    server = AdminServer(app, host="127.0.0.1", port=0, http=BoundedHttp)
    await server.start()
    try:
        yield Running(server, directory, ledger)
    finally:
        await server.aclose()
        await directory.aclose()


async def test_commands_of_keys_do_what_they_say(tmp_path: Path) -> None:
    """A key goes through its life by commands; its secret alone is on standard output."""
    async with running(tmp_path) as api:
        await api.json("teams", "create", "search", "--budget", "month=100", "--model", "auto", "--model", "small")
        await api.json("tags", "create", "batch", "--parallel-requests", "2")
        made = await api.run(
            *("keys", "create", "ci", "--team", "search", "--tag", "batch", "--budget", "day=0.5", "--model", "small"),
            *("--tradeoff", "0.25", "--requests-per-minute", "60", "--budget-rule", "0.8=cost", "--priority", "low"),
            *("--expires-at", "2099-01-01", "--share-answers", "--named-cache-category", "faq"),
        )
        assert made.exit_code == 0, made.output
        secret = made.stdout.strip()
        principal = api.directory.authenticate(secret)
        assert (principal.team, principal.tags, principal.priority) == ("search", ("batch",), "low")
        assert (principal.policy.tradeoff, principal.budget_rules[0].used_share) == (0.25, 0.8)
        assert principal.cache.may_share_answers
        assert "not shown again" in made.stderr
        listed = await api.run("keys", "list")
        assert listed.stdout.splitlines()[1].split()[1:] == [
            "ci",
            "active",
            "search",
            "0.5/day",
            "2099-01-01T00:00:00Z",
        ]
        updated = await api.json(
            "keys", "update", "ci", "--name", "cd", "--clear", "expires_at", "--tokens-per-minute", "9"
        )
        assert (updated["expires_at"], updated["limits"]["requests_per_minute"]) == (None, 60)
        rotated = (await api.run("keys", "rotate", "cd", "--overlap-seconds", "0")).stdout.strip()
        assert api.directory.principal_of(secret) is None
        assert api.directory.principal_of(rotated) is not None
        assert (await api.run("keys", "revoke", "cd")).stdout.startswith("revoked: cd")
        assert "state: revoked" in (await api.run("keys", "show", "cd")).stdout
        assert (await api.run("keys", "delete", "cd")).stdout.startswith("deleted: cd")
        assert (await api.json("keys", "list"))["data"] == []
        for output in (listed, made):
            assert rotated not in output.output


async def test_commands_of_groups_and_budgets_do_what_they_say(tmp_path: Path) -> None:
    """Teams, tags and budgets are listed, changed and removed by commands."""
    async with running(tmp_path) as api:
        await api.run("teams", "create", "eu/search")
        assert (await api.run("teams", "update", "eu/search", "--max-cost-usd", "0.5")).exit_code == 0
        assert (await api.json("teams", "show", "eu/search"))["max_cost_usd"] == 0.5
        assert (await api.run("budgets", "set", "team:eu/search", "month", "12.5")).stdout == (
            "team:eu/search: 12.5 USD a month\n"
        )
        api.ledger.spent = {"team:eu/search": 11 * 10**12}
        (row,) = (await api.run("budgets", "list")).stdout.splitlines()[1:]
        assert row.split()[3:6] == ["12.5", "11", "88.0%"]
        shown = await api.run("spend", "show", "--by", "team")
        assert shown.stdout.splitlines()[1].split() == ["eu/search", "team:eu/search", "11"]
        assert (await api.json("spend", "show", "--by", "team"))["total_usd"] == "11"
        assert (await api.run("budgets", "remove", "team:eu/search", "month")).exit_code == 0
        assert (await api.json("budgets", "list"))["data"] == []
        assert "eu/search" in (await api.run("teams", "list")).stdout
        assert (await api.run("teams", "delete", "eu/search")).stdout == "deleted: eu/search\n"
        assert (await api.run("tags", "list")).exit_code == 0


async def test_spend_by_model_is_shown_with_its_tokens(tmp_path: Path) -> None:
    """What was spent on thinking stands beside what it is a part of."""

    async def spent(period: Period, at: float) -> dict[str, SpentOnModel]:
        model = SpentOnModel()
        model.add(2 * 10**12, {"input_tokens": 9, "output_tokens": 70, "reasoning_tokens": 60})
        return {"large": model}

    async with running(tmp_path, spent) as api:
        lines = (await api.run("spend", "show", "--by", "model")).stdout.splitlines()
        assert [line.split() for line in lines] == [
            ["model", "spent_usd", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"],
            ["large", "2", "9", "0", "70", "60"],
        ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("keys", "show", "nobody"), "There is no key 'nobody'. [key_not_found]"),
        (("keys", "create", "ci", "--team", "nobody"), "team: there is no team 'nobody'"),
        (("keys", "create", "ci", "--budget", "day"), "--budget takes NAME=VALUE"),
        (("keys", "update", "ci"), "nothing to change"),
        (("keys", "create", "ci", "--budget-rule", "much=cost"), "a share is a number"),
        (("budgets", "set", "team", "day", "1"), "scope: should be key:ID"),
        (("spend", "show", "--by", "model"), "spend_by_model_unavailable"),
        (("spend", "show", "--by", "team", "--tokens"), "spend_by_model_unavailable"),
    ],
)
async def test_command_that_cannot_be_done_says_why(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    """A refusal is one line with the code, and an exit code that is not zero."""
    async with running(tmp_path) as api:
        result = await api.run(*arguments)
    assert result.exit_code != 0
    assert expected in result.stderr
    assert "Traceback" not in result.output


async def test_command_with_a_wrong_key_or_place_says_what_to_do(tmp_path: Path) -> None:
    """A wrong key names the variable, a dead address the setting; the key itself is not shown."""
    async with running(tmp_path) as api:
        wrong = await api.run("keys", "list", key="wrong-admin-key")
        assert "Put the admin key into $PENSTOCK_ADMIN_KEY" in wrong.stderr
        assert "wrong-admin-key" not in wrong.output
        odd = await api.run("keys", "list", key="key\nwith-line")
        assert odd.exit_code == 1
        assert "with-line" not in odd.output
        url = api.url
    dead = await api.run("keys", "list", url=url)
    assert "Is the gateway running" in dead.stderr
    nowhere = await api.run("keys", "list", url="ftp://x")
    assert nowhere.exit_code == 2


async def test_head_beyond_the_bound_is_refused_before_any_credential(tmp_path: Path) -> None:
    """The second server has the same bounds on what comes before a request as the first."""
    async with running(tmp_path) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1))
        async with asyncio.timeout(10):
            assert b"request_headers_too_large" in await reader.read()
        writer.close()


async def test_port_that_is_in_use_is_an_error_and_not_an_exit(tmp_path: Path) -> None:
    """Where the address is taken, starting raises, and the process goes on."""
    async with running(tmp_path) as api:
        other = AdminServer(api.server._app, host="127.0.0.1", port=api.server.port, http=BoundedHttp)
        with pytest.raises(OSError, match="in use"):
            await other.start()
        await other.aclose()


async def test_admin_server_leaves_the_signals_to_the_gateways(tmp_path: Path) -> None:
    """Starting and stopping it changes no signal handler, and its port is free afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with running(tmp_path) as api:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        port = api.server.port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_keys_in_the_file_outlive_the_gateway(tmp_path: Path) -> None:
    """A restart knows the keys that were made, under the pepper that was made at the first start."""
    async with running(tmp_path) as api:
        secret = (await api.run("keys", "create", "ci")).stdout.strip()
    async with running(tmp_path) as api:
        assert api.directory.authenticate(secret).key_name == "ci"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts.json", "accounts.lock", "pepper"]
    assert secret[-43:] not in (tmp_path / "accounts.json").read_text()
