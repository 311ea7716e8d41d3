"""A plugin's data folder: made where it is not there, and never what a link in its place leads to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host.storage.beneath import Folder


@contextmanager
def own_folder(path: Path) -> Iterator[Folder]:
    """The data folder of a plugin, open; it lies in a folder that holds nothing else, which is made, too. Blocks.

    Raises:
        OddFileError: a link, or something that is no folder, lies in the place of one of the two.
        OSError: it cannot be made or opened.
    """
    above = path.parent.parent
    above.mkdir(parents=True, exist_ok=True)
    with (
        Folder.at(above) as top,
        top.below(path.parent.name, make=0o711) as parent,
        parent.below(path.name, make=0o700) as own,
    ):
        yield own


def give(folder: Folder, user: int) -> None:
    """Make a data folder this user's, with all that is in it; quick where it is already.

    A file that has another name elsewhere stays as it is: whose file that is, nobody can tell from here.
    """
    if os.fstat(folder.descriptor).st_uid == user:
        return
    for _, folders, files, descriptor in os.fwalk(".", dir_fd=folder.descriptor):
        for name in (*folders, *files):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                os.chown(name, user, user, dir_fd=descriptor, follow_symlinks=False)
    os.fchown(folder.descriptor, user, user)
