"""A plugin's data folder: made where it is not there, and never what a link in its place leads to."""

from __future__ import annotations

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
