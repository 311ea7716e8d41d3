"""Landlock: which files the process may open, which ports it may connect to, from now on and for good.

Source: landlock(7) and the kernel's `include/uapi/linux/landlock.h`; the numbers below are its constants.
Older kernels know fewer rights (an "ABI" number says which); what a kernel does not know is left out.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from plugin_sdk.worker.sandbox.libc import UnavailableError, syscall

# The same numbers on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_RULE_NET_PORT: Final = 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2

_FILE_RIGHTS_BY_ABI: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_NETWORK_ABI: Final = 4
_SCOPE_ABI: Final = 6
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that a rule for something other than a folder may name."""

READ: Final = _READ_FILE | _READ_DIR
"""Open for reading and list; never run as a program."""
USE: Final = _READ_FILE | _WRITE_FILE
"""Read and write what is there, such as `/dev/null`."""
CLEAR: Final = READ | _REMOVE_DIR | _REMOVE_FILE | _TRUNCATE
"""Read, shorten and remove, but add nothing."""
WRITE: Final = CLEAR | _WRITE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER
"""Read and write files and folders; no devices, sockets or pipes, and nothing that runs."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class Ruleset:
    """Rules that are made while the process may still open everything, and enforced later.

    Args:
        rules: Paths with the rights beneath them; a path that is not there is no rule.
        ports: TCP ports on which connections may be opened.
        any_network: Leave the network to others.

    Raises:
        UnavailableError: this kernel has no Landlock, or it is switched off.
    """

    def __init__(self, rules: Iterable[tuple[str, int]], *, ports: Iterable[int], any_network: bool) -> None:
        abi = _abi()
        self._known = max(rights for since, rights in _FILE_RIGHTS_BY_ABI.items() if since <= abi)
        has_network = abi >= _NETWORK_ABI and not any_network
        attributes = _Ruleset(
            self._known,
            _BIND_TCP | _CONNECT_TCP if has_network else 0,
            _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0,
        )
        self._descriptor = syscall(_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0)
        for path, rights in rules:
            self._allow(path, rights)
        for port in ports if has_network else ():
            syscall(_ADD_RULE, self._descriptor, _RULE_NET_PORT, _NetPort(_CONNECT_TCP, port), 0)

    @property
    def descriptor(self) -> int:
        """The open descriptor that must survive until `enforce`."""
        return self._descriptor

    def _allow(self, path: str, rights: int) -> None:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                rights &= _ON_FILES
            beneath = _PathBeneath(rights & self._known, parent)
            syscall(_ADD_RULE, self._descriptor, _RULE_PATH_BENEATH, beneath, 0)
        finally:
            os.close(parent)

    def enforce(self) -> None:
        """Hold the process, and what it forks, to the rules. It must have given up new privileges before."""
        syscall(_RESTRICT_SELF, self._descriptor, 0)
        os.close(self._descriptor)


def _abi() -> int:
    try:
        return syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        raise UnavailableError(f"this kernel has no Landlock, or it is switched off ({error.strerror})") from None
