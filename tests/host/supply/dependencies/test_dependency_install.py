"""Dependencies are taken in with their release, stay what was locked, and are verified at every start."""

import hashlib
import os
import stat
from pathlib import Path

import dependency_wheels as wheels
import pytest
import supply_wheels
from dependency_wheels import distribution

from host.errors import BusbarError
from host.supply.dependencies.dependencies import check_dependencies, take_dependencies
from host.supply.dependencies.fetch import DependencySources
from host.supply.release_store import WHEEL, ReleaseStore

GREETER = wheels.dependency(
    files={"greeter/__init__.py": b"HELLO = 'hello'\n", "greeter-1.0.data/scripts/greet": b"#!python\n"}
)
POLITE = wheels.dependency("polite", "2.0", requires=["greeter>=1"])
PLUGGY = wheels.dependency("pluggy", "1.7.0")
PROVIDED = (distribution("busbar-host", "0.1", ["pluggy>=1.6"], ["_none"]), distribution("pluggy", "1.6.0"))


class Host:
    """A release store, a folder of wheels, and a plugin with a lock that is installed by them."""

    def __init__(self, root):
        self.store = ReleaseStore(root / "state")
        self.store.open(())
        self.wheelhouse = root / "wheelhouse"
        self.wheelhouse.mkdir()
        self.provided = PROVIDED
        self.sources = DependencySources((self.wheelhouse,))

    async def install(self, *dependencies, offered=None, lock=None, signed=None, attestations=b"signed"):
        """Take a plugin in that locks these, from a folder that offers them; where it is, and what it imports."""
        for one in dependencies if offered is None else offered:
            one.put_into(self.wheelhouse)
        lock = wheels.lock(*dependencies) if lock is None else lock
        content = wheels.plugin_wheel(lock, requires=[one.name for one in dependencies])
        self.read = wheels.plugin(lock, requires=[one.name for one in dependencies])
        self.signed = hashlib.sha256(lock).hexdigest() if signed is None else signed
        staging = self.store.new_staging()
        try:
            (staging / WHEEL).write_bytes(content)
            found = await take_dependencies(self.read, self.signed, staging, self.sources, self.provided)
            self.store.unpack(staging, self.read, supply_wheels.NAME, attestations)
            release = self.store.keep(staging, hashlib.sha256(content).hexdigest())
        finally:
            self.store.discard_staging(staging)
        return release, found

    def check(self, release):
        return check_dependencies(self.read, self.signed, release, self.provided)

    def word(self, release):
        with pytest.raises(BusbarError) as refused:
            self.check(release)
        return refused.value.word


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def writable(path):
    """As an attacker makes it who has the daemon's rights."""
    for one in (path.parent, path):
        one.chmod(0o755)
    return path


# Taken in


async def test_every_dependency_lies_in_a_folder_of_its_own_beside_the_plugin(host):
    release, found = await host.install(GREETER, POLITE)
    assert [folder.name for folder in found.folders(release.folder)] == ["greeter-1.0", "polite-2.0"]
    assert (release.dependencies / "greeter-1.0" / "greeter" / "__init__.py").read_bytes() == b"HELLO = 'hello'\n"
    assert not (release.dependencies / "greeter-1.0" / "greeter-1.0.data").exists()
    assert sorted(one.name for one in release.wheels.iterdir()) == sorted([GREETER.filename, POLITE.filename])
    assert found.cold_start == ""
    assert host.check(release) == found


async def test_a_worker_is_told_what_every_installed_file_hashes_to_and_of_no_other(host):
    release, found = await host.install(GREETER, POLITE)
    for taken in (found, host.check(release)):
        told = taken.digests(release.folder)
        assert list(told) == [str(folder) for folder in taken.folders(release.folder)]
        for folder, digests in told.items():
            there = [path for path in Path(folder).rglob("*") if path.is_file()]
            assert digests == {
                path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest() for path in there
            }


async def test_nothing_of_it_can_be_written(host):
    release, _ = await host.install(GREETER)
    for base, folders, files in os.walk(release.folder):
        for name in (*folders, *files):
            path = os.path.join(base, name)
            assert not stat.S_IMODE(os.lstat(path).st_mode) & 0o222, path


async def test_a_plugin_without_a_lock_brings_nothing(host, tmp_path):
    found = await take_dependencies(wheels.plugin(None), None, tmp_path, host.sources, PROVIDED)
    assert found.used == ()
    assert list(tmp_path.glob("wheels")) == []


async def test_another_version_of_what_workers_have_makes_the_worker_start_cold_and_says_so(host):
    _, found = await host.install(GREETER, PLUGGY)
    assert found.cold_start == "it brings pluggy 1.7.0 instead of 1.6.0"


async def test_the_same_version_of_what_workers_have_is_kept_for_the_day_on_which_they_have_another(host):
    host.provided = (distribution("pluggy", "1.7.0"),)
    release, found = await host.install(PLUGGY)
    assert (found.used, found.cold_start) == ((), "")
    host.provided = (distribution("pluggy", "1.8.0"),)
    later = host.check(release)
    assert later.cold_start == "it brings pluggy 1.7.0 instead of 1.8.0"
    assert [folder.name for folder in later.folders(release.folder)] == ["pluggy-1.7.0"]


# Refused whole


@pytest.mark.parametrize(
    ("dependencies", "given", "code"),
    [
        ([GREETER], {"offered": []}, "release_dependency_unavailable"),
        ([GREETER], {"signed": "0" * 64}, "release_lock_mismatch"),
        ([wheels.dependency("pluggy", "1.0")], {}, "release_dependency_conflict"),
        ([wheels.dependency(requires=["nobody"])], {}, "release_dependency_conflict"),
        ([wheels.dependency(files={"plugin_sdk/__init__.py": b""})], {}, "wheel_module_collision"),
        ([wheels.dependency(files={"greeter.pth": b"import os"})], {}, "wheel_startup_hook"),
        ([GREETER, wheels.dependency("other", files={"greeter.py": b""})], {}, "wheel_module_collision"),
    ],
    ids=["not to be had", "unsigned lock", "too old for the SDK", "not locked", "the SDK", "start-up hook", "twice"],
)
async def test_what_is_refused_leaves_nothing_behind(host, dependencies, given, code):
    with pytest.raises(BusbarError) as refused:
        await host.install(*dependencies, **given)
    assert refused.value.word == code
    assert list(host.store.releases.iterdir()) == list(host.store.staging.iterdir()) == []


async def test_a_dependency_with_other_bytes_than_the_locks_is_refused(host):
    other = wheels.dependency(files={"greeter/__init__.py": b"import evil"})
    with pytest.raises(BusbarError) as refused:
        await host.install(GREETER, offered=[other])
    assert refused.value.word == "release_dependency_mismatch"


async def test_dependencies_that_unpack_to_more_than_their_share_are_refused(host):
    host.sources = DependencySources((host.wheelhouse,), max_bytes=4096)
    with pytest.raises(BusbarError) as refused:
        await host.install(wheels.dependency(files={"greeter/__init__.py": b"#" * 60_000}))
    assert refused.value.word == "release_dependency_size_limit"


def test_what_a_crash_left_of_dependencies_is_removed_at_the_next_start(host):
    left = host.store.new_staging() / "dependencies" / "greeter-1.0"
    left.mkdir(parents=True)
    left.chmod(0o555)
    host.store.open(())
    assert list(host.store.staging.iterdir()) == []


# Verified at every start


def altered(release):
    path = writable(release.dependencies / "greeter-1.0" / "greeter" / "__init__.py")
    path.write_bytes(b"import evil\n")


def altered_and_recorded(release):
    altered(release)
    folder = release.dependencies / "greeter-1.0"
    record = writable(folder / "greeter-1.0.dist-info" / "RECORD")
    digest = supply_wheels.record({"greeter/__init__.py": b"import evil\n"}).decode().splitlines()[0]
    lines = [line for line in record.read_text().splitlines() if not line.startswith("greeter/__init__.py")]
    record.write_text("\n".join([digest, *lines]) + "\n")


def removed(release):
    writable(release.dependencies / "greeter-1.0" / "greeter" / "__init__.py").unlink()


def added(release):
    folder = release.dependencies / "greeter-1.0" / "greeter"
    folder.chmod(0o755)
    (folder / "more.py").write_bytes(b"")


def compiled_beside(release):
    folder = release.dependencies / "greeter-1.0" / "greeter" / "__pycache__"
    folder.parent.chmod(0o755)
    folder.mkdir()


def linked(release):
    path = writable(release.dependencies / "greeter-1.0" / "greeter" / "__init__.py")
    path.unlink()
    path.symlink_to("/etc/hostname")


def folder_linked(release):
    folder = release.dependencies / "greeter-1.0"
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    folder.rename(release.folder.parent / "elsewhere")
    folder.symlink_to(release.folder.parent / "elsewhere")


def all_linked(release):
    release.folder.chmod(0o755)
    release.dependencies.chmod(0o755)
    release.dependencies.rename(release.folder.parent / "elsewhere")
    release.dependencies.symlink_to(release.folder.parent / "elsewhere")


def widened(release):
    writable(release.dependencies / "greeter-1.0" / "greeter" / "__init__.py")


def one_more(release):
    release.dependencies.chmod(0o755)
    (release.dependencies / "evil-1.0").mkdir()


def wheel_replaced(release):
    other = wheels.dependency(files={"greeter/__init__.py": b"import evil\n"})
    writable(release.wheels / GREETER.filename).write_bytes(other.content)


@pytest.mark.parametrize(
    "attack",
    [
        altered,
        altered_and_recorded,
        removed,
        added,
        compiled_beside,
        linked,
        folder_linked,
        all_linked,
        widened,
        one_more,
        wheel_replaced,
    ],
)
async def test_a_dependency_that_was_touched_on_disk_is_refused_at_the_next_start(host, attack):
    release, _ = await host.install(GREETER)
    attack(release)
    assert host.word(release) == "release_modified"


async def test_a_release_for_another_python_says_that_it_must_be_installed_again(host):
    release, _ = await host.install(GREETER)
    (release.wheels).chmod(0o755)
    (release.wheels / GREETER.filename).unlink()
    assert host.word(release) == "release_dependency_stale"


async def test_a_host_that_is_too_new_for_a_plugins_dependency_says_so_at_its_start(host):
    release, _ = await host.install(PLUGGY)
    host.provided = (distribution("busbar-host", "0.2", ["pluggy>=2"], ["_none"]), distribution("pluggy", "2.0"))
    assert host.word(release) == "release_dependency_conflict"


# Installed again


@pytest.mark.parametrize("attack", [altered, removed, linked, wheel_replaced])
async def test_installing_again_mends_what_was_touched(host, attack):
    release, found = await host.install(GREETER)
    attack(release)
    again, _ = await host.install(GREETER)
    assert again.sha256 == release.sha256
    assert host.check(again) == found
    assert list(host.store.staging.iterdir()) == []


async def test_installing_again_what_is_whole_changes_its_attestations_alone(host):
    release, found = await host.install(GREETER)
    file = release.tree / "acme_demo" / "__init__.py"
    before = file.stat().st_ino
    again, _ = await host.install(GREETER, attestations=b"signed by a new key")
    assert file.stat().st_ino == before  # a worker may be running from it
    assert again.attestations.read_bytes() == b"signed by a new key"
    assert host.check(again) == found
