"""As whom a daemon of the tests runs, and which folders other users may enter.

Where a suite runs as root, Python and pytest's folders often lie below folders that are closed to others. Nothing of
the machine is changed for that: a daemon gets a mount namespace of its own, in which these are covered by open ones.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Final

from plugin_sdk.worker.sandbox.libc import PR_CAPBSET_DROP, PR_SET_DUMPABLE, prctl, unshare
from plugin_sdk.worker.sandbox.privileges import become, set_capabilities

UNPRIVILEGED_USER: Final = 61_234
"""Nobody's: whom a daemon runs as that must not be root."""
ROOT: Final = Path(__file__).parents[2]
_CLONE_NEWNS: Final = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
_CAP_SYS_ADMIN: Final = 1 << 21


class Footing(Enum):
    """How a daemon stands."""

    AS_IT_IS = "as the tests' own user, in the folders as they are"
    PLUGIN_USERS = "as root, and its plugins as users of their own"
    CLOSED = "as root without the right to mount, below a folder that is closed to others"
    COVERED = "as root, below a folder that is closed to others"
    UNPRIVILEGED = "as a user without any privilege"

    @property
    def possible(self) -> bool:
        """Whether the tests may stand a daemon so."""
        if self is Footing.AS_IT_IS:
            return True
        return os.geteuid() == 0 and (self is Footing.CLOSED or _may_mount())


def usual() -> Footing:
    """With plugins as users of their own, where that can be had."""
    return Footing.PLUGIN_USERS if Footing.PLUGIN_USERS.possible else Footing.AS_IT_IS


def stand(footing: Footing, folder: Path) -> None:
    """In the daemon's process, before it starts: enter the footing. `folder` is where all that it keeps will be."""
    if footing in {Footing.CLOSED, Footing.COVERED}:
        folder.chmod(0o700)
    if footing is Footing.CLOSED and _may_mount():
        _give_up_mounting()
    if footing not in {Footing.PLUGIN_USERS, Footing.UNPRIVILEGED}:
        return
    folder.chmod(0o755)
    for one in folder.parents:
        # Those of this session; what is above them, pytest closes again whenever another session begins.
        if Path(tempfile.gettempdir()) not in one.parents or one.name.startswith("pytest-of-"):
            break
        one.chmod(one.stat().st_mode | stat.S_IXOTH)
    _open_up({folder.resolve(), ROOT, *(Path(one).resolve() for one in (sys.prefix, sys.base_prefix))})
    if footing is Footing.UNPRIVILEGED:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UNPRIVILEGED_USER, UNPRIVILEGED_USER, follow_symlinks=False)
        become(UNPRIVILEGED_USER)
        prctl(PR_SET_DUMPABLE, 1)  # as after the start of a program: its own files in /proc are its own


def _open_up(paths: set[Path]) -> None:
    """Cover the closed folders above these paths, for this process and what it starts, and put back what leads on."""
    unshare(_CLONE_NEWNS)
    _mount(None, Path("/"), None, _MS_REC | _MS_SLAVE)
    for path in paths:
        while (closed := _closed_above(path)) is not None:
            onward = {closed / one.relative_to(closed).parts[0] for one in paths if closed in one.parents}
            held = {one: os.open(one, os.O_PATH) for one in onward}
            _mount("tmpfs", closed, "tmpfs", 0, b"mode=755")
            for one, descriptor in held.items():
                one.mkdir()
                _mount(f"/proc/self/fd/{descriptor}", one, None, _MS_BIND | _MS_REC)
                os.close(descriptor)


def _closed_above(path: Path) -> Path | None:
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & stat.S_IXOTH), None)


def _mount(source: str | None, target: Path, kind: str | None, flags: int, options: bytes | None = None) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    words = (source and source.encode(), os.fsencode(target), kind and kind.encode())
    if library.mount(*words, ctypes.c_ulong(flags), options) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _may_mount() -> bool:
    return bool(_capabilities() & _CAP_SYS_ADMIN)


def _capabilities() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _give_up_mounting() -> None:
    """As root in many containers: without CAP_SYS_ADMIN, now and after the start of a program."""
    prctl(PR_CAPBSET_DROP, _CAP_SYS_ADMIN.bit_length() - 1)
    set_capabilities(_capabilities() & ~_CAP_SYS_ADMIN)
