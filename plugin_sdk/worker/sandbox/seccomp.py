"""A seccomp filter: a worker makes the system calls that it needs, and all others answer with an error.

A plugin is one process: it may start threads, but neither fork nor run a program. It may send signals to itself alone,
and change the limits of itself alone. Of no file may it change mode, owner, times or attributes, for Landlock has no
right for these, and the files of a worker's user are not all its own. `system_calls` has the list. Source: seccomp(2),
and the kernel's `include/uapi/linux/filter.h`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import socket
import struct
import termios
from itertools import groupby
from typing import Final

from plugin_sdk.worker.sandbox import system_calls
from plugin_sdk.worker.sandbox.libc import MACHINE, PR_SET_SECCOMP, UnavailableError, prctl

_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000

# Classic BPF: load a word of `struct seccomp_data`, compare, jump, return.
_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_SET: Final = 0x45
_RETURN: Final = 0x06
_FARTHEST: Final = 255
"""As far as a conditional jump reaches."""
_NUMBER_AT: Final = 0
_MACHINE_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_THREAD: Final = 0x00010000 | 0x00000400
"""CLONE_THREAD and CLONE_FILES: a thread with descriptors of its own would hold files that nobody counts."""
_SOCKET_TYPE: Final = 0xF
_MAKES_A_FILE: Final = os.O_CREAT | 0o20000000  # __O_TMPFILE
_SPECIAL_BITS: Final = 0o7000
"""Set-user-id, set-group-id and the sticky bit: a file that is made with them is a program that runs as its owner."""
_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D

_PRCTL: Final = (
    *(15, 16),  # PR_SET_NAME, PR_GET_NAME
    0x53564D41,  # PR_SET_VMA: allocators name their memory
    *(3, 21, 23, 30, 39),  # PR_GET_DUMPABLE, _GET_SECCOMP, _CAPBSET_READ, _GET_TIMERSLACK, _GET_NO_NEW_PRIVS
    *(51, 56),  # PR_SVE_GET_VL, PR_GET_TAGGED_ADDR_CTRL: asked for on aarch64
)
_IOCTL: Final = (
    *(termios.FIONBIO, termios.FIONREAD, termios.FIOCLEX, termios.FIONCLEX),
    *(termios.TCGETS, 0x802C542A, termios.TIOCGWINSZ),  # is it a terminal (TCGETS2, too), and how wide
)
_FCNTL: Final = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL),
    *(fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW),
    1032,  # F_GETPIPE_SZ; not F_SETPIPE_SZ, whose memory no limit of the worker's counts
)
"""Without those that watch a folder, hold others off a file, or have a signal sent to any process of the same user."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_NO_PROCESS: Final = 2**32 - 1
"""Where the process id goes, in a filter that is not yet anyone's."""

_Instruction = tuple[int, int, int, int]
_Block = tuple[_Instruction, ...]
"""Instructions that end in a return on every way through them."""
_ALLOWED: Final[_Block] = ((_RETURN, 0, 0, _ALLOW),)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.c_void_p))


def refuse_system_calls(pid: int, *, network: bool) -> None:
    """Install the filter for this process. `network` allows TCP sockets; what they reach is for others to bound.

    Raises:
        UnavailableError: there is no table for this machine, or the kernel has no seccomp.
    """
    if MACHINE not in _AUDIT_ARCH:
        raise UnavailableError(f"there is no table of system calls for {MACHINE}")
    packed, places = _packed(MACHINE, network=network)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    for place in places:
        struct.pack_into("=I", buffer, place, pid)
    program = _Program(len(packed) // _INSTRUCTION.size, ctypes.cast(buffer, ctypes.c_void_p))
    try:
        prctl(PR_SET_SECCOMP, _MODE_FILTER, program)
    except OSError as error:
        raise UnavailableError(f"this kernel takes no seccomp filter ({error.strerror})") from None


def make_ready() -> None:
    """Build what is the same for all workers, before they are forked: it takes memory, and more time than the rest."""
    if MACHINE in _AUDIT_ARCH:
        for network in (False, True):
            _packed(MACHINE, network=network)


@functools.cache
def _packed(machine: str, *, network: bool) -> tuple[bytes, tuple[int, ...]]:
    """A filter as the kernel takes it, and where in it the process id is to be put."""
    instructions = build(machine, _NO_PROCESS, network=network)
    packed = b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
    value_at = _INSTRUCTION.size - 4
    places = [at * _INSTRUCTION.size + value_at for at, one in enumerate(instructions) if one[3] == _NO_PROCESS]
    return packed, tuple(places)


def build(machine: str, pid: int, *, network: bool) -> list[_Instruction]:
    """The filter for a worker of this process id, for one of the machines that there is a table for.

    It finds a call by halving the numbers, in eight steps or so. Kernels from 5.11 on ask it once about each call that
    is allowed whatever its arguments are, and never again.
    """
    answers = _answers(list(_AUDIT_ARCH).index(machine), pid, network=network)
    known = max(answers) + 1
    refused, absent = _fails(errno.EPERM), _fails(errno.ENOSYS)
    unnamed = {
        **dict.fromkeys(range(system_calls.UNKNOWN_FROM), refused),
        **dict.fromkeys(range(system_calls.UNKNOWN_FROM, known), absent),
    }
    found = {**unnamed, **answers}
    ranges = [(next(numbers), answer) for answer, numbers in groupby(range(known), found.__getitem__)]
    return [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        # The numbers of the x32 ABI are among those above.
        *_tree([*ranges, (known, absent)]),
    ]


def _tree(ranges: list[tuple[int, _Block]]) -> _Block:
    """Find the range that the number is in, each of which begins at its first number and ends before the next one's."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    first = ranges[middle][0]
    below, above = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(below) <= _FARTHEST:
        return ((_JUMP_AT_LEAST, len(below), 0, first), *below, *above)
    return ((_JUMP_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(below)), *below, *above)


def _answers(column: int, pid: int, *, network: bool) -> dict[int, _Block]:
    """What becomes of each call that is named, by its number in this column of the tables."""
    blocks: dict[str, _Block] = {
        **dict.fromkeys(system_calls.ALLOWED, _ALLOWED),
        **dict.fromkeys(system_calls.ABSENT, _fails(errno.ENOSYS)),
        **dict.fromkeys(system_calls.UNSUPPORTED, _fails(errno.EOPNOTSUPP)),
        **dict.fromkeys(system_calls.REFUSED, _fails(errno.EPERM)),
        "clone": (
            _load(0),
            (_AND, 0, 0, _THREAD),
            (_JUMP_EQUAL, 1, 0, _THREAD),
            *_fails(errno.EPERM),
            *_ALLOWED,
        ),
        "open": _made_plain(flags=1, mode=2),
        "openat": _made_plain(flags=2, mode=3),
        "creat": _plain(1),
        "prctl": _only(0, _PRCTL, errno.EPERM),
        # Whoever copies a file tries to have it share its blocks first, and knows this answer.
        "ioctl": _where(1, (_FICLONE, _FICLONERANGE), _fails(errno.EOPNOTSUPP), _only(1, _IOCTL, errno.EPERM)),
        "fcntl": _only(1, _FCNTL, errno.EPERM),
        "socket": _stream_socket((socket.AF_INET, socket.AF_INET6) if network else ()),
        "socketpair": _stream_socket((socket.AF_UNIX,)),
        # The first argument is a process id: its own, or 0, which means the same.
        **dict.fromkeys(
            ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64", "sched_setaffinity"),
            _only(0, (0, pid), errno.EPERM),
        ),
    }
    named = {
        **system_calls.ALLOWED,
        **system_calls.ABSENT,
        **system_calls.UNSUPPORTED,
        **system_calls.REFUSED,
        **system_calls.DEPENDS,
    }
    return {number: blocks[name] for name, numbers in named.items() if (number := numbers[column]) is not None}


def _load(argument: int) -> _Instruction:
    """Take an argument, of which the kernel looks at the lower 32 bits in all that are looked at here."""
    return _LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument


def _fails(error: int) -> _Block:
    return ((_RETURN, 0, 0, _ERRNO | error),)


def _only(argument: int, values: tuple[int, ...], error: int) -> _Block:
    """Allow the call where the argument is one of the values."""
    return _where(argument, values, _ALLOWED, _fails(error))


def _where(argument: int, values: tuple[int, ...], then: _Block, otherwise: _Block) -> _Block:
    """`then` where the argument is one of the values."""
    tests = (
        (_JUMP_EQUAL, left + len(otherwise), 0, value)
        for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True)
    )
    return (_load(argument), *tests, *otherwise, *then)


def _plain(mode: int) -> _Block:
    """Allow the call where the mode has no special bits."""
    return (_load(mode), (_JUMP_SET, 0, 1, _SPECIAL_BITS), *_fails(errno.EPERM), *_ALLOWED)


def _made_plain(*, flags: int, mode: int) -> _Block:
    """Allow the call where it makes no file, or one without special bits."""
    return (_load(flags), (_JUMP_SET, 1, 0, _MAKES_A_FILE), *_ALLOWED, *_plain(mode))


def _stream_socket(families: tuple[int, ...]) -> _Block:
    """Allow a stream socket of these families; a datagram socket could be pointed anywhere, one packet at a time.

    Its protocol is TCP or the usual one: Landlock looks at the connections of no other (MPTCP is one, too).
    """
    refused = _fails(errno.EACCES)
    if not families:
        return refused
    return (
        _load(1),
        (_AND, 0, 0, _SOCKET_TYPE),
        (_JUMP_EQUAL, 1, 0, socket.SOCK_STREAM),
        *refused,
        _load(2),
        (_JUMP_EQUAL, 2, 0, 0),
        (_JUMP_EQUAL, 1, 0, socket.IPPROTO_TCP),
        *refused,
        *_only(0, families, errno.EACCES),
    )
