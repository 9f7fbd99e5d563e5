"""Who may try the admin key again, and when."""

from __future__ import annotations

import pytest

from penstock_gateway.console.sign_in_limits import OVERALL, PER_ADDRESS, WINDOW_SECONDS, SignInLimits


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def tried(limits: SignInLimits, *clients: str | None) -> None:
    """Try a wrong key from each of these addresses."""
    for client in clients:
        limits.note_wrong(client)


def test_sign_in_of_one_address_waits_until_its_oldest_wrong_key_is_a_minute_old(clock: Clock) -> None:
    """One more attempt each time one falls out of the window, not ten at once."""
    limits = SignInLimits(clock)
    for _ in range(PER_ADDRESS):
        assert limits.wait_seconds("192.0.2.1") == 0
        tried(limits, "192.0.2.1")
        clock.now += 1.0
    assert limits.wait_seconds("192.0.2.1") == WINDOW_SECONDS - PER_ADDRESS
    assert limits.wait_seconds("192.0.2.2") == 0
    clock.now += WINDOW_SECONDS - PER_ADDRESS - 0.5
    assert limits.wait_seconds("192.0.2.1") == 1  # rounded up: never told to come too early
    clock.now += 0.5
    assert limits.wait_seconds("192.0.2.1") == 0
    tried(limits, "192.0.2.1")
    assert limits.wait_seconds("192.0.2.1") == 1


def test_sign_in_from_many_addresses_is_limited_over_all_but_not_for_who_had_the_key(clock: Clock) -> None:
    """A flood from a thousand addresses guesses no faster, and does not lock the operator out."""
    limits = SignInLimits(clock)
    limits.note_right("192.0.2.1")
    tried(limits, *(f"198.51.100.{number}" for number in range(OVERALL)))
    assert limits.wait_seconds("203.0.113.9") == WINDOW_SECONDS
    assert limits.wait_seconds(None) == WINDOW_SECONDS
    assert limits.wait_seconds("192.0.2.1") == 0
    tried(limits, *["192.0.2.1"] * PER_ADDRESS)
    assert limits.wait_seconds("192.0.2.1") == WINDOW_SECONDS  # its own wrong keys count all the same
    clock.now += WINDOW_SECONDS
    assert limits.wait_seconds("203.0.113.9") == 0


def test_sign_in_with_the_right_key_forgets_the_wrong_ones(clock: Clock) -> None:
    """Who mistyped begins anew."""
    limits = SignInLimits(clock)
    tried(limits, *["192.0.2.1"] * (PER_ADDRESS - 1))
    limits.note_right("192.0.2.1")
    tried(limits, *["192.0.2.1"] * (PER_ADDRESS - 1))
    assert limits.wait_seconds("192.0.2.1") == 0


@pytest.mark.parametrize(
    ("tries", "asks", "is_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),  # one customer's network
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),  # the same client of a socket that speaks both
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (None, None, True),
        ("not an address", "not an address", True),
    ],
)
def test_sign_in_counts_addresses_of_one_client_as_one(
    clock: Clock, tries: str | None, asks: str | None, is_one: bool
) -> None:
    """An IPv6 customer has 2^64 addresses."""
    limits = SignInLimits(clock)
    tried(limits, *[tries] * PER_ADDRESS)
    assert (limits.wait_seconds(asks) > 0) is is_one


def test_sign_in_limits_hold_in_bounded_memory(clock: Clock) -> None:
    """However many addresses try."""
    limits = SignInLimits(clock)
    for number in range(3_000):
        address = f"10.0.{number // 256}.{number % 256}"
        limits.note_wrong(address)
        limits.note_right(address) if number % 2 else None
    assert len(limits._by_address) <= 1_024
    assert len(limits._trusted) <= 64
    assert len(limits._overall) == OVERALL
