"""How much a process has written so far, read often and cheaply; and the process itself, held while that is looked at.

What the kernel keeps under `/proc/<pid>` (proc(5)) is opened once: it stays that of this process, whoever has its
number afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

_TO_DISK: Final = b"write_bytes: "
_CALLED: Final = b"wchar: "
_DIRTIED: Final = b"nr_dirtied "
_IO_BYTES: Final = 1024
_VMSTAT_BYTES: Final = 64 * 1024
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Writes:
    """What one process writes.

    Args:
        pid: The process; it must not have been reaped yet.
        in_memory: Whether its files are on a file system without a disk, for which the kernel counts no bytes that go
            to one: then all counts that it gives to any file, socket or pipe.
    """

    def __init__(self, pid: int, *, in_memory: bool) -> None:
        self._pid = pid
        self._field = _CALLED if in_memory else _TO_DISK
        self._io = -1
        self._using = threading.Lock()  # a number that was closed may be somebody else's file at once
        with contextlib.suppress(OSError):  # it has just ended, or it is not for us to see
            self._io = os.open(f"/proc/{pid}/io", os.O_RDONLY | os.O_CLOEXEC)

    def bytes(self) -> int | None:
        """Bytes that it has written so far, as soon as they are in memory; None where nobody says, or it has ended."""
        with self._using:
            if self._io < 0:
                return None
            try:
                text = os.pread(self._io, _IO_BYTES, 0)
            except OSError:
                return None
        _, found, rest = text.partition(self._field)
        return int(rest.split(maxsplit=1)[0]) if found else None

    def hold(self) -> bool:
        """Stop it where it is; whether it stands."""
        return self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Let go of it; it goes on as it is. What is asked afterwards is answered as for one that has ended."""
        with self._using:
            if self._io >= 0:
                os.close(self._io)
                self._io = -1

    def _signal(self, number: signal.Signals) -> bool:
        try:
            descriptor = os.pidfd_open(self._pid)
        except OSError:
            return False
        try:
            if self.bytes() is None:  # so the number may be another's by now
                return False
            signal.pidfd_send_signal(descriptor, number)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


class Dirtied:
    """How much the whole machine has written into files that go to disks: one small file tells whether any did."""

    def __init__(self) -> None:
        self._vmstat = -1
        with contextlib.suppress(OSError):
            self._vmstat = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
        self._page = os.sysconf("SC_PAGE_SIZE")

    def bytes(self) -> int | None:
        """Bytes so far; None where nobody says."""
        if self._vmstat < 0:
            return None
        try:
            _, found, rest = os.pread(self._vmstat, _VMSTAT_BYTES, 0).partition(_DIRTIED)
        except OSError:
            return None
        return int(rest.split(maxsplit=1)[0]) * self._page if found else None

    def close(self) -> None:
        """Look no more."""
        if self._vmstat >= 0:
            os.close(self._vmstat)
            self._vmstat = -1


def in_memory(folder: Path) -> bool:
    """Whether a folder is on a file system that keeps its files in memory alone; blocks."""
    try:
        device = folder.stat().st_dev
    except OSError:
        return False
    return _file_system(f"{os.major(device)}:{os.minor(device)}") in _IN_MEMORY


@lru_cache(maxsize=64)
def _file_system(device: str) -> str:
    """The type of the file system that has this number, as proc(5) has it in `mountinfo`; empty where it has none."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split(maxsplit=3)[2] == device:
            return system.split(maxsplit=1)[0]
    return ""
