"""Attacks on what the host remembers, and on what runs already: the trust store, the registry, and both at work.

Whoever can do this has the daemon's rights on its state folder, and not the key of its keyring.
"""

import shutil
import sqlite3

import pytest
import pytest_asyncio
from supply_rig import PLUGIN, files_of, sign, supply_rig, table
from supply_wheels import Acme

from host.administration.installation import InstallOptions
from host.errors import BusbarError
from host.registry.records import UpgradeOutcome
from host.registry.states import PluginState
from host.supply.installer import ReceivedRelease
from host.supply.trust.publishers import TrustPolicy

DATABASE = "busbar.db"


def sql(*statements):
    """Someone else writes into the database."""

    def change(folder, _backup):
        with sqlite3.connect(folder / DATABASE) as database:
            for statement in statements:
                database.execute(statement)

    return change


def drop(folder, name):
    for path in folder.glob(f"{name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def restore(folder, backup):
    drop(folder, DATABASE)
    shutil.copy(backup, folder / DATABASE)


def restore_without_serials(folder, backup):
    restore(folder, backup)
    drop(folder, "seals")


STRANGER = Acme().private.public
ENROL = (
    "INSERT INTO publisher_keys (publisher, kid, public, state, reason, changed_at) "
    f"VALUES ('acme', '{STRANGER.id}', '{STRANGER}', 'active', '', 0)"
)
CHANGED = [
    ("K6 namespaces widened", sql("UPDATE publishers SET plugins = '[\"*\"]'"), "trust_store_tampered"),
    (
        "K6 allowed to run inside the host",
        sql("UPDATE publishers SET max_isolation = 'inline'"),
        "trust_store_tampered",
    ),
    ("K6 key's end put off", sql("UPDATE publisher_keys SET not_after = 9e9"), "trust_store_tampered"),
    ("K6 key revoked", sql("UPDATE publisher_keys SET state = 'revoked'"), "trust_store_tampered"),
    ("K6 policies removed", sql("DELETE FROM trust_policies"), "trust_store_tampered"),
    ("K6 keys removed", sql("DELETE FROM publisher_keys"), "trust_store_tampered"),
    ("K6 publishers removed", sql("DELETE FROM publishers"), "trust_store_tampered"),
    ("K6 seals removed", sql("DELETE FROM seals"), "trust_store_tampered"),
    ("K6 everything removed", lambda folder, _: drop(folder, DATABASE), "trust_store_tampered"),
    ("K6 older copy", restore, "trust_store_tampered"),
    ("K6 older copy, and the serials removed", restore_without_serials, "trust_store_tampered"),
    ("K6 serials removed", lambda folder, _: drop(folder, "seals"), "trust_store_tampered"),
    ("R4 history removed", sql("DELETE FROM plugin_history"), "registry_tampered"),
    ("R4 sequence set back", sql("UPDATE plugin_history SET sequence = 0"), "registry_tampered"),
    ("R4 version set back", sql("UPDATE plugin_history SET version = '0.1'"), "registry_tampered"),
    ("R4 history of another key", sql("UPDATE plugin_history SET key_id = 'x'"), "registry_tampered"),
    ("R4 serial of the registry removed", lambda folder, _: drop(folder / "seals", "registry"), "registry_tampered"),
    ("R4 restored from a backup", restore, "trust_store_tampered"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared(tmp_path_factory):
    """A host that has a backup of its database, has changed since, and is down; and its publisher."""
    folder, acme, reviewer = tmp_path_factory.mktemp("prepared"), Acme(), Acme("reviewer", ("*",))
    async with supply_rig(folder, acme=acme) as rig:
        with sqlite3.connect(folder / "backup") as backup, sqlite3.connect(folder / DATABASE) as database:
            database.backup(backup)
        await rig.trust.add(reviewer.publisher)
        await rig.trust.set_policy(TrustPolicy("acme-payments", 2))
        await rig.install(sign(acme, version="0.9.5", sequence=7))
    return folder, acme


@pytest.fixture
def host(prepared, tmp_path):
    """A copy of that host."""
    return shutil.copytree(prepared[0], tmp_path / "host")


@pytest.fixture
def acme(prepared):
    return prepared[1]


@pytest.mark.parametrize(("case", "change", "code"), table(CHANGED))
async def test_a_host_whose_memory_was_changed_installs_and_starts_nothing(host, acme, case, change, code):
    change(host, host / "backup")
    signed = sign(acme, version="0.9.1", sequence=8)
    async with supply_rig(host, acme=acme, again=True) as rig:
        refused = await rig.refusal(signed.wheel, signed.attestations, signed.filename)
        assert refused.word == code
        async with rig.running() as plugin:
            assert plugin is None
            if rig.registry.find(PLUGIN) is not None:
                status = rig.reconciler.status(PLUGIN)
                assert status.state is PluginState.FAILED
                assert status.cause in {"trust_store_tampered", "registry_tampered"}


@pytest.mark.parametrize("change", [restore, sql("DELETE FROM publishers")], ids=["older copy", "nobody is trusted"])
async def test_k6_an_administrator_who_looked_at_it_has_the_host_go_on(host, acme, change):
    change(host, host / "backup")
    async with supply_rig(host, acme=acme, again=True) as rig:
        before = rig.trust.shown()
        await rig.trust.confirm()
        await rig.registry.confirm()
        assert await rig.trust.snapshot() == before
    async with supply_rig(host, acme=acme, again=True) as rig:
        assert (rig.trust.tampered, rig.registry.tampered) == ("", "")


# -- what runs already


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


async def test_k2_a_plugin_whose_key_is_revoked_is_stopped_at_once_and_that_is_said(rig):
    async with rig.running() as plugin:
        assert plugin.running
        await rig.trust.revoke_key("acme", rig.acme.private.public.id, "stolen")
        await rig.reconciler.caught_up(PLUGIN)
        assert not plugin.running
        status = rig.reconciler.status(PLUGIN)
    assert (status.state, status.cause) == (PluginState.FAILED, "release_revoked")
    (entry,), _ = await rig.audit.page(0, 1)
    assert (entry.action, entry.target, entry.outcome) == ("plugin.start", PLUGIN, "refused")
    assert entry.detail["code"] == "release_revoked"
    assert await rig.database.read("SELECT 1 FROM events WHERE type = 'busbar.release.refused'")


async def test_k2_a_release_that_an_administrator_keeps_goes_on_although_its_key_is_revoked(rig):
    async with rig.running() as plugin:
        await rig.trust.keep(rig.registry.get(PLUGIN).sha256, "we read it")
        await rig.trust.revoke_key("acme", rig.acme.private.public.id, "stolen")
        await rig.reconciler.caught_up(PLUGIN)
        assert plugin.running
        await rig.trust.let_go(rig.registry.get(PLUGIN).sha256)
        await rig.reconciler.caught_up(PLUGIN)
        assert not plugin.running


async def test_m5_an_upgrade_that_asks_for_more_waits_and_the_old_release_runs_on(rig):
    async def chunks(wheel):
        yield wheel

    signed = sign(rig.acme, files_of(manifest='[permissions]\nnetwork = ["*:*"]\n'))
    async with rig.running() as plugin:
        received = ReceivedRelease(chunks(signed.wheel), signed.filename, signed.attestations)
        record = await rig.installation.install(received, InstallOptions(enable=True), actor="alice")
        assert plugin.running
        assert rig.reconciler.hosted(PLUGIN) is plugin
    assert (record.version, record.candidate.version) == ("0.9.0", "1.0.0")
    assert record.granted.network == ()
    assert record.last_upgrade.outcome is UpgradeOutcome.WAITING
    assert "network: *:*" in record.last_upgrade.reason


async def test_l9_a_release_of_another_plugin_is_not_run_in_the_place_of_this_one(rig):
    """The registry alone says which release a plugin is; a release that is good, and another's, is refused."""
    other = await rig.install(sign(rig.acme, plugin="acme-other"))
    await rig.registry.change(PLUGIN, sha256=other.sha256)
    with pytest.raises(BusbarError) as refused:
        await rig.gate.verify(rig.registry.get(PLUGIN))
    assert refused.value.word == "release_modified"
