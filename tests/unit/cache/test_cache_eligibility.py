"""What may be looked up and stored, and the one reason why not."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from penstock_cache.categories import CacheMode, CategoryPolicy
from penstock_cache.directives import CacheDirective, parse_directive
from penstock_cache.eligibility import (
    AnswerSurvey,
    Reach,
    Reason,
    RequestTraits,
    Verdict,
    may_look_up,
    may_store,
    reads_refusal,
    survey_answer,
    survey_request,
)
from penstock_cache.errors import CacheError
from penstock_cache.keys import CacheScope, cache_key, canonical_fields

SEMANTIC = CategoryPolicy(mode=CacheMode.SEMANTIC, max_temperature=0.3)
STRICT = replace(SEMANTIC, caches_default_temperature=False)
ANYTHING = CacheDirective()
GOOD = Verdict(Reach.SEMANTIC, Reason.ELIGIBLE)


def _fields(content: Any = "Hi", **others: Any) -> dict[str, bytes]:
    request = {"messages": [{"role": "user", "content": content}], **others}
    return {name: json.dumps(value).encode() for name, value in request.items()}


def _traits(content: Any = "Hi", **others: Any) -> RequestTraits:
    fields = _fields(content, **others)
    return survey_request(canonical_fields(fields), cache_key(CacheScope("t", None, "chat", "m", "e"), fields))


def _body(finish_reason: str | None = "stop", **message: Any) -> bytes:
    message = {"role": "assistant", "content": "Forty-two.", "refusal": None, **message}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": {}}).encode()


def _answer(body: bytes | None = None, status: int = 200, is_cut: bool = False) -> AnswerSurvey:
    return survey_answer(_body() if body is None else body, status=status, is_cut=is_cut)


def _store(answer: AnswerSurvey, traits: RequestTraits | None = None, policy: CategoryPolicy = SEMANTIC) -> Verdict:
    return may_store(traits or _traits(), policy, ANYTHING, answer, has_repeated_context=True)


def test_plain_request_and_answer_go_all_the_way() -> None:
    """An ordinary question with an ordinary answer is looked up and stored for other wordings too."""
    assert may_look_up(_traits(), SEMANTIC, ANYTHING) == GOOD
    assert _store(_answer()) == GOOD


@pytest.mark.parametrize(
    ("header", "look_up", "store"),
    [
        ("no-cache", Reach.NOTHING, Reach.SEMANTIC),
        ("no-store", Reach.SEMANTIC, Reach.NOTHING),
        ("bypass", Reach.NOTHING, Reach.NOTHING),
        ("exact", Reach.EXACT, Reach.SEMANTIC),
        ("max-age=0", Reach.NOTHING, Reach.SEMANTIC),
        ("ttl=0", Reach.SEMANTIC, Reach.NOTHING),
        ("max-age=5, ttl=5", Reach.SEMANTIC, Reach.SEMANTIC),
    ],
)
def test_directive_of_the_caller_narrows_one_side_each(header: str, look_up: Reach, store: Reach) -> None:
    """Look-ups and writes are narrowed separately, with the directive as the reason."""
    directive = parse_directive(header)
    seen = may_look_up(_traits(), SEMANTIC, directive)
    written = may_store(_traits(), SEMANTIC, directive, _answer(), has_repeated_context=True)
    assert (seen.reach, written.reach) == (look_up, store)
    assert {verdict.reason for verdict in (seen, written)} <= {Reason.DIRECTIVE, Reason.ELIGIBLE}


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        (CacheMode.OFF, Verdict(Reach.NOTHING, Reason.CATEGORY_OFF)),
        (CacheMode.EXACT, Verdict(Reach.EXACT, Reason.CATEGORY_EXACT)),
        (CacheMode.SEMANTIC, GOOD),
        (CacheMode.FAQ_INTENT, GOOD),
    ],
)
def test_mode_of_the_category_bounds_both_sides(mode: CacheMode, verdict: Verdict) -> None:
    """No request reaches further than its category's mode."""
    policy = replace(SEMANTIC, mode=mode)
    assert may_look_up(_traits(), policy, ANYTHING) == verdict
    assert _store(_answer(), policy=policy) == verdict


@pytest.mark.parametrize(
    ("traits", "reason"),
    [
        (RequestTraits(is_personalised=True), Reason.PERSONALISED),
        (RequestTraits(is_retrieval_augmented=True), Reason.RETRIEVAL),
        (_traits(web_search_options={}), Reason.RETRIEVAL),
        (_traits(n=2), Reason.SEVERAL_CHOICES),
        (_traits(temperature=0.31), Reason.SAMPLING),
        (_traits(temperature=2), Reason.SAMPLING),
    ],
)
def test_request_that_is_nobody_elses_is_kept_out_of_both_sides(traits: RequestTraits, reason: Reason) -> None:
    """What bars a look-up bars a write, for the same reason."""
    assert may_look_up(traits, SEMANTIC, ANYTHING) == Verdict(Reach.NOTHING, reason)
    assert _store(_answer(), traits) == Verdict(Reach.NOTHING, reason)


@pytest.mark.parametrize(
    ("traits", "reason"),
    [
        (_traits(tools=[{"type": "function", "function": {"name": "f"}}]), Reason.TOOLS_OFFERED),
        (_traits(functions=[{"name": "f"}]), Reason.TOOLS_OFFERED),
        (_traits(logprobs=True), Reason.LOGPROBS),
        (_traits(top_logprobs=3), Reason.LOGPROBS),
        (_traits([{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]), Reason.ATTACHMENTS),
        (_traits(""), Reason.NO_USER_TEXT),
        (_traits(temperature=0.9, seed=7), Reason.SEEDED_SAMPLING),
        (RequestTraits(is_beyond_encoder=True), Reason.BEYOND_ENCODER),
    ],
)
def test_request_whose_wording_matters_reaches_the_exact_tier_only(traits: RequestTraits, reason: Reason) -> None:
    """Tools, log probabilities, attachments, seeds and texts that the encoder cannot see allow no other wording."""
    assert may_look_up(traits, SEMANTIC, ANYTHING) == Verdict(Reach.EXACT, reason)
    assert _store(_answer(), traits) == Verdict(Reach.EXACT, reason)


@pytest.mark.parametrize(
    ("policy", "temperature", "may"),
    [
        (SEMANTIC, None, True),
        (SEMANTIC, 1, True),
        (SEMANTIC, 1.0, True),
        (STRICT, None, False),
        (STRICT, 1, False),
        (STRICT, 0.3, True),
        (SEMANTIC, 0.99, False),
        (STRICT, 0, True),
        (replace(STRICT, max_temperature=1.0), None, True),
        (replace(STRICT, max_temperature=0.0), 0.001, False),
    ],
)
def test_temperature_against_the_bound_decides_reuse(
    policy: CategoryPolicy, temperature: float | None, may: bool
) -> None:
    """The default counts as 1 whether written out or not, and is reused only where the category says so."""
    others = {} if temperature is None else {"temperature": temperature}
    assert (may_look_up(_traits(**others), policy, ANYTHING).reach > Reach.NOTHING) is may
    assert (_store(_answer(), _traits(**others), policy).reach > Reach.NOTHING) is may


def test_context_seen_once_gets_an_exact_entry_only() -> None:
    """A context that does not repeat would fill the index with partitions of one entry."""
    once = may_store(_traits(), SEMANTIC, ANYTHING, _answer(), has_repeated_context=False)
    assert once == Verdict(Reach.EXACT, Reason.CONTEXT_NOT_REPEATED)


def _tool_call() -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_answer(status=404), Reason.STATUS),
        (_answer(status=500), Reason.STATUS),
        (_answer(status=302), Reason.STATUS),
        (_answer(is_cut=True), Reason.CUT),
        (_answer(_body(content="x" * 300_000)), Reason.TOO_LARGE),
        (_answer(b'{"error":{"message":"overloaded"}}'), Reason.ERROR_BODY),
        (_answer(b'{"error":"x","choices":[]}'), Reason.ERROR_BODY),
        (_answer(b""), Reason.UNREADABLE),
        (_answer(b"<html>"), Reason.UNREADABLE),
        (_answer(b"[" * 5000), Reason.UNREADABLE),
        (_answer(b'{"choices":[]}'), Reason.UNREADABLE),
        (_answer(b'{"choices":[{"text":"old"}]}'), Reason.UNREADABLE),
        (_answer(b'{"choices":[{"message":{"content":7},"finish_reason":"stop"}]}'), Reason.UNREADABLE),
        (_answer(_body("tool_calls", content=None, tool_calls=[_tool_call()])), Reason.TOOL_CALLS),
        (_answer(_body("stop", tool_calls=[_tool_call()])), Reason.TOOL_CALLS),
        (_answer(_body("tool_calls")), Reason.TOOL_CALLS),
        (_answer(_body("function_call", function_call={"name": "f"})), Reason.TOOL_CALLS),
        (_answer(_body("length")), Reason.TRUNCATED),
        (_answer(_body("content_filter")), Reason.FILTERED),
        (_answer(_body(None)), Reason.UNFINISHED),
        (_answer(_body("error")), Reason.UNFINISHED),
        (_answer(_body(refusal="I can't.", content=None)), Reason.REFUSAL),
        (_answer(_body(content="I'm sorry, but I can't assist with that.")), Reason.REFUSAL),
        (_answer(_body(annotations=[{"type": "url_citation"}])), Reason.RETRIEVAL),
        (_answer(_body(audio={"id": "a"})), Reason.OTHER_OUTPUT),
        (_answer(_body(content="")), Reason.EMPTY),
        (_answer(_body(content=" \n\t ")), Reason.EMPTY),
        (_answer(_body(content=None)), Reason.EMPTY),
    ],
)
def test_answer_that_must_not_be_replayed_is_not_stored(answer: AnswerSurvey, reason: Reason) -> None:
    """Failed, cut, filtered, refused, empty and tool-calling answers are never stored, each for its reason."""
    assert _store(answer) == Verdict(Reach.NOTHING, reason)


def test_answer_with_one_bad_choice_of_two_is_not_stored() -> None:
    """Every choice has to be fit for replay, not just the first."""
    good, bad = json.loads(_body()), json.loads(_body("length"))
    both = json.dumps({"choices": good["choices"] + bad["choices"]}).encode()
    assert _store(_answer(both)).reason is Reason.TRUNCATED


def test_answer_in_parts_is_read_like_one_string() -> None:
    """A content of text parts counts by its text."""
    parts = [{"type": "text", "text": "Forty"}, {"type": "text", "text": "-two"}]
    assert _store(_answer(_body(content=parts))) == GOOD
    assert _store(_answer(_body(content=[{"type": "text", "text": ""}]))).reason is Reason.EMPTY


def test_answer_larger_than_a_smaller_bound_is_not_stored() -> None:
    """The size limit is the caller's to set, in bytes of the whole body."""
    answer = _answer()
    fits = may_store(
        _traits(), SEMANTIC, ANYTHING, answer, has_repeated_context=True, max_answer_bytes=answer.size_bytes
    )
    over = may_store(
        _traits(), SEMANTIC, ANYTHING, answer, has_repeated_context=True, max_answer_bytes=answer.size_bytes - 1
    )
    assert (fits.reason, over.reason) == (Reason.ELIGIBLE, Reason.TOO_LARGE)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, but I can’t help with this request.",
        "I am unable to provide medical advice.",
        "I cannot comply with that.",
        "Sorry, I can't create that image.",
        "Unfortunately, I don't have access to real-time information.",
        "As an AI language model, I do not have opinions.",
        "I'm sorry, as an AI I have no feelings.",
        "  **I won't help with that.**",
        "Es tut mir leid, aber das geht nicht.",
        "Ich kann Ihnen dabei leider nicht helfen.",
        "Je suis désolé, mais je ne peux pas.",
        "Lo siento, pero no puedo ayudar con eso.",
        "抱歉 我无法回答。",
    ],
)
def test_answer_that_opens_like_a_refusal_reads_as_one(text: str) -> None:
    """Common openings of refusals are found in several languages and with either apostrophe."""
    assert reads_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "Sorry for the confusion! The capital is Paris.",
        "You can't divide by zero.",
        'The error "I can\'t assist with that" comes from the filter.',
        "I can help with that: first, open the settings.",
        "Ich kann das erklären.",
        "x" * 400 + " I'm sorry, but I can't assist with that.",
        "Certainly. As an AI safety researcher would say, test it.",
        "",
    ],
)
def test_answer_that_only_mentions_a_refusal_does_not_read_as_one(text: str) -> None:
    """The words have to open the answer and to be the answer's own."""
    assert not reads_refusal(text)


def test_traits_of_a_request_leave_out_what_says_its_default() -> None:
    """Defaults written out are no traits."""
    plain = _traits()
    assert _traits(n=1, temperature=1.0, seed=None, tools=[], logprobs=False, top_logprobs=None) == plain
    assert _traits(temperature=0.25, seed=1, n=3) == structs.replace(
        plain, temperature=Decimal("0.25"), has_seed=True, has_one_choice=False
    )


@pytest.mark.parametrize("temperature", ["hot", [1], True, {}])
def test_temperature_that_is_no_number_is_refused_with_a_code(temperature: Any) -> None:
    """A request that no provider takes goes past the cache."""
    with pytest.raises(CacheError) as caught:
        _traits(temperature=temperature)
    assert caught.value.code == "cache_request_unreadable"


def test_reason_values_are_unique_names() -> None:
    """Reasons are metric labels: short names in snake case, each once."""
    values = [reason.value for reason in Reason]
    assert len(set(values)) == len(values)
    assert all(value.replace("_", "").isalpha() and value.islower() for value in values)
