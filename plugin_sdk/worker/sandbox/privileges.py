"""What the process may no longer become or do by virtue of who runs it.

Source: capabilities(7), prctl(2), credentials(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

from plugin_sdk.worker.sandbox.libc import (
    MACHINE,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_SET_NO_NEW_PRIVS,
    UnavailableError,
    prctl,
    syscall,
)

_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 6),)  # effective, permitted, inheritable; then the upper halves


def become(user: int) -> None:
    """Be this user, with a group of the same number and no others.

    Raises:
        UnavailableError: this process may not become another user, though it is root.
    """
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        raise UnavailableError(
            f"this process may not become user {user} ({error.strerror}): "
            "give it the capabilities CAP_SETUID and CAP_SETGID, or run the daemon as a user other than root"
        ) from None


def drop_capabilities() -> None:
    """Give up every capability, and the way to get one by running a program."""
    with contextlib.suppress(OSError):  # there are none to clear before Linux 4.3
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    set_capabilities(0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_capabilities(kept: int) -> None:
    """Have these capabilities of those that the process has, a bit for each, and inherit none.

    Raises:
        OSError: they are more than it has.
    """
    if MACHINE in _CAPSET:
        low, high = kept & 0xFFFFFFFF, kept >> 32
        words = _Capabilities((low, low, 0, high, high, 0))
        syscall(_CAPSET[MACHINE], _Header(_CAPABILITY_VERSION_3, 0), words)
