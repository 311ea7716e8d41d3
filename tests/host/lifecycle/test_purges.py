"""What a purge owes is paid before anyone else comes under the plugin's id, whenever the host was stopped meanwhile."""

import os

import pytest

from host.lifecycle.errors import PurgeUnfinishedError
from host.lifecycle.purges import Purges
from host.port.key_values import KeyValues
from host.registry.errors import PluginNotFoundError
from host.runtime.data_removal import ASIDE
from host.storage.database import Database
from host.storage.key_value_store import KeyValueStore


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "shop" / "below").mkdir(parents=True)
    (folder / "shop" / "below" / "secret").write_text("of the first publisher")
    (folder / "other").mkdir()
    return folder


@pytest.fixture
async def values(tmp_path):
    store = await KeyValueStore.open(tmp_path / "key-values.db")
    yield KeyValues(store)
    await store.close()


@pytest.fixture
def purges(rig, values, data):
    return Purges(rig.database, values, data)


def names(data):
    return sorted(path.name for path in data.iterdir())


async def purge(rig, plugin="shop"):
    await rig.install(plugin)
    await rig.registry.remove(plugin, purge=True)


async def test_a_purged_plugins_folder_is_out_of_reach_and_then_gone(rig, purges, data):
    await purge(rig)
    await purges.clear("shop")
    assert "shop" not in names(data)
    await purges.sweep()
    assert names(data) == ["other"]


async def test_a_purged_plugins_keys_are_gone_when_the_next_of_its_id_is_started(rig, purges, values):
    for plugin in ("shop", "other"):
        await values.set(plugin, "key", b"value")
    await purge(rig)
    await purges.clear("shop")
    await purges.clear("other")
    assert (await values.get("shop", "key"), await values.get("other", "key")) == (None, b"value")


async def test_nobody_elses_folder_is_touched_and_a_second_time_does_nothing(rig, purges, data):
    await rig.install("other")
    await purge(rig)
    for _ in range(2):
        await purges.clear("other")
        await purges.clear("shop")
        (data / "shop").mkdir(exist_ok=True)  # the next plugin of this id
    await purges.sweep()
    assert names(data) == ["other", "shop"]


async def test_an_uninstall_without_purge_leaves_the_folder(rig, purges, data):
    await rig.install("shop")
    await rig.registry.remove("shop", purge=False)
    await purges.clear("shop")
    await purges.resume()
    assert (data / "shop" / "below" / "secret").exists()


async def test_what_was_uninstalled_can_still_be_purged_and_then_no_more(rig, purges, data):
    await rig.install("shop")
    await rig.registry.remove("shop", purge=False)
    await rig.registry.remove("shop", purge=True)
    await purges.clear("shop")
    await purges.sweep()
    assert names(data) == ["other"]
    assert await rig.registry.history("shop") is None
    with pytest.raises(PluginNotFoundError):
        await rig.registry.remove("shop", purge=True)


@pytest.mark.parametrize(
    "stopped", ["before the keys were forgotten", "before the folder was taken away", "before it was removed"]
)
async def test_a_purge_that_a_kill_interrupted_is_finished_at_the_next_start(
    rig, purges, values, data, tmp_path, stopped
):
    for plugin in ("shop", "other"):
        await values.set(plugin, "key", b"value")
    await purge(rig)
    if stopped == "before the folder was taken away":
        await values.purge("shop")
    if stopped == "before it was removed":
        await purges.clear("shop")
    again = await Database.open(tmp_path / "busbar.db", clock=rig.clock)
    (data / ".examined" / "shop").mkdir(parents=True)
    await Purges(again, values, data).resume()
    assert names(data) == ["other"]
    assert (await values.get("shop", "key"), await values.get("other", "key")) == (None, b"value")
    assert await again.read("SELECT * FROM purges") == []
    await again.close()


async def test_an_emptied_database_removes_no_data(purges, data):
    await purges.resume()
    assert names(data) == ["other", "shop"]


async def test_a_folder_that_cannot_be_taken_away_is_said_and_still_owed(rig, purges, data, monkeypatch):
    await purge(rig)

    def refused(*_arguments):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("host.lifecycle.purges.set_aside", refused)
        with pytest.raises(PurgeUnfinishedError, match="no plugin of this id is started before it is gone"):
            await purges.clear("shop")
        await purges.resume()  # the host starts all the same
    await purges.clear("shop")
    assert "shop" not in names(data)


async def test_a_folder_that_cannot_be_removed_is_said_and_is_in_nobodys_reach(rig, purges, data, monkeypatch):
    await purge(rig)
    await purges.clear("shop")
    unlink = os.unlink

    def refusing(name, **named):
        if name == "secret":
            raise PermissionError
        unlink(name, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refusing)
        with pytest.raises(PurgeUnfinishedError, match="1 data folders are out of every plugin's reach"):
            await purges.sweep()
    assert next(name for name in names(data) if name != "other").startswith(ASIDE)
    await purges.sweep()
    assert names(data) == ["other"]
