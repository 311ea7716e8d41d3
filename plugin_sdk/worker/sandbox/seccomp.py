"""A seccomp filter: system calls that no plugin needs answer with an error, whatever the rest would allow.

A plugin is one process: it may start threads, but neither fork nor run a program. It may send signals to itself
alone, and change the limits and the scheduling of itself alone. Source: seccomp(2), and the kernel's tables of
system calls for the two architectures.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterator
from typing import Final

from plugin_sdk.worker.sandbox.libc import MACHINE, PR_SET_SECCOMP, UnavailableError, prctl

_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000

# Classic BPF: load a word of `struct seccomp_data`, compare, return.
_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_MACHINE_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000

_THREAD: Final = 0x00010000 | 0x00000400
"""CLONE_THREAD and CLONE_FILES: a thread with descriptors of its own would hold files that nobody counts."""
_SOCKET_TYPE: Final = 0xF
_REFUSED_PRCTL: Final = (1, 4, 0x59616D61)  # PR_SET_PDEATHSIG, PR_SET_DUMPABLE (the host must see it), PR_SET_PTRACER
_REFUSED_IOCTL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

# Number on x86_64 and on aarch64; None where the architecture has no such call.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # other processes
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # memory that its limits do not count, and memory between processes
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "userfaultfd": (323, 282),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    # the system
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "vhangup": (153, 58),
    "personality": (135, 92),
    # ways around the rest, and wide doors into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
}
_ONLY_ITSELF: Final[dict[str, tuple[int | None, int | None]]] = {
    # The first argument is a process id: its own, or 0, which means the same.
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_FALLOCATE: Final = (285, 47)
_PRCTL: Final = (157, 167)
_IOCTL: Final = (16, 29)
_SOCKET: Final = (41, 198)
_SOCKETPAIR: Final = (53, 199)

_Instruction = tuple[int, int, int, int]


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.c_void_p))


def refuse_system_calls(pid: int, *, network: bool) -> None:
    """Install the filter for this process. `network` allows TCP sockets; what they reach is for others to bound.

    Raises:
        UnavailableError: there is no table for this machine, or the kernel has no seccomp.
    """
    if MACHINE not in _AUDIT_ARCH:
        raise UnavailableError(f"there is no table of system calls for {MACHINE}")
    instructions = list(_program(pid, network=network))
    array = (_Filter * len(instructions))(*(_Filter(*instruction) for instruction in instructions))
    program = _Program(len(instructions), ctypes.cast(array, ctypes.c_void_p))
    try:
        prctl(PR_SET_SECCOMP, _MODE_FILTER, program)
    except OSError as error:
        raise UnavailableError(f"this kernel takes no seccomp filter ({error.strerror})") from None


def _program(pid: int, *, network: bool) -> Iterator[_Instruction]:
    column = list(_AUDIT_ARCH).index(MACHINE)
    yield _LOAD, 0, 0, _MACHINE_AT
    yield _JUMP_EQUAL, 1, 0, _AUDIT_ARCH[MACHINE]
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER_AT
    if MACHINE == "x86_64":
        yield _JUMP_AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    for numbers in _REFUSED.values():
        yield from _case(numbers[column], [(_RETURN, 0, 0, _ERRNO | errno.EPERM)])
    # The C library falls back to `clone` when there is no `clone3`, whose flags a filter cannot see.
    yield from _case(_CLONE3[column], [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    # A whole disk in one call, and past the largest file that its limits allow. As on file systems that have no such
    # call, the C library writes instead.
    yield from _case(_FALLOCATE[column], [(_RETURN, 0, 0, _ERRNO | errno.EOPNOTSUPP)])
    yield from _case(
        _CLONE[column],
        [
            (_LOAD, 0, 0, _ARGUMENTS_AT),
            (_AND, 0, 0, _THREAD),
            (_JUMP_EQUAL, 0, 1, _THREAD),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        ],
    )
    for numbers in _ONLY_ITSELF.values():
        yield from _case(numbers[column], list(_only(0, (0, pid), errno.EPERM)))
    yield from _case(_PRCTL[column], list(_never(0, _REFUSED_PRCTL)))
    yield from _case(_IOCTL[column], list(_never(1, _REFUSED_IOCTL)))
    families = (socket.AF_INET, socket.AF_INET6) if network else ()
    yield from _case(_SOCKET[column], list(_stream_socket(families)))
    yield from _case(_SOCKETPAIR[column], list(_stream_socket((socket.AF_UNIX,))))
    yield _RETURN, 0, 0, _ALLOW


def _case(number: int | None, then: list[_Instruction]) -> Iterator[_Instruction]:
    """`then`, which must return, where the call's number is this one."""
    if number is not None:
        yield _JUMP_EQUAL, 0, len(then), number
        yield from then


def _only(argument: int, values: tuple[int, ...], error: int) -> Iterator[_Instruction]:
    """Allow the call where the argument, taken as 32 bits, is one of the values."""
    yield _LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        yield _JUMP_EQUAL, left, 0, value
    yield _RETURN, 0, 0, _ERRNO | error
    yield _RETURN, 0, 0, _ALLOW


def _never(argument: int, values: tuple[int, ...]) -> Iterator[_Instruction]:
    """Refuse the call where the argument, taken as 32 bits, is one of the values."""
    yield _LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        yield _JUMP_EQUAL, left, 0, value
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERRNO | errno.EPERM


def _stream_socket(families: tuple[int, ...]) -> Iterator[_Instruction]:
    """Allow a stream socket of these families; a datagram socket could be pointed anywhere, one packet at a time."""
    refused = (_RETURN, 0, 0, _ERRNO | errno.EACCES)
    if not families:
        yield refused
        return
    yield _LOAD, 0, 0, _ARGUMENTS_AT + 8
    yield _AND, 0, 0, _SOCKET_TYPE
    yield _JUMP_EQUAL, 1, 0, socket.SOCK_STREAM
    yield refused
    yield from _only(0, families, errno.EACCES)
