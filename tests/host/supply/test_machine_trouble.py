"""What the machine refuses says nothing of a release: it is looked at again, and nobody is told that it was changed."""

import asyncio
import contextlib
import errno
import os

import pytest
from short_of_descriptors import descriptors_left
from supply_rig import PLUGIN, sign, supply_rig

from host.errors import BusbarError
from host.registry.states import PluginState
from host.storage.errors import StorageFailedError
from host.storage.keyring import Keyring
from host.storage.seals import Seal
from host.supply.installer import Release
from host.supply.release_store import SCAN
from plugin_sdk.worker.file_errors import is_of_the_file, is_shortage

ENOUGH = 12
"""With so many descriptors left, a release is verified."""
REFUSALS = [
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.ESTALE,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.EOVERFLOW,
]
names = errno.errorcode.get


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


async def verified(rig):
    """The release that is installed, or how it is refused."""
    try:
        return await rig.installer.verify_installed(rig.registry.get(PLUGIN).sha256)
    except BusbarError as error:
        return error


async def test_too_few_descriptors_are_never_taken_for_a_changed_release(rig):
    await verified(rig)  # the threads that it needs are there
    outcomes = []
    for left in range(ENOUGH + 1):
        with descriptors_left(left):
            outcomes.append(await verified(rig))
    assert isinstance(outcomes[0], StorageFailedError)
    assert isinstance(outcomes[-1], Release)
    assert {type(outcome) for outcome in outcomes} == {StorageFailedError, Release}


@pytest.mark.parametrize("number", REFUSALS, ids=names)
@pytest.mark.parametrize("call", ["open", "read"])
async def test_no_refusal_of_the_machine_is_taken_for_a_changed_release(rig, monkeypatch, number, call):
    opened = os.open

    def refuse(path, *arguments, **options):
        if rig.store.releases.name in str(path) and str(path).endswith(".py"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **options)

    class Failing:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def read(self, _size):
            raise OSError(number, os.strerror(number))

    fdopen = os.fdopen
    if call == "open":
        monkeypatch.setattr(os, "open", refuse)
    else:
        monkeypatch.setattr("host.supply.sealed_tree.os.fdopen", lambda *given: Failing(fdopen(*given)))
    outcome = await verified(rig)
    monkeypatch.undo()
    assert isinstance(outcome, StorageFailedError), outcome
    assert os.strerror(number) in outcome.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_whose_owner_may_not_read_it_was_changed(rig):
    (rig.store.releases / rig.registry.get(PLUGIN).sha256 / "release.whl").chmod(0o000)
    assert (await verified(rig)).word == "release_modified"


@pytest.mark.parametrize("missing", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO], ids=names)
def test_what_lies_on_the_disk_is_the_files_own(missing):
    error = OSError(missing, os.strerror(missing))
    assert (is_of_the_file(error), is_shortage(error)) == (True, False)


async def test_a_plugin_whose_release_cannot_be_read_is_tried_again_and_nobody_is_told_of_a_change(rig):
    await rig.install(sign(rig.acme))
    _, before = await rig.audit.page(0, 1)
    with descriptors_left(0):
        async with rig.running() as plugin:
            assert plugin is None
            status = rig.reconciler.status(PLUGIN)
            assert (status.state, status.cause) == (PluginState.BACKING_OFF, "storage_unavailable")
            assert status.next_action_at > status.since
    assert (await rig.audit.page(0, 1))[1] == before


async def test_it_starts_by_itself_once_the_machine_has_what_it_needs(rig):
    await rig.install(sign(rig.acme))
    with descriptors_left(0):
        running = rig.running()
        await running.__aenter__()
    try:
        async with asyncio.timeout(10):
            while rig.reconciler.hosted(PLUGIN) is None:
                await asyncio.sleep(0.01)
        assert rig.reconciler.status(PLUGIN).state is PluginState.RUNNING
    finally:
        await running.__aexit__(None, None, None)


async def test_what_runs_runs_on_while_nothing_can_be_said_of_it(rig):
    await rig.install(sign(rig.acme))
    async with rig.running() as plugin:
        with descriptors_left(0):
            rig.reconciler.recheck((PLUGIN,))
            await rig.reconciler.caught_up(PLUGIN)
            assert plugin.running
            assert rig.reconciler.hosted(PLUGIN) is plugin


async def test_a_report_that_cannot_be_read_now_is_not_one_that_is_not_kept(rig):
    release = await rig.install(sign(rig.acme))
    with descriptors_left(0), pytest.raises(StorageFailedError):
        await rig.installer.paper(release.sha256, SCAN)
    assert await rig.installer.paper(release.sha256, SCAN)


async def test_a_serial_that_cannot_be_read_now_breaks_no_seal(rig):
    seal = Seal(rig.database, Keyring(b"k" * 32), "rows", ("SELECT kid FROM revoked_keys",))
    await seal.check()
    for left in range(4):
        with descriptors_left(left), contextlib.suppress(StorageFailedError):  # and no other: the seal is whole
            await seal.check()
    with descriptors_left(0), pytest.raises(StorageFailedError, match="Too many open files"):
        await seal.check()
    await seal.check()


async def test_an_install_without_descriptors_is_refused_for_the_machines_sake_and_leaves_nothing(rig):
    signed = sign(rig.acme, version="1.1.0", sequence=9)
    for left in range(4):
        before = await rig.picture()
        with descriptors_left(left), pytest.raises(StorageFailedError):
            await rig.install(signed)
        for one in rig.store.staging.iterdir():  # what could not be removed without a descriptor goes at the next start
            rig.store.discard_staging(one)
        assert await rig.picture() == before
    assert (await rig.install(signed)).version == "1.1.0"
