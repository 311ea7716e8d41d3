"""Releases that are changed on disk after their install: the next start sees it, and what was planted never runs.

Whoever can do this has the daemon's rights on its folder; the tests take them, change one thing, and give back the
rest as it was.
"""

import asyncio
import contextlib
import os
import py_compile
import shutil
import sys

import pytest
import pytest_asyncio
from supply_rig import PLUGIN, files_of, sign, supply_rig, table, workers
from supply_wheels import Acme

from host.errors import BusbarError
from host.runtime.sdk_path import build_sdk_path
from host.supply.wheel.record import digest_of

INFO = "acme_demo-1.0.0.dist-info"
CODE = '''
import sys
from plugin_sdk import Plugin, service

WHO = "signed"

class Demo(Plugin):
    @service
    async def who(self):
        """Whose code this is, where it is, and what ran before it."""
        return {"who": WHO, "file": __file__, "hooked": getattr(sys, "hooked", "")}
'''
PLANTED = CODE.replace('"signed"', '"planted"')
FILES = {
    **files_of(code=CODE),
    "acme_demo/native.so": b"\x7fELF signed",
    "acme_demo/more/__init__.py": b"",
    "acme_space/part.py": b"",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared(tmp_path_factory):
    """A host that has installed the release and is down, and the publisher."""
    folder, acme = tmp_path_factory.mktemp("prepared"), Acme()
    async with supply_rig(folder, acme=acme) as rig:
        await rig.install(sign(acme, FILES))
    return folder, acme


@pytest.fixture
async def rig(prepared, tmp_path):
    """The next start of a copy of that host."""
    folder, acme = prepared
    shutil.copytree(folder, tmp_path / "host")
    async with supply_rig(tmp_path / "host", acme=acme, again=True) as found:
        yield found


@pytest.fixture
async def fresh(tmp_path):
    """A host that has not installed it."""
    async with supply_rig(tmp_path / "fresh") as found:
        yield found


@pytest.fixture
async def release(rig):
    return await rig.installer.verify_installed(rig.registry.get(PLUGIN).sha256)


@pytest.fixture(scope="module")
def sdk_path(tmp_path_factory):
    return build_sdk_path(tmp_path_factory.mktemp("sdk"))


@pytest.fixture
async def run(sdk_path, tmp_path):
    async with workers(sdk_path, tmp_path / "data") as found:
        yield found


@contextlib.contextmanager
def unsealed(folder):
    """The folders of a release, writable for as long as something is changed, and as they were afterwards."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if path.is_dir()}
    for path in modes:
        path.chmod(0o755)
    yield folder / "tree"
    for path, mode in modes.items():
        if path.is_dir() and not path.is_symlink():
            path.chmod(mode)


def write(path, content):
    """A file as the host would have written it."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o444)
    path.parent.chmod(0o555)


def outside(tree, name="elsewhere"):
    """A place that is none of the release's."""
    return tree.parent.parent.parent / name


def linked(tree, path, make):
    """A file moved away, and linked to from where it was."""
    target = outside(tree)
    (tree / path).rename(target)
    make(tree / path, target)


def moved_folder(tree, path):
    target = outside(tree)
    (tree / path).rename(target)
    (tree / path).symlink_to(target, target_is_directory=True)


def replaced_tree(tree):
    target = outside(tree)
    tree.rename(target)
    tree.symlink_to(target, target_is_directory=True)


def compiled(tree, path):
    """Bytecode of other code for a file, that says it needs no check against its source."""
    source = outside(tree, "planted.py")
    source.write_text(PLANTED)
    planted = tree / path
    cache = planted.parent / "__pycache__" / f"{planted.stem}.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(source, cfile=cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def with_record(tree):
    """The file and its row in RECORD, so that the two fit."""
    write(tree / "acme_demo/__init__.py", PLANTED)
    record = (tree / INFO / "RECORD").read_text()
    digests = [digest_of("sha256", text.encode()) for text in (CODE, PLANTED)]
    sizes = [f",{len(text.encode())}" for text in (CODE, PLANTED)]
    write(tree / INFO / "RECORD", record.replace(digests[0] + sizes[0], digests[1] + sizes[1]))


def endless(path):
    """As many zeros as fit into a file, which take no room: whoever reads them takes all memory."""
    path.chmod(0o644)
    os.truncate(path, 2**40)
    path.chmod(0o444)


def stored(tree, name):
    return tree.parent / name


INIT = "acme_demo/__init__.py"
CHANGES = [
    ("L1 changed", lambda t: write(t / INIT, PLANTED)),
    ("L1 cut short", lambda t: write(t / INIT, CODE[:-9])),
    ("L1 removed", lambda t: (t / "acme_demo/native.so").unlink()),
    ("L1 removed with its folder", lambda t: shutil.rmtree(t / "acme_space")),
    ("L1 added", lambda t: write(t / "acme_demo/added.py", "")),
    ("L1 added beside the package", lambda t: write(t / "added.py", "")),
    ("L1 added in a namespace package", lambda t: write(t / "acme_space/added.py", "")),
    ("L1 empty folder added", lambda t: (t / "acme_space/more").mkdir()),
    ("L1 permissions of a file widened", lambda t: (t / INIT).chmod(0o664)),
    ("L2 bytecode", lambda t: compiled(t, INIT)),
    ("L2 bytecode in the place of a module", lambda t: write(t / "acme_demo/added.pyc", b"")),
    ("L2 extension module beside the source", lambda t: write(t / "acme_space/part.so", b"\x7fELF")),
    ("L2 folder beside the source", lambda t: write(t / "acme_space/part/__init__.py", PLANTED)),
    ("L3 file and RECORD edited together", with_record),
    ("L3 RECORD removed", lambda t: (t / INFO / "RECORD").unlink()),
    ("L3 RECORD with a row more", lambda t: write(t / INFO / "RECORD", (t / INFO / "RECORD").read_bytes() + b"x,,\n")),
    ("L3 wheel changed", lambda t: write(stored(t, "release.whl"), stored(t, "release.whl").read_bytes() + b"x")),
    ("L3 wheel removed", lambda t: stored(t, "release.whl").unlink()),
    ("L3 attestations removed", lambda t: stored(t, "attestations.jsonl").unlink()),
    ("L3 tree removed", shutil.rmtree),
    ("L4 symbolic link", lambda t: linked(t, INIT, lambda at, target: at.symlink_to(target))),
    ("L4 hard link", lambda t: linked(t, INIT, lambda at, target: at.hardlink_to(target))),
    ("L4 FIFO", lambda t: linked(t, INIT, lambda at, _: os.mkfifo(at, 0o444))),
    ("L4 folder replaced by a symbolic link", lambda t: moved_folder(t, "acme_demo/more")),
    ("L4 wheel is a symbolic link", lambda t: linked(t.parent, "release.whl", lambda at, to: at.symlink_to(to))),
    (
        "L4 attestations are a symbolic link",
        lambda t: linked(t.parent, "attestations.jsonl", lambda at, to: at.symlink_to(to)),
    ),
    ("L4 wheel is a hard link", lambda t: linked(t.parent, "release.whl", lambda at, to: at.hardlink_to(to))),
    ("L4 wheel is a folder", lambda t: linked(t.parent, "release.whl", lambda at, _: at.mkdir())),
    ("L4 name is no text", lambda t: write(stored(t, "filename"), b"\xff")),
    ("L6 start-up hook", lambda t: write(t / "evil.pth", "import sys; sys.hooked = 'pth'\n")),
    ("L6 sitecustomize", lambda t: write(t / "sitecustomize.py", "import sys; sys.hooked = 'site'\n")),
    ("L8 extension module swapped", lambda t: write(t / "acme_demo/native.so", b"\x7fELF planted")),
]


@pytest.mark.parametrize(("case", "change"), table(CHANGES))
async def test_a_release_that_was_changed_on_disk_does_not_start(rig, release, case, change):
    with unsealed(rig.folder_of(release)) as tree:
        change(tree)
    before = await rig.picture()
    with pytest.raises(BusbarError) as refused:
        await rig.installer.verify_installed(release.sha256)
    assert refused.value.word == "release_modified"
    assert await rig.picture() == before


async def test_a_release_that_nobody_changed_starts(rig, release, run):
    with unsealed(rig.folder_of(release)):
        pass
    verified = await rig.installer.verify_installed(release.sha256)
    assert (await run.call(verified, "who"))["who"] == "signed"


@pytest.mark.parametrize("path", ["tree/acme_space", "tree", "."])
async def test_l1_a_folder_that_everyone_may_write_into_is_seen(rig, release, path):
    (rig.folder_of(release) / path).chmod(0o777)
    with pytest.raises(BusbarError) as refused:
        await rig.installer.verify_installed(release.sha256)
    assert refused.value.word == "release_modified"


@pytest.mark.parametrize("what", ["the tree", "the whole release"])
async def test_l4_a_folder_that_is_a_symbolic_link_is_seen_although_every_file_is_right(rig, release, what):
    with unsealed(rig.folder_of(release)) as tree:
        replaced_tree(tree if what == "the tree" else tree.parent)
    with pytest.raises(BusbarError) as refused:
        await rig.installer.verify_installed(release.sha256)
    assert refused.value.word == "release_modified"


@pytest.mark.parametrize("name", ["release.whl", "attestations.jsonl", "filename", f"tree/{INIT}"])
async def test_l4_a_file_without_end_takes_no_memory(rig, release, name):
    endless(rig.folder_of(release) / name)
    with pytest.raises(BusbarError, match="has more than") as refused:
        await rig.installer.verify_installed(release.sha256)
    assert refused.value.word == "release_modified"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
async def test_l4_a_device_is_seen(rig, release):
    with unsealed(rig.folder_of(release)) as tree:
        linked(tree, INIT, lambda at, _: os.mknod(at, 0o020444, os.makedev(1, 3)))
    with pytest.raises(BusbarError) as refused:
        await rig.installer.verify_installed(release.sha256)
    assert refused.value.word == "release_modified"


@pytest.mark.parametrize("name", ["release.whl", "attestations.jsonl", "filename"])
async def test_l4_a_fifo_in_the_place_of_what_was_stored_holds_nobody_up(rig, release, name):
    with unsealed(rig.folder_of(release)) as tree:
        path = stored(tree, name)
        path.unlink()
        os.mkfifo(path, 0o444)
    try:
        with pytest.raises(BusbarError) as refused:
            async with asyncio.timeout(0.5):
                await rig.installer.verify_installed(release.sha256)
        assert refused.value.word == "release_modified"
    finally:
        with contextlib.suppress(OSError):  # a reader that waits in a thread would keep the tests from ending
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


async def test_l3_attestations_of_another_release_are_no_attestations_of_this_one(rig, release):
    other = rig.store.releases / rig.registry.get("acme-demo").sha256
    newer = await rig.install(sign(rig.acme, version="1.1.0", sequence=8))
    assert newer.sha256 != other.name
    with unsealed(other) as tree:
        write(stored(tree, "attestations.jsonl"), (rig.folder_of(newer) / "attestations.jsonl").read_bytes())
    with pytest.raises(BusbarError) as refused:
        await rig.installer.verify_installed(other.name)
    assert refused.value.word == "release_subject_mismatch"


async def test_a_release_with_the_record_of_something_else_inside_its_package_starts(fresh):
    inner = "acme_demo/vendored-1.0.dist-info/RECORD"
    installed = await fresh.install(sign(fresh.acme, {inner: b"vendored.py,,\n", **files_of()}))
    assert (await fresh.installer.verify_installed(installed.sha256)).version == "1.0.0"


async def test_l7_no_file_of_a_release_is_shared_with_anything(rig, release):
    files = [path for path in rig.folder_of(release).rglob("*") if path.is_file()]
    assert len(files) > len(FILES)
    assert {path.stat().st_nlink for path in files} == {1}


# -- what runs, where nobody looked


async def test_l2_bytecode_that_fits_is_not_what_runs(rig, release, run):
    with unsealed(rig.folder_of(release)) as tree:
        compiled(tree, INIT)
    assert (await run.call(release, "who"))["who"] == "signed"


async def test_l6_start_up_hooks_in_the_folder_of_a_plugin_do_not_run(rig, release, run):
    with unsealed(rig.folder_of(release)) as tree:
        for name in ("sitecustomize.py", "usercustomize.py"):
            write(tree / name, "import sys; sys.hooked = 'custom'\n")
        write(tree / "evil.pth", "import sys; sys.hooked = 'pth'\n")
    assert (await run.call(release, "who"))["hooked"] == ""


@pytest.mark.parametrize("where", ["in the working directory", "on PYTHONPATH", "in the plugin's data"])
async def test_l9_a_second_copy_of_a_plugin_is_not_what_runs(release, sdk_path, tmp_path, monkeypatch, where):
    data = tmp_path / "data"
    elsewhere = data / "acme-demo" if where == "in the plugin's data" else tmp_path / "copy"
    elsewhere.mkdir(parents=True)
    (elsewhere / "acme_demo").mkdir()
    (elsewhere / "acme_demo/__init__.py").write_text(PLANTED)
    (elsewhere / "other-1.0.dist-info").mkdir()
    (elsewhere / "other-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (elsewhere / "other-1.0.dist-info/entry_points.txt").write_text("[busbar.plugins]\nacme-demo = acme_demo:Demo\n")
    if where == "in the working directory":
        monkeypatch.chdir(elsewhere)
    if where == "on PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    async with workers(sdk_path, data) as run:
        found = await run.call(release, "who")
    assert (found["who"], found["file"]) == ("signed", str(release.folder / INIT))


async def test_l5_what_is_changed_between_the_check_and_the_start_is_not_what_runs(rig, release, run):
    verified = await rig.installer.verify_installed(release.sha256)
    with unsealed(rig.folder_of(release)) as tree:
        write(tree / INIT, PLANTED)
    with contextlib.suppress(BusbarError):  # to refuse it is as good
        assert (await run.call(verified, "who"))["who"] == "signed"


BETWEEN = [
    ("L2 bytecode", lambda t: compiled(t, INIT)),
    ("L2 package beside a module", lambda t: write(t / "acme_demo/part/__init__.py", "WHO = 'planted'\n")),
    ("L8 extension module beside a module", lambda t: write(t / "acme_demo/part.so", b"\x7fELF planted")),
    ("L8 extension module beside the package", lambda t: write(t / "acme_demo.so", b"\x7fELF planted")),
]


@pytest.mark.parametrize(("case", "plant"), BETWEEN, ids=[case for case, _ in BETWEEN])
async def test_what_is_planted_between_the_check_and_the_start_does_not_exist(fresh, run, case, plant):
    code = CODE.replace('WHO = "signed"', "from acme_demo.part import WHO")
    release = await fresh.install(sign(fresh.acme, {**files_of(code=code), "acme_demo/part.py": b'WHO = "signed"\n'}))
    verified = await fresh.installer.verify_installed(release.sha256)
    with unsealed(fresh.folder_of(release)) as tree:
        plant(tree)
    assert (await run.call(verified, "who"))["who"] == "signed"


async def test_l8_an_extension_module_that_is_swapped_between_the_check_and_the_start_is_not_loaded(fresh, run):
    code = CODE.replace('WHO = "signed"', "from acme_demo import native; WHO = 'loaded'")
    release = await fresh.install(sign(fresh.acme, {**files_of(code=code), "acme_demo/native.so": b"\x7fELF signed"}))
    verified = await fresh.installer.verify_installed(release.sha256)
    with unsealed(fresh.folder_of(release)) as tree:
        write(tree / "acme_demo/native.so", b"\x7fELF planted")
    with pytest.raises(BusbarError, match=r"acme_demo/native\.so was altered") as refused:
        await run.call(verified, "who")
    assert refused.value.word == "release_modified"
