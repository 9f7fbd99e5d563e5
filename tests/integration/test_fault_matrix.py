"""Every fault of a provider, met by the real gateway: what the client sees, what is charged, and what is left behind.

``python -m pytest tests/integration/test_fault_matrix.py -m "slow or not slow"`` prints the matrix at its end;
``-k NAME`` shows one fault.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from penstock_gateway.settings import Settings, load_settings
from support.fault_exchange import WORDS, Bill
from support.fault_expectations import Charge, Ending, Expected, expected_of
from support.fault_report import FaultSighting
from support.faults import FAULTS, Deadline, Fault, Mode, fault_named
from support.gateway_thread import GatewayThread, running_gateway_thread
from support.misbehaving_upstream import MisbehavingUpstream, running_misbehaving_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG_SECONDS = 10.0  # longer than the one deadline that ends a fault, shorter than every other
SHORT_SECONDS = 0.2
PROMPT = "Say in one sentence what a penstock is for."
PRICE = {"input": Decimal(1), "output": Decimal(2)}  # USD per million tokens
WHOLE_TEXT = "".join(WORDS)


def case_of(fault: Fault, mode: Mode, *, is_slow: bool) -> Any:
    """Return the parameters of one test."""
    return pytest.param(fault, mode, id=f"{fault.name}-{mode}", marks=[pytest.mark.slow] if is_slow else [])


CASES = [case_of(fault, mode, is_slow=fault.is_large) for fault in FAULTS for mode in fault.modes]
WITH_FALLBACK = "with-fallback-"
CASES_WITH_FALLBACK = [
    case_of(fault, mode, is_slow=fault.is_large or fault.deadline is not Deadline.NONE)  # the wait is tested without
    for fault in FAULTS
    for mode in fault.modes
    if expected_of(fault, mode).ending is Ending.ERROR  # the others need none
]
NO_COOL_DOWN = {
    "failure_share": 1,
    "min_attempts": 100_000,
    "consecutive_failures": 100_000,
    "rate_limited_seconds": 0.001,
    "max_cool_seconds": 0.001,
    "rejected_key_seconds": 0.001,
}
"""A deployment is asked again at once, however often it has failed: each case stands for itself."""


@dataclass
class Seen:
    """What the client got.

    Attributes
    ----------
    status : int
    headers : dict of str to str
    body : bytes
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object, of the body or of the last event; empty when there is none."""
        events = [line[6:] for line in self.body.splitlines() if line.startswith(b"data: {")]
        source = events[-1] if events else self.body
        try:
            fields = json.loads(source)
        except ValueError:
            return {}
        return fields.get("error") or {} if isinstance(fields, dict) else {}

    @property
    def text(self) -> str:
        """The generated text, put together."""
        if self.body.startswith(b"{") and b'"chat.completion"' in self.body[:200]:
            content: str = json.loads(self.body.decode(errors="replace"))["choices"][0]["message"]["content"]
            return content
        shown = self.body.decode(errors="replace").replace(',\ndata: "choices"', ',"choices"')
        return "".join(re.findall(r'"delta":\{"content":"([^"]*)"', shown))

    def ending(self, mode: Mode) -> Ending:
        """Return how the answer ended."""
        if self.error:
            return Ending.ERROR
        if mode is Mode.PLAIN:
            return Ending.WHOLE
        done = re.findall(rb"(?<![^\r\n])data: \[DONE\]", self.body)
        assert len(done) <= 1
        return Ending.DONE if self.body.rstrip().endswith(b"data: [DONE]") else Ending.NO_DONE


@dataclass
class Matrix:
    """The gateway, the provider behind it, and a client."""

    gateway: GatewayThread
    upstream: MisbehavingUpstream
    http: aiohttp.ClientSession
    resting_tasks: int

    async def ask(self, model: str, mode: Mode) -> Seen:
        """Send one request and read its answer to the end, which must come."""
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": mode is Mode.STREAM}
        async with asyncio.timeout(HANG_SECONDS):
            async with self.http.post(f"{self.gateway.url}/v1/chat/completions", json=body) as response:
                return Seen(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())

    async def outcome(self, seen: Seen) -> dict[str, Any]:
        """Return what the gateway says the request came to."""
        url = f"{self.gateway.url}/v1/decisions/{seen.headers['x-penstock-decision-id']}"
        async with self.http.get(url) as response:
            outcome: dict[str, Any] = (await response.json())["outcome"]
        return outcome

    async def until_at_rest(self) -> None:
        """Wait until nothing of any request is left: no answer under way at the provider, no task in the gateway."""
        await self.upstream.until_idle(timeout_seconds=HANG_SECONDS)
        async with asyncio.timeout(HANG_SECONDS):
            while len(await self.gateway.tasks()) > self.resting_tasks:
                await asyncio.sleep(0.01)


def settings_for(folder: Path, upstream: MisbehavingUpstream) -> Settings:
    """Return a configuration with a deployment a fault, whose one deadline is short."""
    document: dict[str, Any] = {
        "version": 1,
        "deployments": [deployment for fault in FAULTS for deployment in deployments_for(fault, upstream)],
        "attempts": {"retries": 0, "breaker": NO_COOL_DOWN},
        "routing": {"artifact": "none"},
        "log": {"level": "error"},
    }
    path = folder / "penstock.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return load_settings(path, {})


def deployments_for(fault: Fault, upstream: MisbehavingUpstream) -> list[dict[str, Any]]:
    """Return the deployment that meets a fault, and the same with a healthy one to fall back to."""
    timeouts = {"connect_seconds": 5.0, "first_byte_seconds": 30.0, "idle_seconds": 30.0, "total_seconds": 60.0}
    if fault.deadline is Deadline.FIRST_BYTE:
        timeouts |= {"connect_seconds": SHORT_SECONDS, "first_byte_seconds": SHORT_SECONDS}
    elif fault.deadline is not Deadline.NONE:
        timeouts[f"{fault.deadline}_seconds"] = SHORT_SECONDS
    alone = {
        "name": fault.name,
        "model": fault.model,
        "base_url": upstream.address_of(fault),
        "tier": "small",
        "price": {name: float(value) for name, value in PRICE.items()},
        "abilities": ["streaming"],
        "context_tokens": 100_000,
        "timeouts": timeouts,
    }
    return [alone, {**alone, "name": f"{WITH_FALLBACK}{fault.name}", "fallbacks": ["healthy"]}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    """One gateway for all faults, so that what one leaves behind is met by the next."""
    async with (
        running_misbehaving_upstream() as upstream,
        running_gateway_thread(settings_for(tmp_path_factory.mktemp("matrix"), upstream)) as gateway,
        aiohttp.ClientSession() as http,
    ):
        made = Matrix(gateway, upstream, http, 0)
        await made.ask("healthy", Mode.PLAIN)
        made.resting_tasks = len(await gateway.tasks())
        yield made


@pytest.mark.parametrize(("fault", "mode"), CASES)
async def test_fault_of_a_provider_comes_to_what_the_matrix_says(
    matrix: Matrix, fault: Fault, mode: Mode, record_property: Callable[[str, str], None]
) -> None:
    """Status, error, ending and bill are the matrix's; nothing hangs or is left, and the next request is served."""
    expected = expected_of(fault, mode)
    await matrix.until_at_rest()  # the bill of the request before is written when its answer has long been read
    matrix.upstream.bills.clear()
    seen = await matrix.ask(fault.name, mode)
    outcome = await matrix.outcome(seen)
    await matrix.until_at_rest()
    record_property(*sighting(fault, mode, seen, outcome, matrix.upstream).as_property())

    check_what_the_client_saw(seen, mode, expected)
    check_the_bill(outcome, fault, expected, matrix.upstream)
    assert outcome["status"] == seen.status
    assert (outcome["error_code"] is None) == (expected.ending is not Ending.ERROR)
    after = await matrix.ask("healthy", mode)
    assert (after.status, after.text) == (200, WHOLE_TEXT)


@pytest.mark.parametrize(("fault", "mode"), CASES_WITH_FALLBACK)
async def test_fault_with_a_healthy_fallback_is_saved_when_nothing_was_shown(
    matrix: Matrix, fault: Fault, mode: Mode, record_property: Callable[[str, str], None]
) -> None:
    """A healthy deployment answers in the place of one that failed before its first byte, and both are charged."""
    expected = expected_of(fault, mode)
    await matrix.until_at_rest()  # the bill of the request before is written when its answer has long been read
    matrix.upstream.bills.clear()
    seen = await matrix.ask(f"{WITH_FALLBACK}{fault.name}", mode)
    outcome = await matrix.outcome(seen)
    await matrix.until_at_rest()
    is_saved = seen.headers["x-penstock-model"] == "healthy"
    record_property(*sighting(fault, mode, seen, outcome, matrix.upstream, saved=is_saved).as_property())

    assert is_saved == expected.is_saved
    if not is_saved:
        check_what_the_client_saw(seen, mode, expected)
        check_the_bill(outcome, fault, expected, matrix.upstream)
        return
    assert (seen.status, seen.text) == (200, WHOLE_TEXT)
    assert seen.ending(mode) is (Ending.WHOLE if mode is Mode.PLAIN else Ending.DONE)
    cost, answered = Decimal(outcome["cost_usd"]), cost_of(matrix.upstream.billed("healthy"))
    assert outcome["is_cost_estimated"] is (expected.charge is Charge.ESTIMATED)
    assert (cost == answered) if expected.charge is Charge.NOTHING else (cost > answered)


def check_what_the_client_saw(seen: Seen, mode: Mode, expected: Expected) -> None:
    """Compare an answer with what it has to be."""
    assert seen.status == expected.status
    assert seen.ending(mode) is expected.ending
    assert seen.error.get("code") == expected.code
    assert expected.headers <= set(seen.headers)
    shown = json.dumps(seen.error)
    assert "sk-secret" not in shown
    assert not re.search(r"127\.0\.0\.1|10\.0\.0\.7|invalid/", shown)
    if expected.words:
        text = seen.text.replace("\N{REPLACEMENT CHARACTER}", "")
        assert WHOLE_TEXT.startswith(text)
        assert text == "".join(WORDS[: expected.words])
    if expected.ending is Ending.ERROR:
        assert b"[DONE]" not in seen.body


def check_the_bill(outcome: dict[str, Any], fault: Fault, expected: Expected, upstream: MisbehavingUpstream) -> None:
    """Compare what was charged with what has to be."""
    cost = Decimal(outcome["cost_usd"] or 0)
    if expected.charge is Charge.NOTHING:
        assert cost == 0
        return
    if expected.charge is Charge.ESTIMATED:
        assert outcome["is_cost_estimated"] is True
        assert cost > 0
        return
    billed = upstream.billed(fault.name)
    assert outcome["is_cost_estimated"] is False
    assert cost == cost_of(billed)
    if expected.ending is not Ending.ERROR:  # the usage is the answer's; what failed tries used is in their records
        assert (outcome["input_tokens"], outcome["output_tokens"]) == (billed.input_tokens, billed.output_tokens)


def cost_of(bill: Bill) -> Decimal:
    """Return what the provider charges, USD."""
    return (bill.input_tokens * PRICE["input"] + bill.output_tokens * PRICE["output"]) / 1_000_000


def sighting(
    fault: Fault,
    mode: Mode,
    seen: Seen,
    outcome: dict[str, Any],
    upstream: MisbehavingUpstream,
    *,
    saved: bool | None = None,
) -> FaultSighting:
    """Return the line of the table that is printed at the end."""
    ending, code = seen.ending(mode), seen.error.get("code")
    client = f"{seen.status} {ending}" if code is None else f"{seen.status} {ending} {code}"
    bill = {None: Charge.NOTHING, True: Charge.ESTIMATED, False: Charge.REPORTED}[outcome["is_cost_estimated"]]
    charged = "–" if outcome["cost_usd"] is None else outcome["cost_usd"]
    billed = cost_of(upstream.billed(fault.name)) + (cost_of(upstream.billed("healthy")) if saved else 0)
    shown_saved = {None: "", True: "yes", False: "no"}[saved]
    return FaultSighting(fault.name, mode, client, bill, charged, f"{billed:f}", shown_saved)


async def test_matrix_after_all_faults_has_left_nothing_open(matrix: Matrix) -> None:
    """A hundred broken requests at once leave no task, no request in flight and one idle connection at most each."""
    kinds = [fault_named(name) for name in ("stall-mid-stream", "reset-mid-answer", "bad-chunk", "slow-headers")]
    await asyncio.gather(*(matrix.ask(fault.name, Mode.STREAM) for fault in kinds for _ in range(25)))
    await matrix.until_at_rest()
    async with matrix.http.get(f"{matrix.gateway.url}/metrics") as response:
        assert "penstock_in_flight_requests 0.0" in await response.text()
    async with asyncio.timeout(HANG_SECONDS):
        while matrix.upstream.open_connections > 1:
            await asyncio.sleep(0.01)
