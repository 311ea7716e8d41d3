"""Attempts on what a file is, and on being told of it: mode, owner, times, attributes, leases, watches."""

import ctypes
import fcntl
import os
import struct
from pathlib import Path
from typing import Any

_FCHMODAT2 = 452
_SETXATTRAT = 463
_FILE_SETATTR = 469
_IO_URING_SETUP = 425
_HERE = -100
_SETFLAGS = 0x40086602
_KEEP_SIZE = 1


def chmod(target: str) -> str:
    """Let everybody read and run a file, as its owner."""
    Path(target).chmod(0o4777)
    return "changed"


def chmod_at(target: str) -> str:
    """The same, by the newest call for it."""
    return _raw(_FCHMODAT2, _HERE, target.encode(), 0o4777, 0)


def fchmod(target: str) -> str:
    """The same, by a descriptor."""
    with Path(target).open("rb") as file:
        os.fchmod(file.fileno(), 0o4777)
    return "changed"


def chown(target: str) -> str:
    """Give a file to oneself, which whoever owns it may do."""
    os.chown(target, os.getuid(), os.getgid(), follow_symlinks=False)
    return "changed"


def utime(target: str) -> str:
    """Make a file look old."""
    os.utime(target, (1, 1))
    return "changed"


def setxattr(target: str) -> str:
    """Put an attribute on a file."""
    os.setxattr(target, "user.saboteur", b"sabotage")
    return "changed"


def setxattr_at(target: str) -> str:
    """The same, by the newest call for it."""
    return _raw(_SETXATTRAT, _HERE, target.encode(), 0, b"user.saboteur", bytes(16), 16)


def getxattr(target: str) -> str:
    """Read the attributes of a file that one may not open."""
    return ", ".join(os.listxattr(target)) or "none"


def flags(target: str) -> str:
    """Make a file immutable."""
    with Path(target).open("rb") as file:
        fcntl.ioctl(file, _SETFLAGS, struct.pack("l", 0x10))
    return "changed"


def flags_at(target: str) -> str:
    """The same, by the newest call for it."""
    return _raw(_FILE_SETATTR, _HERE, target.encode(), bytes(24), 24, 0)


def set_user_id(target: str) -> str:
    """Make a file that runs as its owner."""
    descriptor = os.open(target or "planted", os.O_CREAT | os.O_WRONLY, 0o4755)
    try:
        return oct(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def allocate(target: str) -> str:
    """Take room on the disk that no size shows."""
    with Path(target or "room").open("wb") as file:
        length = ctypes.c_long(2**30)
        return _named("fallocate", file.fileno(), _KEEP_SIZE, ctypes.c_long(0), length)


def lease(target: str) -> str:
    """Hold others off a file."""
    with Path(target).open("rb") as file:
        return str(fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK))


def signal_by_descriptor(target: str) -> str:
    """Have the kernel send signals to another process."""
    with Path("/dev/null").open("rb") as file:
        return str(fcntl.fcntl(file, fcntl.F_SETOWN, int(target)))


def notify(target: str) -> str:
    """Be told what happens in a folder, in the old way."""
    descriptor = os.open(target or ".", os.O_RDONLY)
    try:
        return str(fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_MODIFY))
    finally:
        os.close(descriptor)


def inotify(target: str) -> str:
    """Watch a folder that one may not open."""
    descriptor = int(_named("inotify_init1", 0))
    return _named("inotify_add_watch", descriptor, target.encode(), 0xFFF)


def fanotify(target: str) -> str:
    """Watch a whole file system."""
    return _named("fanotify_init", 0, 0)


def io_uring(target: str) -> str:
    """Make a ring, through which calls go past a filter."""
    return _raw(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))


def _raw(number: int, *arguments: Any) -> str:
    return _named("syscall", number, *arguments)


def _named(name: str, *arguments: Any) -> str:
    found = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return str(found)
