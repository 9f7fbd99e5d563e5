"""The registry: a folder of immutable artifacts, a pointer to the one in force, and a history.

Owns every write below a registry. Must not judge an artifact (`penstock_training.publishing.gate` does). Whoever reads
(`penstock_routers.registry_layout`) needs no lock: the pointer is replaced as a whole and names folders that never
change. Read `Registry.publish`, then `Registry.rollback`.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from penstock_routers.artifact import MAX_ARTIFACT_BYTES, RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, decode_manifest
from penstock_routers.model_files import read_model_file
from penstock_routers.registry_layout import (
    ARTIFACTS_FOLDER,
    POINTER_FILE,
    Pointer,
    artifact_path,
    is_artifact_id,
    read_pointer,
)
from penstock_routers.signatures import SIGNATURE_FILE
from penstock_training.errors import TrainingError

HISTORY_FILE: Final = "history.jsonl"
HOLDOUTS_FOLDER: Final = "holdouts"
_LOCK_FILE: Final = ".lock"
_STAGED: Final = ".new-"
_FOR_PEOPLE: Final = ("CARD.md", "*.png", "*.svg", "*.html")
_COPY_BYTES: Final = 8 << 20
_SHORT_ID_MINIMUM: Final = 6  # hexadecimal digits that may stand for an id

Event = Literal["publish", "rollback", "keep", "not_enough_data"]


class HistoryEntry(msgspec.Struct, frozen=True):
    """One line of the history.

    Attributes
    ----------
    at : str
        ISO 8601, UTC.
    by : str
        Login name of whoever ran the command.
    event : str
        ``publish`` or ``rollback`` (the pointer moved), ``keep`` or ``not_enough_data`` (it did not).
    id : str
        The artifact that the event is about.
    previous : str or None
        The artifact in force before.
    verdict, reason : str
        What the gate said and why; a reason given by hand after ``forced``.
    """

    at: str
    by: str
    event: Event
    id: str
    previous: str | None
    verdict: str
    reason: str


class Registry:
    """A registry folder, opened for publishing.

    Parameters
    ----------
    folder : Path
        Made by the first publication.
    on_step : callable, optional
        Called with the name of each step after it is done; tests stop a publication there.

    Notes
    -----
    Publishing writes the artifact below a hidden name, flushes it, opens it as serving does, renames it, replaces the
    pointer, and then adds the line of history. A process that is killed anywhere leaves a pointer to a complete
    artifact: the old one before the replacement, the new one after it. A line of history that is then missing is added
    by the next writer, from the pointer. Writers exclude each other with an advisory lock that ends with its process;
    on network file systems without such locks, publish from one machine.
    """

    def __init__(self, folder: Path, *, on_step: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._on_step = on_step

    def current(self) -> Pointer | None:
        """Read which artifact is in force; None before the first publication."""
        return read_pointer(self.folder)

    def artifact_folder(self, artifact_id: str) -> Path:
        """Place of an artifact, whether it is there or not."""
        return self.folder / artifact_path(artifact_id)

    def current_folder(self) -> Path | None:
        """Folder of the artifact in force; None before the first publication."""
        pointer = self.current()
        return None if pointer is None else self.artifact_folder(pointer.id)

    def artifact_ids(self) -> tuple[str, ...]:
        """Ids of the artifacts that are there, sorted."""
        names = [path.name for path in (self.folder / ARTIFACTS_FOLDER).glob("[!.]*") if path.is_dir()]
        return tuple(sorted(f"sha256:{name}" for name in names if is_artifact_id(f"sha256:{name}")))

    def find(self, text: str) -> str:
        """Complete an id from its first digits.

        Parameters
        ----------
        text : str
            An id, with or without ``sha256:``, or at least its first 6 digits.

        Returns
        -------
        str

        Raises
        ------
        TrainingError
            ``unknown_artifact``: none or several begin so.
        """
        digits = text.strip().lower().removeprefix("sha256:")
        found = [i for i in self.artifact_ids() if i.removeprefix("sha256:").startswith(digits)]
        if len(digits) < _SHORT_ID_MINIMUM or len(found) != 1:
            many = "several artifacts" if len(found) > 1 and len(digits) >= _SHORT_ID_MINIMUM else "no artifact"
            message = f"{many} of the registry can be meant by {text[:80]!r}; see: penstock-train artifact list"
            raise TrainingError(message, code="unknown_artifact")
        return found[0]

    def history(self) -> tuple[HistoryEntry, ...]:
        """Read the history, oldest first; a last line that was cut off by a kill is left out.

        Raises
        ------
        TrainingError
            ``registry_history``: another line is damaged.
        """
        try:
            lines = (self.folder / HISTORY_FILE).read_bytes().split(b"\n")
        except FileNotFoundError:
            return ()
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries += [msgspec.json.decode(line, type=HistoryEntry)] if line else []
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if number < len(lines):
                    message = f"line {number} of {HISTORY_FILE} is damaged; mend or remove it by hand"
                    raise TrainingError(message, code="registry_history") from error
        return tuple(entries)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other publishers out, and finish what a killed one left undone.

        Raises
        ------
        TrainingError
            ``registry_busy``: somebody else is publishing. ``registry_not_writable``.
        """
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"somebody else is publishing to {self.folder} at this moment; try again when they are done"
                raise TrainingError(message, code="registry_busy") from error
            except OSError as error:
                message = f"the file system of {self.folder} has no locks ({error.strerror})"
                raise TrainingError(message, code="registry_not_writable") from error
            with _writing(self.folder):
                self._clean_up()
            yield
        finally:
            os.close(lock)  # which also ends the lock

    def publish(self, source: Path, *, verdict: str, reason: str, signature: bytes | None = None) -> Pointer:
        """Put an artifact in force; call it under `locked`.

        Parameters
        ----------
        source : Path
            Artifact folder. Manifest, graph, an index beside it, card and pictures are copied; other files are not.
        verdict, reason : str
            Why it may be published, for pointer and history.
        signature : bytes, optional
            Content of ``signature.json``; replaces one that the folder or the registry has.

        Returns
        -------
        Pointer

        Raises
        ------
        ArtifactError
            Serving would refuse the artifact; nothing has changed.
        TrainingError
            ``registry_not_writable``.
        """
        with _writing(self.folder):
            artifact_id = self._store(source, signature)
            before = self.current()
            previous = None if before is None else before.id
            return self._point(artifact_id, "publish", verdict, reason, previous)

    def rollback(self, to: str | None = None) -> Pointer:
        """Put an earlier artifact in force again; call it under `locked`.

        Parameters
        ----------
        to : str, optional
            Its id or the first digits; the one that was in force before the present one when omitted.

        Returns
        -------
        Pointer

        Raises
        ------
        TrainingError
            ``nothing_to_roll_back``, ``unknown_artifact``, ``already_in_force``.
        ArtifactError
            The artifact is damaged by now; nothing has changed.
        """
        before = self.current()
        if before is None or (to is None and before.previous is None):
            raise TrainingError("no earlier artifact was in force", code="nothing_to_roll_back")
        target = self.find(to if to is not None else str(before.previous))
        if target == before.id:
            raise TrainingError(f"{target[:19]} is in force already", code="already_in_force")
        RouterArtifact.load(self.artifact_folder(target), encoder_id=None)
        with _writing(self.folder):
            return self._point(target, "rollback", "", f"back from {before.id[:19]}", before.id)

    def note(self, event: Literal["keep", "not_enough_data"], artifact_id: str, *, reason: str) -> None:
        """Write down that an artifact was not promoted; call it under `locked`."""
        before = self.current()
        previous = None if before is None else before.id
        with _writing(self.folder):
            self._append(HistoryEntry(utc_now(), login_name(), event, artifact_id, previous, event, reason))

    def _store(self, source: Path, signature: bytes | None) -> str:
        """Copy, flush, verify, rename."""
        root = self.folder / ARTIFACTS_FOLDER
        root.mkdir(exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=_STAGED, dir=root))
        try:
            for name in (GRAPH_FILE, MANIFEST_FILE, SIGNATURE_FILE):
                content = signature if name == SIGNATURE_FILE and signature is not None else _content(source / name)
                if content is not None:
                    _write(staged / name, content)
            neighbours = decode_manifest((staged / MANIFEST_FILE).read_bytes()).neighbours
            for name, size in ({} if neighbours is None else neighbours.sizes).items():
                _copy(source / name, staged / name, size)
            for pattern in _FOR_PEOPLE:
                for path in sorted(source.glob(pattern)):
                    if path.is_file() and path.stat().st_size <= MAX_ARTIFACT_BYTES:
                        _write(staged / path.name, path.read_bytes())
            self._on_step("copied")
            artifact = RouterArtifact.load(staged, encoder_id=None)
            self._on_step("verified")
            final = self.artifact_folder(artifact.id)
            if final.exists() and not _is_sound(final):
                final.replace(root / f"{_STAGED}damaged-{final.name[:12]}")  # removed by the next writer
            if not final.exists():
                staged.chmod(0o755)  # made for its owner only; a gateway may run as another user
                _flush_folder(staged)
                staged.replace(final)
                _flush_folder(root)
            elif signature is not None:
                _replace(final / SIGNATURE_FILE, signature)
            self._on_step("stored")
            return artifact.id
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _point(
        self, artifact_id: str, event: Literal["publish", "rollback"], verdict: str, reason: str, previous: str | None
    ) -> Pointer:
        """Replace the pointer, then write the history."""
        if event == "publish" and previous == artifact_id:
            before = self.current()
            previous = None if before is None else before.previous
        pointer = Pointer(artifact_id, utc_now(), login_name(), event, verdict, reason, previous)
        _replace(
            self.folder / POINTER_FILE,
            msgspec.json.format(msgspec.json.encode(pointer), indent=1) + b"\n",
            on_written=lambda: self._on_step("pointer written"),
        )
        self._on_step("pointed")
        self._append(_entry_of(pointer))
        self._on_step("noted")
        return pointer

    def _append(self, entry: HistoryEntry) -> None:
        with (self.folder / HISTORY_FILE).open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _clean_up(self) -> None:
        """Remove what a killed publication left, and add its line of history when it got as far as the pointer."""
        for left_behind in (self.folder / ARTIFACTS_FOLDER).glob(f"{_STAGED}*"):
            shutil.rmtree(left_behind)
        for left_behind in self.folder.glob(f"{_STAGED}*"):
            left_behind.unlink()
        path = self.folder / HISTORY_FILE
        if path.exists() and not (raw := path.read_bytes()).endswith(b"\n") and raw:
            _replace(path, raw[: raw.rfind(b"\n") + 1])
        pointer = self.current()
        if pointer is not None:
            entry = _entry_of(pointer)
            if entry not in self.history():
                self._append(entry)


def _entry_of(pointer: Pointer) -> HistoryEntry:
    event: Event = "rollback" if pointer.event == "rollback" else "publish"
    return HistoryEntry(
        pointer.published_at,
        pointer.published_by,
        event,
        pointer.id,
        pointer.previous,
        pointer.verdict,
        pointer.reason,
    )


def _is_sound(folder: Path) -> bool:
    """Whether serving would open an artifact folder."""
    try:
        RouterArtifact.load(folder, encoder_id=None)
    except ArtifactError:
        return False
    return True


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        message = f"the registry {folder} cannot be written: {error.strerror or 'unknown error'}"
        raise TrainingError(message, code="registry_not_writable") from error


def _content(path: Path) -> bytes | None:
    """Content of one file of an artifact; None for a signature that is not there."""
    if path.name == SIGNATURE_FILE and not path.exists():
        return None
    return read_model_file(
        path,
        MAX_ARTIFACT_BYTES,
        error=ArtifactError,
        missing_code="artifact_missing",
        too_large_code="artifact_oversize",
    )


def _write(path: Path, content: bytes) -> None:
    """Write a new file down to the disk, readable by everybody, writable by nobody."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def _copy(source: Path, target: Path, size: int) -> None:
    """Copy a file that may be too large for memory, of the size that the manifest says."""
    if not source.is_file():
        raise ArtifactError(f"{source.name} is missing or no regular file", code="artifact_missing")
    with source.open("rb") as read, target.open("xb") as written:
        left = size + 1  # one more tells a file that is too long
        while left > 0 and (block := read.read(min(_COPY_BYTES, left))):
            written.write(block)
            left -= len(block)
        written.flush()
        os.fsync(written.fileno())
    if left == 0:
        raise ArtifactError(f"{source.name} is larger than the manifest says", code="artifact_oversize")
    target.chmod(0o444)


def _replace(path: Path, content: bytes, *, on_written: Callable[[], None] = lambda: None) -> None:
    """Replace a file as a whole: readers see the old content or the new one."""
    handle, name = tempfile.mkstemp(prefix=_STAGED, dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.chmod(0o644)
        on_written()
        staged.replace(path)
        _flush_folder(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def utc_now() -> str:
    """Return the present moment in ISO 8601, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def login_name() -> str:
    """Return who runs this, for pointer, history and account."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user id without a name
        return f"uid {os.getuid()}"
