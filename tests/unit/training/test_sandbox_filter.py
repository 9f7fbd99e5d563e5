"""The filter of system calls, run step by step, for processors that this machine is not."""

from __future__ import annotations

import errno
import struct

import pytest

from penstock_training.scorers.sandbox_filter import seccomp_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, ABSENT, NO_FAMILY = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
# arch, clone, socket, and calls of Linux's tables that must be denied and that Python cannot do without.
X86 = ("x86_64", 0xC000003E, 56, 41, {"ptrace": 101, "mount": 165, "unshare": 272, "bpf": 321, "keyctl": 250},
       {"read": 0, "write": 1, "mmap": 9, "execve": 59, "exit_group": 231, "futex": 202, "openat": 257})  # fmt: skip
ARM = ("aarch64", 0xC00000B7, 220, 198, {"ptrace": 117, "mount": 40, "unshare": 97, "bpf": 280, "keyctl": 219},
       {"read": 63, "write": 64, "mmap": 222, "execve": 221, "exit_group": 94, "futex": 98, "openat": 56})  # fmt: skip


def _decide(program: bytes, number: int, arch: int, first_argument: int = 0) -> int:
    """Run a classic BPF program on one call, as the kernel does."""
    steps = list(struct.iter_unpack("=HBBI", program))
    call = struct.pack("=IIQQ", number, arch, 0, first_argument)
    loaded, position = 0, 0
    while True:
        code, if_true, if_false, value = steps[position]
        position += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", call, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            position += if_true if holds else if_false


@pytest.mark.parametrize(("machine", "arch", "clone", "socket", "denied", "needed"), [X86, ARM], ids=["x86", "arm"])
def test_filter_of_each_processor_decides_each_kind_of_call(
    machine: str, arch: int, clone: int, socket: int, denied: dict[str, int], needed: dict[str, int]
) -> None:
    """Dangerous calls are refused, needed ones pass, clone and socket are told apart by their argument."""
    program = seccomp_program(machine)
    assert program is not None
    assert len(program) // 8 <= 4096
    assert {name: _decide(program, number, arch) for name, number in denied.items()} == dict.fromkeys(denied, DENY)
    assert {name: _decide(program, number, arch) for name, number in needed.items()} == dict.fromkeys(needed, ALLOW)
    assert _decide(program, 435, arch) == ABSENT
    assert _decide(program, 425, arch) == DENY
    assert _decide(program, clone, arch, 17) == ALLOW
    assert {_decide(program, clone, arch, flag | 17) for flag in (0x10000000, 0x00020000, 0x40000000)} == {DENY}
    families = {family: _decide(program, socket, arch, family) for family in range(46)}
    assert {family for family, decision in families.items() if decision == ALLOW} == {1, 2, 10}
    assert set(families.values()) == {ALLOW, NO_FAMILY}
    assert _decide(program, needed["read"], 0x40000003) == KILL


def test_filter_for_x86_kills_calls_of_its_second_table() -> None:
    """The x32 table has other numbers for the same calls, so no call of it passes."""
    program = seccomp_program("x86_64")
    assert program is not None
    assert _decide(program, 0x40000000 | 101, 0xC000003E) == KILL
