"""A plugin's data folder as the host walks it: whatever the plugin has made in it, and while it goes on making more.

Every step is taken from an open folder and follows no link, so no name is ever longer than one name, however deep
the folder is, and what is put in a folder's place leads nowhere. One folder is open at a time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.runtime.errors import RuntimeFailedError

MAX_COUNTED: Final = 20_000
"""Entries of a data folder that are counted; one that has more is taken for full."""
TOO_MANY: Final = 2**62
"""Bytes that a folder with more entries is said to hold."""
BLOCK: Final = 512
"""Bytes in which `st_blocks` counts, whatever the file system's own blocks are."""

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening a folder answers where the plugin has just removed it, or put something else in its place."""
_OWN_TROUBLE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class UncountableError(RuntimeFailedError):
    """What a plugin holds on the disk cannot be counted, by its own doing or by the disk's."""

    code = "data_uncountable"


class FolderMovedError(RuntimeFailedError):
    """A folder was moved while the walk was in it; the walk has to begin again."""

    code = "data_moved"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a data folder: its `name` in the open folder `parent`, which is open until the next is asked for."""

    parent: int
    name: str
    found: os.stat_result


def entries(folder: Path, *, mend: bool = False) -> Generator[Entry, None, None]:
    """Everything below a folder, as it is found; nothing where there is no such folder.

    What vanishes meanwhile is left out. `mend` has folders that their owner, the host, may not read opened to it:
    for when no worker of the plugin runs.

    Raises:
        UncountableError: a folder in it cannot be read.
        FolderMovedError: a folder was moved from where the walk stood.
        OSError: the host is short of descriptors or memory, which says nothing about the plugin.
    """
    here = _root(folder, mend=mend)
    if here is None:
        return
    above: list[tuple[tuple[int, int], list[str]]] = []
    try:
        waiting = yield from _within(here)
        while waiting or above:
            if waiting:
                below = _enter(here, waiting.pop(), mend=mend)
                if below is None:
                    continue
                above.append((_identity(here), waiting))
                here = _replaced(here, below)
                waiting = yield from _within(here)
            else:
                came_from, waiting = above.pop()
                here = _replaced(here, _leave(here, came_from))
    finally:
        os.close(here)


def _within(here: int) -> Generator[Entry, None, list[str]]:
    """What is in the open folder; returns the names of the folders among it."""
    folders: list[str] = []
    try:
        with os.scandir(here) as found:
            for entry in found:
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(seen.st_mode):
                    folders.append(entry.name)
                yield Entry(here, entry.name, seen)
    except OSError as error:
        raise _uncountable(error) from None
    return folders


def _root(folder: Path, *, mend: bool) -> int | None:
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _enter(parent, folder.name, mend=mend)
    finally:
        os.close(parent)


def _enter(here: int, name: str, *, mend: bool) -> int | None:
    """The folder of this name, open; None where it is none any more."""
    try:
        if mend:
            open_to_owner(here, name)
        return os.open(name, _OPEN, dir_fd=here)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise _uncountable(error) from None


def _leave(here: int, came_from: tuple[int, int]) -> int:
    """The folder above, open, which must be the one that the walk came from: a plugin may move folders as it likes."""
    try:
        above = os.open("..", _OPEN, dir_fd=here)
    except FileNotFoundError:
        raise FolderMovedError("a folder was removed while it was counted") from None
    except OSError as error:
        raise _uncountable(error) from None
    if _identity(above) != came_from:
        os.close(above)
        raise FolderMovedError("a folder was moved while it was counted")
    return above


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _uncountable(error: OSError) -> Exception:
    if error.errno in _OWN_TROUBLE:
        return error
    return UncountableError(f"a folder in its data folder cannot be read ({error.strerror}), nor what is in it counted")


def open_to_owner(parent: int, name: str) -> None:
    """Let the owner read, enter and change the folder `name`, if it is one; no link is followed.

    Raises:
        OSError: it is not the host's own, or not there.
    """
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(held).st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            # By way of /proc, for a descriptor that is only a place (O_PATH) has no mode of its own to change.
            Path(f"/proc/self/fd/{held}").chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
    finally:
        os.close(held)


class Tally:
    """Counts a data folder, some entries at a time: `bytes` on the disk, each file once however many names it has.

    Errors of `go_on` are those of `entries`; after one, the tally is over.
    """

    def __init__(self, folder: Path, *, mend: bool = False) -> None:
        self.bytes = 0
        self._entries = entries(folder, mend=mend)
        self._counted = 0
        self._linked: set[tuple[int, int]] = set()

    def go_on(self, most: int) -> bool:
        """Count up to `most` further entries; whether that was all."""
        for _ in range(most):
            entry = next(self._entries, None)
            if entry is None:
                return True
            self._counted += 1
            if self._counted > MAX_COUNTED:
                self.bytes = TOO_MANY
                self.close()
                return True
            self._add(entry.found)
        return False

    def close(self) -> None:
        """Give up what is open; it cannot go on."""
        self._entries.close()

    def _add(self, found: os.stat_result) -> None:
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            identity = (found.st_dev, found.st_ino)
            if identity in self._linked:
                return
            self._linked.add(identity)
        self.bytes += found.st_blocks * BLOCK


def usage(folder: Path, *, mend: bool = False) -> int:
    """Bytes on the disk in a folder; `TOO_MANY` where there are more entries than are counted. Errors as `entries`."""
    tally = Tally(folder, mend=mend)
    try:
        while not tally.go_on(MAX_COUNTED):
            pass
    finally:
        tally.close()
    return tally.bytes


def give(folder: Path, user: int) -> None:
    """Make a data folder this user's, with all that is in it; quick where it is already. Errors as `entries`."""
    if folder.stat(follow_symlinks=False).st_uid == user:
        return
    for entry in entries(folder):
        if not stat.S_ISDIR(entry.found.st_mode) and entry.found.st_nlink != 1:
            continue  # whose file it is that has another name elsewhere, nobody can tell from here
        try:
            os.chown(entry.name, user, user, dir_fd=entry.parent, follow_symlinks=False)
        except FileNotFoundError:
            continue  # a worker that still runs has just removed it
    os.chown(folder, user, user, follow_symlinks=False)
