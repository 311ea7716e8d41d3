"""What lies below a folder is reached without following a link, and nothing in it keeps anybody waiting."""

import os
import socket

import pytest
from short_of_descriptors import descriptors_left

from host.storage.beneath import Folder, open_plain, read_plain
from host.storage.errors import OddFileError


@pytest.fixture
def root(tmp_path):
    """A folder of the host's, beside one that is none of its business."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("kept")
    (tmp_path / "state").mkdir()
    with Folder.at(tmp_path / "state") as folder:
        yield folder


@pytest.fixture
def elsewhere(tmp_path):
    yield tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "precious").read_text() == "kept"


def link(path, elsewhere):
    path.symlink_to(elsewhere / "precious")


def dangling(path, elsewhere):
    path.symlink_to(elsewhere / "nothing")


def fifo(path, _):
    os.mkfifo(path)


def listening(path, _):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def folder(path, _):
    path.mkdir()


def endless(path, _):
    path.touch()
    os.truncate(path, 2**40)


ODD = [link, dangling, fifo, listening, folder, endless]


@pytest.mark.parametrize("make", ODD)
def test_what_is_no_plain_file_is_not_read(root, elsewhere, make):
    make(root.path / "file", elsewhere)
    with pytest.raises(OddFileError, match="look at who put it there"):
        root.read("file", 100)


def test_a_file_that_is_not_there_is_none(root):
    with pytest.raises(FileNotFoundError):
        root.read("file", 100)
    assert root.status("file") is None


@pytest.mark.parametrize("make", [link, dangling, fifo, endless])
def test_what_is_no_folder_is_not_entered(root, elsewhere, make):
    make(root.path / "below", elsewhere)
    for mode in (None, 0o700):
        with pytest.raises(OddFileError, match="is no folder"):
            root.below("below", make=mode)


def test_a_link_to_a_folder_is_not_entered(root, elsewhere):
    (root.path / "below").symlink_to(elsewhere)
    with pytest.raises(OddFileError, match="is no folder"):
        root.below("below", make=0o755)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_path_is_no_name(root, name):
    for reach in (root.below, root.remove, root.status, lambda name: root.read(name, 1)):
        with pytest.raises(ValueError, match="is no name"):
            reach(name)


def test_to_remove_a_link_removes_the_link(root, elsewhere):
    (root.path / "link").symlink_to(elsewhere)
    (root.path / "tree").mkdir()
    (root.path / "tree" / "link").symlink_to(elsewhere)
    (root.path / "tree" / "folder").mkdir()
    (root.path / "tree" / "folder" / "link").symlink_to(elsewhere / "precious")
    for name in root.names():
        root.remove(name)
    assert root.names() == []


def test_to_remove_a_hard_link_leaves_the_file(root, elsewhere):
    (root.path / "tree").mkdir()
    (root.path / "tree" / "same").hardlink_to(elsewhere / "precious")
    root.remove("tree")
    assert (elsewhere / "precious").stat().st_nlink == 1


def test_folders_that_nobody_may_enter_or_write_into_are_removed(root):
    for mode in (0o000, 0o555):
        (root.path / "tree" / f"closed {mode}").mkdir(parents=True)
        (root.path / "tree" / f"closed {mode}" / "file").touch()
        (root.path / "tree" / f"closed {mode}").chmod(mode)
    (root.path / "tree").chmod(0o000)
    root.remove("tree")
    assert root.names() == []


def test_folders_nested_deeper_than_there_are_descriptors_are_removed(root):
    inner = os.open(root.path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("nested", dir_fd=inner)
        deeper = os.open("nested", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.close(inner)
    with descriptors_left(6):
        root.remove("nested")
    assert root.names() == []


def test_to_remove_what_is_not_there_does_nothing(root):
    root.remove("nothing")


@pytest.mark.parametrize("make", ODD[:-1])
def test_a_file_takes_the_place_of_what_lies_there_and_touches_nothing_else(root, elsewhere, make):
    if make is folder:
        make(root.path / "file", elsewhere)
        with pytest.raises(IsADirectoryError):
            root.replace("file", b"new")
        assert root.names() == ["file"]
        return
    make(root.path / "file", elsewhere)
    root.replace("file", b"new")
    assert root.read("file", 3) == b"new"
    assert root.status("file").st_mode & 0o777 == 0o600


def test_what_an_operator_named_may_be_reached_through_links(root, elsewhere):
    link(root.path / "file", elsewhere)
    assert read_plain(root.path / "file", 4) == b"kept"


@pytest.mark.parametrize("make", [fifo, folder, endless])
def test_what_an_operator_named_keeps_nobody_waiting(root, elsewhere, make):
    make(root.path / "file", elsewhere)
    with pytest.raises(OddFileError):
        read_plain(root.path / "file", 100)


def test_a_terminal_is_no_file_to_read():
    controller, terminal = os.openpty()
    try:
        with pytest.raises(OddFileError, match="is no plain file"):
            open_plain(os.ttyname(terminal))
    finally:
        os.close(controller)
        os.close(terminal)
