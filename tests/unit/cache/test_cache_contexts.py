"""How often contexts repeat, and which field keeps them from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from penstock_cache.contexts import (
    BLOCK_CHARACTERS,
    ContextCounter,
    ContextSketch,
    Varies,
    VaryingField,
    sketch_context,
    varying_fields,
)

REQUESTS = 60


def _context(number: int) -> bytes:
    return number.to_bytes(16, "little")


def _sketch(system: Any = "Be brief.", turns: Sequence[str] = ("Hi",), **others: Any) -> ContextSketch:
    messages = [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return sketch_context({name: json.dumps(each).encode() for name, each in {"messages": messages, **others}.items()})


def _uuid(number: int) -> str:
    return f"{number:08x}-1111-4222-8333-{number * 7919:012x}"


def test_counter_of_one_context_counts_every_time_it_is_seen() -> None:
    """The count includes the request at hand, and asking does not count."""
    counter = ContextCounter()
    assert [counter.see("t", _context(1)) for _ in range(3)] == [1, 2, 3]
    assert counter.count("t", _context(1)) == 3
    assert counter.count("t", _context(2)) == counter.count("nobody", _context(1)) == 0
    assert len(counter) == 1


def test_counter_of_two_tenants_never_mixes_them() -> None:
    """The same context of another tenant is seen for the first time."""
    counter = ContextCounter()
    counter.see("a", _context(1))
    assert counter.see("b", _context(1)) == 1


def test_counter_when_full_forgets_the_least_recently_seen() -> None:
    """A context that keeps coming outlives any number that come once."""
    counter = ContextCounter(max_contexts=10)
    for number in range(1, 1000):
        counter.see("t", _context(0))
        counter.see("t", _context(number))
    assert len(counter) == 10
    assert counter.count("t", _context(0)) == 999
    assert counter.count("t", _context(1)) == 0


def test_counter_when_full_takes_from_the_tenant_above_its_share() -> None:
    """A tenant's stream of unique contexts does not make others' contexts new again."""
    counter = ContextCounter(max_contexts=100)
    for number in range(10):
        counter.see("small", _context(number))
    for number in range(10_000):
        counter.see("flood", _context(number))
    assert [counter.count("small", _context(number)) for number in range(10)] == [1] * 10
    for number in range(10, 50):
        counter.see("small", _context(number))
    assert [counter.count("small", _context(number)) for number in range(50)] == [1] * 50
    assert len(counter) == 100


def test_counter_with_more_tenants_than_room_stays_within_its_bound() -> None:
    """Memory is bounded by contexts, however many tenants there are."""
    counter = ContextCounter(max_contexts=20)
    for number in range(500):
        assert counter.see(f"tenant {number}", _context(number)) == 1
        assert len(counter) <= 20
    assert sum(counter.count(f"tenant {number}", _context(number)) for number in range(500)) == len(counter)


def test_counter_that_forgets_a_tenant_keeps_the_others() -> None:
    """Forgetting a tenant frees its room and nothing else; forgetting nobody is no error."""
    counter = ContextCounter()
    for tenant in ("a", "a", "b"):
        counter.see(tenant, _context(len(counter)))
    counter.forget("a")
    counter.forget("nobody")
    assert len(counter) == 1
    assert counter.repeat_share("a") is None


def test_repeat_share_of_a_tenant_counts_requests() -> None:
    """Of 8 requests, 6 with one context and 2 with contexts of their own, three quarters repeat."""
    counter = ContextCounter()
    for number in [0, 0, 0, 0, 0, 0, 1, 2]:
        counter.see("t", _context(number))
    assert counter.repeat_share("t") == 0.75


def test_varying_fields_of_repeating_contexts_are_none() -> None:
    """A constant system prompt with any questions has nothing to report, and neither has a single request."""
    assert varying_fields([_sketch(turns=(f"question {number}",)) for number in range(REQUESTS)]) == []
    assert varying_fields([_sketch()]) == varying_fields([]) == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda n: f"2026-{n % 12 + 1:02d}-{n % 28 + 1:02d}", Varies.DATE),
        (lambda n: f"November {n % 28 + 1}, {1990 + n}", Varies.DATE),
        (lambda n: f"{n % 28 + 1}.{n % 12 + 1}.{1990 + n}", Varies.DATE),
        (lambda n: f"{n % 24:02d}:{n:02d}", Varies.TIME),
        (lambda n: f"2026-11-25T10:{n:02d}:00.123Z", Varies.TIME),
        (lambda n: f"{1_764_000_000 + n}", Varies.TIME),
        (_uuid, Varies.UUID),
        (lambda n: f"req_{n * 7919:020x}", Varies.IDENTIFIER),
        (lambda n: f"{n * 31}", Varies.NUMBER),
    ],
)
def test_system_prompt_with_a_changing_mark_is_named_with_kind_and_place(value: Any, kind: Varies) -> None:
    """A date, time, uuid, identifier or number that changes is found where it stands."""
    opening = "You are a helpful assistant. Today: "
    found = varying_fields([_sketch(f"{opening}{value(number)}. Be brief.") for number in range(REQUESTS)])
    assert [(finding.path, finding.kind) for finding in found] == [("messages[0].content", kind)]
    assert found[0].position == len(opening)
    assert found[0].split_share == 1


def test_system_prompt_with_other_changing_text_is_named_by_its_block() -> None:
    """Where no known kind differs, the block of the first difference is the place."""
    names = ["".join(chr(ord("a") + int(digit)) for digit in f"{number:04d}") for number in range(REQUESTS)]
    found = varying_fields([_sketch("x" * 200 + f" You help {name}.") for name in names])
    assert [(finding.kind, finding.position) for finding in found] == [(Varies.OTHER, 3 * BLOCK_CHARACTERS)]


def test_two_fields_that_change_together_are_both_named() -> None:
    """Fixing one of two would not help, so each is judged with the other set aside."""
    samples = [_sketch(f"It is 10:{number:02d}.", x_trace={"id": _uuid(number)}) for number in range(REQUESTS)]
    found = {finding.path: (finding.kind, finding.split_share) for finding in varying_fields(samples)}
    assert found == {"messages[0].content": (Varies.TIME, 1.0), "x_trace.id": (Varies.UUID, 1.0)}


def test_field_that_takes_few_values_is_not_named() -> None:
    """Ten temperatures make ten contexts that repeat, which is no trouble."""
    assert varying_fields([_sketch(temperature=number % 10 / 10) for number in range(REQUESTS)]) == []


def test_field_that_splits_some_requests_reports_their_share() -> None:
    """Requests that repeat anyway are not counted against a field."""
    samples = [_sketch("Constant." if number % 4 else f"Request {number}.") for number in range(REQUESTS)]
    samples += [_sketch("Request 1000.")]
    (finding,) = varying_fields(samples)
    assert finding.split_share == pytest.approx(16 / 61)  # 15 of every fourth and the last one; a float division
    assert finding.values == 17


def test_field_whose_other_text_differs_too_is_not_blamed_for_those_requests() -> None:
    """Masking a date helps only the requests that agree in the rest of the field."""
    names = ["".join(chr(ord("a") + int(digit)) for digit in f"{number:04d}") for number in range(20)]
    samples = [_sketch(f"On 2026-01-{number % 28 + 1} at {number}, help {name}.") for number, name in enumerate(names)]
    samples += [_sketch(f"On 2026-01-{number % 28 + 1} at {number}, help them.") for number in range(40)]
    (finding,) = varying_fields(samples)
    assert finding.kind is Varies.DATE
    assert finding.split_share == pytest.approx(40 / 60)  # a float division


def test_conversations_of_several_turns_are_reported_as_history() -> None:
    """Earlier turns differ by nature and are one field, whatever stands in them."""
    samples = [_sketch(turns=(f"q{number} 10:{number:02d}", "answer", "more?")) for number in range(REQUESTS)]
    (finding,) = varying_fields(samples)
    assert (finding.path, finding.kind, finding.position) == ("messages (history)", Varies.HISTORY, None)
    assert "conversations" in str(finding)


def test_field_in_the_depth_of_tools_is_named_by_its_path() -> None:
    """A leaf is named, not the field on top; a field of very many leaves is named as one."""
    tools = [
        [{"type": "function", "function": {"name": "f", "description": f"As of 2026-11-{number % 28 + 1}, {number}"}}]
        for number in range(REQUESTS)
    ]
    (finding,) = varying_fields([_sketch(tools=each) for each in tools])
    assert (finding.path, finding.kind) == ("tools[0].function.description", Varies.DATE)
    many = [[*each, *({"type": "x", "name": str(index)} for index in range(300))] for each in tools]
    assert [finding.path for finding in varying_fields([_sketch(tools=each) for each in many])] == ["tools"]


def test_field_that_is_there_or_not_has_no_place() -> None:
    """A field with other values each time, and left out at times, is still one finding."""
    samples = [_sketch(**({"x_id": f"a{number}"} if number % 2 else {})) for number in range(REQUESTS)]
    (finding,) = varying_fields(samples)
    assert (finding.path, finding.position) == ("x_id", None)


def test_finding_in_words_says_what_to_look_at_and_shows_no_content() -> None:
    """The sentence has path, place and kind; no digit of the prompt is in it."""
    samples = [
        _sketch(f"Secret project. Today is 2031-07-{number % 28 + 1:02d} {_uuid(number)}") for number in range(60)
    ]
    (finding,) = varying_fields(samples)
    assert str(finding) == (
        "messages[0].content (system prompt): differs at character 25 (date); 60 values, splits 100% of requests"
    )
    assert len(str(VaryingField("x" * 5000, Varies.OTHER, None, 2, 0.5))) < 200


def test_sketch_of_a_request_holds_no_text_of_it() -> None:
    """Digests, kinds and positions are all that is kept."""
    sketch = _sketch("Confidential: Alice owes 4711 since 2026-01-01.", ("Bob?", "Carol.", "Dave?"), x="Erin 0815")
    shown = repr(sketch)
    assert not [
        word for word in ("Confidential", "Alice", "4711", "Bob", "Carol", "Dave", "Erin", "0815") if word in shown
    ]


@pytest.mark.parametrize("text", ["a-" * 50_000, "1" * 100_000, "1." * 50_000, "a1_" * 40_000, "Monday, " * 10_000])
def test_sketch_of_a_long_odd_text_is_bounded(text: str) -> None:
    """Marks and blocks are bounded in number, and no pattern runs away on repetitive text."""
    field = _sketch(text).fields["messages[0].content"]
    assert len(field.marks) <= 64
    assert len(field.blocks) <= 64


def test_request_with_two_token_limits_is_sketched_like_any() -> None:
    """Two different limits have no JSON form of their own and are still a field."""
    assert "max_tokens" in _sketch(max_tokens=1, max_completion_tokens=2).fields
