"""The judge of entries: what it asks of the second encoder, what it remembers, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache import judging
from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.judging import EntryJudge
from penstock_cache.pairs import Evidence
from penstock_cache.remembered_texts import RememberedTexts
from penstock_cache.rule import DecisionRule, Judgement, OtherUse, VerifierUse
from penstock_cache.second_vectors import SecondVectors
from support.cache_documents import document
from support.cache_rules import CountedVerifier, by_verifier, manifest_of, rule_of

ASKED = "How do I turn on dark mode?"
WORDED = "How can I switch on dark mode?"
TURNED_ON = (WORDED, "Where do I turn on dark mode?", "Can you switch on dark mode?")


def entry(number: int, text: str = WORDED, cosine: float = 0.9) -> tuple[CachedDocument, float]:
    """Return a stored prompt with its cosine."""
    return document(number, prompt=text), cosine


async def test_judge_asks_the_second_encoder_for_plausible_entries_only() -> None:
    """Entries that a guard forbids, or that the model finds implausible, cost no second vector."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(min_plausible=0.7), verifier)
    near = [entry(1), entry(2, "How do I turn off dark mode?", 0.95), entry(3, "Where do I turn on dark mode?", 0.6)]
    judgement = await judge.judge(ASKED, near, 0.8)
    assert judgement.entry_id == near[0][0].entry_id
    assert verifier.calls == [[ASKED, WORDED]]


async def test_judge_without_a_plausible_entry_leaves_the_second_encoder_alone() -> None:
    """A miss by the guards costs no transformer time; the nearest cosine and the reason are told."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    judgement = await judge.judge(ASKED, [entry(1, "How do I turn off dark mode?", 0.95)], 0.8)
    assert (judgement.entry_id, judgement.cosine, judgement.reason) == (None, 0.95, "guard:antonyms")
    assert verifier.calls == []


@pytest.mark.parametrize(
    ("use", "calls"),
    [("adaptive", [[ASKED, WORDED]]), ("always", [[ASKED, WORDED, "Where is dark mode?"]]), ("never", [])],
)
async def test_judge_runs_the_second_encoder_as_its_use_says(use: VerifierUse, calls: list[list[str]]) -> None:
    """For what is plausible, for all that no guard forbids, or not at all: then the search cosine is what decides."""
    others = [OtherUse("always", 0.0, []), OtherUse("never", 0.3, [])]
    verifier = CountedVerifier()
    judge = EntryJudge(DecisionRule(manifest_of(min_plausible=0.7, other_uses=others), by_verifier, use), verifier)
    judgement = await judge.judge(ASKED, [entry(1), entry(2, "Where is dark mode?", 0.6)], 0.8)
    assert judgement.entry_id == entry(1)[0].entry_id
    assert judgement.probability == pytest.approx(0.9 if use == "never" else 1.0, abs=1e-6)
    assert verifier.calls == calls


async def test_judge_remembers_a_vector_without_the_batch_that_it_came_in() -> None:
    """A row of an array holds all of it: the memory's bound would be that of its batches."""
    judge = EntryJudge(rule_of(), CountedVerifier())
    await judge.judge(ASKED, [entry(1), entry(2, "Can you switch on dark mode?")], 0.8, tenant="ann")
    vectors = [known.verified for known in judge._remembered._texts.values()]
    assert [vector is not None and vector.base is None for vector in vectors] == [True, True]


async def test_judge_asks_for_each_entry_once() -> None:
    """An entry's second vector is remembered: later look-ups embed the prompt and new entries only."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    await judge.judge(ASKED, [entry(1)], 0.8)
    await judge.judge("Please turn on dark mode", [entry(1), entry(2, "Can you switch on dark mode?", 0.8)], 0.8)
    await judge.judge("Please turn on dark mode", [entry(1), entry(2, "Can you switch on dark mode?", 0.8)], 0.8)
    assert verifier.calls == [
        [ASKED, WORDED],
        ["Please turn on dark mode", "Can you switch on dark mode?"],
        ["Please turn on dark mode"],
    ]


async def test_judge_embeds_a_text_once_for_its_tenant_and_again_for_another() -> None:
    """A repeated text costs no second vector where it was asked; what another tenant asked makes nothing quicker."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    for tenant in ("ann", "ann", "bob", None, None):
        judgement = await judge.judge(ASKED, [entry(1)], 0.8, tenant=tenant)
        assert judgement.probability == pytest.approx(1.0, abs=1e-6)
    assert verifier.calls == [[ASKED, WORDED], [ASKED], [ASKED], [ASKED]]


async def test_judge_knows_the_vector_of_an_entry_made_of_a_text_it_was_asked_about() -> None:
    """A miss is stored as an entry of its text: the next look-up embeds the new text alone, in the same tenant only."""
    verifier = CountedVerifier({WORDED: 0.1})
    judge = EntryJudge(rule_of(), verifier)
    assert (await judge.judge(ASKED, [entry(1)], 0.8, tenant="acme")).entry_id is None
    asked = document(2, prompt=ASKED, tenant="acme"), 0.9
    other = document(3, prompt=ASKED, tenant="bob"), 0.9
    assert (await judge.judge("Turn on dark mode", [asked], 0.8, tenant="acme")).entry_id == asked[0].entry_id
    await judge.judge("Turn on dark mode", [other], 0.8, tenant="bob")
    assert verifier.calls == [[ASKED, WORDED], ["Turn on dark mode"], ["Turn on dark mode", ASKED]]


async def test_judge_with_a_hopeless_entry_leaves_the_second_encoder_alone() -> None:
    """An entry that evidence keeps below the threshold whatever its second cosine is costs no transformer time."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    (stored, cosine) = entry(1)
    for _ in range(3):
        judge.note_evidence(stored.entry_id, is_right=False)
    judgement = await judge.judge(ASKED, [(stored, cosine)], 0.8)
    assert (judgement.entry_id, judgement.cosine, judgement.reason) == (None, cosine, "below_threshold")
    assert verifier.calls == []


async def test_judge_forgets_what_a_tenant_asked_and_keeps_what_others_did() -> None:
    """Vectors are content: they go with the tenant's entries."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    for tenant in ("ann", "bob"):
        await judge.judge(ASKED, [entry(1)], 0.8, tenant=tenant)
    judge.forget_tenant("ann")
    verifier.calls.clear()
    for tenant in ("ann", "bob"):
        await judge.judge(ASKED, [entry(1)], 0.8, tenant=tenant)
    assert verifier.calls == [[ASKED]]


async def test_judge_keeps_no_vector_of_what_was_deleted_while_it_was_computed() -> None:
    """A tenant's deletion holds for what the encoder has in hand, too."""
    calls: list[list[str]] = []

    async def verifier(texts: Sequence[str]) -> FloatArray:
        calls.append(list(texts))
        if len(calls) == 1:
            judge.forget_tenant("ann")
        return np.ones((len(texts), 2), dtype=np.float32)

    judge = EntryJudge(rule_of(), verifier)
    await judge.judge(ASKED, [entry(1)], 0.8, tenant="ann")
    await judge.judge(ASKED, [entry(1)], 0.8, tenant="ann")
    assert [ASKED in texts for texts in calls] == [True, True]


def test_second_vectors_beyond_their_number_forget_the_one_used_longest_ago() -> None:
    """The memory is bounded, and keeps what is asked for."""
    memory = SecondVectors(2)
    vector = np.ones(2, dtype=np.float32)
    memory.keep("ann", "a", vector, 0)
    memory.keep("ann", "b", vector, 0)
    assert memory.find("ann", "a") is vector
    memory.keep("ann", "c", vector, 0)
    assert len(memory) == 2
    assert [memory.find("ann", text) is None for text in "abc"] == [False, True, False]


def test_second_vectors_tell_tenant_from_text() -> None:
    """A text is known in its own tenant alone; any text has a digest."""
    memory = SecondVectors()
    vector = np.ones(2, dtype=np.float32)
    memory.keep("ann", "7:bob", vector, 0)
    memory.keep("ann", "\ud800", vector, 0)
    assert memory.find("ann7", ":bob") is None
    assert memory.find("bob", "7:bob") is None
    assert memory.find("ann", "\ud800") is vector


async def test_judge_of_a_changed_prompt_under_the_same_id_reads_it_anew() -> None:
    """What is remembered belongs to a text: another one under the same id gets its own reading and vector."""
    verifier = CountedVerifier({"How might I switch on dark mode?": 0.2})
    judge = EntryJudge(rule_of(), verifier)
    assert (await judge.judge(ASKED, [entry(1)], 0.8)).entry_id is not None
    changed = await judge.judge(ASKED, [entry(1, "How might I switch on dark mode?")], 0.8)
    assert (changed.entry_id, changed.reason) == (None, "below_threshold")
    vetoed = await judge.judge(ASKED, [entry(1, "How do I turn off dark mode?")], 0.8)
    assert vetoed.reason == "guard:antonyms"
    assert verifier.calls == [[ASKED, WORDED], [ASKED, "How might I switch on dark mode?"]]


async def test_judge_gives_each_entry_its_own_vector_when_some_are_remembered() -> None:
    """Remembered and new vectors stay in the order of the entries, so that the right one is served."""
    verifier = CountedVerifier({f"Way {number} to switch on dark mode": 0.1 for number in "AC"})
    judge = EntryJudge(rule_of(), verifier)
    near = [entry(number, f"Way {letter} to switch on dark mode") for number, letter in enumerate("ABC", start=1)]
    for seen in (near[1:2], near, near[::-1], near[:2]):
        judgement = await judge.judge(ASKED, seen, 0.8)
        assert judgement.entry_id == near[1][0].entry_id
        assert judgement.probability == pytest.approx(1.0, abs=1e-6)  # a float32 product of unit vectors


async def test_judge_remembers_a_bounded_number_of_texts() -> None:
    """The texts read longest ago are packed, then forgotten first, and cost a second vector again."""
    verifier = CountedVerifier()
    judge = EntryJudge(rule_of(), verifier)
    judge._remembered = RememberedTexts(3, 1)
    for number in (1, 2, 3, 1, 4):  # 1 is used again, so 2 is the oldest when 4 comes
        await judge.judge(ASKED, [entry(number)], 0.8)
        assert len(judge._remembered) <= 3
    asked_before = len(verifier.calls)
    for number in (1, 3, 4):
        await judge.judge(ASKED, [entry(number)], 0.8)
    assert verifier.calls[asked_before:] == [[ASKED]] * 3
    await judge.judge(ASKED, [entry(2)], 0.8)
    assert verifier.calls[-1] == [ASKED, WORDED]


async def test_judge_of_more_entries_than_it_remembers_still_answers() -> None:
    """When one look-up alone fills the memory, its vectors are used all the same."""
    verifier = CountedVerifier({f"Way {number} to switch on dark mode": 0.1 for number in "ABD"})
    judge = EntryJudge(rule_of(), verifier)
    judge._remembered = RememberedTexts(1, 1)
    near = [entry(number, f"Way {letter} to switch on dark mode") for number, letter in enumerate("ABCD")]
    assert (await judge.judge(ASKED, near, 0.8)).entry_id == near[2][0].entry_id


async def test_judge_remembers_a_bounded_amount_of_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries judged longest ago are forgotten first."""
    monkeypatch.setattr(judging, "REMEMBERED_EVIDENCE", 2)
    judge = EntryJudge(rule_of(), CountedVerifier())
    for entry_id, is_right in (("a", True), ("b", False), ("a", False), ("c", True)):
        judge.note_evidence(entry_id, is_right=is_right)
    assert judge._evidence == {"a": Evidence(1, 1), "c": Evidence(1, 0)}


async def test_judge_does_not_serve_an_entry_that_was_reported_wrong_often_enough() -> None:
    """Confirmations and reports move an entry's own probability, and `forget` takes both away."""
    judge = EntryJudge(rule_of(), CountedVerifier({WORDED: 0.85}))
    (stored, cosine) = entry(1)
    near = [(stored, cosine)]
    assert (await judge.judge(ASKED, near, 0.8)).entry_id == stored.entry_id
    judge.note_evidence(stored.entry_id, is_right=False)
    judgement = await judge.judge(ASKED, near, 0.8)
    assert judgement.entry_id is None
    assert judgement.probability == pytest.approx(8 * 0.85 / 9, abs=1e-6)  # features are float32
    for _ in range(20):
        judge.note_evidence(stored.entry_id, is_right=True)
    assert (await judge.judge(ASKED, near, 0.8)).entry_id == stored.entry_id
    judge.forget(stored.entry_id)
    assert (await judge.judge(ASKED, near, 0.8)).probability == pytest.approx(0.85, abs=1e-6)


@given(data=st.data())
def test_judge_with_what_was_prepared_says_what_it_says_without(data: st.DataObject) -> None:
    """Whatever was remembered, and whichever documents came in the end: working ahead changes no verdict."""
    texts = st.sampled_from([*TURNED_ON, "How do I turn off dark mode?", "Where is the invoice?"])
    seen = data.draw(st.lists(texts, min_size=1, max_size=5))
    stored = [entry(number, text, data.draw(st.sampled_from([0.55, 0.8, 0.9]))) for number, text in enumerate(seen)]
    came = [
        entry(number, data.draw(texts) if data.draw(st.booleans()) else text, cosine)
        for number, (text, (_, cosine)) in enumerate(zip(seen, stored, strict=True))
        if data.draw(st.booleans())
    ]
    cosines = {text: data.draw(st.sampled_from([0.2, 0.85, 1.0])) for text in TURNED_ON}
    wrong = data.draw(st.lists(st.integers(0, 4), max_size=3))

    async def judged(*, is_ahead: bool) -> Judgement:
        judge = EntryJudge(rule_of(min_plausible=0.6), CountedVerifier(cosines))
        judge._remembered = RememberedTexts(4, 2)
        await judge.judge("How do I see dark mode?", stored, 0.8)
        for number in wrong:
            judge.note_evidence(document(number).entry_id, is_right=False)
        near = [(each.entry_id, cosine) for each, cosine in stored]
        return await judge.judge(ASKED, came, 0.8, drafts=judge.prepare(ASKED, near, 0.8) if is_ahead else None)

    if came:
        assert asyncio.run(judged(is_ahead=True)) == asyncio.run(judged(is_ahead=False))


async def test_judge_lets_a_failing_second_encoder_through() -> None:
    """There is no verdict without the second encoder: its failure reaches the caller, and nothing half is kept."""
    verifier = CountedVerifier()

    async def failing(texts: Sequence[str]) -> FloatArray:
        if not verifier.calls:
            verifier.calls.append(list(texts))
            raise RuntimeError("no")
        return await verifier(texts)

    judge = EntryJudge(rule_of(), failing)
    with pytest.raises(RuntimeError):
        await judge.judge(ASKED, [entry(1)], 0.8)
    assert (await judge.judge(ASKED, [entry(1)], 0.8)).entry_id is not None
    assert verifier.calls == [[ASKED, WORDED]] * 2


async def test_judge_whose_second_encoder_returns_too_few_vectors_serves_nothing() -> None:
    """A vector that is missing must not shift the others onto wrong entries."""

    async def short(texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts) - 1, 2), dtype=np.float32)

    judge = EntryJudge(rule_of(), short)
    with pytest.raises(ValueError, match="zip"):
        await judge.judge(ASKED, [entry(1), entry(2, "Can you switch on dark mode?")], 0.8)
