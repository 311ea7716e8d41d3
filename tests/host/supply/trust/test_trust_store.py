"""The trust store keeps what it was told, refuses what could be abused, and notices who else wrote into it."""

import os
from pathlib import Path

import pytest
from short_of_descriptors import descriptors_left
from supply_wheels import NOW, Acme

from host.errors import BusbarError
from host.storage.database import Database
from host.storage.errors import StorageFailedError
from host.storage.keyring import Keyring
from host.supply.errors import PublisherRefusedError
from host.supply.trust.drop_ins import load_drop_ins, read_drop_in
from host.supply.trust.keys import PrivateKey
from host.supply.trust.publishers import KeyState, Publisher, TrustedKey, TrustPolicy
from host.supply.trust.store import TrustStore
from plugin_sdk.testing import FakeClock

KEYRING = Keyring(b"k" * 32)


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


async def store(database):
    made = TrustStore(database, KEYRING, FakeClock(NOW))
    await made.load()
    return made


@pytest.fixture
async def trust(database):
    return await store(database)


async def code(awaitable):
    with pytest.raises(BusbarError) as refused:
        await awaitable
    return refused.value.word


def fresh():
    return TrustedKey(PrivateKey.new().public)


async def test_what_was_told_is_there_after_a_restart(database, trust, acme):
    await trust.add(acme.publisher)
    await trust.add_key("acme", key := fresh())
    await trust.retire_key("acme", acme.private.public.id, "rotated")
    await trust.set_policy(TrustPolicy("acme", 1, ("acme",), ("https://example.org/review",)))
    await trust.keep("a" * 64, "we looked at it")
    again = await store(database)
    assert again.shown() == trust.shown()
    states = {one.public: (one.state, one.reason) for one in again.get("acme").keys}
    assert states == {acme.private.public: (KeyState.RETIRED, "rotated"), key.public: (KeyState.ACTIVE, "")}


async def test_every_change_is_told(trust, acme):
    told = []
    trust.listen(lambda: told.append(1))
    await trust.add(acme.publisher)
    await trust.set_policy(TrustPolicy("acme", 1))
    await trust.revoke_key("acme", acme.private.public.id, "stolen")
    await trust.drop_policy("acme")
    await trust.remove("acme")
    assert len(told) == 5


async def test_a_revoked_key_never_comes_back_not_even_by_way_of_another_publisher(trust, acme):
    await trust.add(acme.publisher)
    await trust.revoke_key("acme", acme.private.public.id, "stolen")
    assert await code(trust.retire_key("acme", acme.private.public.id, "")) == "key_revoked"
    await trust.remove("acme")
    assert await code(trust.add(acme.publisher)) == "key_revoked"
    other = Publisher("globex", "Globex", ("globex",), (TrustedKey(acme.private.public),))
    assert await code(trust.add(other)) == "key_revoked"


async def test_each_publisher_has_keys_of_its_own(trust, acme):
    await trust.add(acme.publisher)
    twin = Publisher("reviewer", "Reviewer", ("acme",), acme.publisher.keys)
    assert await code(trust.add(twin)) == "key_exists"
    await trust.add(Publisher("reviewer", "Reviewer", ("acme",), (fresh(),)))
    assert await code(trust.add_key("reviewer", acme.publisher.keys[0])) == "key_exists"


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        (TrustPolicy("Acme"), "policy_refused"),
        (TrustPolicy("acme", 0), "policy_refused"),
        (TrustPolicy("acme", 2, ("acme",)), "policy_refused"),
        (TrustPolicy("acme", 1, ("acme", "acme")), "policy_refused"),
        (TrustPolicy("acme", 1, ("nobody",)), "policy_refused"),
        (TrustPolicy("acme", 1, (), ("not a uri",)), "policy_refused"),
    ],
)
async def test_a_policy_that_could_never_be_met_is_refused(trust, acme, policy, word):
    await trust.add(acme.publisher)
    assert await code(trust.set_policy(policy)) == word
    assert trust.shown().policies == ()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE publisher_keys SET state = 'active'",
        "UPDATE publishers SET plugins = '[\"*\"]'",
        "DELETE FROM trust_policies",
        "DELETE FROM revoked_keys",
        "INSERT INTO trust_kept (sha256, reason, at) VALUES ('x', '', 0)",
        "DELETE FROM seals",
    ],
)
async def test_a_store_that_someone_else_changed_is_believed_in_no_part_until_it_is_confirmed(
    database, trust, acme, sql
):
    await trust.add(acme.publisher)
    await trust.set_policy(TrustPolicy("acme", 1))
    await trust.revoke_key("acme", acme.private.public.id, "stolen")
    await database.write(lambda connection: connection.execute(sql).rowcount)
    found = await store(database)
    assert found.tampered
    assert await code(found.snapshot()) == "trust_store_tampered"
    assert await code(found.add_key("acme", fresh())) == "trust_store_tampered"
    assert await code((await store(database)).snapshot()) == "trust_store_tampered"
    await found.confirm()
    assert await found.snapshot() == (await (await store(database)).snapshot())


# -- drop-in files


def drop_in(folder, name, text):
    (folder / name).write_text(text)


def publisher_file(*keys, plugins='["acme"]'):
    lines = [f'[publisher]\nid = "acme"\nplugins = {plugins}\n']
    for key, *more in keys:
        lines.append(f'[[keys]]\npublic = "{key}"\n' + "".join(f"{line}\n" for line in more))
    return "\n".join(lines)


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "publishers.d"
    made.mkdir()
    return made


async def test_files_say_who_is_trusted_and_how_many_must_sign(trust, folder, acme):
    drop_in(folder, "b.toml", '[[policies]]\nnamespace = "acme"\nthreshold = 1\npublishers = ["acme"]\n')
    drop_in(folder, "c.toml", publisher_file((acme.private.public,)))
    assert len(await load_drop_ins(trust, folder)) == 2
    assert trust.shown().policy("acme-demo").publishers == ("acme",)
    assert await load_drop_ins(trust, folder) == ()


async def test_a_key_is_rotated_retired_and_revoked_in_a_file(trust, folder):
    old, new = fresh().public, fresh().public
    drop_in(folder, "acme.toml", publisher_file((old,)))
    await load_drop_ins(trust, folder)
    drop_in(folder, "acme.toml", publisher_file((old, 'state = "retired"'), (new,)))
    await load_drop_ins(trust, folder)
    assert {key.public: key.state for key in trust.get("acme").keys} == {
        old: KeyState.RETIRED,
        new: KeyState.ACTIVE,
    }
    drop_in(folder, "acme.toml", publisher_file((old, 'state = "revoked"', 'reason = "lost"'), (new,)))
    await load_drop_ins(trust, folder)
    assert next(key for key in trust.get("acme").keys if key.public == old).reason == "lost"
    drop_in(folder, "acme.toml", publisher_file((old,), (new,)))
    await load_drop_ins(trust, folder)
    assert next(key for key in trust.get("acme").keys if key.public == old).state is KeyState.REVOKED


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def inner_folder(path):
    path.mkdir()


def endless(path):
    path.touch()
    os.truncate(path, 2**40)


def nested(path):
    path.write_text("a = " + "[" * 100_000)


@pytest.mark.parametrize("make", [pipe, device, inner_folder, endless, nested])
async def test_what_is_no_file_of_a_publisher_is_named_and_keeps_nobody_waiting(trust, folder, make):
    make(folder / "odd.toml")
    with pytest.raises(PublisherRefusedError, match=r"odd\.toml"):
        await load_drop_ins(trust, folder)


async def test_a_file_may_be_reached_through_links_as_containers_have_it(trust, folder, tmp_path):
    drop_in(tmp_path, "data", publisher_file((fresh().public,)))
    (folder / "acme.toml").symlink_to(tmp_path / "data")
    assert await load_drop_ins(trust, folder) == ("publisher acme",)


async def test_a_file_that_the_machine_cannot_read_now_is_not_malformed(trust, folder):
    drop_in(folder, "acme.toml", publisher_file((fresh().public,)))
    with descriptors_left(0), pytest.raises(StorageFailedError, match="Too many open files"):
        read_drop_in(folder / "acme.toml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing = 1",
        "not toml",
        '[publisher]\nid = "acme"\nplugins = ["acme"]\n',
        '[publisher]\nid = "acme"\nplugins = "acme"\n[[keys]]\npublic = "x"\n',
        publisher_file(("ed25519:AAAA",)),
        publisher_file((Acme().private.public, 'state = "loved"')),
        publisher_file((Acme().private.public, "stat = 1")),
        '[[policies]]\nnamespace = "acme"\nthreshold = true\n',
        "[[policies]]\nthreshold = 1\n",
        '[[policies]]\nnamespace = "acme"\npublishers = ["nobody"]\n',
    ],
)
async def test_a_malformed_file_is_named_and_changes_nothing(trust, folder, text):
    drop_in(folder, "broken.toml", text)
    assert await code(load_drop_ins(trust, folder)) in {"publisher_refused", "policy_refused"}
    assert trust.shown().publishers == ()


@pytest.mark.parametrize("sql", ["plugins = 'no JSON'", "title = CAST(x'ff' AS TEXT)"])
async def test_a_store_that_cannot_be_read_is_believed_in_no_part_and_loaded_all_the_same(database, trust, acme, sql):
    await trust.add(acme.publisher)
    await database.write(lambda connection: connection.execute(f"UPDATE publishers SET {sql}").rowcount)
    again = await store(database)
    assert again.tampered
    assert await code(again.snapshot()) == "trust_store_tampered"
