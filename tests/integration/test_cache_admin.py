"""``/v1/cache`` and ``penstock cache`` over a real gateway: what a tenant sees of the cache and can delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock_cache.errors import StoreUnavailable
from penstock_gateway import cli
from penstock_gateway.settings import load_settings
from support.running_gateway import Running, eventually, running
from support.semantic_gateway import (
    ANN,
    BOB,
    CONFIG,
    ENVIRONMENT,
    WORDINGS,
    Model,
    ask,
    metrics,
    primed,
    rule,
    sample,
    semantic,
)

QUESTION = "Which city is the capital of France?"  # the second one of `primed`: its entry is semantic


def start(tmp_path: Path, config: str = CONFIG.replace("rate: 1", "rate: 0")) -> Any:
    """Run a gateway from text."""
    path = tmp_path / "penstock.yaml"
    path.write_text(config)
    return running(load_settings(path, ENVIRONMENT), Model())


@pytest.fixture(autouse=True)
def _semantic(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic(monkeypatch)


async def call(gateway: Running, method: str, path: str = "", headers: dict[str, str] = ANN) -> tuple[int, Any]:
    """Call the API and return status and content."""
    response = await gateway.http.request(method, f"{gateway.url}/v1/cache{path}", headers=headers)
    return response.status, await response.json()


async def row(gateway: Running, category: str = "faq", headers: dict[str, str] = ANN) -> dict[str, Any]:
    """Return a category's row."""
    status, report = await call(gateway, "GET", headers=headers)
    assert status == 200
    return next(found for found in report["categories"] if found["category"] == category)


async def entry_of(gateway: Running, text: str, headers: dict[str, str] = ANN) -> str:
    """Return the id of the entry that answers a text."""
    return (await ask(gateway, text, headers))["x-penstock-cache-entry"]


async def command(gateway: Running, *arguments: str) -> int:
    """Run a command against the gateway, on a thread as it waits for it."""
    return await asyncio.to_thread(cli.run, ["cache", *arguments, "--url", gateway.url])


async def test_cache_report_shows_a_tenant_its_own_counts_by_category(tmp_path: Path) -> None:
    """Entries, bytes, hits, misses and savings are those of the key that asks."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        await ask(gateway, WORDINGS[0])
        await ask(gateway, QUESTION)
        await ask(gateway, WORDINGS[0], BOB)
        await eventually(lambda: len(gateway.app.pipeline.cache.services.cache.parts.mirror) == 3)
        ann, bob = await row(gateway), await row(gateway, headers=BOB)
        assert (ann["mode"], ann["semantic"], ann["certified_threshold"]) == ("semantic", "on", 0.8)
        assert (ann["entries"], ann["hits"]) == (2, {"exact": 1, "semantic": 1})
        assert ann["size_bytes"] > 600
        assert sum(ann["misses"].values()) == 2
        assert ann["saved_usd"] == "0.036"
        assert (bob["entries"], bob["hits"], bob["saved_usd"]) == (1, {"exact": 0, "semantic": 0}, "0")
        assert ann["quota"]["used_bytes"] == ann["size_bytes"] + bob["size_bytes"]
        assert ann["quota"]["reserve_bytes"] < ann["quota"]["cap_bytes"]
        assert ann["false_hit_rate"] == {
            "estimate": None, "low": 0.0, "high": 1.0, "audits": 0, "disagreements": 0, "controls": 0,
            "control_disagreements": 0,
        }  # fmt: skip
        assert ann["net_value_usd_per_lookup"]["high"] > 0
        assert (ann["under_load"]["is_opted_in"], bob["under_load"]["is_opted_in"]) == (True, False)
        code = await row(gateway, "code")
        assert (code["mode"], code["semantic"], code["entries"]) == ("exact", "not_asked_for", 0)


async def test_cache_entry_is_shown_to_its_tenant_with_content_and_to_no_other(tmp_path: Path) -> None:
    """Prompt and answer are the tenant's own; for anybody else there is no such entry."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, QUESTION)
        status, entry = await call(gateway, "GET", f"/entries/{entry_id}")
        assert (status, entry["id"], entry["category"], entry["model"]) == (200, entry_id, "faq", "small")
        assert entry["prompt"] == QUESTION
        assert entry["answer"]["choices"][0]["message"]["content"] == "Paris"
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/wrong")):
            status, refused = await call(gateway, method, f"/entries/{entry_id}{path}", BOB)
            assert (status, refused["error"]["code"]) == (404, "cache_entry_not_found")
        assert (await call(gateway, "GET", f"/entries/{entry_id}"))[0] == 200


@pytest.mark.parametrize("entry_id", ["0" * 32, "x", "%00", "%ED%A0%80", "0" * 31 + "G", "a" * 5000])
async def test_cache_entry_that_does_not_exist_is_not_found(tmp_path: Path, entry_id: str) -> None:
    """Any other text than an entry's id is not found, and does no harm."""
    async with start(tmp_path) as gateway:
        status, refused = await call(gateway, "GET", f"/entries/{entry_id}")
        assert (status, refused["error"]["code"]) == (404, "cache_entry_not_found")


async def test_cache_entry_that_is_deleted_answers_no_more(tmp_path: Path) -> None:
    """Neither the same request nor another wording finds it."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, QUESTION)
        assert (await call(gateway, "DELETE", f"/entries/{entry_id}"))[1]["deleted"] == 1
        assert (await call(gateway, "DELETE", f"/entries/{entry_id}"))[0] == 404
        assert (await ask(gateway, WORDINGS[0]))["x-penstock-cache"] == "miss"
        assert (await ask(gateway, QUESTION))["x-penstock-cache"] != "hit-exact"


async def test_wrong_hit_that_is_reported_is_deleted_and_counted(tmp_path: Path) -> None:
    """The entry goes, a metric tells, and the audits' sample is left alone: reports are no sample."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, WORDINGS[0])
        status, done = await call(gateway, "POST", f"/entries/{entry_id}/wrong")
        assert (status, done["is_deleted"]) == (200, True)
        assert (await ask(gateway, WORDINGS[0]))["x-penstock-cache"] == "miss"
        assert sample(await metrics(gateway), "penstock_cache_wrong_reports_total", category="faq") == 1
        assert (await row(gateway))["false_hit_rate"]["audits"] == 0


async def test_shared_entry_is_trusted_less_by_a_report_and_deleted_by_trusted_keys_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tenant's word counts once against an entry of all, shows no content, and does not delete it."""
    semantic(monkeypatch, rule(points=((0.3, 0.75),)))
    config = CONFIG.replace("rate: 1", "rate: 0").replace("cache_under_load: true", "may_share_answers: true")
    config = config.replace("max_stale_seconds: 600", "is_shared_across_tenants: true")
    async with start(tmp_path, config) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, QUESTION, BOB)
        status, entry = await call(gateway, "GET", f"/entries/{entry_id}", BOB)
        assert (status, entry["is_shared"], entry["prompt"], entry["answer"]) == (200, True, None, None)
        assert (await call(gateway, "DELETE", f"/entries/{entry_id}", BOB))[0] == 403
        for _ in range(3):
            assert (await call(gateway, "POST", f"/entries/{entry_id}/wrong", BOB))[1]["is_deleted"] is False
        assert sample(await metrics(gateway), "penstock_cache_wrong_reports_total", category="faq") == 1
        residents = gateway.app.pipeline.cache.services.cache.parts.mirror.residents  # type: ignore[union-attr]
        worth_usd = residents._slots.worth_usd[residents.row_of(entry_id)]
        assert worth_usd == pytest.approx(0.018 * 8 / 9, rel=0.01)  # of its cost; waiting for it was nearly nothing
        # 0.9 with one wrong hit is (8 · 0.9) / 9 = 0.8, which is still served; with two it is 0.72.
        assert (await ask(gateway, WORDINGS[0], BOB))["x-penstock-cache"] == "hit-semantic"
        assert (await call(gateway, "DELETE", f"/entries/{entry_id}", ANN))[1]["deleted"] == 1


async def test_shared_entries_are_deleted_together_by_trusted_keys_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call clears what all tenants share, of a category or at all, and leaves the caller's own."""
    semantic(monkeypatch, rule(points=((0.3, 0.75),)))
    config = CONFIG.replace("rate: 1", "rate: 0").replace("cache_under_load: true", "may_share_answers: true")
    config = config.replace("max_stale_seconds: 600", "is_shared_across_tenants: true")
    async with start(tmp_path, config) as gateway:
        await primed(gateway)
        await ask(gateway, "print the date", ANN | {"x-penstock-cache-category": "code"})
        services = gateway.app.pipeline.cache.services  # type: ignore[union-attr]
        await services.drain()
        await eventually(lambda: len(services.cache.parts.mirror) == 3)
        status, refused = await call(gateway, "DELETE", "?shared=true", BOB)
        assert (status, refused["error"]["code"]) == (403, "cache_shared")
        assert (await call(gateway, "DELETE", "?shared=true&category=medical"))[1]["deleted"] == 0
        assert len(services.cache.parts.mirror) == 3
        monkeypatch.setenv("PENSTOCK_API_KEY", "a" * 32)
        assert await command(gateway, "delete", "--category", "faq", "--shared") == 0
        await eventually(lambda: len(services.cache.parts.mirror) == 1)
        assert (await call(gateway, "DELETE", "?shared=true"))[1]["deleted"] == 0
        assert (await call(gateway, "DELETE"))[1]["deleted"] == 1


async def test_cache_of_a_tenant_is_deleted_by_category_or_as_a_whole(tmp_path: Path) -> None:
    """Only the tenant's own entries go, and only those asked for."""
    code = ANN | {"x-penstock-cache-category": "code"}
    async with start(tmp_path) as gateway:
        await primed(gateway)
        await primed(gateway, BOB)
        await ask(gateway, "Sort a list in Python", code)
        mirror = gateway.app.pipeline.cache.services.cache.parts.mirror
        await eventually(lambda: len(mirror) == 5)
        assert (await call(gateway, "DELETE", "?category=faq"))[1]["deleted"] == 2
        assert (await ask(gateway, "Sort a list in Python", code))["x-penstock-cache"] == "hit-exact"
        assert (await call(gateway, "DELETE"))[1]["deleted"] == 1
        await eventually(lambda: len(mirror) == 2)
        assert (await ask(gateway, QUESTION, BOB))["x-penstock-cache"] == "hit-exact"


@pytest.mark.parametrize(
    ("query", "code", "word"),
    [("?category=fac", "unknown_cache_category", "'faq'"), ("?catgory=faq", "unknown_parameter", "catgory")],
)
async def test_cache_deletion_that_is_misspelt_deletes_nothing(
    tmp_path: Path, query: str, code: str, word: str
) -> None:
    """A slip of the pen is refused: ignored, it would delete everything or look like success."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        status, refused = await call(gateway, "DELETE", query)
        assert (status, refused["error"]["code"]) == (400, code)
        assert word in refused["error"]["message"]
        assert (await row(gateway))["entries"] == 2


async def test_cache_that_is_off_says_so_to_every_call(tmp_path: Path) -> None:
    """Without a cache each call is a conflict with a stable code."""
    async with start(tmp_path, CONFIG[: CONFIG.index("cache:\n")]) as gateway:
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/entries/x"),
            ("DELETE", "/entries/x"),
            ("POST", "/entries/x/wrong"),
        ):
            status, refused = await call(gateway, method, path)
            assert (status, refused["error"]["code"]) == (409, "cache_off")


async def test_cache_whose_store_is_gone_says_so(tmp_path: Path) -> None:
    """A deletion that may not have been done is an error to try again, never a success."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, QUESTION)
        store = gateway.app.pipeline.cache.services.cache.parts.store

        async def gone(*_: object, **__: object) -> Any:
            raise StoreUnavailable("The store does not answer.")

        store.delete_tenant = store.delete_category = store.get = gone
        for method, path in (("DELETE", ""), ("DELETE", "?category=faq"), ("GET", f"/entries/{entry_id}")):
            status, refused = await call(gateway, method, path)
            assert (status, refused["error"]["code"]) == (503, "cache_store_unavailable")


async def test_cache_without_a_key_is_closed(tmp_path: Path) -> None:
    """The calls need a client key like all others."""
    async with start(tmp_path) as gateway:
        assert (await call(gateway, "GET", headers={}))[0] == 401
        assert (await call(gateway, "DELETE", headers={}))[0] == 401


@pytest.fixture
def _ann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEY", "a" * 32)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.usefixtures("_ann")
async def test_cache_commands_show_and_delete_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says in words what the API says in JSON, and ``--json`` writes that."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        entry_id = await entry_of(gateway, QUESTION)
        capsys.readouterr()
        assert await command(gateway, "show") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("faq"))
        assert line.split()[:4] == ["faq", "semantic", "on", "2"]
        assert await command(gateway, "show", "--json") == 0
        assert json.loads(capsys.readouterr().out)["object"] == "cache"
        assert await command(gateway, "entry", entry_id) == 0
        shown = capsys.readouterr().out
        assert f"prompt: {QUESTION}" in shown
        assert "answer: Paris" in shown
        assert await command(gateway, "wrong", entry_id) == 0
        assert capsys.readouterr().out == "reported and deleted\n"
        assert await command(gateway, "delete", "--category", "faq", "--json") == 0
        assert json.loads(capsys.readouterr().out)["deleted"] == 1
        assert await command(gateway, "delete", "--all") == 0
        assert capsys.readouterr().out == "deleted: 0\n"


@pytest.mark.usefixtures("_ann")
@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["entry", "0" * 32], 1, "cache_entry_not_found"),
        (["delete", ".."], 2, "32 hexadecimal digits"),
        (["delete"], 2, "--category"),
        (["delete", "0" * 32, "--all"], 2, "--all"),
        (["delete", "0" * 32, "--shared"], 2, "--shared"),
        (["delete", "--category", "fac"], 1, "'faq'"),
    ],
)
async def test_cache_commands_show_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], status: int, word: str
) -> None:
    """What the gateway refuses is shown with its code, without a traceback."""
    async with start(tmp_path) as gateway:
        capsys.readouterr()
        assert await command(gateway, *arguments) == status
        shown = capsys.readouterr().err
        assert word in shown
        assert "Traceback" not in shown


async def test_cache_command_without_a_key_says_where_to_put_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from the environment alone, so that it stands in no process list."""
    monkeypatch.delenv("PENSTOCK_API_KEY", raising=False)
    async with start(tmp_path) as gateway:
        capsys.readouterr()
        assert await command(gateway, "show") == 1
        assert "$PENSTOCK_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "status"), [("http://127.0.0.1:9", 1), ("ftp://127.0.0.1", 2), ("http://[", 2), ("http://", 2)]
)
def test_cache_command_without_a_gateway_says_so(capsys: pytest.CaptureFixture[str], url: str, status: int) -> None:
    """An address where nothing listens, or that is none, is named."""
    assert cli.run(["cache", "show", "--url", url]) == status
    assert url in capsys.readouterr().err
