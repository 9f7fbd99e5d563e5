"""``penstock report`` and ``penstock spend reconcile``: output and exit codes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from fastapi import FastAPI

from penstock_gateway import cli
from penstock_gateway.commands.admin_client import AdminClient
from penstock_gateway.endpoints.admin_corrections import correction_routes
from penstock_gateway.endpoints.admin_requests import AdminParts
from penstock_gateway.endpoints.admin_spend import spend_routes
from penstock_gateway.errors import GatewayError
from penstock_gateway.ledger.contract import Charge
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.rebuild import charges_of
from penstock_gateway.settings_accounts import TeamSettings
from support.account_parts import Parts, open_parts, settings_of
from support.event_samples import outcome_event, write_segment
from support.savings_worlds import draw_world

HOUR_AGO = time.time() - 3600.0


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)


class SpendApi:
    """The routes of spend over a real ledger, in place of a gateway's admin port."""

    def __init__(self, parts: Parts) -> None:
        self.ledger = MemoryLedger()
        self.app = FastAPI()
        admin = AdminParts(parts.directory, parts.registrar, self.ledger)
        self.app.include_router(spend_routes(admin))
        self.app.include_router(correction_routes(admin))

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Answer as `AdminClient.ask` does."""

        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://admin") as http:
                return await http.request(method, f"/admin{path}", params=dict(query or {}), json=content)

        try:
            answer = asyncio.run(sent())
        except GatewayError as error:
            raise click.ClickException(error.message) from None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def settle(self, charges: list[Charge]) -> None:
        """Charge the ledger."""
        asyncio.run(self.ledger.settle(charges))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> SpendApi:
    """A gateway with a team, asked in the place of the network."""
    made = SpendApi(open_parts(settings_of(teams=(TeamSettings(name="search"),))))
    monkeypatch.setattr(AdminClient, "ask", made.ask)
    return made


def outcomes(count: int, *, team: str = "search") -> list[dict[str, Any]]:
    """Return outcomes of an hour ago."""
    return [
        outcome_event(
            f"dec_{number}", time=HOUR_AGO, admitted_at=HOUR_AGO, accounts=[f"team:{team}"], cost_picousd=10**9
        )
        for number in range(count)
    ]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line; return exit code, output and errors."""
    code = cli.run(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_savings_command_shows_a_table_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is read where the configuration says, the page is written where it was asked for."""
    write_segment(tmp_path / "log", "1", draw_world(1, is_observed=True, conversations=30).records)
    Path("penstock.yaml").write_text("events: {folder: ./log}\ndeployments: nonsense\n", encoding="utf-8")
    code, out, err = run(capsys, "report", "savings", "--by", "team", "--html", "page.html")
    assert code == 0
    assert "Projected savings" in out
    assert "support" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "page: page.html" in err
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_savings_command_as_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Machines get one document, and only the dimensions that were asked for; a time leaves events out."""
    write_segment(tmp_path, "1", draw_world(1, is_observed=True, conversations=30).records)
    code, out, _ = run(capsys, "report", "savings", "--folder", str(tmp_path), "--by", "key", "--json")
    assert code == 0
    assert set(json.loads(out)["sections"][0]["by"]) == {"key"}
    code, out, _ = run(capsys, "report", "savings", "--folder", str(tmp_path), "--until", "2020-01-01", "--json")
    assert (code, json.loads(out)["sections"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("savings",), 1, "no events.folder"),
        (("attempts", "--folder", "missing"), 1, "there is no folder missing"),
        (("estimates", "--folder", ".", "--since", "noon"), 2, "--since"),
        (("savings", "--folder", ".", "--by", "color"), 2, "color"),
        (("savings", "--folder", ".", "--html", "missing/page.html"), 1, "cannot be written"),
    ],
)
def test_report_that_cannot_be_made_says_why(
    arguments: tuple[str, ...], code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's mistake is one line without a traceback."""
    found, _, err = run(capsys, "report", *arguments)
    assert found == code
    assert hint in err
    assert "Traceback" not in err


def test_report_says_what_it_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that cannot be read are no secret."""
    write_segment(tmp_path, "1", [outcome_event("a"), b"{broken\n", outcome_event("b")])
    code, _, err = run(capsys, "report", "attempts", "--folder", str(tmp_path))
    assert code == 0
    assert "passed over 1 lines" in err
    assert "line 2" in err


def test_attempts_and_estimates_commands_show_tables_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both reports have a table for people and a document for machines."""
    records = draw_world(1, is_observed=True, conversations=30).records
    for record in records:
        if record["type"] == "outcome":
            attempt = {"deployment": record["served_arm"], "kind": "first", "cost_picousd": 5, "error_code": None}
            record["attempts"] = [attempt]
    write_segment(tmp_path, "1", records)
    for name in ("attempts", "estimates"):
        code, out, _ = run(capsys, "report", name, "--folder", str(tmp_path))
        assert code == 0
        assert "frontier" in out
        code, out, _ = run(capsys, "report", name, "--folder", str(tmp_path), "--json")
        assert (code, json.loads(out)["object"]) == (0, f"report.{name}")


def test_reconcile_of_equal_figures_exits_with_zero(
    tmp_path: Path, api: SpendApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger that has counted the whole log agrees with it."""
    write_segment(tmp_path, "1", outcomes(5))
    api.settle(list(charges_of(outcomes(5))))
    code, _, err = run(capsys, "spend", "reconcile", "--folder", str(tmp_path), "--url", "http://x")
    assert code == 0
    assert "log and ledger agree" in err


def test_reconcile_of_different_figures_exits_with_one_and_says_where(
    tmp_path: Path, api: SpendApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference of one picodollar is one, unless it is within the tolerance."""
    rows = outcomes(5)
    write_segment(tmp_path, "1", rows)
    api.settle(list(charges_of([*rows[:4], {**rows[4], "cost_picousd": 10**9 - 1}])))
    shared = ("spend", "reconcile", "--folder", str(tmp_path), "--url", "http://x")
    code, out, _ = run(capsys, *shared)
    assert code == 1
    assert "team:search" in out
    code, out, _ = run(capsys, *shared, "--json")
    differences = json.loads(out)["differences"]
    assert (code, {found["missing_usd"] for found in differences}) == (1, {"0.000000000001"})
    assert {found["period"] for found in differences} == {"day", "month", "total"}
    assert run(capsys, *shared, "--tolerance-usd", "0.000001")[0] == 0


def test_reconcile_with_apply_charges_what_is_missing(
    tmp_path: Path, api: SpendApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the ledger lacks is charged through the admin API, and then both agree."""
    write_segment(tmp_path, "1", outcomes(5))
    api.settle(list(charges_of(outcomes(3))))
    shared = ("spend", "reconcile", "--folder", str(tmp_path), "--url", "http://x")
    code, _, err = run(capsys, *shared, "--apply", "--period", "month")
    assert code == 0
    assert "charged: 1 correction" in err
    code, out, _ = run(capsys, *shared, "--json")
    assert (code, json.loads(out)["is_equal"]) == (0, True)


def test_reconcile_with_a_provider_file_compares_by_day_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deployments are compared under the names that the provider knows; a difference is exit code 1."""
    rows = [{**row, "served_arm": "small-eu", "is_cost_estimated": True} for row in outcomes(4)]
    write_segment(tmp_path / "log", "1", rows)
    Path("penstock.yaml").write_text(
        "events: {folder: ./log}\ndeployments: [{name: small-eu, model: gpt-5-mini}]\n", encoding="utf-8"
    )
    day = time.strftime("%Y-%m-%d", time.gmtime(HOUR_AGO))
    Path("bill.csv").write_text(f"date,model,cost\n{day},gpt-5-mini,0.005\n", encoding="utf-8")
    shared = ("spend", "reconcile", "--provider-csv", "bill.csv")
    code, out, err = run(capsys, *shared)
    assert code == 1
    assert "gpt-5-mini" in out
    assert "bills" in err
    code, out, _ = run(capsys, *shared, "--json")
    row = json.loads(out)["rows"][0]
    assert (Decimal(row["logged_usd"]), Decimal(row["difference_usd"])) == (Decimal("0.004"), Decimal("0.001"))
    assert run(capsys, *shared, "--tolerance-usd", "0.001")[0] == 0
    assert run(capsys, *shared, "--apply")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("--tolerance-usd", "much"), 2, "no amount"),
        (("--tolerance-usd", "-1"), 2, "no amount"),
        (("--timezone", "Europe/Berlim"), 1, "Europe/Berlin"),
        (("--provider-csv", "bad.csv"), 1, "no column"),
    ],
)
def test_reconcile_with_wrong_arguments_says_which(
    arguments: tuple[str, ...], code: int, hint: str, api: SpendApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong amount, zone or file is named."""
    Path("bad.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    found, _, err = run(capsys, "spend", "reconcile", "--folder", ".", "--url", "http://x", *arguments)
    assert found == code
    assert hint in err


@pytest.mark.parametrize(
    "correction",
    [
        {"id": "dec_1", "scope": "team:search", "at": HOUR_AGO, "picousd": 1},
        {"id": "reconcile a", "scope": "user:x", "at": HOUR_AGO, "picousd": 1},
        {"id": "reconcile a", "scope": "team:search", "at": HOUR_AGO, "picousd": 0},
        {"id": "reconcile a", "scope": "team:search", "at": HOUR_AGO, "picousd": 2**63},
        {"id": "reconcile a", "scope": "team:search", "at": HOUR_AGO, "picousd": 1.5},
        {"id": "reconcile a", "scope": "team:search", "picousd": 1},
    ],
)
def test_correction_that_does_not_fit_is_refused(api: SpendApi, correction: dict[str, Any]) -> None:
    """No correction can stand for a request, take away, or overflow a counter."""
    with pytest.raises(click.ClickException):
        api.ask("POST", "/spend/corrections", content={"corrections": [correction]})
    spent = asyncio.run(api.ledger.spent_picousd(["team:search"], "total", HOUR_AGO))  # type: ignore[arg-type]
    assert spent == (0,)
