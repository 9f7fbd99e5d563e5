"""The file that keys, teams and tags lie in: how it is written, and what is refused."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.accounts.file_store import FILE, LOCK, FileAccountStore
from penstock_gateway.accounts.records import (
    AccountsDamaged,
    AccountSnapshot,
    Changes,
    StoredKey,
    StoredSecret,
    StoredTag,
    StoredTeam,
)

KEY = StoredKey(id="abcdefgh", name="ci", secrets=(StoredSecret(digest="0" * 64),), created_at=1.0)
TEAM = StoredTeam(name="search", created_at=1.0)


def _store(folder: Path, seconds: float = 10.0) -> FileAccountStore:
    return FileAccountStore(folder, timeout_seconds=seconds)


async def test_file_of_accounts_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Folder, file and lock are closed to others, and nothing is left beside them."""
    folder = tmp_path / "state"
    await _store(folder).commit("", Changes((KEY,)))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()} == {FILE: 0o600, LOCK: 0o600}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 2, "version": "1", "pepper_check": "", "keys": [], "teams": [], "tags": []}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": [], "teams": []}',
        b'{"format": 1, "version": "", "pepper_check": "", "keys": [], "teams": [], "tags": []}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": {}, "teams": [], "tags": []}',
        b'{"format": 1, "format": 1, "version": "1", "pepper_check": "", "keys": [], "teams": [], "tags": []}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": [7], "teams": [], "tags": []}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": [], "teams": [], "tags": [{"name": NaN}]}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": [], "teams": [], "tags": '
        b'[{"name": "a", "created_at": 0}, {"name": "a", "created_at": 0}]}',
        b'{"format": 1, "version": "1", "pepper_check": "", "keys": [], "teams": [], "tags": '
        b'[{"name": "a", "created_at": 0, "surprise": 1}]}',
    ],
)
async def test_file_that_is_damaged_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """Nothing is read from it and nothing is written over it; the error names the file and what to do."""
    path = tmp_path / FILE
    path.write_bytes(content)
    store = _store(tmp_path)
    for attempt in (store.load(), store.version(), store.commit("", Changes((KEY,))), store.version()):
        with pytest.raises(AccountsDamaged, match="restore it from a backup") as caught:
            await attempt
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


async def test_file_that_is_mended_is_read_again(tmp_path: Path) -> None:
    """A refusal lasts as long as the file is the same."""
    store = _store(tmp_path)
    version = await store.commit("", Changes((KEY,)))
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-20])
    with pytest.raises(AccountsDamaged):
        await store.version()
    (tmp_path / FILE).write_bytes(content)
    assert await store.version() == version


async def test_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    """Who may write the file could make keys."""
    store = _store(tmp_path)
    await store.commit("", Changes((KEY,)))
    (tmp_path / FILE).chmod(0o602)
    with pytest.raises(AccountsDamaged, match="chmod 600"):
        await store.load()


async def test_file_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    """No prefix of a file is taken for fewer keys."""
    store = _store(tmp_path)
    await store.commit("", Changes((KEY, TEAM, StoredTag(name="batch", created_at=2.0))))
    whole = (tmp_path / FILE).read_bytes()
    expected = await store.load()
    for length in range(len(whole) - 1):
        (tmp_path / FILE).write_bytes(whole[:length])
        with pytest.raises(AccountsDamaged):
            await _store(tmp_path).load()
    (tmp_path / FILE).write_bytes(whole[:-1])
    assert await _store(tmp_path).load() == expected


async def test_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs the change and nothing else; what was begun is gone."""
    store = _store(tmp_path)
    version = await store.commit("", Changes((KEY,)))
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await store.commit(version, Changes((TEAM,)))
    monkeypatch.undo()
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [FILE, LOCK]
    assert await store.commit(version, Changes((TEAM,))) != version


async def test_leftover_of_a_killed_writer_is_in_nobodys_way(tmp_path: Path) -> None:
    """A file half written beside the real one, and a lock file without its holder, change nothing."""
    (tmp_path / f"{FILE}.new").write_bytes(b'{"format"')
    (tmp_path / LOCK).touch()
    store = _store(tmp_path)
    assert await store.load() == AccountSnapshot()
    await store.commit("", Changes((KEY,)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [FILE, LOCK]


async def test_lock_held_by_another_process_ends_the_wait_at_the_deadline(tmp_path: Path) -> None:
    """A change waits for the lock within its deadline, and nothing is written after that."""
    with (tmp_path / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable):
            await _store(tmp_path, 0.002).commit("", Changes((KEY,)))
    assert not (tmp_path / FILE).exists()


async def test_disk_that_hangs_holds_nobody_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one call hangs in the system, others give up at their deadline instead of piling up threads."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    store = _store(tmp_path, 0.01)

    def hang() -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    monkeypatch.setattr(store, "_stamp", hang)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="in time"):
            await store.version()
    release.set()
    monkeypatch.undo()
    await store.aclose()


async def test_folder_that_is_gone_is_no_version_and_comes_back(tmp_path: Path) -> None:
    """A folder is made when the first record is written, not before."""
    folder = tmp_path / "a" / "b"
    assert await _store(folder).version() == ""
    assert not folder.exists()
    await _store(folder).commit("", Changes((KEY,)))
    assert json.loads((folder / FILE).read_text())["keys"][0]["name"] == "ci"
