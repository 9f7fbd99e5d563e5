"""The system calls that an answer's code may not make, as a seccomp program.

Owns the lists and the program's bytes; `sandbox_launcher` installs it. Namespaces take away what code could reach; this
takes away ways of reaching the kernel itself. Read `seccomp_program`.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

# Mounts, namespaces, other processes' memory, keys, kernel modules, and the interfaces that kernel exploits use most.
# Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (arm64) of Linux 6.12.
_DENIED_BOTH: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}
_DENIED_X86_64: Final = {
    "ptrace": 101,
    "personality": 135,
    "pivot_root": 155,
    "chroot": 161,
    "acct": 163,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "reboot": 169,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}
_DENIED_AARCH64: Final = {
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "chroot": 51,
    "quotactl": 60,
    "acct": 89,
    "personality": 92,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "ptrace": 117,
    "reboot": 142,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "swapon": 224,
    "perf_event_open": 241,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}


@dataclass(frozen=True, slots=True)
class _Machine:
    """What differs between processors: the audit number and the system call numbers."""

    audit_arch: int
    clone: int
    socket: int
    denied: dict[str, int]
    has_x32: bool


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 56, 41, _DENIED_X86_64, True),
    "aarch64": _Machine(0xC00000B7, 220, 198, _DENIED_AARCH64, False),
}
_CLONE3: Final = 435
_X32_BIT: Final = 0x40000000
_NAMESPACE_FLAGS: Final = 0x7E020080  # every CLONE_NEW…, CLONE_NEWTIME included
# Unix, IPv4, IPv6. Not vsock, which knows no network namespaces and reaches a virtual machine's host; nor netlink,
# packet.
_SOCKET_FAMILIES: Final = (1, 2, 10)
# Classic BPF, include/uapi/linux/bpf_common.h: load a word, compare, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_FIRST_ARGUMENT = 0, 4, 16


def seccomp_program(machine: str) -> bytes | None:
    """Return the filter for a processor.

    Parameters
    ----------
    machine : str
        As `platform.machine` names it.

    Returns
    -------
    bytes or None
        ``struct sock_filter`` after ``struct sock_filter``, 8 bytes each; None for a processor without a list.

    Notes
    -----
    A list of what is denied, not of what is allowed: Python uses most of what is left. A call of another architecture
    kills the process. ``clone3`` is answered with ENOSYS, as its flags lie in memory that a filter cannot read; the C
    library then takes ``clone``, whose flags can be looked at.

    References
    ----------
    Linux, Documentation/userspace-api/seccomp_filter.rst.
    """
    known = _MACHINES.get(machine)
    if known is None:
        return None
    program = [
        _step(_LOAD, _OFFSET_ARCH),
        _step(_EQUAL, known.audit_arch, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _OFFSET_NUMBER),
    ]
    if known.has_x32:
        program += [_step(_AT_LEAST, _X32_BIT, 0, 1), _step(_RETURN, _KILL_PROCESS)]
    for number in sorted({**_DENIED_BOTH, **known.denied}.values()):
        program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.EPERM)]
    program += [_step(_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    program += _clone_check(known.clone) + _socket_check(known.socket) + [_step(_RETURN, _ALLOW)]
    return b"".join(program)


def _clone_check(number: int) -> list[bytes]:
    """Deny new namespaces; the number of any other call stays loaded for what follows."""
    return [
        _step(_EQUAL, number, 0, 4),
        _step(_LOAD, _OFFSET_FIRST_ARGUMENT),
        _step(_ANY_BIT, _NAMESPACE_FLAGS, 0, 1),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _socket_check(number: int) -> list[bytes]:
    """Deny every address family but the known ones."""
    count = len(_SOCKET_FAMILIES)
    families = [_step(_EQUAL, family, count - index, 0) for index, family in enumerate(_SOCKET_FAMILIES)]
    return [
        _step(_EQUAL, number, 0, count + 2),
        _step(_LOAD, _OFFSET_FIRST_ARGUMENT),
        *families,
        _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
