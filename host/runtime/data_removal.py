"""How a data folder is removed: whatever a plugin has made in it, without following a link, and again after a crash.

A folder is first set aside under a name of the host's own, in one step, so that whoever comes next under the plugin's
id finds nothing of it; then what is in it is removed. Folders in it are brought up beside each other before they are
emptied, so that no depth costs anything.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from host.runtime.data_folder import open_to_owner

ASIDE: Final = ".removed-"
"""How the names of folders begin that were set aside; no plugin's id begins so."""

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def set_aside(data: Path, name: str) -> str:
    """Give what is called `name` among the data folders another name, in one step; which, or "" where there is none.

    Raises:
        OSError: it could not be renamed.
    """
    aside = f"{ASIDE}{name.lstrip('.')}-{secrets.token_hex(8)}"
    try:
        # Beside it, not below another folder: a move to elsewhere would need the right to change the folder itself.
        (data / name).rename(data / aside)
    except FileNotFoundError:
        return ""
    _sync(data)
    return aside


def remove_aside(data: Path, only: str = ASIDE) -> int:
    """Remove all that was set aside and begins with `only`, after a crash as well; how many could not be removed.

    Raises:
        OSError: the folder of data folders cannot be read.
    """
    try:
        parent = os.open(data, _OPEN)
    except FileNotFoundError:
        return 0
    left = 0
    try:
        for name in os.listdir(parent):  # noqa: PTH208 - of the open folder, whatever stands in its place by now
            if not name.startswith(only):
                continue
            try:
                _remove(parent, name)
            except OSError:
                left += 1
        os.fsync(parent)
    finally:
        os.close(parent)
    return left


def _sync(folder: Path) -> None:
    """Have a rename outlive a power cut."""
    descriptor = os.open(folder, _OPEN)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(parent: int, name: str) -> None:
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    top = _opened(parent, name)
    try:
        while _empty_folders(top):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty_folders(top: int) -> bool:
    """Remove what is in an open folder, and bring up what its folders have in folders; whether there was anything."""
    found = False
    with os.scandir(top) as entries:
        for entry in entries:
            found = True
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=top)
                continue
            below = _opened(top, entry.name)
            try:
                while _bring_up(below, top):
                    pass
            finally:
                os.close(below)
            os.rmdir(entry.name, dir_fd=top)
    return found


def _bring_up(folder: int, top: int) -> bool:
    """Remove the files of an open folder, and move its folders to `top`; whether there was anything."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            found = True
            if entry.is_dir(follow_symlinks=False):
                open_to_owner(folder, entry.name)  # who may not change a folder may not move it elsewhere
                os.rename(entry.name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return found


def _opened(parent: int, name: str) -> int:
    open_to_owner(parent, name)
    return os.open(name, _OPEN, dir_fd=parent)
