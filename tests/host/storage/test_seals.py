"""What the host alone may change is found changed, replaced or unsealed."""

import sqlite3

import pytest

from host.storage.database import Database
from host.storage.errors import SealBrokenError
from host.storage.keyring import Keyring
from host.storage.seals import Seal

ROWS = ("SELECT kid, publisher FROM revoked_keys ORDER BY kid",)


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


@pytest.fixture
def seal(database):
    return Seal(database, Keyring(b"k" * 32), "test rows", ROWS)


async def change(database, seal, kid="a"):
    def write(connection):
        connection.execute("INSERT INTO revoked_keys (kid, publisher, reason, at) VALUES (?, 'acme', '', 0)", (kid,))
        return seal.stamp(connection)

    await seal.keep(await database.write(write))


async def behind_its_back(database, sql):
    await database.write(lambda connection: connection.execute(sql).rowcount)


async def test_a_fresh_host_has_nothing_to_believe(seal):
    await seal.check()


async def test_what_the_host_wrote_holds_and_goes_on_holding(database, seal):
    for kid in "abc":
        await change(database, seal, kid)
        await seal.check()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM revoked_keys",
        "UPDATE revoked_keys SET publisher = 'globex'",
        "INSERT INTO revoked_keys (kid, publisher, reason, at) VALUES ('z', 'acme', '', 0)",
        "DELETE FROM seals",
        "UPDATE seals SET serial = serial + 1",
        "UPDATE seals SET mac = zeroblob(32)",
        "UPDATE seals SET name = 'other rows'",
    ],
)
async def test_what_someone_else_wrote_does_not(database, seal, sql):
    await change(database, seal)
    await behind_its_back(database, sql)
    with pytest.raises(SealBrokenError):
        await seal.check()


async def test_removing_rows_and_seal_together_is_found_by_the_serial_in_the_file(database, seal):
    await change(database, seal)
    await behind_its_back(database, "DELETE FROM revoked_keys")
    await behind_its_back(database, "DELETE FROM seals")
    with pytest.raises(SealBrokenError, match="lost its seal"):
        await seal.check()


async def test_an_older_copy_with_its_own_good_seal_is_found(database, seal, tmp_path):
    await change(database, seal, "a")
    old = await database.write(lambda connection: [tuple(row) for row in connection.execute("SELECT * FROM seals")])
    await change(database, seal, "b")
    await behind_its_back(database, "DELETE FROM revoked_keys WHERE kid = 'b'")
    await database.write(
        lambda connection: connection.executemany("INSERT OR REPLACE INTO seals VALUES (?, ?, ?)", old).rowcount
    )
    with pytest.raises(SealBrokenError, match="older copy"):
        await seal.check()


async def test_a_serial_that_another_key_wrote_is_not_believed(database, seal, tmp_path):
    await change(database, seal)
    (tmp_path / "seals" / "test rows").write_bytes(Keyring(b"x" * 32).seal("1", "seal:test rows"))
    with pytest.raises(SealBrokenError, match="cannot be read"):
        await seal.check()


@pytest.mark.parametrize("changes", ["a", "ab"])
async def test_a_serial_that_is_gone_is_found_for_an_older_copy_could_hide_behind_it(database, seal, tmp_path, changes):
    await seal.check()  # as a host does at its first start
    for kid in changes:
        await change(database, seal, kid)
    (tmp_path / "seals" / "test rows").unlink()
    with pytest.raises(SealBrokenError, match="lost its serial"):
        await seal.check()
    await seal.renew()
    await seal.check()


async def test_a_host_that_was_killed_at_its_first_change_makes_up_for_it(database, seal):
    await seal.check()

    def write(connection):
        connection.execute("INSERT INTO revoked_keys (kid, publisher, reason, at) VALUES ('a', 'acme', '', 0)")
        seal.stamp(connection)

    await database.write(write)
    await seal.check()


async def test_a_host_that_was_killed_before_it_noted_the_serial_makes_up_for_it(database, seal, tmp_path):
    await change(database, seal, "a")

    def write(connection):
        connection.execute("INSERT INTO revoked_keys (kid, publisher, reason, at) VALUES ('b', 'acme', '', 0)")
        seal.stamp(connection)

    await database.write(write)
    await seal.check()
    assert Keyring(b"k" * 32).open((tmp_path / "seals" / "test rows").read_bytes(), "seal:test rows") == "2"


async def test_what_was_rolled_back_leaves_the_seal_as_it_was(database, seal):
    await change(database, seal, "a")

    def fail(connection):
        seal.stamp(connection)
        raise sqlite3.IntegrityError("no")

    with pytest.raises(sqlite3.IntegrityError):
        await database.write(fail)
    await seal.check()


async def test_an_administrator_who_looked_at_it_seals_it_anew(database, seal):
    await change(database, seal)
    await behind_its_back(database, "UPDATE revoked_keys SET publisher = 'globex'")
    await seal.renew()
    await seal.check()
