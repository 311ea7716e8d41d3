"""Each part of the sandbox, in a process of its own: what it refuses afterwards, and how it says that it cannot."""

import os
import sys

import pytest
from alone import TRY, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux's own parts")


def test_landlock_leaves_the_paths_that_are_named_and_their_rights(tmp_path):
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "file").write_text("text")
    (tmp_path / "write").mkdir()
    (tmp_path / "clear").mkdir()
    (tmp_path / "clear" / "old").write_text("old")
    (tmp_path / "secret").write_text("secret")
    found = run(
        TRY
        + """
from pathlib import Path
from plugin_sdk.worker.sandbox import landlock
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
base = Path(sys.argv[1])
rules = [(str(base / "read"), landlock.READ), (str(base / "write"), landlock.WRITE),
         (str(base / "clear"), landlock.CLEAR), (str(base / "not there"), landlock.READ)]
ruleset = landlock.Ruleset(rules, ports=(), any_network=False)
drop_capabilities()
ruleset.enforce()
print(json.dumps({
    "read": tried(lambda: (base / "read/file").read_text()),
    "read write": tried(lambda: (base / "read/file").write_text("x")),
    "write": tried(lambda: (base / "write/file").write_text("x")),
    "write fifo": tried(lambda: os.mkfifo(base / "write/fifo")),
    "clear read": tried(lambda: (base / "clear/old").read_text()),
    "clear add": tried(lambda: (base / "clear/new").write_text("x")),
    "clear remove": tried(lambda: (base / "clear/old").unlink()),
    "secret": tried(lambda: (base / "secret").read_text()),
    "list": tried(lambda: os.listdir(base)),
    "out by link": tried(lambda: ((base / "write/link").symlink_to(base / "secret"),
                                  (base / "write/link").read_text())),
}))
""",
        tmp_path,
    )
    assert found == {
        "read": ["text", ""],
        "read write": ["", "PermissionError"],
        "write": ["1", ""],
        "write fifo": ["", "PermissionError"],
        "clear read": ["old", ""],
        "clear add": ["", "PermissionError"],
        "clear remove": ["None", ""],
        "secret": ["", "PermissionError"],
        "list": ["", "PermissionError"],
        "out by link": ["", "PermissionError"],
    }


def test_the_filter_leaves_threads_timers_and_random_numbers_and_refuses_processes():
    found = run(
        TRY
        + """
import signal, subprocess, threading, resource
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
drop_capabilities()
refuse_system_calls(os.getpid(), network=False)
done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start()
thread.join()
signal.signal(signal.SIGUSR2, lambda *_: done.append(2))
os.kill(os.getpid(), signal.SIGUSR2)
import asyncio
asyncio.run(asyncio.sleep(0))
print(json.dumps({
    "done": done,
    "fork": tried(os.fork),
    "run": tried(lambda: subprocess.run(["/bin/true"])),
    "kill parent": tried(lambda: os.kill(os.getppid(), 0)),
    "kill all": tried(lambda: os.kill(-1, 0)),
    "own limit": tried(lambda: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0)))[1],
    "parent's limit": tried(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE)),
    "unix": tried(lambda: socket.socket(socket.AF_UNIX)),
    "inet": tried(lambda: socket.socket(socket.AF_INET)),
    "vsock": tried(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "datagram pair": tried(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "stream pair": tried(lambda: socket.socketpair())[1],
    "memfd": tried(lambda: os.memfd_create("x")),
    "nice": tried(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 10)),
}))
"""
    )
    refused = ["", "PermissionError"]
    assert found == {
        "done": [1, 2],
        "own limit": "",
        "stream pair": "",
        **dict.fromkeys(
            [
                *("fork", "run", "kill parent", "kill all", "parent's limit", "unix", "inet", "vsock", "packet"),
                *("datagram pair", "memfd", "nice"),
            ],
            refused,
        ),
    }


def test_a_filter_with_a_network_allows_streams_and_no_packets():
    found = run(
        TRY
        + """
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
drop_capabilities()
refuse_system_calls(os.getpid(), network=True)
print(json.dumps([
    tried(lambda: socket.socket(socket.AF_INET).close()),
    tried(lambda: socket.socket(socket.AF_INET6).close()),
    tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    tried(lambda: socket.socket(socket.AF_UNIX)),
]))
"""
    )
    assert found == [["None", ""], ["None", ""], ["", "PermissionError"], ["", "PermissionError"]]


def test_in_a_namespace_of_its_own_there_is_one_door_and_nothing_else():
    found = run(
        TRY
        + """
from plugin_sdk.worker.sandbox.namespaces import DOOR_PORT, leave_network, open_door
outside = socket.create_server(("127.0.0.1", 0))
leave_network()
unreachable = tried(lambda: socket.create_connection(outside.getsockname(), timeout=1))
with open_door():
    through = tried(lambda: socket.create_connection(("127.0.0.1", DOOR_PORT), timeout=1).close())
    past = tried(lambda: socket.create_connection(outside.getsockname(), timeout=1))
    away = tried(lambda: socket.create_connection(("192.0.2.1", 80), timeout=1))
print(json.dumps([unreachable[0], through, past[0], away[1], [name for _, name in socket.if_nameindex()]]))
"""
    )
    assert found == ["", ["None", ""], "", "OSError", ["lo"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_cannot_become_root_again():
    found = run(
        TRY
        + """
from plugin_sdk.worker.sandbox.privileges import become, drop_capabilities
become(1900000000)
drop_capabilities()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([os.getresuid(), os.getgroups(), tried(lambda: os.setuid(0)), status["CapEff"].strip(),
                  status["CapPrm"].strip(), status["NoNewPrivs"].strip()]))
"""
    )
    assert found == [[1900000000] * 3, [], ["", "PermissionError"], "0" * 16, "0" * 16, "1"]


WITHOUT = """
import ctypes
from plugin_sdk.worker.sandbox.libc import MACHINE, UnavailableError, syscall
from plugin_sdk.worker.sandbox.privileges import _CAPSET, _Capabilities, _Header, become

def without(*numbers):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    kept = int(status["CapPrm"], 16) & ~sum(1 << number for number in numbers)
    low, high = kept & 2**32 - 1, kept >> 32
    syscall(_CAPSET[MACHINE], _Header(0x20080522, 0), _Capabilities((ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_root_that_may_make_no_namespace_makes_one_as_the_plugins_user():
    found = run(
        TRY
        + WITHOUT
        + """
from plugin_sdk.worker.sandbox.namespaces import leave_network
without(21)  # CAP_SYS_ADMIN
import encodings.ascii  # afterwards, Python may lie where this user cannot look
own = leave_network(1900000000)
print(json.dumps([own, os.getresuid(), [name for _, name in socket.if_nameindex()], tried(lambda: os.setuid(0))[1]]))
"""
    )
    assert found == [True, [1900000000] * 3, ["lo"], "OSError"]  # there is no user 0 in that namespace


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_root_that_may_become_nobody_else_says_which_capabilities_it_lacks():
    found = run(
        WITHOUT
        + """
without(6, 7)  # CAP_SETGID, CAP_SETUID
try:
    become(1900000000)
except UnavailableError as error:
    print(json.dumps(str(error)))
"""
    )
    assert "may not become user 1900000000" in found
    assert "CAP_SETUID" in found


def test_a_kernel_without_landlock_is_said_to_have_none(monkeypatch):
    from plugin_sdk.worker.sandbox import landlock, libc

    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "syscall", refused)
    with pytest.raises(libc.UnavailableError, match="no Landlock"):
        landlock.Ruleset([], ports=(), any_network=False)


def test_a_machine_without_a_table_has_no_filter(monkeypatch):
    from plugin_sdk.worker.sandbox import libc, seccomp

    monkeypatch.setattr(seccomp, "MACHINE", "riscv64")
    with pytest.raises(libc.UnavailableError, match="riscv64"):
        seccomp.refuse_system_calls(1, network=False)


def test_the_filter_leaves_no_way_to_take_a_disk_at_once_or_to_hide_what_is_open(tmp_path):
    found = run(
        TRY
        + """
import ctypes
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
libc = ctypes.CDLL(None, use_errno=True)
def called(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
drop_capabilities()
refuse_system_calls(os.getpid(), network=False)
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
size = ctypes.c_long(2**20)
print(json.dumps({
    "keep size": tried(lambda: called("fallocate", file, 1, ctypes.c_long(0), size)),
    "as the library does it": tried(lambda: os.posix_fallocate(file, 0, 2**20)),
    "size": os.fstat(file).st_size,
    "undumpable": tried(lambda: called("prctl", 4, 0, 0, 0, 0)),
}))
""",
        tmp_path / "file",
    )
    assert found == {
        "keep size": ["", "OSError"],
        "as the library does it": ["None", ""],
        "size": 2**20,
        "undumpable": ["", "PermissionError"],
    }


@pytest.mark.parametrize(("shared", "answer"), [(0x00000400, "past the filter"), (0, "PermissionError")])
def test_a_thread_shares_its_descriptors_with_the_others(shared, answer):
    found = run(
        """
import ctypes, platform
from plugin_sdk.worker.sandbox.privileges import drop_capabilities
from plugin_sdk.worker.sandbox.seccomp import refuse_system_calls
drop_capabilities()
refuse_system_calls(os.getpid(), network=False)
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
# CLONE_THREAD without CLONE_SIGHAND is invalid to the kernel: what passes the filter ends there, and makes no thread.
flags = 0x00010000 | int(sys.argv[1])
done = libc.syscall(number, ctypes.c_ulong(flags), None, None, None, ctypes.c_ulong(0))
refused = ctypes.get_errno()
print(json.dumps({22: "past the filter", 1: "PermissionError"}[refused]))
""",
        shared,
    )
    assert found == answer
