"""Ways through folders that are closed to other users, opened for the workers and for nobody else.

Where root's Python or state folder lies below a folder such as `/root`, no plugin could run as a user of its own.
Nothing of the machine is changed for that: in a mount namespace of its own, the fork server covers the closed folder
with an open and empty one, and puts back into it what workers need. What else lies there is out of their sight.

Source: mount_namespaces(7), mount(2).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plugin_sdk.worker.sandbox.libc import mount, unshare

_CLONE_NEWNS: Final = 0x00020000
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_OPEN: Final = b"mode=755,size=1m"
"""What a closed folder is covered with: a few folders and the names that are bound into them."""


def closed_above(path: Path) -> Path | None:
    """The first folder on the way to a path, from the root on, that other users may not enter; None where none is.

    The path itself is not among them. Blocks.
    """
    return next((one for one in reversed(path.parents) if _is_closed(one)), None)


def outermost(paths: Sequence[Path]) -> list[Path]:
    """The paths that lie in no other of them."""
    return sorted({path for path in paths if not any(path != one and path.is_relative_to(one) for one in paths)})


def open_ways(paths: Sequence[Path]) -> None:
    """Let every user of this process's children get to these paths, files or folders; blocks.

    The process is in a mount namespace of its own from then on. Must be called in one with a single thread.

    Raises:
        OSError: it may not make one, or a path is not there.
    """
    closed = {path: above for path in outermost(paths) if (above := closed_above(path)) is not None}
    if not closed:
        return
    unshare(_CLONE_NEWNS)
    mount(None, "/", None, _MS_REC | _MS_SLAVE)  # what is mounted here is not seen outside
    held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in closed}
    try:
        for above in outermost(list(closed.values())):
            mount("tmpfs", str(above), "tmpfs", 0, ctypes.create_string_buffer(_OPEN))
        for path, descriptor in held.items():
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            mount(f"/proc/self/fd/{descriptor}", str(path), None, _MS_BIND)
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _is_closed(folder: Path) -> bool:
    try:
        return not folder.stat().st_mode & stat.S_IXOTH
    except OSError:
        return False  # not there: whoever needs it says so
