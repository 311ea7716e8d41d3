"""The C library, and system calls that it has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

MACHINE: Final = platform.machine()
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}


class UnavailableError(Exception):
    """This part of the sandbox cannot be had here; the sentence says why."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """Make a system call; a structure or a buffer is passed by its address.

    Raises:
        OSError: it failed.
    """
    passed = [
        ctypes.c_long(argument)
        if isinstance(argument, int)
        else ctypes.c_void_p()
        if argument is None
        else ctypes.byref(argument)
        for argument in arguments
    ]
    return _checked(_libc.syscall(ctypes.c_long(number), *passed))


def prctl(option: int, argument: int = 0, other: int | ctypes.Structure = 0) -> int:
    """`prctl(2)`.

    Raises:
        OSError: it failed.
    """
    second = ctypes.byref(other) if isinstance(other, ctypes.Structure) else ctypes.c_ulong(other)
    zero = ctypes.c_ulong(0)
    return _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), second, zero, zero))


def unshare(flags: int) -> None:
    """`unshare(2)`.

    Raises:
        OSError: it failed.
    """
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(
    source: str | None, target: str, kind: str | None, flags: int, options: ctypes.Array[ctypes.c_char] | None = None
) -> None:
    """`mount(2)`.

    Raises:
        OSError: it failed.
    """
    names = (source and os.fsencode(source), os.fsencode(target), kind and kind.encode("ascii"))
    _checked(_libc.mount(*names, ctypes.c_ulong(flags), options))


class _SchedulingAttributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def schedule(nice: int, slice_ns: int) -> None:
    """Be scheduled as an ordinary process with this niceness, in slices of so many nanoseconds.

    Who computes in short slices is interrupted sooner by those who wake up. Source: sched_setattr(2); kernels before
    6.12 keep their own slice.

    Raises:
        OSError: it failed.
    """
    if MACHINE in _SCHED_SETATTR:
        attributes = _SchedulingAttributes(nice=nice, runtime=slice_ns)
        attributes.size = ctypes.sizeof(attributes)
        syscall(_SCHED_SETATTR[MACHINE], 0, attributes, 0)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
