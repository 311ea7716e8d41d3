"""Releases that are well signed, and still must not come: by keys that are believed no more, or against history.

Every row goes through the installer; what is refused leaves no trace on disk or in the database, and runs no code.
"""

from dataclasses import replace
from datetime import timedelta

import pytest
from supply_rig import files_of, sign, supply_rig, table
from supply_wheels import NOW, Acme

from host.supply.errors import ReleaseRefusedError
from host.supply.trust.statement import MAX_SEQUENCE
from plugin_sdk.testing import FakeClock

DAY = timedelta(days=1)


def at(instant):
    return instant.timestamp()


def parts(signed):
    return signed.wheel, signed.attestations, signed.filename


def other_files(version="1.0.0"):
    """The files of a release of this version that is another."""
    return files_of(version=version, code="class Demo:\n    '''Not the same.'''\n")


async def revoke(rig, reason="stolen"):
    await rig.trust.revoke_key("acme", rig.acme.private.public.id, reason)


async def k1(rig):
    await revoke(rig)
    return sign(rig.acme)


async def k3(rig):
    rig.clock.advance(2 * DAY.total_seconds())
    return sign(rig.acme)


async def k3_clock_set_back(rig):
    rig.clock.step(-2 * DAY.total_seconds())
    return sign(rig.acme)


async def retired(rig):
    await rig.trust.retire_key("acme", rig.acme.private.public.id, "its holder left")
    return sign(rig.acme)


async def k4(rig):
    """Dated by its maker long before the key was stolen."""
    await revoke(rig)
    return sign(rig.acme, issued_at=NOW - 100 * DAY)


async def release_expired(rig):
    return sign(rig.acme, valid_until=NOW - DAY)


async def m4(rig):
    globex = Acme("globex", plugins=("acme",))
    await rig.trust.add(globex.publisher)
    return sign(globex)


async def m4_after_uninstall(rig):
    await rig.registry.remove("acme-demo", purge=False)
    return await m4(rig)


async def r1_after_uninstall(rig):
    await rig.registry.remove("acme-demo", purge=False)
    return sign(rig.acme, version="0.8.0", sequence=9)


def signed(**given):
    """A row that needs no preparation."""

    async def arrange(rig):
        return sign(rig.acme, **given)

    return arrange


async def rotate(rig, *, enrolled_first=False, end=None):
    """A release of version 0.9.5 that ran the sequence up to its end, and a publisher who replaces the key of it.

    The new publisher's key is answered; `end` says what becomes of the old one, `enrolled_first` that the new one was
    there already when the release came.
    """
    old, new = rig.acme.private.public.id, Acme(not_after=at(NOW + DAY))
    if enrolled_first:
        await rig.trust.add_key("acme", new.publisher.keys[0])
    rig.clock.advance(60)
    await rig.install(sign(rig.acme, version="0.9.5", sequence=MAX_SEQUENCE))
    rig.clock.advance(60)
    if not enrolled_first:
        await rig.trust.add_key("acme", new.publisher.keys[0])
    if end is not None:
        await end("acme", old, "its holder left")
    return new


async def r3_two_keys(rig):
    return sign(await rotate(rig), sequence=1)


async def r3_not_a_new_key(rig):
    return sign(await rotate(rig, enrolled_first=True, end=rig.trust.revoke_key), sequence=1)


async def r3_lower_version(rig):
    return sign(await rotate(rig, end=rig.trust.revoke_key), version="0.9.1", sequence=1)


async def r3_read_again(rig):
    """The new key was there before, and the file that it is from is read once more."""
    new = await rotate(rig, enrolled_first=True, end=rig.trust.retire_key)
    await rig.trust.add(replace(rig.acme.publisher, keys=new.publisher.keys), replace=True)
    return sign(new, sequence=1)


REFUSED = [
    ("K1 key revoked before install", k1, "revoked"),
    ("K3 key expired", k3, "key_expired"),
    ("K3 key not valid yet, by a clock that was set back", k3_clock_set_back, "key_not_yet_valid"),
    ("K3 key retired", retired, "key_retired"),
    ("K3 release expired", release_expired, "expired"),
    ("K4 signature dated before the compromise", k4, "revoked"),
    ("R1 older version", signed(version="0.8.0", sequence=5), "rollback"),
    ("R1 older version with a higher sequence", signed(version="0.8.0", sequence=9), "rollback"),
    ("R1 pre-release of the version installed", signed(version="0.9.0rc1", sequence=9), "rollback"),
    ("R1 older version after an uninstall", r1_after_uninstall, "rollback"),
    (
        "R2 same version, other digest",
        signed(files=other_files("0.9.0"), version="0.9.0", sequence=6),
        "equivocation",
    ),
    (
        "R2 same version, other digest and higher sequence",
        signed(files=other_files("0.9.0"), version="0.9.0", sequence=9),
        "equivocation",
    ),
    ("R2 same version, written otherwise", signed(version="0.9", sequence=9), "equivocation"),
    ("R3 higher version, lower sequence", signed(version="1.0.0", sequence=5), "rollback"),
    ("R3 higher version, same sequence", signed(version="1.0.0", sequence=6), "rollback"),
    ("R3 sequence of 2^53 - 1", signed(version="1.0.0", sequence=2**53 - 1), "malformed"),
    ("R3 sequence anew by a second key", r3_two_keys, "rollback"),
    ("R3 sequence anew by a key that was there before", r3_not_a_new_key, "rollback"),
    ("R3 sequence anew by a key that was there before, read again", r3_read_again, "rollback"),
    ("R3 sequence anew of a lower version", r3_lower_version, "rollback"),
    ("M4 another publisher", m4, "publisher_changed"),
    ("M4 another publisher after an uninstall", m4_after_uninstall, "publisher_changed"),
]


@pytest.fixture
async def rig(tmp_path):
    """A host whose clock can be turned, and whose publisher's key is valid from yesterday until tomorrow."""
    acme = Acme(not_before=at(NOW - DAY), not_after=at(NOW + DAY))
    async with supply_rig(tmp_path, acme=acme, clock=FakeClock(NOW)) as found:
        yield found


@pytest.mark.parametrize(("case", "arrange", "code"), table(REFUSED))
async def test_a_release_that_must_not_come_is_refused_and_leaves_no_trace(rig, case, arrange, code):
    release = await arrange(rig)
    refused = await rig.refusal(release.wheel, release.attestations, release.filename)
    assert refused.word == f"release_{code}"


async def test_the_next_release_of_the_same_publisher_comes(rig):
    assert (await rig.install(sign(rig.acme))).version == "1.0.0"


@pytest.mark.parametrize("end", ["retire_key", "revoke_key"])
async def test_r3_a_publisher_who_replaces_the_key_starts_its_sequence_anew(rig, end):
    new = await rotate(rig, end=getattr(rig.trust, end))
    assert (await rig.install(sign(new, sequence=1))).sequence == 1
    older = await rig.refusal(*parts(sign(new, version="1.1.0", sequence=1)))
    assert older.word == "release_rollback"
    assert (await rig.install(sign(new, version="1.1.0", sequence=2))).version == "1.1.0"


async def test_r3_a_release_of_before_keys_were_recorded_counts_for_every_key(rig):
    new = await rotate(rig, end=rig.trust.revoke_key)
    await rig.database.write(lambda database: database.execute("UPDATE plugin_history SET key_id = ''").rowcount)
    assert (await rig.refusal(*parts(sign(new, sequence=1)))).word == "release_rollback"


async def test_k2_what_a_revoked_key_signed_does_not_start_again(rig):
    installed = rig.registry.get("acme-demo").sha256
    assert (await rig.installer.verify_installed(installed)).warnings == ()
    await revoke(rig)
    before = await rig.picture()
    with pytest.raises(ReleaseRefusedError, match="is revoked: stolen") as refused:
        await rig.installer.verify_installed(installed)
    assert refused.value.word == "release_revoked"
    assert await rig.picture() == before


@pytest.mark.parametrize(("prepare", "warning"), [(k3, "has expired"), (retired, "is retired")], ids=["K3", "retired"])
async def test_what_is_installed_goes_on_with_a_warning(rig, prepare, warning):
    await prepare(rig)
    (said,) = (await rig.installer.verify_installed(rig.registry.get("acme-demo").sha256)).warnings
    assert warning in said


async def test_k8_a_namespace_that_is_granted_anew_brings_no_other_publisher_into_what_is_installed(rig):
    release = await m4(rig)
    await revoke(rig)
    assert (await rig.refusal(release.wheel, release.attestations)).word == "release_publisher_changed"
    with pytest.raises(ReleaseRefusedError) as refused:
        await rig.installer.verify_installed(rig.registry.get("acme-demo").sha256)
    assert refused.value.word == "release_revoked"
