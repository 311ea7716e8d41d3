"""What a worker holds on the disk beyond its data folder: files that it removed, and has open or mapped still.

No folder shows them, and the disk keeps them until their last holder lets go. The kernel tells of them under
`/proc/<pid>` (proc(5)), to whoever may look at the process.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from host.runtime.data_folder import BLOCK, UncountableError

_DELETED: Final = b" (deleted)"
_ENDED: Final = frozenset({"Z", "X"})


class HiddenError(UncountableError):
    """The host may not look at the process: this machine does not let it, or the process has seen to that."""

    code = "process_hidden"


@dataclass(slots=True)
class _Held:
    files: dict[tuple[int, int], int] = field(default_factory=dict)
    sockets: list[str] = field(default_factory=list)


def held_bytes(pid: int, folder: Path, inbox: int, *, thorough: bool) -> int:
    """Bytes of the files that a process has removed and holds; none where it has ended.

    `folder` is its data folder, without links on the way, and `inbox` the host's own descriptor of the socket to it.
    What costs more is looked at where `thorough`: files that are mapped alone, and descriptors that are under way in
    a socket, between its own or to the host.

    Raises:
        HiddenError: the host may not look.
        UncountableError: it holds what cannot be counted.
    """
    try:
        held = _descriptors(pid)
        if thorough:
            _mapped(pid, os.fsencode(folder) + b"/", held)
            _under_way(f"/proc/{pid}/fdinfo", held.sockets)
            _under_way("/proc/self/fdinfo", [str(inbox)])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        if _ended(pid):
            return 0
        raise HiddenError("the files that it has open are hidden from the host") from None
    return sum(held.files.values())


def _descriptors(pid: int) -> _Held:
    held = _Held()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            try:
                found = descriptor.stat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                held.files[found.st_dev, found.st_ino] = found.st_blocks * BLOCK
            elif stat.S_ISSOCK(found.st_mode):
                held.sockets.append(descriptor.name)
    return held


def _mapped(pid: int, folder: bytes, held: _Held) -> None:
    """Add the removed files that are mapped and no longer open: one page keeps a whole file."""
    known = {inode for _, inode in held.files}
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        if not line.endswith(_DELETED):
            continue
        where, _, _, _, number, path = line.split(maxsplit=5)
        inode = int(number)
        if inode in known or not path.startswith(folder) or _is_there(path, inode):
            continue
        known.add(inode)
        begin, end = (int(address, 16) for address in where.split(b"-"))
        try:
            found = Path(f"/proc/{pid}/map_files/{begin:x}-{end:x}").stat()
        except FileNotFoundError:
            continue  # unmapped meanwhile
        except PermissionError:
            raise UncountableError("it maps a file that it has removed and closed, whose size nobody shows") from None
        held.files[found.st_dev, found.st_ino] = found.st_blocks * BLOCK


def _is_there(path: bytes, inode: int) -> bool:
    """Whether this is the name of a file that ends as if it were deleted, and is not."""
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ino == inode
    return False


def _under_way(folder: str, sockets: list[str]) -> None:
    """Refuse descriptors that were sent to a socket and not received: what they are of is nowhere to be seen."""
    for name in sockets:
        with contextlib.suppress(FileNotFoundError):
            for line in Path(folder, name).read_bytes().splitlines():
                if line.startswith(b"scm_fds:") and int(line.split()[1]):
                    raise UncountableError("it keeps open files in the queue of a socket, where nobody can count them")


def _ended(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in _ENDED
