import hashlib

import pytest

from host.api.envelope import written
from host.identity import access
from host.identity.access import PREFIX, Role, TokenNotFoundError, TokenRefusedError, Tokens
from host.storage.errors import StorageFailedError
from host.storage.keyring import Keyring


@pytest.fixture
async def tokens(rig):
    made = Tokens(rig.database, Keyring(b"k" * 32), rig.clock)
    await made.load()
    return made


async def reloaded(rig):
    """The tokens as after a restart of the host."""
    found = Tokens(rig.database, Keyring(b"k" * 32), rig.clock)
    await found.load()
    return found


@pytest.mark.parametrize(
    ("role", "covers"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.OPERATOR, {Role.VIEWER, Role.OPERATOR}),
        (Role.ADMIN, {Role.VIEWER, Role.OPERATOR, Role.ADMIN}),
    ],
)
def test_each_role_may_do_all_that_the_ones_before_it_may(role, covers):
    assert {needed for needed in Role if role.covers(needed)} == covers


async def test_a_token_is_found_by_its_secret_and_by_nothing_else(tokens):
    token, secret = await tokens.create("ci", Role.OPERATOR)
    assert secret.startswith(PREFIX)
    assert tokens.find(secret) == token
    for other in ("", secret + "x", secret[:-1], secret.upper(), token.id, token.name, "\udc80", f" {secret}"):
        assert tokens.find(other) is None


async def test_a_first_token_is_made_once(tokens):
    assert tokens.find(await tokens.bootstrap()).role is Role.ADMIN
    assert await tokens.bootstrap() is None


async def test_a_database_that_forgot_the_first_token_gets_no_second_one(rig, tokens):
    await tokens.bootstrap()
    await rig.database.write(lambda connection: connection.execute("DELETE FROM bootstrap").rowcount)
    again = await reloaded(rig)
    before = again.all()
    assert await again.bootstrap(again=True) is None
    assert again.all() == before


async def test_no_two_tokens_are_alike_although_their_names_are(tokens):
    made = [await tokens.create("ci", Role.VIEWER) for _ in range(20)]
    assert len({secret for _, secret in made}) == 20
    assert len({token.id for token, _ in made}) == 20
    assert all(tokens.find(secret) == token for token, secret in made)


async def test_the_host_keeps_no_secret(rig, tokens):
    token, secret = await tokens.create("ci", Role.ADMIN)
    ((kept,),) = [tuple(row) for row in await rig.database.read("SELECT hash FROM tokens")]
    assert bytes(kept) == hashlib.sha256(secret.encode()).digest()
    (row,) = await rig.database.read("SELECT * FROM tokens")
    assert not [value for value in tuple(row) if isinstance(value, str) and secret[len(PREFIX) :] in value]
    assert secret not in repr(token)


async def test_tokens_survive_a_restart_with_all_that_they_are(rig, tokens):
    expires_at = rig.clock.now().timestamp() + 60
    made = [await tokens.create("a", Role.VIEWER), await tokens.create("b", Role.ADMIN, expires_at)]
    again = await reloaded(rig)
    assert [again.find(secret) for _, secret in made] == [token for token, _ in made]
    assert again.all() == tokens.all()


@pytest.mark.parametrize(("after", "valid"), [(0, True), (59.9, True), (60, False), (10**9, False)])
async def test_a_token_is_worth_nothing_from_the_instant_it_expires(rig, tokens, after, valid):
    _, secret = await tokens.create("ci", Role.VIEWER, rig.clock.now().timestamp() + 60)
    rig.clock.advance(after)
    assert (tokens.find(secret) is not None) is valid
    assert ((await reloaded(rig)).find(secret) is not None) is valid


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00", "\u200b", "\u202e"])
async def test_a_name_that_cannot_be_read_is_refused(tokens, name):
    with pytest.raises(TokenRefusedError, match="1 to 200 characters"):
        await tokens.create(name, Role.VIEWER)
    assert tokens.all() == ()


@pytest.mark.parametrize("name", ["x", "x" * 200, "Größe 7", "\U0001f600"])
async def test_any_printable_name_is_taken(tokens, name):
    token, _ = await tokens.create(name, Role.VIEWER)
    assert token.name == name


@pytest.mark.parametrize("seconds", [0, -1, -(10**6)])
async def test_a_token_that_has_expired_already_is_not_made(rig, tokens, seconds):
    with pytest.raises(TokenRefusedError, match="expiresAt is in the past"):
        await tokens.create("ci", Role.VIEWER, rig.clock.now().timestamp() + seconds)


@pytest.mark.parametrize("expires_at", [253_402_300_800.0, 1e300, float("inf"), float("nan")])
async def test_a_token_whose_end_could_not_be_written_is_not_made(tokens, expires_at):
    with pytest.raises(TokenRefusedError, match="expiresAt"):
        await tokens.create("ci", Role.VIEWER, expires_at)
    assert tokens.all() == ()


async def test_the_last_second_that_can_be_written_is_taken(tokens):
    token, _ = await tokens.create("ci", Role.VIEWER, 253_402_300_799.0)
    assert written(token.expires_at) == "9999-12-31T23:59:59.000Z"


async def test_there_is_a_bound_and_revoking_makes_room(tokens, monkeypatch):
    monkeypatch.setattr(access, "MAX_TOKENS", 2)
    made = [(await tokens.create("ci", Role.VIEWER))[0] for _ in range(2)]
    with pytest.raises(TokenRefusedError, match="revoke some"):
        await tokens.create("ci", Role.VIEWER)
    await tokens.revoke(made[0].id)
    await tokens.create("ci", Role.VIEWER)


async def test_a_revoked_token_is_worthless_at_once_and_after_a_restart_and_the_others_are_not(rig, tokens):
    one, secret = await tokens.create("ci", Role.VIEWER)
    _, other = await tokens.create("ci", Role.VIEWER)
    await tokens.revoke(one.id)
    for found in (tokens, await reloaded(rig)):
        assert found.find(secret) is None
        assert found.find(other) is not None
    with pytest.raises(TokenNotFoundError, match="GET /api/v1/tokens"):
        await tokens.revoke(one.id)


async def test_a_token_whose_revocation_was_not_kept_is_still_valid(rig, tokens):
    token, secret = await tokens.create("ci", Role.VIEWER)
    await rig.database.close()
    with pytest.raises(StorageFailedError):
        await tokens.revoke(token.id)
    assert tokens.find(secret) == token, "it would be worthless now and valid again after a restart"


async def test_a_token_that_was_not_kept_is_not_valid(rig, tokens):
    await rig.database.close()
    with pytest.raises(StorageFailedError):
        await tokens.create("ci", Role.VIEWER)
    assert tokens.all() == ()


async def test_the_first_administrator_is_made_once_in_the_life_of_a_database(rig, tokens):
    secret = await tokens.bootstrap()
    assert tokens.find(secret).role is Role.ADMIN
    assert await tokens.bootstrap() is None
    await tokens.revoke(tokens.find(secret).id)
    assert await (await reloaded(rig)).bootstrap() is None, "whoever revoked it does not want another"


async def test_tokens_are_listed_oldest_first(rig, tokens):
    names = ["c", "a", "b"]
    for name in names:
        await tokens.create(name, Role.VIEWER)
        rig.clock.advance(1)
    assert [token.name for token in (await reloaded(rig)).all()] == names


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE tokens SET role = 'admin'",
        "UPDATE tokens SET expires_at = NULL",
        "UPDATE tokens SET hash = zeroblob(32)",
        "UPDATE tokens SET id = 'another'",
        "UPDATE tokens SET mac = zeroblob(32)",
    ],
)
async def test_a_token_that_someone_wrote_into_the_database_is_none(rig, tokens, sql):
    _, secret = await tokens.create("reader", Role.VIEWER, rig.clock.now().timestamp() + 1000)
    await rig.database.write(lambda connection: connection.execute(sql).rowcount)
    found = await reloaded(rig)
    assert found.find(secret) is None
    assert found.all() == ()


async def test_a_planted_row_of_an_administrator_is_no_token(rig, tokens):
    planted = hashlib.sha256(b"bbt_planted").digest()
    _, honest = await tokens.create("honest", Role.VIEWER)

    def plant(connection):
        connection.execute(
            "INSERT INTO tokens (id, name, role, hash, created_at, expires_at, mac) "
            "SELECT 'x', 'x', 'admin', ?, 0, NULL, mac FROM tokens",
            (planted,),
        )

    await rig.database.write(plant)
    found = await reloaded(rig)
    assert found.find("bbt_planted") is None
    assert found.find(honest) is not None


async def test_a_token_that_cannot_be_read_keeps_no_other_from_being_believed(rig, tokens):
    _, good = await tokens.create("good", Role.OPERATOR)
    bad, secret = await tokens.create("bad", Role.OPERATOR)

    def write(connection):
        connection.execute("PRAGMA ignore_check_constraints = ON")  # as whoever writes into the file may say
        connection.execute("UPDATE tokens SET role = 'king' WHERE id = ?", (bad.id,))

    await rig.database.write(write)
    again = await reloaded(rig)
    assert again.find(good) is not None
    assert again.find(secret) is None
