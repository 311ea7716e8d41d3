"""Attempts on processes, system calls, and what a worker was left with."""

import contextlib
import ctypes
import os
import resource
import signal
import stat
import subprocess
from typing import Any


def run(target: str) -> str:
    """Run a program."""
    return subprocess.run([target], check=True, capture_output=True, text=True).stdout


def signal_(target: str) -> str:
    """Kill a process; the parent where none is named."""
    os.kill(int(target) if target else os.getppid(), signal.SIGKILL)
    return "sent"


def trace(target: str) -> str:
    """Attach to a process as a debugger does."""
    return _system_call("ptrace", 16, int(target), 0, 0)


def limit(target: str) -> str:
    """Take another process's open files."""
    resource.prlimit(int(target), resource.RLIMIT_NOFILE, (0, 0))
    return "limited"


def mount(target: str) -> str:
    """Mount a file system."""
    return _system_call("mount", b"none", target.encode(), b"tmpfs", 0, None)


def unshare(target: str) -> str:
    """Make namespaces, in which one is root."""
    return _system_call("unshare", int(target or "0x10000000", 0))


def environment(target: str) -> str:
    """Look at the environment."""
    return ", ".join(sorted(os.environ))


def held(target: str) -> str:
    """Say which descriptors above the standard ones are open, and what they are."""
    found = []
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            mode = os.fstat(number).st_mode
            found.append("socket" if stat.S_ISSOCK(mode) else "file" if stat.S_ISREG(mode) else "other")
    return ", ".join(found)


def _system_call(name: str, *arguments: Any) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "done"
