"""What one worker is held to, and the order in which it gives everything else up."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from plugin_sdk.worker.sandbox import landlock
from plugin_sdk.worker.sandbox.libc import PR_SET_PDEATHSIG, UnavailableError, prctl, schedule
from plugin_sdk.worker.sandbox.namespaces import DOOR_PORT, leave_network, open_door
from plugin_sdk.worker.sandbox.privileges import become, drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls

ENFORCED: Final = "enforced"
OFF: Final = "off"
UNAVAILABLE: Final = "unavailable: "

CONNECTION: Final = 3
"""The descriptor of the worker's socket to the host, once it is confined."""
DOOR: Final = 4
"""The descriptor on which a worker hands over its door; the fork server's own socket to the host."""
LIFELINE: Final = 5
"""Readable as soon as the fork server is gone."""
DIGESTS: Final = 6
"""What the files in the plugin's folders hash to (`worker.digests`); empty where nobody has said so."""

ADDRESS_SPACE_SLACK: Final = 512 * 2**20
"""Address space a worker may map beyond its memory: libraries and thread stacks that are never touched."""
NICENESS: Final = 5
"""Where processors are short, the host goes first."""
SLICE_NS: Final = 300_000
"""How long a worker computes at a time, where others wait: a tenth of what is usual, so that they wait less."""
_KEPT_VARIABLES: Final = frozenset({"LANG", "LC_ALL", "TZ"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a worker may still do. Sizes are in bytes.

    Attributes:
        mode: `require` refuses to load a plugin where a part is unavailable, `prefer` goes on without it, `off`
            leaves out all parts but session, descriptors and limits.
        folder: Its data folder: home, temporary folder and the only place it may write to.
        clear_only: It may read and remove in its folder, but add nothing: the folder is full.
        readable: Files and folders it may read.
        user: The user to become, or 0 to stay who it is; `user_missing` says why it stays.
        as_root: A plugin may be loaded although the process is root.
        network: Whether anything outside is granted; it is reached through the door.
        memory: Resident memory; address space is held to somewhat more.
        file_size: The largest file it may write.
        open_files: Descriptors.
        threads: Threads, where the kernel counts them for this worker alone.
    """

    mode: Literal["require", "prefer", "off"]
    folder: str
    readable: tuple[str, ...]
    memory: int
    file_size: int
    open_files: int
    threads: int
    network: bool = False
    clear_only: bool = False
    user: int = 0
    user_missing: str = ""
    as_root: bool = False


def confine(confinement: Confinement, number: int) -> dict[str, str]:
    """Hold this process to `confinement`, for good; what became of each part.

    The descriptors `CONNECTION`, `DOOR` and `LIFELINE` must be open; the last two are closed here. `number` is the
    request that this worker was started by: its door is handed over with it.

    Raises:
        OSError: a part that every kernel has could not be had. The process must end.
    """
    parts = {"session": ENFORCED, "descriptors": ENFORCED, "limits": ENFORCED}
    _leave_session(confinement.folder)
    sandboxed = confinement.mode != "off"
    counted = _part(parts, "network", sandboxed, lambda: _leave_network(confinement, number))
    any_network = confinement.network and parts["network"] != ENFORCED
    rules = _part(parts, "files", sandboxed, lambda: _file_rules(confinement, any_network=any_network))
    for name, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, confinement.file_size),
        (resource.RLIMIT_NOFILE, confinement.open_files),
        (resource.RLIMIT_AS, confinement.memory + ADDRESS_SPACE_SLACK),
    ):
        _limit(name, limit)
    if counted or confinement.user:
        # Counted for a user within a user namespace: without one of its own, it would be all that the daemon's has.
        _limit(resource.RLIMIT_NPROC, confinement.threads)
    _part(parts, "user", sandboxed, lambda: _become(confinement))
    _part(parts, "privileges", sandboxed, drop_capabilities)
    # After the last change of credentials, which would undo it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([LIFELINE], [], [], 0)[0]:
        os._exit(0)  # the fork server ended before the signal was armed
    os.close(DOOR)
    os.close(LIFELINE)
    if rules is not None:
        rules.enforce()
    _part(parts, "systemCalls", sandboxed, lambda: refuse_system_calls(os.getpid(), network=confinement.network))
    return parts


def refusal(confinement: Confinement, parts: dict[str, str]) -> str:
    """Why no plugin may be loaded into this process, or nothing; `parts` is what `confine` answered."""
    lacking = [f"{name}: {found.removeprefix(UNAVAILABLE)}" for name, found in parts.items() if found.startswith("un")]
    if confinement.mode == "require" and lacking:
        return "the sandbox is required, and not whole here: " + "; ".join(lacking)
    if 0 in os.getresuid() and not confinement.as_root:
        return would_be_root(parts["user"].removeprefix(UNAVAILABLE))
    return ""


def would_be_root(why: str) -> str:
    """What is said where a plugin would run as root, and may not."""
    return (
        f"it would run as root, because it has no user of its own: {why}. "
        "Mend that, or say in the settings that plugins may run as root: sandbox.plugins_as_root = true"
    )


def _leave_session(folder: str) -> None:
    signal.set_wakeup_fd(-1)
    for default in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(default, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    schedule(NICENESS, SLICE_NS)
    os.umask(0o077)
    os.chdir(folder)
    for name in tuple(os.environ):
        if name not in _KEPT_VARIABLES:
            del os.environ[name]
    os.environ.update({"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin"})
    tempfile.tempdir = None


def _part(parts: dict[str, str], name: str, wanted: bool, enforce: Callable[[], T]) -> T | None:
    if not wanted:
        parts[name] = OFF
        return None
    try:
        found = enforce()
    except UnavailableError as error:
        parts[name] = f"{UNAVAILABLE}{error}"
        return None
    parts[name] = ENFORCED
    return found


def _file_rules(confinement: Confinement, *, any_network: bool) -> landlock.Ruleset:
    return landlock.Ruleset(
        [
            *((path, landlock.READ) for path in (*confinement.readable, f"/proc/{os.getpid()}")),
            ("/dev/null", landlock.USE),
            (confinement.folder, landlock.CLEAR if confinement.clear_only else landlock.WRITE),
        ],
        ports=(DOOR_PORT,) if confinement.network else (),
        any_network=any_network,
    )


def _leave_network(confinement: Confinement, number: int) -> bool:
    own_users = leave_network(confinement.user)
    if confinement.network:
        # A `Door` of `worker.fork_server` in MessagePack; no library of the SDK's is loaded here.
        packet = b"\x92\x03\xce" + number.to_bytes(4, "big")
        door = f"http://127.0.0.1:{DOOR_PORT}"
        os.environ.update(dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), door))
        with open_door() as listener, socket.socket(fileno=os.dup(DOOR)) as control:
            socket.send_fds(control, [packet], [listener.fileno()])
    return own_users


def _become(confinement: Confinement) -> None:
    if confinement.user_missing:
        raise UnavailableError(confinement.user_missing)
    if confinement.user and confinement.user not in os.getresuid():
        become(confinement.user)


def _limit(name: int, limit: int) -> None:
    _, hardest = resource.getrlimit(name)
    value = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
    resource.setrlimit(name, (value, value))
