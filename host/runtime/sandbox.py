"""What each worker is confined to: the host's side of `plugin_sdk.worker.sandbox`.

Everything here touches the disk, and is called in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from host.runtime.own_folder import give, own_folder
from host.runtime.runtime import Launch
from plugin_sdk.worker.sandbox.confinement import Confinement

USERS: Final = 2**27
"""How many user ids from `first_user` on are for plugins."""
MAX_COUNTED: Final = 20_000
"""Entries of a data folder that are counted; one that has more is taken for full."""
_SHARED: Final = (
    # Libraries that Python and its modules are linked with, and what the C library reads for everyone.
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/share/locale",
    "/dev/urandom",
    "/dev/zero",
)


@dataclass(frozen=True, slots=True)
class SandboxPolicy:
    """How workers are confined. `data` is in bytes; the rest are counts.

    Attributes:
        mode: `require` loads no plugin where a part of the sandbox is unavailable, `prefer` goes on, `off` leaves
            the sandbox out.
        first_user: Where the daemon runs as root, plugins run as users from this one on.
        data: What a plugin may keep in its data folder.
        open_files: Descriptors of a worker.
        threads: Threads of a worker.
    """

    mode: Literal["require", "prefer", "off"] = "prefer"
    first_user: int = 1_879_048_192
    data: int = 256 * 2**20
    open_files: int = 256
    threads: int = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A worker's confinement, and the folders that it imports from before all others: the plugin's, its dependencies'.

    `cold_start` says why these must stand there before anything of the SDK is imported: the worker starts cold then.
    `digests` are what all files in these folders must hash to, as in `Launch`.
    """

    confinement: Confinement
    path: list[str]
    cold_start: str = ""
    digests: bytes = b""


class Sandbox:
    """Prepares what workers are confined to.

    Args:
        policy: How.
        sdk_path: The folder that workers import the SDK from.
    """

    def __init__(self, policy: SandboxPolicy, sdk_path: Path) -> None:
        self.policy = policy
        self._sdk_path = sdk_path
        self._provided = frozenset(entry.name for entry in sdk_path.iterdir())
        self._python = _python(sdk_path)

    def prepare(self, launch: Launch) -> Prepared:
        """Make the plugin's data folder, its own, and say what its worker is confined to.

        Raises:
            OddFileError: something else lies in its place.
            OSError: the folder cannot be made.
        """
        policy = self.policy
        folder = launch.data_folder
        user, missing = 0, ""
        with own_folder(folder) as own:
            if os.geteuid() == 0 and policy.mode != "off":
                missing = self._closed_to_others(launch)
                if not missing:
                    user = self._user(launch.plugin)
                    give(own, user)
        confinement = Confinement(
            mode=policy.mode,
            folder=str(folder),
            readable=(*map(str, _released(launch)), *self._python),
            memory=launch.memory,
            file_size=policy.data,
            open_files=policy.open_files,
            threads=policy.threads,
            network=bool(launch.network),
            clear_only=usage(folder) > policy.data,
            user=user,
            user_missing=missing,
        )
        path = (launch.folder, *launch.dependencies)
        clash = launch.cold_start or self._clash(path)
        return Prepared(confinement, list(map(str, path)), clash, launch.digests)

    def _clash(self, path: tuple[Path, ...]) -> str:
        """What in these folders would find a module of the SDK's imported already; nobody need have said so."""
        found = sorted({entry.name for folder in path for entry in folder.iterdir()} & self._provided)
        return f"it brings {', '.join(found)}" if found else ""

    def _user(self, plugin: str) -> int:
        """The same for a plugin every time, and hardly ever that of another; the file rules do not depend on it."""
        digest = hashlib.sha256(plugin.encode()).digest()
        return self.policy.first_user + int.from_bytes(digest[:4], "big") % USERS

    def _closed_to_others(self, launch: Launch) -> str:
        """Why another user could not run the plugin, or nothing."""
        for path in (launch.data_folder.parent, *_released(launch), *map(Path, self._python)):
            for step in reversed((path, *path.parents)):
                try:
                    mode = step.stat().st_mode
                except FileNotFoundError:
                    break
                if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
                    return f"{step} cannot be entered by other users: run `chmod o+x {step}`"
        return ""


def _released(launch: Launch) -> tuple[Path, ...]:
    """The folders that the plugin's code is in; its dependencies lie in one, and there may be many."""
    return (launch.folder, *sorted({folder.parent for folder in launch.dependencies}))


def usage(folder: Path) -> int:
    """Bytes in a folder on disk, all the way down; more than there can be where it has too many entries."""
    total = counted = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    counted += 1
                    if counted > MAX_COUNTED:
                        return 2**63
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue  # the plugin has just removed it
    return total


def _python(sdk_path: Path) -> tuple[str, ...]:
    """Where Python, the SDK and what they are linked with are read from."""
    found = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    found |= {os.path.realpath(entry) for entry in sdk_path.iterdir()}
    return (str(sdk_path), *sorted(found), *_SHARED)
