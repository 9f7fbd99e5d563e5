"""The file store's folder after restarts, kills, damage and full disks."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores import FileDocumentStore, log_writer
from penstock_cache.stores.log_frames import HEADER
from support.cache_documents import NOW, RememberedIndex, document, eventually, follower, random_documents

LOG = "documents.log"

_WRITER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from penstock_cache.stores import FileDocumentStore
from support.cache_documents import NOW, document

async def write():
    store = await FileDocumentStore.open(Path(sys.argv[1]), now=NOW)
    for number in range(1_000_000):
        await store.put(document(number, body=b"x" * 2000), now=NOW)
        if number % 50 == 49:
            await store.delete("acme", [document(number - 7).entry_id])
            print(number, flush=True)

asyncio.run(write())
"""


@asynccontextmanager
async def opened(folder: Path, problems: list[str] | None = None, now: float = NOW) -> AsyncIterator[FileDocumentStore]:
    """The store of a folder."""
    noted = [] if problems is None else problems
    store = await FileDocumentStore.open(folder, now=now, on_problem=noted.append, write_seconds=30.0)
    try:
        yield store
    finally:
        await store.aclose()


async def test_open_after_a_restart_finds_what_was_stored_and_not_what_was_removed(tmp_path: Path) -> None:
    """Documents, deletions of every kind and evictions are as they were; a follower gets them as a snapshot."""
    kept = document(1)
    async with opened(tmp_path / "cache") as store:
        for each in (
            kept,
            document(2),
            document(3),
            document(4, category="medical"),
            document(5, tenant="rival"),
            document(6, expires_at=NOW + 10.0),
            document(7, expires_at=NOW + 20.0),
        ):
            await store.put(each, now=NOW)
        await store.delete("acme", [document(2).entry_id])
        await store.evict("acme", [document(3).entry_id])
        await store.delete_category("acme", "medical", now=NOW)
        await store.delete_tenant("rival", now=NOW)
        await store.sweep_expired(now=NOW + 10.0)
    async with opened(tmp_path / "cache", now=NOW + 20.0) as store:
        assert store.entry_count == 1
        assert store.size_bytes == kept.size_bytes()
        assert await store.find_exact("acme", kept.fingerprint, now=NOW + 20.0) == kept
        index = RememberedIndex()
        following = asyncio.create_task(follower(index).run(store))
        await eventually(lambda: set(index.records) == {kept.entry_id}, "the snapshot")
        following.cancel()


async def test_folder_and_files_of_the_store_are_for_the_owner_alone(tmp_path: Path) -> None:
    """Answers and prompts are in the folder, so nobody else can read it."""
    async with opened(tmp_path / "deep" / "cache") as store:
        await store.put(document(1), now=NOW)
        assert stat.S_IMODE((tmp_path / "deep" / "cache").stat().st_mode) == 0o700
        for path in (tmp_path / "deep" / "cache").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_open_of_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two processes never write the same file; the folder is free again when the first lets go."""
    async with opened(tmp_path):
        with pytest.raises(StoreUnavailable) as caught:
            await FileDocumentStore.open(tmp_path, now=NOW)
        assert caught.value.code == "cache_file_in_use"
    async with opened(tmp_path) as store:
        assert store.entry_count == 0


async def test_open_of_somebody_elses_file_is_refused_and_leaves_it(tmp_path: Path) -> None:
    """A file that is no log of ours is neither read nor cut."""
    (tmp_path / LOG).write_bytes(b"somebody's diary\n" * 100)
    with pytest.raises(StoreUnavailable) as caught:
        await FileDocumentStore.open(tmp_path, now=NOW)
    assert caught.value.code == "cache_file_foreign"
    assert (tmp_path / LOG).read_bytes() == b"somebody's diary\n" * 100


async def test_open_of_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A path that leads through a file is an error with a code, not a crash."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable) as caught:
        await FileDocumentStore.open(tmp_path / "file" / "cache", now=NOW)
    assert caught.value.code == "cache_file_unreadable"


@pytest.mark.parametrize("kept_lines", [1, 3])
async def test_open_after_a_kill_in_the_middle_of_writing_is_whole(
    tmp_path: Path, repository_root: Path, kept_lines: int
) -> None:
    """After kill -9 every acknowledged deletion holds, every document is whole, and the store goes on."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path), str(repository_root / "tests")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(kept_lines)]
        writer.send_signal(signal.SIGKILL)
        writer.wait(30)
    async with opened(tmp_path) as store:
        numbers = range(acknowledged[-1] + 1)
        found = await store.get("acme", [document(number).entry_id for number in numbers], now=NOW)
        for number, each in zip(numbers, found, strict=True):
            is_deleted = number + 7 in acknowledged
            assert each == (None if is_deleted else document(number, body=b"x" * 2000))
        await store.put(document(0, entry_id="f" * 32), now=NOW)
    async with opened(tmp_path) as store:
        assert await store.get("acme", ["f" * 32], now=NOW) == [document(0, entry_id="f" * 32)]


async def _fill(folder: Path) -> bytes:
    """Write five documents, and return the file."""
    async with opened(folder) as store:
        for number in range(5):
            await store.put(document(number), now=NOW)
    return (folder / LOG).read_bytes()


async def test_open_of_a_file_cut_anywhere_keeps_all_whole_documents(tmp_path: Path) -> None:
    """Wherever the file ends, the documents before that are there, the rest is cut and reported, and writing works."""
    content = await _fill(tmp_path)
    size = (len(content) - len(HEADER)) // 5
    assert len(content) == len(HEADER) + 5 * size
    for length in [0, 3, len(HEADER), *range(len(HEADER) + 1, len(content), 37)]:
        (tmp_path / LOG).write_bytes(content[:length])
        problems: list[str] = []
        async with opened(tmp_path, problems) as store:
            whole = max(0, length - len(HEADER)) // size
            assert store.entry_count == whole
            is_clean = length == 0 or (length >= len(HEADER) and (length - len(HEADER)) % size == 0)
            assert problems == ([] if is_clean else ["cache_file_tail_cut"])
            await store.put(document(9), now=NOW)
        async with opened(tmp_path, problems) as store:
            assert store.entry_count == whole + 1


async def test_open_of_a_file_with_noise_at_its_end_cuts_it(tmp_path: Path) -> None:
    """Bytes after the last frame, zeros among them, are cut and reported."""
    content = await _fill(tmp_path)
    for noise in (b"\0" * 5000, os.urandom(5000)):
        (tmp_path / LOG).write_bytes(content + noise)
        problems: list[str] = []
        async with opened(tmp_path, problems) as store:
            assert store.entry_count == 5
        assert problems == ["cache_file_tail_cut"]
        assert (tmp_path / LOG).read_bytes() == content


async def test_open_of_a_file_with_a_damaged_document_loses_only_that(tmp_path: Path) -> None:
    """A changed byte inside a document costs that document; those after it are read."""
    content = await _fill(tmp_path)
    place = content.index(b"question 2")
    (tmp_path / LOG).write_bytes(content[:place] + b"Q" + content[place + 1 :])
    problems: list[str] = []
    async with opened(tmp_path, problems) as store:
        found = await store.get("acme", [document(number).entry_id for number in range(5)], now=NOW)
        assert [each is not None for each in found] == [True, True, False, True, True]
    assert problems == ["cache_document_damaged"]


async def test_open_of_a_file_with_a_damaged_deletion_brings_nothing_back(tmp_path: Path) -> None:
    """Where it cannot be told what was deleted, everything before is forgotten, and what came later is kept."""
    async with opened(tmp_path) as store:
        await store.put(document(1), now=NOW)
        await store.put(document(2), now=NOW)
        await store.delete("acme", [document(1).entry_id])
        await store.put(document(3), now=NOW)
    content = (tmp_path / LOG).read_bytes()
    place = content.index(b"removed")
    (tmp_path / LOG).write_bytes(content[:place] + b"R" + content[place + 1 :])
    problems: list[str] = []
    async with opened(tmp_path, problems) as store:
        assert await store.get("acme", [document(n).entry_id for n in (1, 2, 3)], now=NOW) == [None, None, document(3)]
    assert problems == ["cache_document_damaged"]


async def test_file_of_mostly_garbage_is_rewritten_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more than half of the file is gone entries, it shrinks, keeps what counts, and is written on."""
    monkeypatch.setattr(log_writer, "COMPACTION_MIN_BYTES", 50_000)
    documents = random_documents(200)
    async with opened(tmp_path) as store:
        for each in documents:
            await store.put(each, now=NOW)
        await store.delete("acme", [each.entry_id for each in documents[:150]])
        await store.delete_category("rival", "faq", now=NOW)
        before = 200 * documents[0].size_bytes()
        await eventually(lambda: (tmp_path / LOG).stat().st_size < before // 3, "the file shrinks")
        await store.put(document(1), now=NOW)
        await store.delete("acme", [documents[199].entry_id])
        assert not (tmp_path / "documents.new").exists()
        assert stat.S_IMODE((tmp_path / LOG).stat().st_mode) == 0o600
    problems: list[str] = []
    async with opened(tmp_path, problems) as store:
        expected = [*([None] * 150), *documents[150:199], None, document(1)]
        entry_ids = [each.entry_id for each in (*documents, document(1))]
        assert await store.get("acme", entry_ids, now=NOW) == expected
    assert problems == []


async def test_open_after_a_kill_during_compaction_uses_the_old_file(tmp_path: Path) -> None:
    """A half-written new file is thrown away; the old one still counts."""
    await _fill(tmp_path)
    (tmp_path / "documents.new").write_bytes(HEADER + b"half")
    async with opened(tmp_path) as store:
        assert store.entry_count == 5
    assert not (tmp_path / "documents.new").exists()


async def test_writes_to_a_full_disk_are_reported_and_leave_the_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk documents live in memory alone, a deletion says that it is not safe, and all mends with space."""
    problems: list[str] = []
    async with opened(tmp_path, problems) as store:
        await store.put(document(1), now=NOW)
        await store.delete("acme", ["0" * 31 + "e"])  # so that the first document is in the file
        with monkeypatch.context() as full:
            full.setattr(log_writer, "_write_all", _no_space)
            await store.put(document(2), now=NOW)
            assert await store.get("acme", [document(2).entry_id], now=NOW) == [document(2)]
            with pytest.raises(StoreUnavailable) as caught:
                await store.delete("acme", [document(1).entry_id])
            assert caught.value.code == "cache_file_write_failed"
        assert set(problems) == {"cache_file_write_failed"}
        await store.put(document(3), now=NOW)
        await store.delete("acme", [document(1).entry_id])
    async with opened(tmp_path, problems) as store:
        found = await store.get("acme", [document(number).entry_id for number in (1, 2, 3)], now=NOW)
        assert found == [None, None, document(3)]
    assert set(problems) == {"cache_file_write_failed"}


def _no_space(descriptor: int, content: bytes) -> None:
    os.write(descriptor, content[: len(content) // 2])
    raise OSError(28, "No space left on device")


async def test_put_when_the_disk_is_far_behind_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too much waits for the disk, documents are served from memory, and that they are not written is reported."""
    monkeypatch.setattr(log_writer, "MAX_WAITING_BYTES", 1_000)
    problems: list[str] = []
    async with opened(tmp_path, problems) as store:
        for each in random_documents(100):
            await store.put(each, now=NOW)
        assert store.entry_count == 100
    assert "cache_file_behind" in problems
    async with opened(tmp_path) as store:
        assert 0 < store.entry_count < 100
