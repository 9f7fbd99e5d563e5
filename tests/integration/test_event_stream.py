"""Shipping to a real Redis stream: every event arrives, and a stopped Redis delays it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from penstock_gateway.events.catalog import list_segments
from penstock_gateway.events.ship_targets import target_of
from penstock_gateway.events.shipping import Shipper, ShippingFailed, is_shipped
from penstock_gateway.settings_events import ShipSettings
from support.event_samples import decision_event, outcome_event, write_segment
from support.redis_server import NOT_INSTALLED, redis_binary, running_redis


@pytest.mark.redis
def test_shipped_events_of_a_folder_are_all_in_the_stream(tmp_path: Path, redis_url: str) -> None:
    """Each event is one entry with its id, its type and its JSON, in the order of the log."""
    import redis

    events = [decision_event("1"), outcome_event("1"), outcome_event("2")]
    write_segment(tmp_path, "1", events[:2])
    write_segment(tmp_path, "2", events[2:])
    ship = ShipSettings(redis_url=redis_url, redis_stream="events-test")
    arrivals = threading.Semaphore(0)
    sending = Shipper(tmp_path, lambda: target_of(ship), retry_seconds=0.01, on_shipped=arrivals.release)
    sending.start()
    for _ in range(2):
        assert arrivals.acquire(timeout=20)
    sending.stop()
    with redis.Redis.from_url(redis_url) as client:
        entries = [fields for _, fields in client.xrange("events-test")]
    assert [json.loads(fields[b"event"]) for fields in entries] == events
    assert [fields[b"id"] for fields in entries] == [b"events-1:1", b"events-1:2", b"events-2:1"]
    assert [fields[b"type"] for fields in entries] == [b"decision", b"outcome", b"outcome"]


@pytest.mark.redis
def test_shipping_to_a_redis_that_went_away_fails_and_marks_nothing(tmp_path: Path) -> None:
    """A segment counts as shipped only when every event of it was taken."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    write_segment(tmp_path, "1", [outcome_event("1")])
    (segment,) = list_segments(tmp_path)
    with running_redis(binary) as server:
        sending = Shipper(
            tmp_path,
            lambda: target_of(ShipSettings(redis_url=server.url, redis_stream="events-test")),
            retry_seconds=1.0,
        )
        assert sending.ship_all() == 1
    write_segment(tmp_path, "2", [outcome_event("2")])
    with pytest.raises(ShippingFailed):
        sending.ship_all()
    assert is_shipped(segment)
    assert not is_shipped(list_segments(tmp_path)[1])
