"""Builds the sandbox around one answer, then stands guard at its door: namespaces, an empty root, limits, the verdict.

Started by `sandbox` as ``python -I -S`` with an empty environment and a job on standard input; stands alone and imports
the standard library only. Three processes: this one waits; its child is process 1 of the sandbox, owns the verdict and
takes everything with it when it ends; that one's child loses every right and becomes `sandbox_runner`. Read `main`,
then `guard` and `become_the_answer`.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import json
import os
import resource
import secrets
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
# Mounts, control groups, host name, IPC, processes, network.
_NAMESPACES = _NEW_MOUNTS | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_ATTR_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE, _DETACH = -100, 0x8000, 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
# Above every range that Linux systems hand out (systemd, "Users, Groups, UIDs and GIDs"), below 2³¹.
_FIRST_UNUSED_UID, _UNUSED_UIDS = 1_879_048_192, 1 << 26
_NOBODY = 65534
_CHANNEL, _REPORT = 3, 4
_MESSAGE_BYTES = 65_536
_LINKED_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Identity:
    """Under which number the answer runs, as seen inside, and whether we hold it apart from our own as root."""

    uid: int
    is_root: bool


def call(what: str, result: int) -> int:
    """Raise for a C call that failed, naming the step."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    names = [None if text is None else text.encode() for text in (source, target, kind)]
    done = _LIBC.mount(*names, ctypes.c_ulong(flags), options.encode() if options else None)
    call(f"mount {target}", done)


def restrict_mount(target: str, attributes: int, *, recursive: bool = True) -> None:
    """mount_setattr(2): also for what is mounted beneath, which a remount leaves writable."""
    what = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    flags = _AT_RECURSIVE if recursive else 0
    done = _LIBC.syscall(
        ctypes.c_long(_MOUNT_SETATTR), _AT_FDCWD, target.encode(), flags, what, ctypes.c_size_t(len(what))
    )
    call(f"make {target} read-only (Linux 5.12 or newer is needed)", done)


def enter_namespaces(*, is_user_namespace_wanted: bool) -> Identity:
    """Leave every namespace of the machine.

    Parameters
    ----------
    is_user_namespace_wanted : bool
        Root, too, takes the way of those who are not root: to test it, and where root may not make namespaces.

    Returns
    -------
    Identity
        Root gets an unused number: limits count per user, so a shared `nobody` would let answers and other services
        disturb each other. Without root it is our own user, seen as `nobody` inside.

    Raises
    ------
    OSError
        Neither as root nor with a user namespace; the sandbox must not be used.
    """
    uid = os.geteuid()
    if uid == 0:
        uid = _unused_uid()
        if not is_user_namespace_wanted and _LIBC.unshare(_NAMESPACES) == 0:
            return Identity(uid, is_root=True)
        become(uid)
        # Changing user makes a process's /proc files root's; the maps below are written there.
        _LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    gid = os.getegid()
    call("unshare", _LIBC.unshare(_NEW_USER | _NAMESPACES))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {uid} 1"),
        ("gid_map", f"{_NOBODY} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as handle:
            handle.write(text)
    return Identity(_NOBODY, is_root=False)


def _unused_uid() -> int:
    uid = _FIRST_UNUSED_UID + 2 * secrets.randbelow(_UNUSED_UIDS)
    with open("/proc/self/uid_map", encoding="ascii") as handle:
        ranges = [tuple(map(int, line.split())) for line in handle]
    is_mapped = any(start <= uid and uid + 1 < start + count for start, _, count in ranges)
    return uid if is_mapped else _NOBODY


def shown_paths(folders: Sequence[str]) -> list[str]:
    """Return what the new root shows of the old one; nothing that lies within another of them."""
    wanted = {"/usr", *folders, *_DEVICES, "/etc/ld.so.cache"}
    wanted |= {folder for folder in _LINKED_FOLDERS if not os.path.islink(folder)}
    shown = sorted(path for path in wanted if os.path.exists(path))
    return [path for path in shown if not any(path.startswith(f"{other}/") for other in shown)]


def build_root(shown: list[str], uid: int, runner: bytes, limits: dict[str, int]) -> None:
    """Mount an empty root that shows the interpreter read-only, and make it the only thing there is."""
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    covered = [path for path in ("/mnt", "/tmp", "/run", "/var/tmp") if os.path.isdir(path)]
    free = [path for path in covered if not any(source.startswith(path) for source in shown)]
    if not free:
        raise OSError("there is no folder to mount the sandbox on")
    root = free[0]
    mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4m,nr_inodes=4096,mode=0755")
    for path in shown:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(path, target, None, _MS_BIND | _MS_REC)
        is_device = path.startswith("/dev/")
        restrict_mount(target, _ATTR_READ_ONLY | _ATTR_NOSUID | (0 if is_device else _ATTR_NODEV))
    for folder in _LINKED_FOLDERS:
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), root + folder)
    os.mkdir(f"{root}/box")
    os.symlink("box", f"{root}/tmp")
    size = f"size={limits['box_bytes']},nr_inodes=4096,mode=0700,uid={uid},gid={uid}"
    mount("tmpfs", f"{root}/box", "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    with open(f"{root}/runner.py", "wb") as handle:
        handle.write(runner)
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    call("pivot_root", _LIBC.syscall(ctypes.c_long(number), b".", b"."))
    call("umount2", _LIBC.umount2(b".", _DETACH))
    os.chdir("/")
    restrict_mount("/", _ATTR_READ_ONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)


def become_the_answer(job: dict[str, Any], channel: int, report: int, identity: Identity) -> NoReturn:
    """Give up every right and become the runner; what prevents that goes to the descriptor `report`."""
    channel, report = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (channel, report))
    os.dup2(report, _REPORT, inheritable=False)
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(channel, _CHANNEL)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.closerange(_REPORT + 1, 65_536)
        os.chdir("/box")
        os.umask(0o077)
        # In a user namespace, launcher and guard have the answer's number and count as its processes.
        _set_limits(job["limits"], other_processes=0 if identity.is_root else 2)
        number = 0
        while _LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
            number += 1
        if identity.is_root:
            become(identity.uid)
        call("no_new_privs", _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _install_filter(base64.b64decode(job["filter"]))
        os.execve(job["python"], [job["python"], "-I", "-B", "/runner.py"], {})
    except OSError as error:
        os.write(_REPORT, f"{error.strerror or error}".encode())
    os._exit(1)


def become(uid: int) -> None:
    """Change to a user and group of one number, without supplementary groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _set_limits(limits: dict[str, int], *, other_processes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"] + other_processes),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))


def _install_filter(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    filled = Program(len(program) // 8, program)
    call("seccomp", _LIBC.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filled), 0, 0))


class Door:
    """The one way between the answer's process and process 1: JSON lines, bounded in length and time."""

    def __init__(self, channel: socket.socket, deadline: float) -> None:
        self._channel = channel
        self._deadline = deadline
        self._received = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; TimeoutError when the other side does not read it in time."""
        self._channel.settimeout(max(0.01, self._deadline - time.monotonic()))
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Return one object; None when the other side is gone or talks nonsense; TimeoutError at the deadline."""
        while b"\n" not in self._received:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._channel], [], [], left)[0]:
                raise TimeoutError
            part = self._channel.recv(8192)
            self._received += part
            if not part or len(self._received) > _MESSAGE_BYTES:
                return None
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None


def converse(door: Door, job: dict[str, Any]) -> dict[str, Any]:
    """Hand over the answer, then the tests with the token, and read the verdict."""
    try:
        door.send({"answer": job["answer"]})
        loaded = door.receive()
        if loaded is None:
            return {"outcome": "ended", "reason": "it ended before the tests were run"}
        if loaded.get("loaded") is not True:
            return {"outcome": "failed", "reason": f"it cannot be loaded: {_plain(loaded.get('error'))}"}
        door.send({"tests": job["tests"], "token": job["token"]})
        verdict = door.receive()
    except TimeoutError:
        return {"outcome": "timed_out", "reason": f"it took longer than {job['limits']['wall_seconds']:g} s"}
    except OSError:
        return {"outcome": "ended", "reason": "it ended before the tests were run"}
    failures = verdict.get("failures") if verdict else None
    if verdict is None or not isinstance(failures, list):
        return {"outcome": "ended", "reason": "it ended before the tests were done"}
    if verdict.get("token") != job["token"]:
        return {"outcome": "tampered", "reason": "it reported a result with a wrong token"}
    if not all(isinstance(entry, list) and len(entry) == 2 for entry in failures):
        return {"outcome": "tampered", "reason": "it reported a result that makes no sense"}
    names = [[_plain(part) for part in entry] for entry in failures]
    return {"outcome": "failed" if names else "passed", "reason": "", "failures": names}


def _plain(text: object) -> str:
    """Return at most 80 printable ASCII characters of a text; a name for anything else, which may not even print."""
    shown = text[:80] if isinstance(text, str) else "(no text)"
    return "".join(character for character in shown if character.isascii() and character.isprintable())


def guard(job: dict[str, Any], shown: list[str], identity: Identity) -> dict[str, Any]:
    """Be process 1 of the sandbox: build it, start the answer, bring the verdict out."""
    # Process 1 gets no signal from inside but those that it handles, and Python handles this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as handle:
        handle.write("1000")  # when memory is short, this goes first
    deadline = time.monotonic() + job["limits"]["wall_seconds"]
    build_root(shown, identity.uid, job["runner"].encode(), job["limits"])
    socket.sethostname("sandbox")
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        become_the_answer(job, theirs.fileno(), writing, identity)
    theirs.close()
    os.close(writing)
    # Closed by the exec; anything that comes before it is why there is no sandbox.
    if problem := os.read(reading, 4096):
        raise OSError(problem.decode(errors="replace"))
    if identity.is_root and identity.uid != _NOBODY:
        become(identity.uid + 1)
    # Both after the change of user, which resets them: end with the launcher, and let nobody look inside.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        return converse(Door(ours, deadline), job)
    except Exception as error:  # whatever an answer sends, it must not look like a machine without sandboxes
        return {"outcome": "tampered", "reason": f"its report could not be read ({type(error).__name__})"}


def main() -> None:
    """Read the job, build the sandbox, print the verdict as one JSON object."""
    job = json.loads(sys.stdin.buffer.read())
    try:
        shown = shown_paths(job["folders"])
        identity = enter_namespaces(is_user_namespace_wanted=job["is_user_namespace_wanted"])
        process = os.fork()
        if process == 0:
            try:
                verdict = guard(job, shown, identity)
            except OSError as error:
                verdict = {"outcome": "refused", "reason": _refusal(error)}
            os.write(1, json.dumps(verdict).encode())
            os._exit(0)
        if os.WIFSIGNALED(os.waitpid(process, 0)[1]):
            os.write(1, b'{"outcome": "ended", "reason": "the sandbox was killed, for want of memory perhaps"}')
    except OSError as error:
        os.write(1, json.dumps({"outcome": "refused", "reason": _refusal(error)}).encode())


def _refusal(error: OSError) -> str:
    is_forbidden = error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC)
    hint = "; namespaces are not allowed here, neither as root nor as a user" if is_forbidden else ""
    return f"{error.strerror or error}{hint}"


if __name__ == "__main__":
    main()
