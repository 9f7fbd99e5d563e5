"""Which requests are sketched, and how much time and memory that may take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_cache.contexts import Varies
from penstock_gateway.caching.context_samples import (
    MAX_REQUEST_BYTES,
    MAX_SKETCHES,
    MAX_TENANT_BYTES,
    MAX_TENANTS,
    SKETCHES_PER_SECOND,
    ContextSamples,
    find_varying_fields,
    sketch_bytes,
)

SECRET = "the merger with Nordlys"


def request(number: int = 0, system: str = "Be brief.", **others: Any) -> dict[str, bytes]:
    """The fields of one request."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"question {number}"}]
    return {name: json.dumps(value).encode() for name, value in {"messages": messages, **others}.items()}


def taken(samples: ContextSamples, tenant: str, requests: int, *, start: float, apart_seconds: float) -> int:
    """Offer requests at even intervals, keep the sketches of those that are taken, and count them."""
    count = 0
    for number in range(requests):
        now = start + number * apart_seconds
        if samples.take(tenant, 100, now):
            samples.add(tenant, b"sketch")
            count += 1
    return count


def test_samples_of_the_first_requests_are_taken_as_they_come() -> None:
    """Somebody who sends a few requests and asks at once gets an answer about them."""
    samples = ContextSamples()
    assert taken(samples, "ann", 12, start=0.0, apart_seconds=0.001) == 12
    taken(samples, "ann", 1_000, start=1.0, apart_seconds=0.01)
    assert taken(samples, "ann", 12, start=60.0, apart_seconds=0.001) == 12


def test_samples_of_a_busy_tenant_are_at_most_a_few_a_second() -> None:
    """A thousand requests a second cost what one does, after the first ones."""
    samples = ContextSamples()
    taken(samples, "ann", 1_000, start=0.0, apart_seconds=0.001)
    assert taken(samples, "ann", 10_000, start=10.0, apart_seconds=0.001) <= 10 * SKETCHES_PER_SECOND
    assert taken(samples, "ann", 10, start=100.0, apart_seconds=60.0) == 10


def test_samples_of_all_tenants_together_are_bounded_by_the_second() -> None:
    """Many tenants at once do not cost more than one."""
    samples = ContextSamples()
    for number in range(100):
        taken(samples, f"tenant {number}", 20, start=0.0, apart_seconds=0.0)
    count = sum(samples.take(f"tenant {number % 100}", 100, 1.0 + number / 1000.0) for number in range(10_000))
    assert count <= 11 * SKETCHES_PER_SECOND


def test_samples_of_a_busy_tenant_leave_room_for_a_quiet_one() -> None:
    """Whoever sends one request a second beside a flood is sampled too."""
    samples = ContextSamples()
    quiet = 0
    for step in range(60_000):
        now = step / 1000.0
        if samples.take("busy", 100, now):
            samples.add("busy", b"s")
        if step % 1000 == 500 and samples.take("quiet", 100, now):
            samples.add("quiet", b"s")
            quiet += 1
    assert quiet >= 20


def test_samples_of_a_clock_that_stands_still_or_goes_back_take_no_more_than_the_burst() -> None:
    """Time that does not pass allows nothing new."""
    samples = ContextSamples()
    count = sum(samples.take(f"tenant {number}", 100, 1_000.0 - number) for number in range(1_000))
    assert 0 < count <= 40


def test_samples_of_a_large_request_are_not_taken() -> None:
    """What would keep a core busy for long is left out, and costs no allowance."""
    samples = ContextSamples()
    assert not any(samples.take("ann", MAX_REQUEST_BYTES + 1, 0.0) for _ in range(100))
    assert samples.take("ann", MAX_REQUEST_BYTES, 0.0)


def test_samples_of_a_tenant_are_the_most_recent_ones() -> None:
    """The oldest sketch goes when there is a new one."""
    samples = ContextSamples()
    for number in range(MAX_SKETCHES + 10):
        samples.add("ann", str(number).encode())
    assert samples.recent("ann") == tuple(str(number).encode() for number in range(10, MAX_SKETCHES + 10))
    assert samples.recent("bob") == ()


def test_samples_of_large_contexts_stay_within_their_bytes() -> None:
    """Memory is bounded by bytes as well as by number, and one that is too large alone is dropped."""
    samples = ContextSamples()
    for _ in range(MAX_SKETCHES):
        samples.add("ann", bytes(MAX_TENANT_BYTES // 10))
    assert sum(map(len, samples.recent("ann"))) <= MAX_TENANT_BYTES
    assert len(samples.recent("ann")) == 10
    samples.add("ann", bytes(MAX_TENANT_BYTES + 1))
    assert len(samples.recent("ann")) == 10


def test_samples_of_more_tenants_than_there_is_room_for_keep_the_recent_ones() -> None:
    """Tenants are bounded; the one that was sketched least recently is forgotten."""
    samples = ContextSamples()
    for number in range(MAX_TENANTS):
        samples.add(f"tenant {number}", b"s")
    samples.add("tenant 0", b"s")
    samples.add("new", b"s")
    assert len(samples) == MAX_TENANTS
    assert len(samples.recent("tenant 0")) == 2
    assert samples.recent("tenant 1") == ()


def test_samples_that_are_forgotten_are_gone_for_that_tenant_alone() -> None:
    """Deleting a tenant's entries deletes its digests."""
    samples = ContextSamples()
    samples.add("ann", b"s")
    samples.add("bob", b"s")
    samples.forget("ann")
    samples.forget("nobody")
    assert (samples.recent("ann"), samples.recent("bob")) == ((), (b"s",))


def test_sketch_as_bytes_finds_the_varying_field_and_holds_no_text() -> None:
    """What is kept is enough to name the field, and too little to read it."""
    sketches = [sketch_bytes(request(n, f"About {SECRET}. Now: {n % 24:02d}:{n:02d}", seed=n % 2)) for n in range(60)]
    assert not any(word.encode() in sketch for sketch in sketches for word in ("merger", "Nordlys", "question"))
    found = find_varying_fields(sketches)
    assert [(field.path, field.kind) for field in found] == [("messages[0].content", Varies.TIME)]
    assert found[0].position == len(f"About {SECRET}. Now: ")


@pytest.mark.parametrize("count", [0, 1])
def test_varying_fields_of_too_few_sketches_are_none(count: int) -> None:
    """One request differs from nothing."""
    assert find_varying_fields([sketch_bytes(request(number)) for number in range(count)]) == []
