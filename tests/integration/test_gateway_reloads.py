"""The configuration of a real gateway is exchanged under load: nothing is dropped, lost, or kept too long."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from decimal import Decimal
from pathlib import Path

import pytest

from penstock_gateway.deployments import Deployment
from penstock_gateway.events.reading import read_events
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.reloading import StartProblem
from penstock_gateway.server import server_for
from penstock_gateway.tracing.context import TraceBook
from penstock_gateway.tracing.export import Tracing
from penstock_gateway.tracing.spans import SpanData
from support.cache_documents import eventually as told
from support.redis_server import NOT_INSTALLED, redis_binary, running_redis
from support.reloading_gateway import ADMIN_KEY, OUTPUT_TOKENS, ReloadingGateway, made, reloading_gateway
from support.running_gateway import eventually

PRICE = "{input: 0, output: 7}"
RELOADS = 10
APP, OTHER = "sk-app-0123456789abcdef", "sk-other-0123456789abc"
ENVIRON = {"APP_KEY": APP, "OTHER_KEY": OTHER, "ADMIN": ADMIN_KEY}

CONFIG = """
version: 1
admin: {{port: 0, key: '${{ADMIN}}'}}
events: {{folder: log{events}}}
routing: {{artifact: none, default_arm: small}}
cache: {{mode: {cache}}}
teams: [{{name: search, budgets: [{{period: day, limit_usd: {limit}}}]}}]
client_keys:
  - {{name: app, key: '${{APP_KEY}}', team: search}}
  - {{name: other, key: '${{OTHER_KEY}}'}}
{keys}
deployments:
  - {{name: small, base_url: 'http://127.0.0.1:9/v1', price: {{input: 0, output: {price}}}, abilities: [streaming]}}
{deployments}
"""


class KeptSpans(list[SpanData]):
    """Keeps what would be sent to a collector."""

    def put(self, spans: list[SpanData]) -> None:
        """Keep them."""
        self += spans

    def close(self) -> None:
        """Nothing to do."""


def config(
    *,
    price: int = 10,
    limit: str = "1000",
    cache: str = "exact",
    events: str = "",
    keys: str = "",
    deployments: str = "",
) -> str:
    """Return a configuration; a completion token costs `price` micro-USD, a prompt token nothing."""
    return CONFIG.format(price=price, limit=limit, cache=cache, events=events, keys=keys, deployments=deployments)


def numbered(number: int, folder: Path) -> str:
    """Return a configuration with another price, deployment, key and budget for each number."""
    (folder / f"key{number}").write_text(key_of(number))
    return config(
        price=10 * (number + 1),
        limit=str(1000 + number),
        keys=f"  - {{name: key{number}, key_file: key{number}}}",
        deployments=f"  - {{name: extra{number}, base_url: 'http://127.0.0.1:9/v1', price: {{input: 0, output: 1}}}}",
    )


def key_of(number: int) -> str:
    """Return the key that only this configuration knows."""
    return f"sk-{number:02d}-0123456789abcdef"


def cost_usd(price: int) -> Decimal:
    """Return what one answer costs at a price."""
    return Decimal(OUTPUT_TOKENS * price) / 1_000_000


class Load:
    """Some hundred requests a second, every fifth a stream; counts what goes wrong."""

    def __init__(self, gateway: ReloadingGateway) -> None:
        self.answered = 0
        self.wrongs: list[str] = []
        self._gateway = gateway
        self._is_over = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self._driving = asyncio.create_task(self._drive())

    async def grows(self, by: int) -> None:
        """Wait for so many further answers."""
        wanted = self.answered + by
        await eventually(lambda: self.answered >= wanted or bool(self.wrongs))

    async def end(self) -> int:
        """Stop asking, wait for all answers, and return how many requests there were."""
        self._is_over.set()
        await self._driving
        await asyncio.gather(*self._requests)
        return len(self._requests)

    async def _drive(self) -> None:
        count = 0
        while not self._is_over.is_set():
            self._requests.add(asyncio.create_task(self._ask(count)))
            count += 1
            await asyncio.sleep(0.01)

    async def _ask(self, number: int) -> None:
        is_stream = number % 5 == 0
        status, _, text = await self._gateway.ask(key=APP, text=f"question {number}", stream=is_stream)
        is_whole = "[DONE]" in text and "error" not in text if is_stream else "yes" in text
        if status != 200 or not is_whole:
            self.wrongs.append(f"{status} {text[-300:]}")
        self.answered += 1


async def test_ten_reloads_under_load_drop_nothing_and_are_in_force_for_what_comes_after(tmp_path: Path) -> None:
    """Price, deployment, key and budget change ten times; each request and stream is answered, counted and kept."""
    async with reloading_gateway(tmp_path / "penstock.yaml", numbered(0, tmp_path), ENVIRON) as gateway:
        assert (await gateway.ask(key=APP, text="cached", temperature=0))[1]["x-penstock-cache"] == "miss"
        load, expected = Load(gateway), Decimal(0)
        for number in range(1, RELOADS + 1):
            await load.grows(by=30)
            outcome = await gateway.reload(numbered(number, tmp_path))
            assert outcome.needs_restart == ()
            assert set(outcome.changed) == {"client_keys", "teams", "deployments"}
            assert (await gateway.ask(f"extra{number}", key=key_of(number)))[0] == 200
            assert (await gateway.ask(f"extra{number - 1}", key=APP))[0] == 404
            assert (await gateway.ask(key=key_of(number - 1)))[0] == 401
            assert (await gateway.ask(key=OTHER, text=f"priced {number}"))[0] == 200
            expected += cost_usd(10 * (number + 1))
            await gateway.until_spent("key:other", expected)
            budgets = (await gateway.ask_admin("GET", "/admin/budgets?scope=team:search"))[1]["data"]
            assert Decimal(budgets[0]["limit_usd"]) == 1000 + number
        await load.grows(by=30)
        asked = await load.end()
        assert load.wrongs == []
        assert load.answered == asked
        assert (await gateway.ask(key=APP, text="cached", temperature=0))[1]["x-penstock-cache"] == "hit-exact"
        await eventually(lambda: gateway.gauge("penstock_config_draining") == 0.0)
        assert gateway.gauge("penstock_unexpected_errors_total") == 0.0
        await eventually(lambda: gateway.app.pipeline.events is not None and gateway.app.pipeline.events.places == 0)
        logged = sum(
            outcome["cost_picousd"]
            for outcome in read_events(tmp_path / "log", types=("outcome",))
            if "key:app" in outcome["accounts"]
        )
        await gateway.until_spent("key:app", to_usd(logged))
    outcomes = list(read_events(tmp_path / "log", types=("outcome",)))
    of_app = [outcome for outcome in outcomes if "key:app" in outcome["accounts"] and outcome["status"] == 200]
    assert len(of_app) == asked + 2
    prices = {cost_usd(10 * (number + 1)) for number in range(RELOADS + 1)}
    assert {Decimal(outcome["cost_usd"]) for outcome in of_app} == prices | {Decimal(0)}


async def test_stream_that_is_under_way_at_a_reload_ends_at_the_price_it_began_with(tmp_path: Path) -> None:
    """What a request costs is known when it is admitted; a price that changes meanwhile is for the next one."""
    async with reloading_gateway(tmp_path / "penstock.yaml", config(price=10), ENVIRON) as gateway:
        gateway.upstream.gate = asyncio.Event()
        held = asyncio.create_task(gateway.ask(key=OTHER, stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        await gateway.reload(config(price=5000))
        assert gateway.gauge("penstock_config_draining") == 1.0
        gateway.upstream.gate.set()
        status, _, text = await held
        assert (status, "[DONE]" in text) == (200, True)
        await gateway.until_spent("key:other", cost_usd(10))
        await eventually(lambda: gateway.gauge("penstock_config_draining") == 0.0)


async def test_stream_to_a_deployment_that_is_taken_away_ends_and_is_charged(tmp_path: Path) -> None:
    """A deployment that has left the file answers what it has begun, and nothing more."""
    extra = "  - {name: extra, base_url: 'http://127.0.0.1:9/v1', price: {input: 0, output: 7}}"
    async with reloading_gateway(tmp_path / "penstock.yaml", config(deployments=extra), ENVIRON) as gateway:
        gateway.upstream.gate = asyncio.Event()
        held = asyncio.create_task(gateway.ask("extra", key=OTHER, stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        await gateway.reload(config())
        assert (await gateway.ask("extra", key=OTHER, text="another"))[0] == 404
        gateway.upstream.gate.set()
        status, _, text = await held
        assert (status, "[DONE]" in text) == (200, True)
        await gateway.until_spent("key:other", cost_usd(7))


async def test_deployment_that_nobody_uses_any_more_is_forgotten(tmp_path: Path) -> None:
    """Reloads for years leave nothing behind: a deployment that is gone lives as long as a request that knows it."""

    def with_one(number: int) -> str:
        return config(deployments=f"  - {{name: gone{number}, base_url: 'http://127.0.0.1:9/v1', price: {PRICE}}}")

    async with reloading_gateway(tmp_path / "penstock.yaml", with_one(0), ENVIRON) as gateway:
        gateway.upstream.gate = asyncio.Event()
        held = asyncio.create_task(gateway.ask("gone0", key=OTHER, stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        for number in range(1, 5):
            await gateway.reload(with_one(number))
        first, second = living("gone0"), living("gone1")
        gateway.upstream.gate.set()
        assert "[DONE]" in (await held)[2]
        await gateway.until_spent("key:other", cost_usd(7))
        del held
        gateway.upstream.requests.clear()
        gateway.upstream.replies.clear()
        await eventually(lambda: gateway.gauge("penstock_config_draining") == 0.0)
        await gateway.reload(with_one(5))  # the lanes of one configuration before the last are kept for its requests
        await gateway.reload(with_one(6))
        assert (first, second) == (True, False)
        assert not living("gone0")


def living(name: str) -> bool:
    """Whether anything holds a deployment of this name."""
    gc.collect()
    return any(isinstance(each, Deployment) and each.name == name for each in gc.get_objects())


async def test_budget_of_a_new_configuration_counts_what_was_spent_before_it(tmp_path: Path) -> None:
    """A budget lowered below what was spent refuses at once, and one that is raised lets requests pass again."""
    async with reloading_gateway(tmp_path / "penstock.yaml", config(price=1000), ENVIRON) as gateway:
        assert (await gateway.ask(key=APP))[0] == 200
        await gateway.until_spent("team:search", cost_usd(1000))
        await gateway.reload(config(price=1000, limit="0.03"))
        status, _, text = await gateway.ask(key=APP, text="refused", max_tokens=30)
        assert (status, "0.03 of 0.03 USD spent" in text) == (429, True)
        await gateway.reload(config(price=1000, limit="0.07"))
        assert (await gateway.ask(key=APP, text="passes", max_tokens=30))[0] == 200


async def test_cache_settings_that_change_keep_the_answers_and_close_the_old_cache_after_its_requests(
    tmp_path: Path,
) -> None:
    """Stored answers outlive a change of the cache's other settings; it can be turned off at once, and on again."""
    async with reloading_gateway(tmp_path / "penstock.yaml", config(), ENVIRON) as gateway:

        async def cached() -> str | None:
            return (await gateway.ask(key=APP, text="cached", temperature=0))[1].get("x-penstock-cache")

        assert await cached() == "miss"
        first = gateway.app.pipeline.cache
        assert first is not None
        await gateway.reload(config(price=20))
        assert gateway.app.pipeline.cache is first
        gateway.upstream.gate = asyncio.Event()
        held = asyncio.create_task(gateway.ask(key=APP, text="held", stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 2)
        await gateway.reload(config(cache="exact, max_answer_bytes: 100000"))
        second = gateway.app.pipeline.cache
        assert second not in (first, None)
        await eventually(lambda: len(second.services.cache.parts.mirror) == 1)
        assert await cached() == "hit-exact"
        assert not first.services.oversight._writing.done()
        gateway.upstream.gate.set()
        assert "[DONE]" in (await held)[2]
        await eventually(first.services.oversight._writing.done)
        await gateway.reload(config(cache="'off'"))
        assert await cached() is None
        await gateway.reload(config(cache="'off'", price=30))
        assert gateway.app.pipeline.cache is None


async def test_wrong_configuration_is_refused_with_every_problem_in_the_log_and_in_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The admin API says all that is wrong and changes nothing; it says what changed once it is right."""
    async with reloading_gateway(tmp_path / "penstock.yaml", config(), ENVIRON) as gateway:
        logging.getLogger("penstock").addHandler(caplog.handler)
        gateway.path.write_text(config(limit="-1", cache="exakt") + "server: {prt: 1}\n")
        status, shown = await gateway.ask_admin("POST", "/admin/reload")
        assert (status, shown["result"], shown["generation"]) == (422, "refused", 1)
        places = {problem["setting"] for problem in shown["problems"]}
        assert places == {"teams.0.budgets.0.limit_usd", "cache.mode", "server.prt"} or len(places) == 3, places
        logged = [record.__dict__["setting"] for record in caplog.records if record.msg == "configuration_refused"]
        assert sorted(logged) == sorted(places)
        assert gateway.gauge("penstock_config_is_current") == 0.0
        assert (await gateway.ask(key=APP))[0] == 200
        gateway.path.write_text(config(price=20))
        status, shown = await gateway.ask_admin("POST", "/admin/reload")
        assert (status, shown["result"], shown["changed"]) == (200, "reloaded", ["deployments"])
        assert gateway.gauge("penstock_config_is_current") == 1.0
        logging.getLogger("penstock").removeHandler(caplog.handler)


async def test_configuration_whose_default_has_no_estimates_is_refused_with_that_reason(tmp_path: Path) -> None:
    """What is found out only while the next configuration is built is told as a problem too, and nothing changes."""
    text = config(deployments="  - {name: odd, base_url: 'http://127.0.0.1:9/v1', price: {input: 0, output: 1}}")
    tiered = text.replace("abilities: [streaming]", "abilities: [streaming], tier: frontier")
    routed = tiered.replace("artifact: none", "artifact: default")
    async with reloading_gateway(tmp_path / "penstock.yaml", routed, ENVIRON) as gateway:
        gateway.path.write_text(routed.replace("default_arm: small", "default_arm: odd"))
        status, shown = await gateway.ask_admin("POST", "/admin/reload")
        assert (status, shown["result"]) == (422, "refused")
        assert "no estimates for the default deployment 'odd'" in shown["problems"][0]["message"]
        assert (await gateway.ask(key=APP))[0] == 200


async def test_admin_key_that_is_exchanged_in_its_file_is_in_force_after_a_reload(tmp_path: Path) -> None:
    """A leaked admin key is of no use after a reload; budgets and keys stay reachable with the new one."""
    key_file = tmp_path / "admin.key"
    key_file.write_text(ADMIN_KEY)
    text = config().replace("key: '${ADMIN}'", "key_file: admin.key")
    async with reloading_gateway(tmp_path / "penstock.yaml", text, ENVIRON) as gateway:
        assert (await gateway.ask_admin("GET", "/admin/keys"))[0] == 200
        key_file.write_text("another-admin-0123456789")
        await gateway.reload(text)
        assert (await gateway.ask_admin("GET", "/admin/keys"))[0] == 401
        status, shown = await gateway.ask_admin("GET", "/admin/keys", key="another-admin-0123456789")
        assert (status, len(shown["data"])) == (200, 2)


async def test_capture_of_content_can_be_ended_and_begun_by_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts are no longer written from the reload on; turning that on is warned about."""
    async with reloading_gateway(
        tmp_path / "penstock.yaml", config(events=", capture_content: true"), ENVIRON
    ) as gateway:
        await gateway.ask(key=APP, text="captured")
        outcome = await gateway.reload(config())
        assert (outcome.changed, outcome.needs_restart) == (("events.capture_content",), ())
        await gateway.ask(key=APP, text="private")
        logging.getLogger("penstock.events").addHandler(caplog.handler)
        await gateway.reload(config(events=", capture_content: true"))
        logging.getLogger("penstock.events").removeHandler(caplog.handler)
        assert "content_capture_on" in caplog.text
    prompts = [event.get("prompt") for event in read_events(tmp_path / "log", types=("decision",))]
    assert prompts == ["captured", None]


async def test_limits_of_what_lasts_follow_a_reload(tmp_path: Path) -> None:
    """Nothing is made anew for them, and a discount on cached tokens that is new is counted on."""
    text = config()
    async with reloading_gateway(tmp_path / "penstock.yaml", text, ENVIRON) as gateway:
        pipeline, server = gateway.app.pipeline, server_for(gateway.reloading, host="127.0.0.1", port=0)
        assert (pipeline.conversations, server.config.timeout_keep_alive) == (None, 75)
        discount = text.replace("{input: 0, output: 10}", "{input: 2, cached_input: 1, output: 10}")
        limits = "server: {keep_alive_seconds: 7}\nledger: {max_pending_charges: 1000}\n"
        outcome = await gateway.reload(discount + limits)
        assert outcome.needs_restart == ()
        memory = pipeline.conversations
        assert memory is not None
        assert (memory.seconds, memory.keep, server.config.timeout_keep_alive) == (300.0, 10_000, 7)
        assert gateway.app.running._spending is not None
        assert gateway.app.running._spending.books.queue.max_pending == 1000
        routing = "routing: {artifact: none, default_arm: small"
        await gateway.reload(discount.replace(routing, f"{routing}, warm_seconds: 9, warm_conversations: 8"))
        assert pipeline.conversations is pipeline._settler.conversations is memory
        assert (memory.seconds, memory.keep, pipeline.keepers.keep) == (9.0, 8, 8)
        await gateway.reload(text)
        assert pipeline.conversations is None


async def test_share_of_requests_that_is_traced_follows_a_reload(tmp_path: Path) -> None:
    """Nothing is traced any more from the reload on, and the exporter stays."""
    spans = KeptSpans()
    async with reloading_gateway(tmp_path / "penstock.yaml", config(), ENVIRON) as gateway:
        gateway.app.pipeline.use_tracing(Tracing(spans, TraceBook(1.0)))
        await gateway.ask(key=APP)
        traced = len(spans)
        assert traced > 0
        outcome = await gateway.reload(config() + "tracing: {sample_share: 0}\n")
        assert outcome.needs_restart == ()
        await gateway.ask(key=APP, text="another")
        assert len(spans) == traced


async def test_spend_by_model_is_read_from_the_events(tmp_path: Path) -> None:
    """The admin API adds up what each deployment has cost, whatever the configuration was then."""
    extra = "  - {name: extra, base_url: 'http://127.0.0.1:9/v1', price: {input: 0, output: 7}}"
    async with reloading_gateway(tmp_path / "penstock.yaml", config(deployments=extra), ENVIRON) as gateway:
        await gateway.ask(key=OTHER)
        await gateway.ask("extra", key=OTHER)
        await gateway.reload(config(price=20))
        await gateway.ask(key=OTHER, text="again")
        await gateway.until_spent("key:other", cost_usd(10) + cost_usd(20) + cost_usd(7))
        status, shown = await gateway.ask_admin("GET", "/admin/spend?by=model&period=day")
        assert status == 200
        spent = {row["name"]: Decimal(row["spent_usd"]) for row in shown["data"]}
        assert spent == {"small": cost_usd(10) + cost_usd(20), "extra": cost_usd(7)}
        assert shown["data"][0]["usage"]["output_tokens"] == 2 * OUTPUT_TOKENS
        status, shown = await gateway.ask_admin("GET", "/admin/spend?by=key&period=day&tokens=true")
        (row,) = shown["data"]
        assert row["spent_usd"] == row["usage_cost_usd"]
        assert row["usage"]["output_tokens"] == 3 * OUTPUT_TOKENS


async def test_answer_that_is_read_on_at_the_stop_is_on_disk_and_charged(tmp_path: Path) -> None:
    """A stop waits a moment for a stream whose client has left, then writes its outcome and counts it."""
    text = config().replace("abilities: [streaming]", "abilities: [streaming], on_disconnect: drain")
    async with reloading_gateway(tmp_path / "penstock.yaml", text, ENVIRON) as gateway:
        leaving = asyncio.create_task(gateway.ask(key=OTHER, stream=True))
        await told(lambda: len(gateway.upstream.requests) == 1, "it streams")
        await asyncio.sleep(0.05)
        leaving.cancel()
        await eventually(lambda: len(gateway.app.pipeline.attempts.drains) == 1)
        spending = gateway.app.running._spending
        assert spending is not None
    (outcome,) = read_events(tmp_path / "log", types=("outcome",))
    assert outcome["usage"]["output_tokens"] == OUTPUT_TOKENS
    assert spending.books.queue.pending == 0


async def test_admin_port_that_is_taken_is_a_plain_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has to read a traceback to learn that something else listens there; everything begun is closed."""
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    text = config().replace("port: 0", f"port: {port}")
    _, reloading, upstream = made(tmp_path / "penstock.yaml", text, ENVIRON)
    said: list[dict[str, str]] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, str]) -> None:
        said.append(message)

    logging.getLogger("penstock").addHandler(caplog.handler)
    await reloading({"type": "lifespan"}, receive, send)
    logging.getLogger("penstock").removeHandler(caplog.handler)
    listening.close()
    assert [message["type"] for message in said] == ["lifespan.startup.failed"]
    (failed,) = [record for record in caplog.records if record.msg == "start_failed"]
    assert f"cannot listen on 127.0.0.1:{port}" in failed.__dict__["problem"]
    assert failed.exc_info is None
    assert upstream.is_closed


async def test_start_with_redis_away_serves_by_its_fail_modes_and_says_so(tmp_path: Path) -> None:
    """Ledger, stored keys and cache all miss their Redis: keys of the file are served, and the probe names them."""
    text = config() + (
        "redis: {url: 'redis://127.0.0.1:1/0'}\nledger: {kind: redis}\naccounts: {store: redis, pepper: '${ADMIN}'}\n"
    )
    text = text.replace("cache: {mode: exact}", "cache: {mode: exact, store: {kind: redis}}")
    async with reloading_gateway(tmp_path / "penstock.yaml", text, ENVIRON) as gateway:
        status, headers, _ = await gateway.ask(key=OTHER)
        assert (status, headers["x-penstock-cache"]) == (200, "miss")
        async with gateway.http.get(f"{gateway.url}/readyz") as response:
            shown = await response.json()
        assert (response.status, shown["status"]) == (200, "ready")
        missing = shown["without_redis"]  # and what gateways tell each other, once enough commands have failed
        assert {"answers": "local", **missing} == {"ledger": "local", "accounts": "local", "answers": "local"}
        await gateway.reload(text.replace("output: 10", "output: 20"))
        assert (await gateway.ask(key=OTHER))[0] == 200
        assert (await gateway.ask(key="sk-unknown-0123456789"))[0] == 503


def test_start_problem_says_what_can_be_mended() -> None:
    """Its text is what the operator reads."""
    assert str(StartProblem("the port is taken")) == "the port is taken"


@pytest.mark.redis
async def test_redis_of_all_features_that_stops_answering_costs_a_reload_nothing(tmp_path: Path) -> None:
    """With one ``redis.url`` for ledger, keys and cache: stored keys, answers and spend are there after a reload."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with running_redis(binary) as server:
        text = config() + (
            f"redis: {{url: '{server.url}', timeout_seconds: 0.5}}\n"
            "ledger: {kind: redis, redis_timeout_seconds: 0.5}\n"
            "accounts: {store: redis, pepper: '${ADMIN}'}\n"
        )
        store = "store: {kind: redis, lookup_timeout_seconds: 0.5, write_timeout_seconds: 0.5}"
        text = text.replace("cache: {mode: exact}", f"cache: {{mode: exact, {store}}}")
        async with reloading_gateway(tmp_path / "penstock.yaml", text, ENVIRON) as gateway:
            status, made_key = await gateway.ask_admin("POST", "/admin/keys", name="ci")
            assert status == 201, made_key
            secret = made_key["secret"]
            assert (await gateway.ask(key=secret, text="kept", temperature=0))[1]["x-penstock-cache"] == "miss"
            await gateway.until_spent(f"key:{made_key['id']}", cost_usd(10))
            assert (await gateway.ask(key=secret, text="kept", temperature=0))[1]["x-penstock-cache"] == "hit-exact"
            os.kill(server.process_id, signal.SIGSTOP)
            await gateway.reload(text.replace("output: 10", "output: 20"))
            assert (await gateway.ask(key=secret, text="while it is away"))[0] == 200
            assert (await gateway.ask(key="sk-unknown-0123456789"))[0] == 401
            os.kill(server.process_id, signal.SIGCONT)
            await gateway.until_spent_at_last(f"key:{made_key['id']}", cost_usd(10) + cost_usd(20))
            await eventually(lambda: gateway.app.running.features_without_redis() == {})
            assert (await gateway.ask(key=secret, text="kept", temperature=0))[1]["x-penstock-cache"] == "hit-exact"
