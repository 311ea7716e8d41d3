"""The registry: what it keeps over a restart and an upgrade, who hears of a change, and that a failure changes none."""

import asyncio
from dataclasses import replace

import pytest
from registry_rig import release

from host.registry.errors import (
    CandidateChangedError,
    PluginLeavingError,
    PluginNotFoundError,
    RecordDamagedError,
)
from host.registry.records import ReleaseRecord
from host.registry.registry import Registry
from host.storage.errors import StorageFailedError
from host.storage.keyring import Keyring
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.description import Description, Service, Subscription
from plugin_sdk.manifest import Permissions
from plugin_sdk.schedule import Schedule
from plugin_sdk.webhooks.endpoint import Webhook

EVERYTHING = {
    "subscribe": ("a.*",),
    "publish": ("b.c",),
    "call": ("email.send",),
    "network": ("api.example.com:443",),
    "secrets": ("key",),
    "webhooks": ("shop",),
    "routes": True,
}
DESCRIBED = {
    "subscriptions": (
        Subscription(
            name="s",
            types=("a.b", "a.*"),
            filters=({"prefix": {"subject": "x"}},),
            order="by-key",
            retry_delays=(1.0, 2.0),
            timeout=3.0,
        ),
    ),
    "schedules": (Schedule(name="daily", cron="0 8 * * *", timezone="Europe/Berlin"),),
    "services": (Service(name="send", summary="Sends."),),
    "webhooks": (Webhook(name="shop", scheme="github", secrets=("key",), headers=("x-github-event",)),),
    "routes": True,
    "config_schema": {"type": "object", "properties": {"url": {}, "password": {"writeOnly": True}}},
}


async def test_a_record_survives_a_restart_with_all_that_it_is(rig):
    await rig.install("shop", requires=("email>=1.0", "sms"), permissions=EVERYTHING, **DESCRIBED)
    record = await rig.registry.change(
        "shop",
        config={"url": "https://example.com", "list": [1, None, {"a": 2.5}]},
        secrets={"key": "s3cret ü", "password": "p"},
        policies={"s": {"attempts": 3, "retry_delays": [5.0]}, "@schedules": {"order": "strict"}},
        breaker="open",
        generation=4,
        config_revision=7,
    )
    again = await rig.reloaded()
    assert again.get("shop") == record
    assert again.all() == (record,)
    assert record.requires == ("email>=1.0", "sms")
    assert record.policies["s"] == {"attempts": 3, "retry_delays": [5.0]}
    assert record.description.subscriptions[0].order == "by-key"
    assert isinstance(record.description.subscriptions[0], DeliveryPolicy)


async def test_secrets_are_sealed_on_the_disk_and_open_under_their_own_key_and_plugin_alone(rig):
    for plugin in ("shop", "thief"):
        await rig.install(plugin, permissions=EVERYTHING)
    await rig.registry.change("shop", secrets={"key": "s3cret"})
    (row,) = await rig.database.read("SELECT secrets FROM plugins WHERE id = 'shop'")
    assert b"s3cret" not in bytes(row[0])
    stranger = Registry(rig.database, Keyring(b"x" * 32), rig.clock)
    await stranger.load()
    assert stranger.tampered
    assert [(one.secrets, "KeyringError" in one.damage) for one in stranger.all()] == [({}, True)] * 2
    await rig.database.write(
        lambda connection: (
            connection.execute(
                "UPDATE plugins SET secrets = (SELECT secrets FROM plugins WHERE id = 'shop') WHERE id = 'thief'"
            ).rowcount
        )
    )
    again = await rig.reloaded()
    assert again.get("shop").secrets == {"key": "s3cret"}
    assert again.get("thief").secrets == {}
    assert "KeyringError" in again.get("thief").damage


async def test_an_upgrade_keeps_what_people_decided_and_takes_what_the_release_says(rig):
    first = await rig.install("shop", requires=("email",), permissions={"subscribe": ("a.*",)})
    rig.clock.advance(60)
    await rig.registry.change(
        "shop",
        config={"a": 1},
        secrets={"key": "k"},
        policies={"s": {"attempts": 2}},
        breaker="open",
        config_revision=2,
    )
    second = await rig.install(
        "shop", "2.0.0", requires=("sms>=2",), permissions={"subscribe": ("a.*", "b.*")}, enabled=False, **DESCRIBED
    )
    assert (second.config, second.secrets, second.policies) == ({"a": 1}, {"key": "k"}, {"s": {"attempts": 2}})
    assert (second.breaker, second.enabled, second.config_revision) == ("open", True, 2)
    assert (second.version, second.requires, second.generation) == ("2.0.0", ("sms>=2",), first.generation + 1)
    assert second.description == Description(**DESCRIBED)
    assert (second.installed_at, second.changed_at) == (first.installed_at, rig.clock.now().timestamp())
    assert second.missing_grants == ("subscribe: b.*",)
    assert (await rig.reloaded()).get("shop") == second


async def test_a_new_plugin_is_granted_what_it_asks_for_unless_it_is_said_otherwise(rig):
    asked = await rig.install("shop", permissions=EVERYTHING)
    assert (asked.granted, asked.missing_grants) == (asked.requested, ())
    less = await rig.install("desk", permissions={"subscribe": ("a.*",)}, granted=Permissions())
    assert less.missing_grants == ("subscribe: a.*",)


async def test_secrets_reach_the_plugin_only_where_they_are_granted_or_fields_of_its_config(rig):
    await rig.install(
        "shop", permissions={"secrets": ("key", "other")}, granted=Permissions(secrets=("key",)), **DESCRIBED
    )
    record = await rig.registry.change(
        "shop", config={"url": "u"}, secrets={"key": "k", "other": "o", "password": "p", "gone": "g"}
    )
    assert record.granted_secrets == {"key": "k"}
    assert record.effective_config == {"url": "u", "password": "p"}


async def test_a_plugin_that_is_not_there_is_not_found_whatever_is_asked(rig):
    assert rig.registry.find("ghost") is None
    with pytest.raises(PluginNotFoundError):
        rig.registry.get("ghost")
    with pytest.raises(PluginNotFoundError):
        await rig.registry.change("ghost", enabled=True)
    with pytest.raises(PluginNotFoundError):
        await rig.registry.remove("ghost", purge=True)


async def test_listeners_hear_of_each_change_once_it_is_durable_and_can_be_read(rig):
    heard = []
    rig.registry.listen(lambda plugin: heard.append((plugin, rig.registry.find(plugin))))
    made = await rig.install("shop")
    changed = await rig.registry.change("shop", enabled=False)
    await rig.registry.remove("shop", purge=False)
    assert heard == [("shop", made), ("shop", changed), ("shop", None)]


async def test_changes_made_at_once_are_each_made_to_what_the_others_left(rig):
    await rig.install("shop")
    await asyncio.gather(
        rig.registry.change("shop", config={"a": 1}),
        rig.registry.change("shop", policies={"s": {"attempts": 2}}),
        rig.registry.change("shop", breaker="open"),
        rig.registry.change("shop", enabled=False),
    )
    for registry in (rig.registry, await rig.reloaded()):
        record = registry.get("shop")
        assert (record.config, record.policies) == ({"a": 1}, {"s": {"attempts": 2}})
        assert (record.breaker, record.enabled) == ("open", False)


async def test_a_change_that_is_not_kept_is_not_made_and_nobody_hears_of_it(rig):
    before = await rig.install("shop")
    heard = []
    rig.registry.listen(heard.append)
    await rig.database.close()
    for change in (
        rig.registry.change("shop", enabled=False),
        rig.registry.remove("shop", purge=True),
        rig.install("shop", "2.0.0"),
        rig.install("desk"),
    ):
        with pytest.raises(StorageFailedError):
            await change
    assert rig.registry.all() == (before,)
    assert heard == []


async def test_a_plugin_that_is_removed_leaves_its_history_unless_it_is_purged(rig):
    made = await rig.install("shop", "1.5.0")
    await rig.registry.remove("shop", purge=False)
    found = await rig.registry.history("shop")
    assert (found.version, found.publisher, found.sha256) == ("1.5.0", "acme", made.sha256)
    assert await rig.registry.knows(made.sha256)
    assert (await rig.reloaded()).all() == ()

    await rig.install("shop", "1.6.0")
    await rig.registry.remove("shop", purge=True)
    assert await rig.registry.history("shop") is None
    assert not await rig.registry.knows(made.sha256)


async def test_a_plugin_that_comes_back_begins_anew(rig):
    await rig.install("shop")
    await rig.registry.change("shop", config={"a": 1}, secrets={"key": "k"}, policies={"s": {}}, breaker="open")
    await rig.registry.remove("shop", purge=False)
    again = await rig.install("shop", enabled=False)
    assert (again.config, again.secrets, again.policies, again.breaker) == ({}, {}, {}, "auto")
    assert (again.enabled, again.generation) == (False, 0)


async def test_the_history_is_of_the_last_release_that_was_recorded(rig):
    for version in ("1.0.0", "2.0.0", "1.9.0"):
        await rig.install("shop", version)
    found = await rig.registry.history("shop")
    assert (found.version, found.sha256) == ("1.9.0", release("shop", "1.9.0").sha256)
    assert await rig.registry.history("ghost") is None


async def test_the_key_that_signed_is_kept_with_the_release_and_its_history_and_nobody_elses_to_change(rig):
    signed = replace(release("shop"), key_id="k1")
    made = await rig.registry.install(signed, Description(), enabled=True)
    assert (await rig.reloaded()).get("shop") == made
    found = await rig.registry.history("shop")
    assert (found.key_id, found.recorded_at) == ("k1", rig.clock.now().timestamp())
    for sql in ("UPDATE plugins SET key_id = 'k2'", "UPDATE plugin_history SET recorded_at = recorded_at + 1"):
        await rig.database.write(lambda connection, sql=sql: connection.execute(sql).rowcount)
        assert "changed by someone else" in (await rig.reloaded()).tampered
        await rig.registry.confirm()
        assert (await rig.reloaded()).tampered == ""


async def test_plugins_are_listed_by_their_ids(rig):
    for plugin in ("shop", "desk", "a-b"):
        await rig.install(plugin)
    assert [record.id for record in rig.registry.all()] == ["a-b", "desk", "shop"]


async def test_nothing_is_installed_under_an_id_that_is_being_cleared_away(rig):
    await rig.install("shop")
    with rig.registry.leaving("shop"):
        await rig.registry.remove("shop", purge=True)
        with pytest.raises(PluginLeavingError, match="shop is being uninstalled: try again in a moment"):
            await rig.install("shop")
        with pytest.raises(PluginLeavingError), rig.registry.leaving("shop"):
            pass
        with pytest.raises(PluginLeavingError):
            await rig.install("shop")
        await rig.install("desk")
    await rig.install("shop")


# -- a row that cannot be read

DAMAGE = {
    "config": "config = 'no JSON'",
    "config of another shape": "config = '[]'",
    "secrets": "secrets = x'00'",
    "policies": "policies = '{\"s\": 1}'",
    "requires": "requires = '[\"not a requirement!\"]'",
    "last upgrade": "last_upgrade = x'7b'",
    "no text at all": "breaker = CAST(x'ff' AS TEXT)",
}
SEALED_DAMAGE = {
    "description": "description = x'7b'",
    "filter": (
        "description = "
        """CAST('{"subscriptions": [{"name": "s", "types": ["a.b"], "filters": [{"nosuch": {}}]}]}' AS BLOB)"""
    ),
    "granted": "granted = '{'",
    "version no text": "version = CAST(x'ff' AS TEXT)",
}


async def damage(rig, plugin, sql):
    await rig.database.write(
        lambda connection: connection.execute(f"UPDATE plugins SET {sql} WHERE id = ?", (plugin,)).rowcount
    )


@pytest.mark.parametrize("what", [*DAMAGE, *SEALED_DAMAGE])
async def test_a_row_that_cannot_be_read_is_one_plugins_trouble(rig, what):
    for plugin in ("desk", "shop"):
        await rig.install(plugin, permissions=EVERYTHING)
    before = rig.registry.get("desk")
    await damage(rig, "shop", (DAMAGE | SEALED_DAMAGE)[what])
    again = await rig.reloaded()
    assert again.get("desk") == before
    found = again.get("shop")
    assert found.damage
    assert (found.id, found.enabled, found.granted, found.secrets, found.config) == (
        "shop",
        True,
        Permissions(),
        {},
        {},
    )
    assert bool(again.tampered) is (what in SEALED_DAMAGE), "what the seal covers is still found out"
    assert again.damaged


async def test_nothing_is_written_over_a_row_that_cannot_be_read_and_it_can_be_removed(rig):
    await rig.install("shop")
    await damage(rig, "shop", DAMAGE["config"])
    again = await rig.reloaded()
    for change in (
        again.change("shop", config={}),
        again.install(release("shop", "2.0.0"), Description(), enabled=True),
        again.end_probation("shop"),
        again.roll_back("shop", "no"),
    ):
        with pytest.raises(RecordDamagedError, match="restore the state folder from a backup"):
            await change
    (row,) = await rig.database.read("SELECT config FROM plugins")
    assert row[0] == "no JSON"
    await again.remove("shop", purge=False)
    assert (await rig.reloaded()).all() == ()


# -- releases that take over, and go back


def fresh(version, **more):
    return ReleaseRecord.of(release("shop", version, **more), Description())


async def upgraded(rig, version, *, probation=60.0):
    wanted = fresh(version)
    await rig.registry.propose("shop", wanted, enabled=True)
    return await rig.registry.promote("shop", wanted.sha256, probation=probation)


async def test_a_release_gets_the_config_back_that_it_ran_with_and_secrets_stay_as_they_are(rig):
    await rig.install("shop", permissions=EVERYTHING)
    await rig.registry.change("shop", config={"of": 1}, secrets={"key": "old"}, config_revision=1)
    second = await upgraded(rig, "2.0.0")
    assert (second.config, second.config_revision) == ({"of": 1}, 1)
    await rig.registry.change("shop", config={"of": 2}, secrets={"key": "rotated"}, config_revision=2)
    back = await (await rig.reloaded()).roll_back("shop", "it failed")
    assert (back.version, back.config, back.secrets) == ("1.0.0", {"of": 1}, {"key": "rotated"})
    assert back.config_revision == 3, "a config that is another one has another number"


async def test_going_back_by_hand_and_forth_again_brings_each_release_its_own_config(rig):
    await rig.install("shop")
    await rig.registry.change("shop", config={"of": 1})
    await upgraded(rig, "2.0.0")
    second = await rig.registry.change("shop", config={"of": 2})
    for version, config in (("1.0.0", {"of": 1}), ("2.0.0", {"of": 2})):
        wanted = second.previous
        assert (wanted.version, wanted.config) == (version, config)
        await rig.registry.propose("shop", wanted, enabled=True)
        second = await rig.registry.promote("shop", wanted.sha256, probation=0)
        assert (second.version, second.config) == (version, config)


async def test_a_new_release_takes_the_config_that_the_plugin_has_by_then(rig):
    await rig.install("shop")
    wanted = fresh("2.0.0")
    await rig.registry.propose("shop", wanted, enabled=True)
    await rig.registry.change("shop", config={"set": "meanwhile"}, config_revision=1)
    record = await rig.registry.promote("shop", wanted.sha256, probation=0)
    assert (record.config, record.config_revision) == ({"set": "meanwhile"}, 1)


async def test_only_the_release_that_got_ready_takes_over(rig):
    await rig.install("shop")
    first, second = fresh("2.0.0"), fresh("3.0.0")
    await rig.registry.propose("shop", first, enabled=True)
    await rig.registry.propose("shop", second, enabled=True)
    with pytest.raises(CandidateChangedError):
        await rig.registry.promote("shop", first.sha256, probation=0)
    await rig.registry.withdraw("shop", first.sha256, "too late")
    assert rig.registry.get("shop").candidate == second


async def test_a_listener_that_raises_keeps_nobody_from_hearing_of_a_change(rig):
    heard = []

    def raising(_plugin):
        raise RuntimeError("no")

    rig.registry.listen(raising)
    rig.registry.listen(heard.append)
    made = await rig.install("shop")
    assert (heard, rig.registry.get("shop")) == (["shop"], made)
