"""A network namespace of the worker's own: no interface, no route; where granted, one door on its loopback.

Source: network_namespaces(7), user_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from plugin_sdk.worker.sandbox.libc import PR_SET_DUMPABLE, UnavailableError, prctl, unshare
from plugin_sdk.worker.sandbox.privileges import become

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

DOOR_PORT: Final = 3128
"""Where the door stands on the loopback of the plugin's namespace: the usual port of an HTTP proxy."""
BACKLOG: Final = 32


def leave_network(user: int = 0) -> bool:
    """Enter a network namespace in which there is nothing; whether that took a user namespace, too.

    Such a namespace has one user only: where root cannot do without it, the process becomes `user` before, if that is
    not 0.

    Raises:
        UnavailableError: neither the process itself nor a user namespace of its own may make one.
    """
    try:
        if os.geteuid() == 0:
            unshare(_CLONE_NEWNET)
            return False
    except PermissionError:
        # Root without the capability, as in many containers: a user namespace may still do.
        if user:
            become(user)
            prctl(PR_SET_DUMPABLE, 1)  # without it, its own files in /proc are root's, and it cannot write the mapping
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    except OSError as error:
        raise UnavailableError(
            f"the kernel lets this user make no network namespace ({error.strerror}): run the daemon as root, "
            "or allow user namespaces"
        ) from None
    with contextlib.suppress(OSError):  # a mapping of groups asks for it; one of a single user does not always
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return True


def open_door() -> socket.socket:
    """Bring this namespace's loopback up and listen on `DOOR_PORT`; whoever accepts there serves this plugin alone."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    name = b"lo".ljust(16, b"\0")
    (flags,) = struct.unpack_from("16xh", fcntl.ioctl(listener, _SIOCGIFFLAGS, name + bytes(16)))
    fcntl.ioctl(listener, _SIOCSIFFLAGS, name + struct.pack("h14x", flags | _IFF_UP))
    listener.bind(("127.0.0.1", DOOR_PORT))
    listener.listen(BACKLOG)
    return listener
