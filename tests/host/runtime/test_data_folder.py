"""Whatever a plugin makes of its data folder, the host counts it, or says that it cannot."""

import errno
import os
import stat
from pathlib import Path

import pytest
from odd_folders import SOME, nest, without_rights

from host.runtime import data_folder
from host.runtime.data_folder import (
    MAX_COUNTED,
    TOO_MANY,
    FolderMovedError,
    Tally,
    UncountableError,
    entries,
    give,
    usage,
)
from host.runtime.data_removal import remove_aside, set_aside


@pytest.mark.parametrize("depth", [60, 2500])
def test_folders_nested_beyond_any_path_are_counted_to_the_last(tmp_path, depth):
    (tmp_path / "p").mkdir()
    nest(tmp_path / "p", depth)
    counted, found = usage(tmp_path), len(list(entries(tmp_path)))
    set_aside(tmp_path, "p")
    assert remove_aside(tmp_path) == 0  # no other tool comes down so far
    assert counted >= SOME
    assert found == depth + 2


def test_a_walk_of_any_depth_keeps_few_folders_open(tmp_path):
    nest(tmp_path, 300, name="n")
    before = len(os.listdir("/proc/self/fd"))
    walk = entries(tmp_path)
    most = max(len(os.listdir("/proc/self/fd")) for _ in walk)
    assert most <= before + 4
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_that_are_no_text_are_counted(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe/\x80\n")).write_bytes(bytes(SOME))
    assert SOME <= usage(tmp_path) < 2 * SOME


def test_a_hole_takes_no_room_and_a_block_kept_beyond_the_end_does(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**30)
    assert usage(tmp_path) < SOME
    with (tmp_path / "kept").open("wb") as file:
        allocate(file.fileno(), 2**20)
    assert (tmp_path / "kept").stat().st_size == 0
    assert usage(tmp_path) >= 2**20


def allocate(descriptor, size):
    """`fallocate(2)` with FALLOC_FL_KEEP_SIZE."""
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).fallocate
    if call(descriptor, 1, ctypes.c_long(0), ctypes.c_long(size)):
        pytest.skip(f"this file system allocates nothing: {os.strerror(ctypes.get_errno())}")


def test_a_file_with_many_names_is_counted_once(tmp_path):
    (tmp_path / "one").write_bytes(bytes(SOME))
    for number in range(20):
        os.link(tmp_path / "one", tmp_path / f"name-{number}")
    assert SOME <= usage(tmp_path) < 2 * SOME


def test_attributes_beside_a_file_are_counted(tmp_path):
    (tmp_path / "file").touch()
    before = usage(tmp_path)
    try:
        os.setxattr(tmp_path / "file", "user.more", bytes(3000))
    except OSError as error:
        pytest.skip(f"this file system has no such attributes: {error}")
    assert usage(tmp_path) > before


def test_a_link_leads_nowhere_wherever_it_stands(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "file").write_bytes(bytes(2**20))
    (inside / "link").symlink_to(tmp_path / "large")
    (inside / "loop").symlink_to(inside)
    assert usage(inside) < SOME
    (tmp_path / "as-folder").symlink_to(tmp_path / "large")
    assert usage(tmp_path / "as-folder") == 0


def test_where_there_is_no_folder_nothing_is_held(tmp_path):
    assert usage(tmp_path / "none") == 0


def test_more_entries_than_are_counted_are_taken_for_full(tmp_path, monkeypatch):
    monkeypatch.setattr(data_folder, "MAX_COUNTED", 50)
    for number in range(51):
        (tmp_path / str(number)).touch()
    assert usage(tmp_path) == TOO_MANY
    (tmp_path / "0").unlink()
    assert usage(tmp_path) < TOO_MANY
    assert MAX_COUNTED >= 20_000


def test_what_vanishes_while_it_is_counted_is_left_out(tmp_path):
    for number in range(50):
        (tmp_path / f"folder-{number}").mkdir()
        (tmp_path / f"folder-{number}" / "file").write_bytes(bytes(4096))
    seen = 0
    for _ in entries(tmp_path):
        seen += 1
        if seen == 50:  # all folders are known, none was entered yet
            for number in range(50):
                (tmp_path / f"folder-{number}" / "file").unlink()
                (tmp_path / f"folder-{number}").rmdir()
                (tmp_path / f"folder-{number}").symlink_to("/usr")
    assert seen == 50


def test_a_folder_that_is_moved_from_under_the_walk_has_it_begin_again(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    walk = entries(tmp_path)
    assert [next(walk).name for _ in range(3)] == ["a", "b", "file"]
    (tmp_path / "a" / "b").rename(tmp_path / "elsewhere")
    with pytest.raises(FolderMovedError):
        next(walk)


def test_a_count_goes_on_where_it_stopped(tmp_path):
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes(4096))
    tally = Tally(tmp_path)
    assert not tally.go_on(4)
    part = tally.bytes
    assert not tally.go_on(4)
    assert tally.bytes > part
    assert tally.go_on(4)
    assert tally.bytes == usage(tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_host_is_short_of_is_no_fault_of_the_folder(tmp_path, monkeypatch, number):
    def short(*_arguments, **_named):
        raise OSError(number, os.strerror(number))

    (tmp_path / "below").mkdir()
    walk = entries(tmp_path)
    next(walk)
    monkeypatch.setattr(os, "open", short)
    with pytest.raises(OSError, match=os.strerror(number)):
        list(walk)


@pytest.mark.parametrize("mode", ["0o000", "0o300", "0o600"])
def test_a_folder_that_its_owner_closed_is_not_to_be_counted_until_it_is_opened(tmp_path_factory, mode):
    found = without_rights(
        f"""
base = Path(tempfile.mkdtemp())
(base / "closed").mkdir()
(base / "closed" / "file").write_bytes(bytes({SOME}))
(base / "closed").chmod({mode})
try:
    counted = usage(base)
except UncountableError as error:
    counted = error.message
print(json.dumps([counted, usage(base, mend=True), usage(base)]))
shutil.rmtree(base)
"""
    )
    assert found[0] == "a folder in its data folder cannot be read (Permission denied), nor what is in it counted"
    assert found[1] == found[2] >= SOME


def test_the_data_folder_itself_is_opened_too():
    found = without_rights(
        f"""
base = Path(tempfile.mkdtemp())
(base / "file").write_bytes(bytes({SOME}))
base.chmod(0)
try:
    usage(base)
    met = ""
except UncountableError as error:
    met = error.word
print(json.dumps([met, usage(base, mend=True)]))
shutil.rmtree(base)
"""
    )
    assert found[0] == "data_uncountable"
    assert found[1] >= SOME


def test_a_disk_that_fails_is_said_to_be_uncountable(tmp_path, monkeypatch):
    def failing(_folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UncountableError, match="Input/output error"):
        usage(tmp_path)


def test_a_folder_is_given_to_its_user_however_deep_it_is(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.touch()
    nest(data, 60)
    (data / "link").symlink_to(outside)
    give(data, 12345)
    assert data.stat().st_uid == 12345
    assert {entry.found.st_uid for entry in entries(data)} == {12345}
    assert outside.stat().st_uid == 0
    assert stat.S_ISLNK((data / "link").lstat().st_mode)
