"""How long to wait before trying again."""

from __future__ import annotations

import pytest

from penstock_gateway.attempts.waits import asked_wait_seconds, backoff_seconds

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"0.5")], 0.5),
        ([(b"retry-after", b"-3")], 0.0),
        ([(b"retry-after", b"Tue, 14 Nov 2023 22:13:50 GMT")], 30.0),
        ([(b"retry-after", b"Tue, 14 Nov 2023 22:00:00 GMT")], 0.0),
        ([(b"retry-after-ms", b"250"), (b"retry-after", b"9")], 0.25),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"9")], 9.0),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([(b"retry-after", b"1e300")], None),
        ([(b"retry-after", b"tomorrow")], None),
        ([(b"retry-after", b"\xff\xfe")], None),
        ([(b"retry-after", b"Tue, 99 Foo 99999 99:99:99 GMT")], None),
    ],
)
def test_asked_wait_in_any_form_is_read_or_ignored(headers, expected) -> None:
    """Seconds, milliseconds and dates are understood; what makes no sense is no answer."""
    assert asked_wait_seconds(headers, NOW) == expected


def test_backoff_with_full_jitter_is_a_share_of_a_doubling_bound() -> None:
    """The wait is drawn between 0 and a bound that doubles with each retry up to its highest."""
    assert [backoff_seconds(made, 0.25, 1.0, 1.0) for made in range(4)] == [0.25, 0.5, 1.0, 1.0]
    assert backoff_seconds(1, 0.25, 1.0, 0.0) == 0.0
    assert backoff_seconds(10_000, 0.25, 8.0, 0.5) == 4.0
