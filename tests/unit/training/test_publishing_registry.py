"""The registry: what a publication changes, what a kill leaves, who may write."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_routers.artifact import RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.registry_layout import POINTER_FILE
from penstock_training.errors import TrainingError
from penstock_training.publishing.registry import HISTORY_FILE, Registry
from support.artifact_variants import damage, write_variant

STEPS = ("copied", "verified", "stored", "pointer written", "pointed", "noted")
_PUBLISH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from penstock_training.publishing.registry import Registry
def die(step):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
registry = Registry(Path(sys.argv[1]), on_step=die)
with registry.locked():
    registry.publish(Path(sys.argv[2]), verdict="promote", reason="")
"""


@pytest.fixture
def first(tmp_path: Path) -> str:
    """Id of an artifact in folder ``first``."""
    return write_variant(tmp_path / "first", cost_weight=0.1)


@pytest.fixture
def second(tmp_path: Path) -> str:
    """Id of an artifact in folder ``second``."""
    return write_variant(tmp_path / "second", cost_weight=0.2)


def _publish(root: Path, name: str, registry: Registry | None = None) -> Registry:
    registry = registry or Registry(root / "registry")
    with registry.locked():
        registry.publish(root / name, verdict="promote", reason="better")
    return registry


def test_publish_into_a_new_folder_puts_the_artifact_in_force(tmp_path: Path, first: str) -> None:
    """The first publication makes the registry; the artifact lies under its id, unwritable, and can be opened."""
    registry = _publish(tmp_path, "first")
    pointer = registry.current()
    assert pointer is not None
    assert (pointer.id, pointer.previous, pointer.verdict) == (first, None, "promote")
    folder = registry.current_folder()
    assert folder is not None
    assert folder.name == first.removeprefix("sha256:")
    assert RouterArtifact.load(folder, encoder_id=None).id == first
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o222 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_publish_a_second_artifact_remembers_the_first(tmp_path: Path, first: str, second: str) -> None:
    """Pointer and history both know what was in force before."""
    registry = _publish(tmp_path, "first")
    _publish(tmp_path, "second", registry)
    pointer = registry.current()
    assert pointer is not None
    assert (pointer.id, pointer.previous) == (second, first)
    assert [(e.event, e.id, e.previous) for e in registry.history()] == [
        ("publish", first, None),
        ("publish", second, first),
    ]


def test_publish_a_damaged_artifact_changes_nothing(tmp_path: Path, first: str, second: str) -> None:
    """What serving would refuse is not published, and no trace of it stays."""
    registry = _publish(tmp_path, "first")
    damage(tmp_path / "second")
    with pytest.raises(ArtifactError):
        _publish(tmp_path, "second", registry)
    assert registry.artifact_ids() == (first,)
    assert len(registry.history()) == 1
    assert not list(registry.folder.rglob(".new-*"))


def test_publish_again_what_was_damaged_in_the_registry_mends_it(tmp_path: Path, first: str, second: str) -> None:
    """A good copy takes the place of a damaged one."""
    registry = _publish(tmp_path, "first")
    damage(registry.artifact_folder(first))
    _publish(tmp_path, "first", registry)
    assert RouterArtifact.load(registry.artifact_folder(first), encoder_id=None).id == first
    _publish(tmp_path, "second", registry)
    assert not list(registry.folder.rglob(".new-*"))


@pytest.mark.parametrize("step", STEPS)
def test_publish_killed_after_any_step_leaves_a_servable_registry(
    tmp_path: Path, first: str, second: str, step: str
) -> None:
    """A kill at any point leaves a pointer to a complete artifact, and the next publication mends the rest."""
    registry = _publish(tmp_path, "first")
    command = [sys.executable, "-c", _PUBLISH_AND_DIE, str(registry.folder), str(tmp_path / "second"), step]
    died = subprocess.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    pointer = registry.current()
    assert pointer is not None
    assert pointer.id == (second if step in ("pointed", "noted") else first)
    assert RouterArtifact.load(registry.artifact_folder(pointer.id), encoder_id=None).id == pointer.id
    with registry.locked():
        assert not list(registry.folder.rglob(".new-*"))
        assert registry.history()[-1].id == pointer.id
    _publish(tmp_path, "second", registry)
    assert [entry.event for entry in registry.history()].count("publish") == (3 if pointer.id == second else 2)


def test_publish_while_another_publishes_is_refused_with_a_reason(tmp_path: Path, first: str) -> None:
    """Two writers exclude each other, and the second is told at once."""
    registry = Registry(tmp_path / "registry")
    with registry.locked(), pytest.raises(TrainingError) as caught:
        _publish(tmp_path, "first", Registry(registry.folder))
    assert caught.value.code == "registry_busy"
    assert _publish(tmp_path, "first").current() is not None


def test_rollback_without_an_id_returns_to_the_one_before(tmp_path: Path, first: str, second: str) -> None:
    """Going back is one step, and going back again undoes it."""
    registry = _publish(tmp_path, "first")
    _publish(tmp_path, "second", registry)
    for expected in (first, second):
        with registry.locked():
            assert registry.rollback().id == expected
    assert [entry.event for entry in registry.history()] == ["publish", "publish", "rollback", "rollback"]


def test_rollback_to_a_short_id_finds_it(tmp_path: Path, first: str, second: str) -> None:
    """The first digits are enough, too few of them are not."""
    registry = _publish(tmp_path, "first")
    _publish(tmp_path, "second", registry)
    with registry.locked():
        with pytest.raises(TrainingError) as caught:
            registry.rollback("sha256:")
        assert caught.value.code == "unknown_artifact"
        assert registry.rollback(first.removeprefix("sha256:")[:10]).id == first
        with pytest.raises(TrainingError) as again:
            registry.rollback(first)
    assert again.value.code == "already_in_force"


def test_rollback_to_an_artifact_damaged_since_is_refused(tmp_path: Path, first: str, second: str) -> None:
    """A pointer is never set to what cannot serve."""
    registry = _publish(tmp_path, "first")
    _publish(tmp_path, "second", registry)
    damage(registry.artifact_folder(first))
    with registry.locked(), pytest.raises(ArtifactError):
        registry.rollback()
    pointer = registry.current()
    assert pointer is not None
    assert pointer.id == second


def test_rollback_of_the_only_publication_says_that_there_is_nothing(tmp_path: Path, first: str) -> None:
    """There must be an earlier artifact to go back to."""
    registry = _publish(tmp_path, "first")
    with registry.locked(), pytest.raises(TrainingError) as caught:
        registry.rollback()
    assert caught.value.code == "nothing_to_roll_back"


def test_history_cut_off_by_a_kill_is_mended(tmp_path: Path, first: str) -> None:
    """Half a line at the end is left out, and removed by the next writer."""
    registry = _publish(tmp_path, "first")
    path = registry.folder / HISTORY_FILE
    path.write_bytes(path.read_bytes() + b'{"at": "2026')
    assert len(registry.history()) == 1
    with registry.locked():
        registry.note("keep", first, reason="no better")
    assert [entry.event for entry in registry.history()] == ["publish", "keep"]


def test_history_damaged_in_the_middle_is_refused_with_its_line(tmp_path: Path, first: str) -> None:
    """A damaged line that no kill explains is named and not skipped."""
    registry = _publish(tmp_path, "first")
    path = registry.folder / HISTORY_FILE
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(TrainingError, match="line 1"):
        registry.history()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_publish_into_a_folder_that_is_not_ours_says_so(tmp_path: Path, first: str) -> None:
    """No permission is an error in one line."""
    folder = tmp_path / "registry"
    folder.mkdir(mode=0o555)
    with pytest.raises(TrainingError) as caught:
        _publish(tmp_path, "first")
    assert caught.value.code == "registry_not_writable"


def test_publish_where_a_file_lies_says_so(tmp_path: Path, first: str) -> None:
    """A registry needs a folder."""
    (tmp_path / "registry").write_text("")
    with pytest.raises(TrainingError) as caught:
        _publish(tmp_path, "first")
    assert caught.value.code == "registry_not_writable"


def test_pointer_of_a_publication_is_replaced_as_a_whole(tmp_path: Path, first: str, second: str) -> None:
    """The pointer is another file after a publication, never the old one rewritten."""
    registry = _publish(tmp_path, "first")
    path = registry.folder / POINTER_FILE
    with path.open("rb") as held:
        _publish(tmp_path, "second", registry)
        assert first.encode() in held.read()
    assert second.encode() in path.read_bytes()
