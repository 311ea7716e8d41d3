"""Files that a process has removed and holds are counted, wherever it holds them, or it is said that they cannot be."""

import ctypes
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from host.runtime import held_files
from host.runtime.data_folder import UncountableError
from host.runtime.held_files import HiddenError, held_bytes

SIZE = 2**20


@pytest.fixture
def folder(tmp_path):
    return Path(os.path.realpath(tmp_path))


@pytest.fixture
def removed(folder):
    """A file of a MiB, written, removed and open."""
    descriptor = os.open(folder / "removed", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(SIZE))
    os.unlink(folder / "removed")
    yield descriptor
    os.close(descriptor)


def held(folder, *, thorough=False, inbox=-1):
    return held_bytes(os.getpid(), folder, inbox, thorough=thorough)


def test_a_removed_file_that_is_open_is_counted_once_and_a_file_with_a_name_is_not(folder, removed):
    before = held(folder)
    assert before >= SIZE
    again = os.dup(removed)
    with (folder / "named").open("wb") as file:
        file.write(bytes(SIZE))
        file.flush()
        assert held(folder) == before
    os.close(again)


def test_a_file_that_never_had_a_name_is_counted(folder):
    before = held(folder)
    try:
        descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE)
    except OSError as error:
        pytest.skip(f"this file system has no files without a name: {error}")
    os.write(descriptor, bytes(SIZE))
    assert held(folder) >= before + SIZE
    os.close(descriptor)


def test_memory_that_is_a_file_is_counted(folder):
    before = held(folder)
    descriptor = os.memfd_create("hidden")
    os.write(descriptor, bytes(SIZE))
    assert held(folder) >= before + SIZE
    os.close(descriptor)


@pytest.fixture
def one_page(folder):
    """One page of a removed file, mapped; the file is open nowhere. `name` is what it was called."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    pages = []

    def make(name, *, remove=True):
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)
        os.write(descriptor, bytes(SIZE))
        pages.append(libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0))
        os.close(descriptor)
        if remove:
            os.unlink(folder / name)

    yield make
    for page in pages:
        assert libc.munmap(page, mmap.PAGESIZE) == 0


def test_one_mapped_page_keeps_a_whole_file_and_is_counted_as_that(folder, one_page):
    if os.geteuid() != 0:
        pytest.skip("only root sees how large a file is that is mapped alone; for others it cannot be counted")
    one_page("mapped")
    assert held(folder, thorough=True) >= SIZE


def test_a_mapped_file_whose_size_nobody_shows_cannot_be_counted(folder, one_page, monkeypatch):
    one_page("mapped")
    stat = Path.stat

    def refused(path, **named):
        if "map_files" in str(path):
            raise PermissionError
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(UncountableError, match="maps a file that it has removed and closed"):
        held(folder, thorough=True)


def test_a_file_that_is_named_as_if_it_were_deleted_is_there(folder, one_page):
    one_page("x (deleted)", remove=False)
    assert held(folder, thorough=True) < SIZE


def test_a_library_that_was_replaced_under_a_running_process_is_no_concern(folder, one_page):
    one_page("mapped")
    (folder / "data").mkdir()
    assert held(folder / "data", thorough=True) < SIZE


def test_files_on_their_way_through_a_socket_cannot_be_counted(folder, removed):
    mine, theirs = socket.socketpair()
    with mine, theirs:
        assert held(folder, thorough=True) >= SIZE
        socket.send_fds(mine, [b"x"], [removed])
        with pytest.raises(UncountableError, match="in the queue of a socket"):
            held(folder, thorough=True)
        _, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
        assert held(folder, thorough=True) >= SIZE
        os.close(received)


def test_files_that_were_sent_to_a_host_that_does_not_read_cannot_be_counted(folder, removed):
    mine, theirs = socket.socketpair()
    with mine, theirs, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        assert held_bytes(worker.pid, folder, mine.fileno(), thorough=True) == 0
        socket.send_fds(theirs, [b"x"], [removed])
        with pytest.raises(UncountableError, match="in the queue of a socket"):
            held_bytes(worker.pid, folder, mine.fileno(), thorough=True)
        worker.kill()


def test_who_has_ended_holds_nothing(folder):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert held_bytes(ended.pid, folder, -1, thorough=True) == 0  # not reaped yet
    ended.wait()
    assert held_bytes(ended.pid, folder, -1, thorough=True) == 0


def test_who_hides_is_said_to(folder, monkeypatch):
    def refused(_path):
        raise PermissionError

    monkeypatch.setattr(held_files.os, "scandir", refused)
    with pytest.raises(HiddenError, match="hidden from the host"):
        held(folder)
