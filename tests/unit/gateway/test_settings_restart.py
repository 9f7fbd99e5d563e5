"""What a running gateway takes from a changed configuration, and what it keeps."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest

from penstock_gateway.settings import ConfigurationError, Settings
from penstock_gateway.settings_restart import RESTART_SETTINGS, ConfigurationReader, changed_settings

DEPLOYMENTS = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 0.1, output: 0.4}}
"""


class File:
    """A configuration file and its reader."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "penstock.yaml"
        self.write("")
        self.reader = ConfigurationReader(self.path, {"KEY": "k" * 32})

    def write(self, text: str) -> None:
        """Replace what follows the deployments."""
        self.path.write_text(DEPLOYMENTS + text)

    def load(self) -> Settings:
        """Return what the file says, as at a start."""
        return self.reader.read(self.reader._load(None, None)).settings


@pytest.fixture
def file(tmp_path: Path) -> File:
    """A file with one deployment."""
    return File(tmp_path)


def test_restart_settings_are_all_there() -> None:
    """Every setting of the list exists, so that none is lost when one is renamed."""
    for path in RESTART_SETTINGS:
        reduce(getattr, path, Settings())


def test_read_of_an_unchanged_file_changes_nothing(file: File) -> None:
    """The same file gives equal settings."""
    running = file.load()
    new = file.reader.read(running)
    assert (new.settings, new.needs_restart, changed_settings(running, new.settings)) == (running, (), ())


def test_read_of_ordinary_changes_takes_them_and_names_them(file: File) -> None:
    """What may change does, and the log can say what it was, without values."""
    running = file.load()
    file.write("routing: {tradeoff: cost}\nserver: {max_in_flight: 7}\nclient_keys: [{name: ann, key: '${KEY}'}]\n")
    new = file.reader.read(running)
    assert (new.settings.routing.tradeoff, new.settings.server.max_in_flight) == ("cost", 7)
    assert new.needs_restart == ()
    assert set(changed_settings(running, new.settings)) == {"server.max_in_flight", "client_keys", "routing.tradeoff"}


def test_read_of_limits_of_what_lasts_takes_them(file: File) -> None:
    """What belongs to the process may still have other limits: nothing of it is made anew for them."""
    running = file.load()
    file.write(
        "server: {keep_alive_seconds: 7, reload_on_change: true}\n"
        "ledger: {max_pending_charges: 1000, when_redis_is_away: open}\n"
        "events: {max_bytes: 100000000, retention_days: 7, content_days: 2, segment_bytes: 1000000,"
        " segment_seconds: 60, max_waiting: 70}\n"
        "routing: {artifact_poll_seconds: 7, warm_seconds: 7, warm_conversations: 7}\n"
        "tracing: {sample_share: 0.5}\n"
    )
    new = file.reader.read(running)
    assert new.needs_restart == ()
    assert len(changed_settings(running, new.settings)) == 14


def test_read_of_what_needs_a_restart_keeps_it_and_takes_the_rest(file: File) -> None:
    """A port cannot be changed while it is listened on; the other changes of the same file are taken."""
    running = file.load()
    file.write(
        "server: {port: 4999, max_in_flight: 7}\nevents: {folder: ./elsewhere, capture_content: true}\n"
        "cache: {mode: exact, store: {kind: file, folder: ./answers}}\nredis: {url: redis://other}\n"
        "ledger: {timezone: Europe/Berlin, top_up_output_tokens: 7}\nadmin: {port: 4001, key: '${KEY}'}\n"
    )
    new = file.reader.read(running)
    assert new.needs_restart == ("admin.port", "events.folder", "ledger.timezone", "redis", "server.port")
    assert new.settings.server == running.server.model_copy(update={"max_in_flight": 7})
    assert new.settings.events == running.events.model_copy(update={"capture_content": True})
    assert new.settings.ledger == running.ledger.model_copy(update={"top_up_output_tokens": 7})
    assert (new.settings.redis, new.settings.admin.port) == (running.redis, running.admin.port)
    assert (new.settings.cache.mode, new.settings.cache.store.kind) == ("exact", "file")


def test_read_that_would_leave_the_kept_address_open_is_refused(file: File) -> None:
    """Moving to loopback needs a restart, so dropping the client keys at once would open the address in use."""
    file.write("server: {host: 0.0.0.0}\nclient_keys: [{name: ann, key: '${KEY}'}]\n")
    running = file.load()
    file.write("server: {host: 127.0.0.1}\n")
    with pytest.raises(ConfigurationError, match="no client keys"):
        file.reader.read(running)
    file.write("server: {host: 127.0.0.1}\nclient_keys: [{name: eve, key: '${KEY}'}]\n")
    new = file.reader.read(running)
    assert (new.settings.server.host, new.settings.client_keys[0].name) == ("0.0.0.0", "eve")


def test_read_of_a_wrong_file_names_every_problem(file: File) -> None:
    """All that is wrong is told, with its line."""
    running = file.load()
    file.write("routing: {tradeoff: 7}\nserver: {prt: 1}\n")
    with pytest.raises(ConfigurationError) as caught:
        file.reader.read(running)
    assert {problem.setting for problem in caught.value.problems} == {"routing.tradeoff", "server.prt"}


def test_command_line_options_hold_for_every_reading(tmp_path: Path) -> None:
    """A port given at the start is in force whatever the file says, and is no change."""
    file = File(tmp_path)
    reader = ConfigurationReader(file.path, {}, port=4777)
    running = reader.read(Settings()).settings.model_copy(deep=True)
    running = running.model_copy(update={"server": running.server.model_copy(update={"port": 4777})})
    file.write("server: {port: 4888}\n")
    assert "server.port" not in reader.read(running).needs_restart


def test_fingerprint_changes_with_the_file_and_with_every_key_file(tmp_path: Path) -> None:
    """A rotated key file is a change, although the configuration reads the same."""
    file = File(tmp_path)
    key = tmp_path / "ann.key"
    key.write_text("k" * 32)
    file.write("client_keys: [{name: ann, key_file: ann.key}]\n")
    running = file.load()
    seen = [file.reader.fingerprint(running)]
    assert file.reader.fingerprint(running) == seen[0]
    key.write_text("l" * 32)
    seen.append(file.reader.fingerprint(running))
    file.path.write_text(file.path.read_text() + "# a comment\n")
    seen.append(file.reader.fingerprint(running))
    key.unlink()
    seen.append(file.reader.fingerprint(running))
    file.path.unlink()
    seen.append(file.reader.fingerprint(running))
    assert len(set(seen)) == len(seen)
