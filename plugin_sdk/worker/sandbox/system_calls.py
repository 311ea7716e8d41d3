"""Which system calls a worker needs, by name and number, and what all others answer.

A list of what is allowed: what is not named here is refused, whether it is old and forgotten or newer than this list.
Source: the kernel's tables, `arch/x86/entry/syscalls/syscall_64.tbl` and `scripts/syscall.tbl` (aarch64), and the man
page of each call for its errors. Why these, and what popular libraries make of a refusal: docs/decisions/0026.
"""

from __future__ import annotations

from typing import Final

Numbers = tuple[int | None, int | None]
"""A call's number on x86_64 and on aarch64; None where the architecture has no such call."""

UNKNOWN_FROM: Final = 451
"""From this number on (Linux 6.5), a call that is not named here answers as a kernel does that is older than it:
whoever uses so new a call has another way."""

ALLOWED: Final[dict[str, Numbers]] = {
    # files and folders, as far as Landlock lets them
    "read": (0, 63),
    "write": (1, 64),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "flock": (73, 32),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "umask": (95, 166),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync_file_range": (277, 84),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "msync": (26, 227),
    "mincore": (27, 232),
    "brk": (12, 214),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "munlock": (150, 229),
    # threads, and what they wait for
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "getcpu": (309, 168),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    "signalfd": (282, None),
    "signalfd4": (289, 74),
    # signals to itself
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    # time and chance
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "times": (100, 153),
    "getrandom": (318, 278),
    # a stream to whom it was connected
    "connect": (42, 203),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    # who and where it is
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getpgid": (121, 155),
    "getpgrp": (111, None),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "getpriority": (140, 141),
    "sched_getaffinity": (204, 123),
    "sched_getscheduler": (145, 120),
    "sched_getparam": (143, 121),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "arch_prctl": (158, None),
}
"""Whatever their arguments are."""

ABSENT: Final[dict[str, Numbers]] = {
    # its flags lie in memory, where no filter sees them: the C library turns to `clone` and `openat`
    "clone3": (435, 435),
    "openat2": (437, 437),
    # wide doors into the kernel, with memory and workers of their own
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # watching files that it may not open: Landlock has no right for it; libraries look from time to time instead
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    # asked for where they are only a faster way
    "futex_waitv": (449, 449),
    "landlock_create_ruleset": (444, 444),
    "memfd_secret": (447, 447),
}
"""Answered as by a kernel that does not have them, because that is where libraries turn to another way."""

UNSUPPORTED: Final[dict[str, Numbers]] = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "getxattrat": (464, 464),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "listxattrat": (465, 465),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    # It takes a whole disk in one call, and goes past the largest file that the limits allow; the C library writes
    # zeros instead.
    "fallocate": (285, 47),
}
"""As on a file system that has them not, which whoever copies or grows files knows how to take."""

REFUSED: Final[dict[str, Numbers]] = {
    "fchmodat2": (452, 452),
    "file_setattr": (469, 469),
}
"""Refused in so many words, although they are newer than `UNKNOWN_FROM`."""

DEPENDS: Final[dict[str, Numbers]] = {
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "clone": (56, 220),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
"""Allowed with some arguments: `seccomp` says which."""
