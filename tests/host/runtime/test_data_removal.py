"""A data folder is removed whatever a plugin made in it, and nothing else is."""

import os
import socket
from pathlib import Path

import pytest
from odd_folders import nest, without_rights

from host.runtime import data_removal
from host.runtime.data_removal import ASIDE, remove_aside, set_aside


def test_what_is_set_aside_is_out_of_the_way_at_once_and_removed_later(tmp_path):
    (tmp_path / "p" / "below").mkdir(parents=True)
    (tmp_path / "p" / "below" / "file").write_text("secret")
    (tmp_path / "other").mkdir()
    assert set_aside(tmp_path, "p")
    assert sorted(path.name.startswith(ASIDE) for path in tmp_path.iterdir()) == [False, True]
    assert remove_aside(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_where_there_is_nothing_nothing_is_set_aside(tmp_path):
    assert not set_aside(tmp_path, "p")
    assert remove_aside(tmp_path / "none") == 0


def test_set_aside_twice_before_either_is_removed(tmp_path):
    for _ in range(2):
        (tmp_path / "p").mkdir()
        assert set_aside(tmp_path, "p")
    assert remove_aside(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("depth", [60, 2500])
def test_no_depth_is_too_deep(tmp_path, depth):
    (tmp_path / "p").mkdir()
    nest(tmp_path / "p", depth)
    before = len(os.listdir("/proc/self/fd"))
    set_aside(tmp_path, "p")
    assert remove_aside(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (data / "p" / "below").mkdir(parents=True)
    for place in (data / "p", data / "p" / "below"):
        (place / "folder").symlink_to(outside)
        (place / "dangling").symlink_to("/nowhere")
    os.link(data / "p" / "below" / "folder", data / "p" / "again")
    set_aside(data, "p")
    assert remove_aside(data) == 0
    assert list(data.iterdir()) == []
    assert (outside / "kept").is_dir()


def test_a_data_folder_that_is_a_link_or_a_file_is_removed_as_that(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    (outside / "kept").mkdir(parents=True)
    (data / "link").symlink_to(outside)
    (data / "file").write_text("x")
    assert set_aside(data, "link")
    assert set_aside(data, "file")
    assert remove_aside(data) == 0
    assert list(data.iterdir()) == []
    assert (outside / "kept").is_dir()


def test_odd_files_and_odd_names_are_removed(tmp_path):
    place = tmp_path / "p"
    place.mkdir()
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place / "socket"))
    (Path(os.fsdecode(os.fsencode(place) + b"/\xff\n"))).mkdir()
    (Path(os.fsdecode(os.fsencode(place) + b"/\xff\n/\x80"))).touch()
    set_aside(tmp_path, "p")
    assert remove_aside(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_closed_folders_are_opened_and_removed_by_a_host_that_is_not_root():
    left = without_rights(
        """
from host.runtime.data_removal import remove_aside, set_aside
base = Path(tempfile.mkdtemp())
deep = base / "p" / "a" / "b" / "c"
deep.mkdir(parents=True)
(deep / "file").touch()
for folder in (deep, deep.parent, deep.parent.parent, base / "p"):
    folder.chmod(0)
set_aside(base, "p")
failed = remove_aside(base)
print(json.dumps([failed, os.listdir(base)]))
base.rmdir()
""",
        imports="from host.runtime.data_removal import remove_aside, set_aside",
    )
    assert left == [0, []]


@pytest.mark.parametrize("after", range(1, 12))
def test_what_a_crash_leaves_is_removed_the_next_time(tmp_path, monkeypatch, after):
    """The removal ends at its n-th change of the disk, as by a kill."""
    (tmp_path / "p" / "a" / "b").mkdir(parents=True)
    for place in ("p", "p/a", "p/a/b"):
        (tmp_path / place / "file").touch()
    set_aside(tmp_path, "p")
    done = []

    class Killed(BaseException):
        pass

    def until_killed(real):
        def call(*arguments, **named):
            done.append(real.__name__)
            if len(done) == after:
                raise Killed
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("unlink", "rmdir", "rename"):
            patched.setattr(data_removal.os, name, until_killed(getattr(os, name)))
        try:
            remove_aside(tmp_path)
        except Killed:
            assert list(tmp_path.iterdir())
    assert not (tmp_path / "p").exists()
    assert remove_aside(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_counted_and_the_others_are_removed(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}-file").touch()
        set_aside(tmp_path, name)
    unlink = os.unlink

    def refusing(name, **named):
        if name == "a-file":
            raise PermissionError
        unlink(name, **named)

    monkeypatch.setattr(data_removal.os, "unlink", refusing)
    assert remove_aside(tmp_path) == 1
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["a-file"]
