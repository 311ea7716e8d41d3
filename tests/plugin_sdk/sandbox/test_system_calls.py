"""The filter of system calls: what it answers on each machine, and what becomes of libraries that plugins use."""

import errno
import fcntl
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from alone import TRY, run

from plugin_sdk.worker.sandbox import system_calls
from plugin_sdk.worker.sandbox.seccomp import build

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4242
ALLOWED, KILLED = "allowed", "killed"
TABLES = (
    system_calls.ALLOWED,
    system_calls.ABSENT,
    system_calls.UNSUPPORTED,
    system_calls.REFUSED,
    system_calls.DEPENDS,
)


def verdict(machine, number, arguments=(), *, network=False, audit=None):
    """What the filter answers: the instructions are followed as the kernel follows them."""
    data = struct.pack("=IIQ6Q", number, audit or MACHINES[machine], 0, *arguments, *[0] * (6 - len(arguments)))
    program, at, accumulator = build(machine, PID, network=network), 0, 0
    while True:
        code, then, otherwise, value = program[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += then if accumulator == value else otherwise
            case 0x35:
                at += then if accumulator >= value else otherwise
            case 0x45:
                at += then if accumulator & value else otherwise
            case 0x06:
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value) or errno.errorcode[value & 0xFFFF]
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def number(name, machine):
    (found,) = (table[name] for table in TABLES if name in table)
    return found[list(MACHINES).index(machine)]


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_is_answered_as_the_tables_say_and_all_others_are_refused(machine):
    column = list(MACHINES).index(machine)
    named = {
        numbers[column]: answer
        for table, answer in zip(TABLES, (ALLOWED, "ENOSYS", "ENOTSUP", "EPERM", None), strict=True)
        for numbers in table.values()
    }
    assert len(named) > 130
    for one in (*range(600), 2**16, 0x40000000, 0x40000000 + 59, 2**32 - 1):
        expected = named.get(one, "EPERM" if one < system_calls.UNKNOWN_FROM else "ENOSYS")
        if expected is not None:
            assert verdict(machine, one) == expected, one


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_machine_end_the_process(machine):
    assert verdict(machine, number("read", machine), audit=0x40000003) == KILLED


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("clone", (0x003D0F00,), ALLOWED),
        ("clone", (0x01200011,), "EPERM"),
        ("clone", (0x10000000 | 17,), "EPERM"),
        ("kill", (0, 15), ALLOWED),
        ("kill", (PID, 15), ALLOWED),
        ("kill", (2**32 - 1, 9), "EPERM"),
        ("kill", (PID + 1, 9), "EPERM"),
        ("tgkill", (PID, PID + 7, 10), ALLOWED),
        ("tgkill", (1, 1, 10), "EPERM"),
        ("prlimit64", (PID - 1,), "EPERM"),
        ("sched_setaffinity", (1,), "EPERM"),
        ("openat", (0, 0, os.O_RDONLY, 0o7777), ALLOWED),
        ("openat", (0, 0, os.O_CREAT | os.O_WRONLY, 0o666), ALLOWED),
        ("openat", (0, 0, os.O_CREAT | os.O_WRONLY, 0o4755), "EPERM"),
        ("openat", (0, 0, os.O_CREAT | os.O_WRONLY, 0o2755), "EPERM"),
        ("openat", (0, 0, os.O_TMPFILE | os.O_RDWR, 0o4700), "EPERM"),
        ("openat", (0, 0, os.O_DIRECTORY, 0o4700), ALLOWED),
        ("fcntl", (3, fcntl.F_DUPFD_CLOEXEC), ALLOWED),
        ("fcntl", (3, fcntl.F_SETLKW), ALLOWED),
        ("fcntl", (3, fcntl.F_SETOWN), "EPERM"),
        ("fcntl", (3, fcntl.F_SETSIG), "EPERM"),
        ("fcntl", (3, 15), "EPERM"),  # F_SETOWN_EX
        ("fcntl", (3, fcntl.F_SETLEASE), "EPERM"),
        ("fcntl", (3, fcntl.F_NOTIFY), "EPERM"),
        ("fcntl", (3, 1031), "EPERM"),  # F_SETPIPE_SZ
        ("ioctl", (3, 0x5421), ALLOWED),  # FIONBIO
        ("ioctl", (3, 0x5401), ALLOWED),  # TCGETS
        ("ioctl", (3, 0x5412), "EPERM"),  # TIOCSTI
        ("ioctl", (3, 0x541C), "EPERM"),  # TIOCLINUX
        ("ioctl", (3, 0x8901), "EPERM"),  # FIOSETOWN
        ("ioctl", (3, 0x40086602), "EPERM"),  # FS_IOC_SETFLAGS
        ("ioctl", (3, 0x401C5820), "EPERM"),  # FS_IOC_FSSETXATTR
        ("ioctl", (3, 0x40049409), "ENOTSUP"),  # FICLONE
        ("ioctl", (3, 0x4020940D), "ENOTSUP"),  # FICLONERANGE
        ("fallocate", (3, 0), "ENOTSUP"),
        ("fallocate", (3, 1), "ENOTSUP"),  # FALLOC_FL_KEEP_SIZE
        ("fallocate", (3, 3), "ENOTSUP"),  # and FALLOC_FL_PUNCH_HOLE
        ("prctl", (15,), ALLOWED),  # PR_SET_NAME
        ("prctl", (1,), "EPERM"),  # PR_SET_PDEATHSIG
        ("prctl", (0x59616D61,), "EPERM"),  # PR_SET_PTRACER
        ("prctl", (4, 1), "EPERM"),  # PR_SET_DUMPABLE
        ("socket", (socket.AF_INET, socket.SOCK_STREAM, 0), "EACCES"),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0), ALLOWED),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_DGRAM, 0), "EACCES"),
    ],
)
def test_what_depends_on_its_arguments_is_answered_by_them(machine, name, arguments, answer):
    assert verdict(machine, number(name, machine), arguments) == answer


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0), ALLOWED),
        ((socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP), ALLOWED),
        ((socket.AF_INET, socket.SOCK_STREAM, 262), "EACCES"),  # MPTCP
        ((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP), "EACCES"),
        ((socket.AF_INET, socket.SOCK_DGRAM, 0), "EACCES"),
        ((socket.AF_INET, socket.SOCK_RAW, 0), "EACCES"),
        ((socket.AF_UNIX, socket.SOCK_STREAM, 0), "EACCES"),
        ((socket.AF_NETLINK, socket.SOCK_STREAM, 0), "EACCES"),
        ((40, socket.SOCK_STREAM, 0), "EACCES"),  # AF_VSOCK
    ],
)
@pytest.mark.parametrize("machine", MACHINES)
def test_with_a_network_a_socket_is_a_stream_over_tcp(machine, arguments, answer):
    assert verdict(machine, number("socket", machine), arguments, network=True) == answer


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed here")
    text = HEADERS[machine].read_text()
    defined = {name: int(found) for name, found in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text)}
    # Where a 32-bit machine has another call of the same number, the header gives the names of both.
    defined |= {"newfstatat": 79} if machine == "aarch64" else {}
    newest = max(defined.values())
    for table in TABLES:
        for name, numbers in table.items():
            ours = numbers[list(MACHINES).index(machine)]
            if ours is None:
                assert name not in defined, name
            elif ours <= newest:
                assert ours == defined[name], name


def test_no_call_changes_what_a_file_is_and_its_own_files_are_no_exception(tmp_path):
    (tmp_path / "own").write_text("own")
    before = os.stat(tmp_path / "own")
    found = run(
        TRY
        + """
import ctypes, fcntl, struct
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
libc = ctypes.CDLL(None, use_errno=True)

def raw(name_or_number, *arguments):
    call = libc.syscall if isinstance(name_or_number, int) else getattr(libc, name_or_number)
    given = (name_or_number, *arguments) if isinstance(name_or_number, int) else arguments
    if call(*given) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"

drop_capabilities()
refuse_system_calls(os.getpid(), network=False)
own, path = os.open(sys.argv[1], os.O_RDWR), sys.argv[1].encode()
uid, gid = os.getuid(), os.getgid()
buffer = ctypes.create_string_buffer(64)
print(json.dumps({
    "chmod": tried(lambda: os.chmod(sys.argv[1], 0o4777)),
    "fchmod": tried(lambda: os.fchmod(own, 0o666)),
    "fchmodat": tried(lambda: raw("fchmodat", -100, path, 0o666, 0)),
    "fchmodat2": tried(lambda: raw(452, -100, path, 0o666, 0)),
    "chown": tried(lambda: os.chown(sys.argv[1], uid, gid)),
    "lchown": tried(lambda: os.lchown(sys.argv[1], uid, gid)),
    "fchown": tried(lambda: os.fchown(own, uid, gid)),
    "fchownat": tried(lambda: raw("fchownat", -100, path, uid, gid, 0)),
    "utime": tried(lambda: os.utime(sys.argv[1])),
    "futimens": tried(lambda: os.utime(own, (1, 1))),
    "utimes": tried(lambda: raw("utimes", path, None)),
    "setxattr": tried(lambda: os.setxattr(sys.argv[1], "user.a", b"x")),
    "fsetxattr": tried(lambda: os.setxattr(own, "user.a", b"x")),
    "lsetxattr": tried(lambda: os.setxattr(sys.argv[1], "user.a", b"x", follow_symlinks=False)),
    "setxattrat": tried(lambda: raw(463, -100, path, 0, b"user.a", buffer, 16)),
    "removexattr": tried(lambda: os.removexattr(sys.argv[1], "user.a")),
    "removexattrat": tried(lambda: raw(466, -100, path, 0, b"user.a")),
    "file_setattr": tried(lambda: raw(469, -100, path, buffer, 24, 0)),
    "flags": tried(lambda: fcntl.ioctl(own, 0x40086602, struct.pack("l", 0x10))),
    "project": tried(lambda: fcntl.ioctl(own, 0x401C5820, bytes(28))),
    "set-user-id file": tried(lambda: os.open(sys.argv[1] + "s", os.O_CREAT | os.O_WRONLY, 0o4755)),
    "lease": tried(lambda: fcntl.fcntl(own, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
    "dnotify": tried(lambda: fcntl.fcntl(os.open(".", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_MODIFY)),
    "signal by descriptor": tried(lambda: fcntl.fcntl(own, fcntl.F_SETOWN, os.getppid())),
    "inotify": tried(lambda: raw("inotify_init1", 0)),
    "fanotify": tried(lambda: raw("fanotify_init", 0, 0)),
    "io_uring": tried(lambda: raw(425, 1, buffer)),
    "kept room": tried(lambda: raw("fallocate", own, 1, ctypes.c_long(0), ctypes.c_long(2**30))),
    "read": tried(lambda: os.pread(own, 3, 0).decode()),
}))
""",
        tmp_path / "own",
    )
    assert found.pop("read") == ["own", ""]
    absent, unsupported = ("inotify", "io_uring"), {name for name in found if "xattr" in name} | {"kept room"}
    for name, (got, met) in found.items():
        assert got == "", name
        assert met == ("OSError" if name in absent or name in unsupported else "PermissionError"), name
    after = os.stat(tmp_path / "own")
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_mtime_ns, after.st_blocks) == (
        *(before.st_mode, before.st_uid, before.st_gid, before.st_mtime_ns, before.st_blocks),
    )
    assert os.listdir(tmp_path) == ["own"]


LIBRARIES = (
    TRY.replace("except OSError as error", "except Exception as error")
    + """
import asyncio, ctypes, importlib.util, mmap, multiprocessing, shelve, shutil, signal, sqlite3, ssl, subprocess
import tarfile, tempfile, threading, zipfile, zoneinfo
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from logging import getLogger
from logging.handlers import RotatingFileHandler
from pathlib import Path

from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
os.chdir(sys.argv[1])
drop_capabilities()
refuse_system_calls(os.getpid(), network=True)

def database():
    with sqlite3.connect("data.db") as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE t (a)")
        made.execute("INSERT INTO t VALUES (1)")
    made.execute("VACUUM")
    return made.execute("SELECT a FROM t").fetchone()[0]

def archives():
    with zipfile.ZipFile("a.zip", "w") as made:
        made.write("file")
    shutil.unpack_archive("a.zip", "from zip")
    with tarfile.open("a.tar.gz", "w:gz") as made:
        made.add("file")
    with tarfile.open("a.tar.gz") as made:
        made.extractall("from tar", filter="data")
    return Path("from zip/file").read_text() + Path("from tar/file").read_text()

def temporary():
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as one, tempfile.TemporaryFile() as two:
        Path(folder, "x").write_text("x")
        return one.write(b"x") + two.write(b"x")

def folders():
    Path("tree/below").mkdir(parents=True)
    Path("tree/below/file").write_text("x")
    Path("tree/below/file").touch()
    shutil.copyfile("file", "copied")
    shutil.move("copied", "tree/moved")
    os.replace("tree/moved", "replaced")
    os.link("replaced", "linked")
    os.symlink("linked", "symbolic")
    Path("symbolic").read_text()
    os.truncate("replaced", 0)
    shutil.rmtree("tree")

def room():
    with open("room", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 10_000)
        return os.fstat(file.fileno()).st_size

def log():
    handler = RotatingFileHandler("log", maxBytes=10, backupCount=1)
    getLogger("x").addHandler(handler)
    for _ in range(3):
        getLogger("x").error("a line")
    return Path("log.1").exists()

def mapped():
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        return memory[:1].decode()

def threads():
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(abs, range(9)))

async def loop():
    await asyncio.sleep(0.001)
    return await asyncio.to_thread(threading.active_count) > 1

def cryptography():
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    made = Fernet(Fernet.generate_key())
    Ed25519PrivateKey.generate().sign(b"x")
    return made.decrypt(made.encrypt(b"x")).decode()

def model():
    from pydantic import BaseModel
    class Model(BaseModel):
        a: int
    return Model(a="1").model_dump_json()

async def client():
    from aiohttp import ClientSession, ClientConnectorError
    async with ClientSession() as session:
        try:
            await session.get("https://127.0.0.1:9/")
        except ClientConnectorError as error:
            return error.os_error.errno

def polled():
    import watchfiles
    stop = threading.Event()
    threading.Timer(0.5, lambda: Path("watched").write_text("x")).start()
    for changes in watchfiles.watch(".", stop_event=stop, rust_timeout=10_000, debounce=50, step=10, poll_delay_ms=50):
        stop.set()
        return any(path.endswith("watched") for _, path in changes)

def clock():
    signal.setitimer(signal.ITIMER_REAL, 60)
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0

def hashed():
    from argon2 import PasswordHasher
    return PasswordHasher().verify(PasswordHasher().hash("x"), "x")

Path("file").write_text("x")
works = {
    "sqlite3": database, "zipfile and tarfile": archives, "tempfile": temporary, "files and folders": folders,
    "posix_fallocate": room, "logging": log, "mmap": mapped, "threads": threads, "cryptography": cryptography,
    "argon2": hashed, "pydantic": model, "watchfiles": polled, "timers": clock,
    "zoneinfo": lambda: datetime.now(zoneinfo.ZoneInfo("Europe/Berlin")).tzname() != "",
    "ssl": lambda: ssl.create_default_context().check_hostname,
    "asyncio": lambda: asyncio.run(loop()), "aiohttp": lambda: asyncio.run(client()),
    "uvloop": lambda: __import__("uvloop").run(loop()),
    "ctypes": lambda: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)(),
    "terminal": lambda: [os.isatty(0), shutil.get_terminal_size().lines > 0, shutil.disk_usage(".").total > 0],
    "getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 80)[0][4][1],
    "multiprocessing.Lock": lambda: multiprocessing.get_context("fork").Lock(),
}
refused = {
    "subprocess": lambda: subprocess.run(["/bin/true"]),
    "multiprocessing": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "shutil.copy": lambda: shutil.copy("file", "copy"),
    "shutil.copy2": lambda: shutil.copy2("file", "copy2"),
    "shutil.copytree": lambda: shutil.copytree("from zip", "tree2"),
    "dbm.dumb": lambda: __import__("dbm.dumb").dumb.open("dumb", "c"),
}
print(json.dumps({
    "works": {name: tried(what) for name, what in works.items()},
    "refused": {name: tried(what)[1] for name, what in refused.items()},
    "copied all the same": [Path(name).read_text() for name in ("copy", "copy2", "tree2/file")],
}))
sys.stdout.flush()
os._exit(0)
"""
)


def test_popular_libraries_work_and_what_does_not_says_permission_error(tmp_path):
    found = run(LIBRARIES, tmp_path)
    assert {name: met for name, (_, met) in found["works"].items() if met} == {}
    assert found["works"]["watchfiles"] == ["True", ""]
    assert found["works"]["aiohttp"] == [str(errno.ECONNREFUSED), ""]
    assert found["works"]["posix_fallocate"] == ["10000", ""]
    assert found["refused"] == {
        "subprocess": "PermissionError",
        "multiprocessing": "PermissionError",
        "shutil.copy": "PermissionError",
        "shutil.copy2": "PermissionError",
        "shutil.copytree": "Error",
        "dbm.dumb": "PermissionError",
    }
    assert found["copied all the same"] == ["x", "x", "x"]
