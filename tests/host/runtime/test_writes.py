"""What a process writes is read of the process itself, and so is it held: never of who has its number afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.runtime.writes import Dirtied, Writes, in_memory

SIZE = 4 * 2**20


def test_what_a_process_writes_is_seen_before_it_is_on_the_disk(tmp_path):
    mine, all_of_it = Writes(os.getpid(), in_memory=in_memory(tmp_path)), Dirtied()
    before, dirtied = mine.bytes(), all_of_it.bytes()
    if before is None:
        pytest.skip("this kernel does not count what a process writes")
    (tmp_path / "file").write_bytes(bytes(SIZE))
    assert mine.bytes() >= before + SIZE
    if dirtied is not None and not in_memory(tmp_path):
        assert all_of_it.bytes() >= dirtied + SIZE // 2  # the kernel adds up each processor's own count in steps
    mine.close()
    all_of_it.close()


def test_what_is_written_where_there_is_no_disk_is_seen_as_well():
    folder = Path("/dev/shm")  # noqa: S108 - a file system in memory that every machine has
    if not in_memory(folder):
        pytest.skip("this machine has no file system in memory")
    mine = Writes(os.getpid(), in_memory=True)
    before = mine.bytes()
    file = folder / f"busbar-{os.getpid()}"
    file.write_bytes(bytes(SIZE))
    file.unlink()
    assert mine.bytes() >= before + SIZE
    mine.close()


def test_an_ordinary_folder_is_not_in_memory_and_one_that_is_gone_neither(tmp_path):
    assert not in_memory(Path("/proc"))
    assert not in_memory(tmp_path / "gone")


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as one:
        yield one
        one.kill()


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_held_and_goes_on(process):
    writes = Writes(process.pid, in_memory=False)
    assert writes.hold()
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert state(process.pid) == "T"
    writes.go_on()
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    assert state(process.pid) != "T"
    writes.close()


def test_of_one_that_has_ended_nothing_is_said_and_nobody_is_held_in_its_place(process):
    writes = Writes(process.pid, in_memory=False)
    process.kill()
    process.wait()
    assert writes.bytes() is None
    assert not writes.hold()
    writes.close()


def test_once_closed_it_says_and_does_nothing(process):
    writes = Writes(process.pid, in_memory=False)
    writes.close()
    writes.close()
    assert (writes.bytes(), writes.hold()) == (None, False)
