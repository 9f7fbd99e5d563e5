"""Configurations of the event log: what is accepted, what is refused, and which log is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.events.opening import open_event_log
from penstock_gateway.settings import Settings, load_settings

BASE = (
    "deployments: [{name: small, base_url: 'http://127.0.0.1:9/v1', price: {input: 1, output: 1}, "
    "context_tokens: 1000, max_output_tokens: 100}]\nrouting: {artifact: none}\n"
)
ENVIRONMENT = {
    "PSEUDONYM_KEY": "0123456789abcdef",
    "SHORT": "0123",
    "REDIS_URL": "redis://:hidden-word@127.0.0.1:6379/0",
}


def load(folder: Path, text: str) -> Settings:
    """Load a configuration with these additions."""
    path = folder / "penstock.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    return load_settings(path, ENVIRONMENT)


def test_event_settings_of_every_kind_are_accepted(tmp_path: Path) -> None:
    """All settings have their place in the file; numbers with a point are taken as they are."""
    settings = load(
        tmp_path,
        "events: {folder: log, capture_content: true, pseudonym_key: '${PSEUDONYM_KEY}', segment_seconds: 60.5,\n"
        "  retention_days: 30, content_days: 0.5, max_waiting: 2000, feedback_per_minute: 5,\n"
        "  ship: {url: 's3://bucket/prefix', retry_seconds: 1.5}}\n",
    )
    assert (settings.events.segment_seconds, settings.events.retention_days) == (60.5, 30.0)
    assert settings.events.content_days == 0.5
    assert settings.events.ship is not None
    assert settings.events.ship.url == "s3://bucket/prefix"
    assert "0123456789abcdef" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{pseudonym_key: 0123456789abcdef}", "pseudonym_key: a secret should not stand in the file"),
        ("{pseudonym_key: '${SHORT}'}", "should have at least 16 characters"),
        ("{folder: log, max_waiting: 100}", "is less than server.max_in_flight (1024)"),
        ("{folder: log, retention_days: 0.5, segment_seconds: 86400}", "is longer than events.retention_days"),
        ("{folder: log, retention_days: 0}", "should be more than 0"),
        ("{folder: log, ship: {}}", "needs either url or redis_stream"),
        ("{folder: log, ship: {url: 's3://b', redis_stream: s}}", "needs either url or redis_stream"),
        ("{folder: log, ship: {url: elsewhere}}", "is no URL"),
        ("{folder: log, ship: {url: 's3://me:word@bucket'}}", "holds a credential"),
        ("{folder: log, ship: {url: 'file://folder'}}", "names no absolute folder"),
        ("{folder: log, ship: {redis_stream: s}}", "is needed by"),
    ],
)
def test_event_settings_that_contradict_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake is named at its place, without any secret."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f"events: {text}\n")
    (problem,) = caught.value.problems
    assert message in str(problem)
    assert "me:word" not in str(problem)


def test_event_log_of_a_configuration_ships_to_the_shared_redis(tmp_path: Path) -> None:
    """A stream without a Redis of its own takes the one that all features share; without a folder there is no log."""
    shared = load(tmp_path, "redis: {url: '${REDIS_URL}'}\nevents: {folder: log, ship: {redis_stream: s}}\n")
    log = open_event_log(shared)
    assert log is not None
    ship = log._housekeeper._settings.ship
    assert ship is not None
    assert ship.redis_url is not None
    assert ship.redis_url.get_secret_value() == ENVIRONMENT["REDIS_URL"]
    assert "hidden-word" not in repr(ship)
    assert open_event_log(load(tmp_path, "")) is None
