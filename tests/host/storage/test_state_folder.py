"""A state folder is one daemon's, and nothing in it leads out of it."""

import fcntl
import os

import pytest

from host.storage.errors import OddFileError, StateBusyError, StateFolderError
from host.storage.state_folder import StateFolder, give_up

DATABASES = ["busbar.db", "key-values.db"]
FILES = [
    *(f"{name}{end}" for name in DATABASES for end in ("", "-wal", "-shm", "-journal")),
    "busbar.db.writer",
    "keyring",
    "lock",
]
FOLDERS = ["seals", "releases", "staging", "data", "sdk"]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "var").mkdir()
    return tmp_path / "var"


@pytest.fixture
def precious(tmp_path):
    """Something outside that is the same afterwards."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    yield folder
    assert [(one.name, one.read_text()) for one in folder.iterdir()] == [("precious", "kept")]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "second name"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_of_its_own_is_refused_and_left_alone(path, precious, name, kind):
    match kind:
        case "link":
            (path / name).symlink_to(precious / "precious")
        case "fifo":
            os.mkfifo(path / name)
        case "folder":
            (path / name).mkdir()
        case _:
            (path / name).hardlink_to(precious / "precious")
    if (name, kind) == ("keyring", "second name"):
        StateFolder.open(path).close()  # a host that was killed while it made its key leaves one
        return
    with pytest.raises(OddFileError, match=name):
        StateFolder.open(path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_in_the_place_of_a_folder_is_refused_and_nothing_behind_it_touched(path, precious, name):
    (path / name).symlink_to(precious, target_is_directory=True)
    with pytest.raises(OddFileError, match=f"{name} is no folder"):
        StateFolder.open(path)


def test_the_folder_itself_may_be_reached_through_a_link(path, tmp_path):
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    state = StateFolder.open(tmp_path / "link")
    assert state.path == path
    state.close()


def test_a_folder_that_everybody_may_write_into_is_refused(path):
    path.chmod(0o1777)
    with pytest.raises(StateFolderError, match="chmod o-w"):
        StateFolder.open(path)


def test_a_new_folder_is_not_everybodys_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        StateFolder.open(tmp_path / "new").close()
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("taken_away", [False, True])
def test_a_second_daemon_is_kept_out_although_the_lock_was_removed(path, taken_away):
    state = StateFolder.open(path)
    if taken_away:
        (path / "lock").unlink()
    with pytest.raises(StateBusyError, match="another daemon"):
        StateFolder.open(path)
    state.close()
    StateFolder.open(path).close()


def test_where_a_folder_cannot_be_locked_the_file_still_is(path, monkeypatch):
    lock = fcntl.flock

    def as_on_nfs(descriptor, operation):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(9, "Bad file descriptor")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    state = StateFolder.open(path)
    with pytest.raises(StateBusyError):
        StateFolder.open(path)
    state.close()


def test_a_start_that_is_refused_leaves_no_lock(path):
    (path / "staging").symlink_to(path)
    with pytest.raises(OddFileError):
        StateFolder.open(path)
    (path / "staging").unlink()
    StateFolder.open(path).close()


def test_files_that_are_taken_away_or_replaced_are_missed(path):
    for name in DATABASES:
        (path / name).touch()
        (path / f"{name}-wal").touch()
    state = StateFolder.open(path)
    state.watch_databases()
    assert state.missing() == ()
    (path / "busbar.db-wal").unlink()
    (path / "key-values.db").unlink()
    (path / "lock").rename(path / "lock.old")
    (path / "lock").touch()
    assert set(state.missing()) == {"busbar.db-wal", "key-values.db", "lock"}
    state.close()


def test_a_history_is_given_up_by_moving_it_aside_and_the_keyring_stays(path):
    (path / "keyring").write_bytes(b"k" * 32)
    (path / "busbar.db").write_text("events")
    (path / "key-values.db").write_text("keys and values")
    for name in FOLDERS:
        (path / name).mkdir()
        (path / name / "one").write_text(name)
    (path / "releases").chmod(0o555)
    state = StateFolder.open(path)
    moved = give_up(state, "given-up")
    state.close()
    assert set(moved) == {"busbar.db", "key-values.db", "seals", "releases", "data"}
    assert (path / "given-up" / "busbar.db").read_text() == "events"
    assert (path / "given-up" / "releases" / "one").read_text() == "releases"
    assert {one.name for one in path.iterdir()} == {"keyring", "lock", "given-up", "staging", "sdk"}
