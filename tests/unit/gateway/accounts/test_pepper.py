"""Where the pepper comes from."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.pepper import FILE, PepperError, read_pepper
from penstock_gateway.settings_accounts import AccountsSettings


def _settings(folder: Path | None, **given: object) -> AccountsSettings:
    return AccountsSettings(store="file", folder=None if folder is None else str(folder), **given)


def test_pepper_of_the_first_start_is_made_and_kept(tmp_path: Path) -> None:
    """Without a configured pepper one is made for the owner alone, and read again at the next start."""
    first = read_pepper(_settings(tmp_path / "state"))
    path = tmp_path / "state" / FILE
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_pepper(_settings(tmp_path / "state")) == first
    assert [entry.name for entry in path.parent.iterdir()] == [FILE]


def test_pepper_of_several_first_starts_at_once_is_one(tmp_path: Path) -> None:
    """Processes that start together agree on one pepper."""
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: read_pepper(_settings(tmp_path)), range(16)))
    assert len(found) == 1


def test_pepper_of_the_configuration_comes_first(tmp_path: Path) -> None:
    """A pepper given by reference or by file is used, and none is made."""
    given = AccountsSettings(store="redis", folder=str(tmp_path), pepper=SecretStr("0123456789abcdef"))
    assert read_pepper(given) == b"0123456789abcdef"
    file = tmp_path / "own"
    file.write_text("fedcba9876543210\n")
    assert read_pepper(AccountsSettings(store="redis", pepper_file=str(file))) == b"fedcba9876543210"
    assert not (tmp_path / FILE).exists()


def test_pepper_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A pepper file that is open to others is refused with the command that closes it, not used."""
    read_pepper(_settings(tmp_path))
    (tmp_path / FILE).chmod(0o640)
    with pytest.raises(PepperError, match="chmod 600"):
        read_pepper(_settings(tmp_path))


def test_pepper_that_is_cut_short_is_refused_and_left(tmp_path: Path) -> None:
    """A damaged pepper is never replaced by a new one, which would end all keys."""
    path = tmp_path / FILE
    path.write_text("short")
    path.chmod(0o600)
    with pytest.raises(PepperError, match="less than 16"):
        read_pepper(_settings(tmp_path))
    assert path.read_text() == "short"


def test_pepper_without_any_place_is_asked_for() -> None:
    """A store on Redis without a folder needs a configured pepper."""
    with pytest.raises(PepperError, match=r"accounts\.pepper is needed"):
        read_pepper(AccountsSettings(store="redis"))


def test_pepper_without_a_store_lasts_as_long_as_the_process() -> None:
    """Configured keys alone need no pepper that outlives the process."""
    assert read_pepper(AccountsSettings()) != read_pepper(AccountsSettings())


def test_pepper_in_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be used is an error with its reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PepperError, match="no pepper can be kept there"):
        read_pepper(_settings(tmp_path / "file" / "state"))
    assert os.listdir(tmp_path) == ["file"]
