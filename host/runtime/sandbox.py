"""What each worker is confined to: the host's side of `plugin_sdk.worker.sandbox`.

Everything here touches the disk, and is called in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from host.runtime.data_folder import give, usage
from host.runtime.errors import WouldBeRootError
from host.runtime.own_folder import own_folder
from host.runtime.runtime import Launch
from plugin_sdk.worker.sandbox.confinement import Confinement, would_be_root
from plugin_sdk.worker.sandbox.ways import closed_above, outermost

USERS: Final = 2**27
"""How many user ids from `first_user` on are for plugins."""
TRY_SECONDS: Final = 30.0
_OPENED: Final = ("releases", "staging", "data")
"""What workers reach of the state folder, beside the SDK."""
_TRY: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
    "from plugin_sdk.worker.sandbox.ways import open_ways; open_ways([Path(way) for way in sys.argv[2:]])"
)
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

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SandboxPolicy:
    """How workers are confined. `data` is in bytes; the rest are counts.

    Attributes:
        mode: `require` loads no plugin where a part of the sandbox is unavailable, `prefer` goes on, `off` leaves
            the sandbox out.
        first_user: Where the daemon runs as root, plugins run as users from this one on.
        plugins_as_root: Where that cannot be had, they run as root, too; else they do not run.
        data: What a plugin may keep in its data folder.
        open_files: Descriptors of a worker.
        threads: Threads of a worker.
    """

    mode: Literal["require", "prefer", "off"] = "prefer"
    first_user: int = 1_879_048_192
    plugins_as_root: bool = False
    data: int = 256 * 2**20
    open_files: int = 256
    threads: int = 64


AUTHORS_OWN: Final = SandboxPolicy(plugins_as_root=True)
"""For code that its author runs from source: as root, it may do what the author could do without it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A worker's confinement, and the folders that it imports from before all others: the plugin's, its dependencies'.

    `cold_start` says why these must stand there before anything of the SDK is imported: the worker starts cold then.
    `digests` are what all files in these folders must hash to, as in `Launch`. `used` is what the data folder holds.
    """

    confinement: Confinement
    path: list[str]
    cold_start: str = ""
    digests: bytes = b""
    used: int = 0


class Sandbox:
    """Prepares what workers are confined to.

    Args:
        policy: How.
        sdk_path: The folder that workers import the SDK from.
        ways: Paths that users of plugins get to, whatever folder lies above: the fork server opens ways to them.
    """

    def __init__(self, policy: SandboxPolicy, sdk_path: Path, ways: tuple[Path, ...] = ()) -> None:
        self.policy = policy
        self._ways = ways
        self._sdk_path = sdk_path
        self._provided = frozenset(entry.name for entry in sdk_path.iterdir())
        self._python = _python(sdk_path)

    def prepare(self, launch: Launch) -> Prepared:
        """Make the plugin's data folder, its own, and say what its worker is confined to.

        Raises:
            OddFileError: something else lies in its place.
            OSError: the folder cannot be made.
            UncountableError: the folder cannot be read.
            WouldBeRootError: the daemon is root, the plugin cannot be another user, and the settings forbid it to be
                root.
        """
        policy = self.policy
        folder = launch.data_folder
        with own_folder(folder):
            user, missing = self._user_of_its_own(launch) if os.geteuid() == 0 else (0, "")
            if missing and not policy.plugins_as_root:
                raise WouldBeRootError(f"{launch.plugin} cannot start: {would_be_root(missing)}", retryable=False)
            if missing:
                give(folder, 0)  # from a user whom it had before: without its capabilities, root is one among others
            used = usage(folder, mend=True)
        confinement = Confinement(
            mode=policy.mode,
            folder=str(folder),
            readable=(*map(str, _released(launch)), *self._python),
            memory=launch.memory,
            file_size=policy.data,
            open_files=policy.open_files,
            threads=policy.threads,
            network=bool(launch.network),
            clear_only=used > policy.data,
            user=user,
            user_missing=missing,
            as_root=policy.plugins_as_root,
        )
        path = (launch.folder, *launch.dependencies)
        clash = launch.cold_start or self._clash(path)
        return Prepared(confinement, list(map(str, path)), clash, launch.digests, used)

    def _clash(self, path: tuple[Path, ...]) -> str:
        """What in these folders would find a module of the SDK's imported already; nobody need have said so."""
        found = sorted({entry.name for folder in path for entry in folder.iterdir()} & self._provided)
        return f"it brings {', '.join(found)}" if found else ""

    def _user_of_its_own(self, launch: Launch) -> tuple[int, str]:
        """The user whom the plugin is to run as, to whom its data folder is given; or 0, and why there is none."""
        if self.policy.mode == "off":
            return 0, 'sandbox.mode is "off"'
        user, missing = self._user(launch.plugin), self._closed_to_others(launch)
        if missing:
            return 0, missing
        try:
            give(launch.data_folder, user)
        except OSError as error:
            # Root in a container may lack the capability, or the user may have no number outside (user_namespaces(7)).
            return 0, (
                f"its data folder cannot be given to user {user} ({error.strerror}): give the daemon CAP_CHOWN, "
                "and set sandbox.first_user to users that there are here (/proc/self/uid_map)"
            )
        return user, ""

    def _user(self, plugin: str) -> int:
        """The same for a plugin every time, and hardly ever that of another; the file rules do not depend on it."""
        digest = hashlib.sha256(plugin.encode()).digest()
        return self.policy.first_user + int.from_bytes(digest[:4], "big") % USERS

    def _closed_to_others(self, launch: Launch) -> str:
        """Why another user could not run the plugin, or nothing."""
        own = (launch.data_folder.parent, *_released(launch))
        for path in (*own, *map(Path, self._python)):
            way = next((way for way in self._ways if path.is_relative_to(way)), None)
            for step in reversed((path, *path.parents)):
                if way is not None and not step.is_relative_to(way):
                    continue
                try:
                    mode = step.stat().st_mode
                except FileNotFoundError:
                    break
                if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
                    elsewhere = "set storage.directory" if path in own else "run the host with a Python that lies"
                    return f"{step} cannot be entered by other users: run `chmod o+x {step}`, or {elsewhere} elsewhere"
        return ""


def ways_for(policy: SandboxPolicy, sdk_path: Path) -> tuple[Path, ...]:
    """The paths that workers need and other users cannot get to, where the fork server can open ways to them; blocks.

    Whether it can is tried, in a process of its own: root in a container often may not mount anything.
    """
    if os.geteuid() != 0 or policy.mode == "off":
        return ()
    state = sdk_path.parent
    own = [sdk_path, *(state / name for name in _OPENED)]
    for folder in own[1:]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    prefixes = {Path(os.path.realpath(prefix)) for prefix in (sys.prefix, sys.base_prefix)}
    needed = [*own, *prefixes, Path(sys.prefix), *(Path(path) for path in _python(sdk_path) if path not in _SHARED)]
    closed = tuple(path for path in outermost(needed) if closed_above(path) is not None)
    if not closed:
        return ()
    command = [sys.executable, "-I", "-S", "-B", "-c", _TRY, str(sdk_path), *map(str, closed)]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=TRY_SECONDS, check=False)
    if tried.returncode:
        _log.warning("ways_not_opened", closed=list(map(str, closed)), reason=tried.stderr.strip().rpartition("\n")[2])
        return ()
    return closed


def _released(launch: Launch) -> tuple[Path, ...]:
    """The folders that the plugin's code is in; its dependencies lie in one, and there may be many."""
    return (launch.folder, *sorted({folder.parent for folder in launch.dependencies}))


def _python(sdk_path: Path) -> tuple[str, ...]:
    """Where Python, the SDK and what they are linked with are read from."""
    found = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    found |= {os.path.realpath(entry) for entry in sdk_path.iterdir()}
    return (str(sdk_path), *sorted(found), *_SHARED)
