"""Audits of hits, without a gateway: comparison, calls, bills, and where a finding goes."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from penstock_cache.entries import FloatArray
from penstock_gateway.caching.agreement import AnswerComparison, answer_text
from penstock_gateway.caching.auditor import MOST_AT_ONCE
from penstock_gateway.caching.model_calls import ModelCalls
from penstock_gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from support.audit_parts import SMALL, Parts, case, plain_reply, request, verify
from support.fakes import FakeReply, FakeUpstream
from support.semantic_gateway import completion


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (completion("Paris"), "Paris"),
        (completion("Par", "length"), None),
        (completion(""), None),
        (b"{", None),
        (b"\xff", None),
        (b'{"choices": []}', None),
        (b'{"error": {"message": "no"}}', None),
    ],
)
def test_answer_text_of_anything_but_a_whole_answer_is_none(body: bytes, text: str | None) -> None:
    """What is cut, empty or an error cannot be compared."""
    assert answer_text(body) == text


@pytest.mark.parametrize(
    ("verdict", "one", "other", "questions", "expected"),
    [
        (None, "It  is Paris.\n", "it is paris.", 0, True),
        (None, "\ufb01ne", "fine", 0, True),
        (False, "PARIS", "paris", 0, True),
        (None, "Paris", "Lyon", 1, False),
        (True, "Paris", "The city of Paris", 1, True),
        (False, "Paris", "Lyon", 1, False),
    ],
)
async def test_answers_agree_by_text_then_by_the_judge_then_by_the_encoder(
    verdict: bool | None, one: str, other: str, questions: int, expected: bool
) -> None:
    """Equal words need no opinion; a judge's goes before the encoder's."""
    asked = []

    async def judge(question: str, *answers: str) -> bool | None:
        asked.append((question, *answers))
        return verdict

    assert await AnswerComparison(verify, 0.85, judge).agree("Where?", one, other) is expected
    assert asked == [("Where?", one, other)] * questions


@pytest.mark.parametrize(("cosine", "expected"), [(0.86, True), (0.84, False)])
async def test_answers_agree_from_the_configured_cosine_on(cosine: float, expected: bool) -> None:
    """Other words say the same when the second encoder has them close."""

    async def close(texts: Any) -> FloatArray:
        return np.array([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]], dtype=np.float32)

    assert await AnswerComparison(close, 0.85).agree("?", "one", "two") is expected


async def test_model_call_sends_the_request_whole_and_knows_its_cost() -> None:
    """Streaming is taken out, all else stays; the cost is exact."""
    upstream = FakeUpstream(lambda _: plain_reply())
    calls = ModelCalls(lambda: {"small": SMALL}, {"fake": upstream})
    asked = request(stream=True, stream_options={"include_usage": True}, temperature=0.2, max_tokens=7)
    reply = await calls.ask(asked, "small", "audit-1")
    assert reply.cost_usd == Decimal("0.0012")
    (sent,) = upstream.requests
    assert {name: bytes(value) for name, value in sent.body.items() if name != "messages"} == {
        "model": b'"upstream-small"',
        "temperature": b"0.2",
        "max_tokens": b"7",
    }
    assert upstream.replies[0].is_closed


@pytest.mark.parametrize(("fields", "tokens"), [({}, 1000), ({"max_tokens": 7}, 7), ({"max_tokens": 9999}, 1000)])
def test_model_call_may_cost_the_longest_answer_allowed(fields: dict[str, int], tokens: int) -> None:
    """The request's limit counts, and the model's own."""
    asked = request(**fields)
    calls = ModelCalls(lambda: {"small": SMALL}, {})
    assert calls.most_usd(asked, "small") == Decimal(asked.input_tokens + 2 * tokens) / 1_000_000


@pytest.mark.parametrize(
    ("failure", "cost_usd"),
    [
        (UpstreamUnreachable("no"), Decimal(0)),
        (UpstreamTimeout("late"), None),
        (FakeReply(status=429), Decimal(0)),
    ],
)
async def test_model_call_that_fails_costs_nothing_only_when_the_provider_did_no_work(
    failure: FakeReply | Exception, cost_usd: Decimal | None
) -> None:
    """A call whose end nobody saw may have been billed."""

    def reply(_: object) -> FakeReply:
        if isinstance(failure, Exception):
            raise failure
        return failure

    found = await ModelCalls(lambda: {"small": SMALL}, {"fake": FakeUpstream(reply)}).ask(request(), "small", "a")
    assert (found.body, found.cost_usd) == (None, cost_usd)


async def test_audit_of_a_right_hit_is_noted_everywhere() -> None:
    """The ledger, the entry's evidence, the account, the metrics: each has it once."""
    parts = Parts(lambda _: plain_reply("  PARIS "))
    parts.auditor.consider(case(5))
    await parts.done()
    counts = parts.steering.ledger.state.categories["faq"]
    assert (counts.hit_audits, counts.hit_disagreements) == (1, 0)
    evidence = parts.judge._evidence_of(f"{5:032x}")
    assert (evidence.right, evidence.wrong) == (1, 0)
    assert parts.account.state.spent_usd == Decimal("0.0012") * len(parts.upstream.requests)
    assert parts.keeper._has_changed.is_set()


async def test_audit_without_a_control_blames_the_entry_and_one_of_an_unsteady_model_does_not() -> None:
    """A model that contradicts itself says nothing against one entry, but both counts go into the ledger."""
    answers = iter(f"Answer {number}" for number in range(1000))
    parts = Parts(lambda _: plain_reply(next(answers)))
    for number in range(40):
        parts.auditor.consider(case(number))
        await parts.done()
    counts = parts.steering.ledger.state.categories["faq"]
    assert counts.hit_disagreements == 40
    assert counts.control_disagreements == counts.control_audits == len(parts.upstream.requests) - 40
    blamed = sum(parts.judge._evidence_of(f"{number:032x}").wrong for number in range(40))
    assert blamed == 40 - counts.control_audits
    assert 0 < blamed < 40


@pytest.mark.parametrize(("rate", "audits"), [(0.0, 0), (0.25, 50), (1.0, 200)])
async def test_audits_are_a_share_of_the_hits(rate: float, audits: int) -> None:
    """The configured share is drawn, by ids that the gateway makes."""
    parts = Parts(lambda _: plain_reply(), rate=rate)
    for _ in range(200):
        parts.auditor.consider(case())
        await parts.done()
    made = parts.steering.ledger.audits("faq")
    # A binomial of 200 at 0.25 has a standard deviation of 6.1; five of them, so that only a wrong share fails.
    assert abs(made - audits) <= (31 if rate == 0.25 else 0)


async def test_shadow_hit_is_audited_without_a_call_and_its_control_is_drawn() -> None:
    """The client's own answer is compared, whatever the rate; only the control costs something."""
    parts = Parts(lambda _: plain_reply(), rate=0.0)
    for _ in range(20):
        parts.auditor.consider_shadow(case(), completion("Paris"))
        await parts.done()
    assert (parts.steering.ledger.audits("faq"), parts.upstream.requests) == (20, [])
    parts = Parts(lambda _: plain_reply(), rate=1.0)
    for _ in range(20):
        parts.auditor.consider_shadow(case(), completion("Lyon"))
        await parts.done()
    counts = parts.steering.ledger.state.categories["faq"]
    assert len(parts.upstream.requests) == counts.control_audits > 0


async def test_account_holds_the_most_before_a_call_and_pauses_when_it_is_empty() -> None:
    """A call under way is charged with the most it may cost; what is not used comes back; the next day begins anew."""
    spent = []
    parts = Parts(lambda _: spent.append(parts.account.state.spent_usd) or plain_reply(), limit="0.0045")
    most = ModelCalls(lambda: {"small": SMALL}, {}).most_usd(request(), "small")
    while not parts.count("over_limit"):
        parts.auditor.consider(case())
        await parts.done()
    calls = len(parts.upstream.requests)
    assert spent == [most + index * Decimal("0.0012") for index in range(calls)]
    assert parts.account.state.spent_usd == calls * Decimal("0.0012") <= Decimal("0.0045")
    parts.now += 86_400.0
    parts.auditor.consider(case())
    await parts.done()
    assert len(parts.upstream.requests) > calls


async def test_audits_beyond_a_few_at_once_are_left_out_and_closing_charges_what_was_sent() -> None:
    """A burst does not pile up; a call whose end nobody waits for costs the most that it may."""
    gate = asyncio.Event()
    parts = Parts(lambda _: plain_reply())
    send = parts.upstream.send

    async def held(asked: Any) -> FakeReply:
        await gate.wait()
        return await send(asked)

    parts.upstream.send = held  # type: ignore[method-assign]
    for _ in range(MOST_AT_ONCE + 3):
        parts.auditor.consider(case())
    await asyncio.sleep(0)
    assert parts.count("busy") == 3
    await parts.auditor.aclose()
    most = ModelCalls(lambda: {"small": SMALL}, {}).most_usd(request(), "small")
    assert parts.account.state.spent_usd == MOST_AT_ONCE * most
    assert parts.steering.ledger.audits("faq") == 0


async def test_audit_whose_reply_breaks_off_is_charged_the_most_and_finds_nothing() -> None:
    """Nobody knows what a broken answer cost."""

    class Broken(FakeReply):
        async def read(self) -> bytes:
            raise UpstreamBroken("The answer broke off.")

    parts = Parts(lambda _: Broken())
    parts.auditor.consider(case())
    await parts.done()
    assert parts.count("no_answer") == 1
    assert parts.account.state.spent_usd == ModelCalls(lambda: {"small": SMALL}, {}).most_usd(request(), "small")
