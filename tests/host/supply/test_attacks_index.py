"""Attacks on the way to a release: by its index, by who stands between, and by what it depends on.

Every row is an install by requirement, or one with a lock; what is refused leaves no trace but in the audit trail.
What a hostile index does to the client alone is in `index/test_hostile_index`.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import timedelta

import dependency_wheels as wheels
import pytest
from aiohttp import web
from index_servers import WHEEL, IndexServer
from supply_rig import PLUGIN, files_of, sign, supply_rig, table
from supply_wheels import INFO, NOW, Acme

from host.administration.installation import InstallOptions
from host.registry.records import Origin
from host.supply.dependencies.fetch import DependencySources

ACME = Acme()
OLD, NEW = sign(ACME, version="1.0.0"), sign(ACME, version="1.1.0", sequence=8)


@dataclass
class Market:
    """A host whose plugin is bound to an index that has shown 1.0.0, signed; and that index."""

    rig: object
    index: IndexServer

    async def refusal(self, target=None):
        return await self.rig.refusal_of(PLUGIN, target or WHEEL.format("1.1.0"))


@pytest.fixture
async def market(tmp_path):
    async with IndexServer() as index, supply_rig(tmp_path, acme=ACME, indexes=[index.source()]) as rig:
        await rig.registry.change(PLUGIN, origin=Origin("main", "1.0.0", attested=True))
        yield Market(rig, index)


def offers(version, wheel, attestations, **entry):
    def prepare(market):
        market.index.has(version, wheel.wheel, beside=attestations.attestations, **entry)

    return prepare


def swapped(market):
    offers("1.1.0", NEW, NEW)(market)
    market.index.bytes["/files/" + WHEEL.format("1.1.0")] = OLD.wheel


def less_than_before(market):
    offers("0.9.5", sign(ACME, version="0.9.5"), sign(ACME, version="0.9.5"))(market)


def ended(market):
    late = sign(ACME, version="1.1.0", sequence=8, valid_until=NOW - timedelta(days=1))
    offers("1.1.0", late, late)(market)


def no_longer_signed(market):
    market.index.has("1.1.0", NEW.wheel)


def quarantined(market):
    offers("1.1.0", NEW, NEW)(market)
    market.index.projects[PLUGIN]["project-status"] = {"status": "quarantined"}


def sent_elsewhere(market):
    offers("1.1.0", NEW, NEW)(market)
    market.index.answers_with("/files/" + NEW.filename, status=302, headers={"Location": "file:///etc/passwd"})


def without_end(market):
    offers("1.1.0", NEW, NEW)(market)

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(2**20))
                await asyncio.sleep(0)
        except ConnectionError:
            return response

    market.index.answers["/files/" + NEW.filename] = endless


REQUIRED, FETCHED, TAKEN = PLUGIN, f"{PLUGIN} 1.1.0", WHEEL.format("1.1.0")
"""What the audit trail names: the requirement, the release that was to be fetched, or the wheel that came."""
INDEXED = [
    ("R5 index shows less than before", less_than_before, "stale_trust_data", REQUIRED),
    ("R5 statement has ended", ended, "expired", TAKEN),
    ("R5 project in quarantine", quarantined, "quarantined_by_index", REQUIRED),
    ("R6 older wheel under the newer name", offers("1.1.0", OLD, OLD), "subject_mismatch", TAKEN),
    ("R6 older wheel, newer statement", offers("1.1.0", OLD, NEW), "digest_mismatch", TAKEN),
    ("R6 newer wheel, older statement", offers("1.1.0", NEW, OLD), "subject_mismatch", TAKEN),
    ("R6 other bytes than the page says", swapped, "digest_mismatch", FETCHED),
    (
        "R8 METADATA is not the wheel's",
        offers("1.1.0", NEW, NEW, **{"core-metadata": {"sha256": "0" * 64}}),
        "metadata_mismatch",
        TAKEN,
    ),
    ("R9 wheel without end", without_end, "size_limit", FETCHED),
    ("R9 redirect to a file", sent_elsewhere, "bad_origin", FETCHED),
    ("R10 no signatures any more", no_longer_signed, "signature_downgrade", FETCHED),
]


@pytest.mark.parametrize(("case", "prepare", "code", "target"), table(INDEXED))
async def test_what_an_index_must_not_give_is_refused_and_leaves_no_trace(market, case, prepare, code, target):
    prepare(market)
    refused = await market.refusal(target)
    assert refused.word == f"release_{code}"


async def test_the_same_release_without_an_attack_comes_from_the_index(market):
    metadata = files_of(version="1.1.0")[f"{INFO.replace('1.0.0', '1.1.0')}/METADATA"]
    offers("1.1.0", NEW, NEW, **{"core-metadata": {"sha256": hashlib.sha256(metadata).hexdigest()}})(market)
    await market.rig.installation.install_required(PLUGIN, InstallOptions(wait=False), actor="alice")
    assert market.rig.registry.get(PLUGIN).candidate.version == "1.1.0"


async def test_r5_what_is_installed_goes_on_with_a_warning_when_its_statement_ends(tmp_path):
    ending = sign(ACME, valid_until=NOW + timedelta(days=1))
    async with supply_rig(tmp_path, acme=ACME) as rig:
        await rig.install(ending)
        assert (await rig.installer.verify_installed(ending.sha256)).warnings == ()
        rig.clock.advance(2 * 86400)
        (warning,) = (await rig.installer.verify_installed(ending.sha256)).warnings
        assert "validity has ended" in warning


async def test_r8_an_upload_of_which_an_index_promised_other_metadata_is_refused(tmp_path):
    async with supply_rig(tmp_path, acme=ACME) as rig:
        refused = await rig.refusal(OLD.wheel, OLD.attestations, metadata_sha256="0" * 64)
    assert refused.word == "release_metadata_mismatch"


# -- R7: what a release depends on

GREETER = wheels.dependency()
EVIL = wheels.dependency(files={"greeter/__init__.py": b"import evil\n"})
OLDER = wheels.dependency(version="0.9")
HOOKED = wheels.dependency(files={"greeter/__init__.py": b"", "greeter.pth": b"import evil\n"})
LOCK = wheels.lock(GREETER)
MD5 = LOCK.replace(hashlib.sha256(GREETER.content).hexdigest().encode(), b"0" * 32).replace(b"sha256 =", b"md5 =")


def locking(lock, *, said=None, requires="greeter"):
    """A release with this lock; `said` is the lock of which the statement speaks."""
    metadata = f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1.0.0\nRequires-Dist: {requires}\n"
    files = {**files_of(), "acme_demo/pylock.toml": lock, f"{INFO}/METADATA": metadata.encode()}
    signed = lock if said is None else said
    return sign(ACME, files, **({"lock_sha256": hashlib.sha256(signed).hexdigest()} if signed else {}))


DEPENDING = [
    ("R7 lock that nobody signed", locking(LOCK, said=b""), {GREETER.filename: GREETER}, "release_lock_mismatch"),
    ("R7 another lock", locking(wheels.lock(EVIL), said=LOCK), {EVIL.filename: EVIL}, "release_lock_mismatch"),
    ("R7 lock that is not there", sign(ACME, lock_sha256="0" * 64), {}, "release_lock_mismatch"),
    ("R7 wrong hash", locking(LOCK), {GREETER.filename: EVIL}, "release_dependency_mismatch"),
    ("R7 older one under its name", locking(LOCK), {GREETER.filename: OLDER}, "release_dependency_mismatch"),
    ("R7 older one alone", locking(LOCK), {OLDER.filename: OLDER}, "release_dependency_unavailable"),
    ("R7 from another index", locking(LOCK), {}, "release_dependency_unavailable"),
    (
        "R7 by a hash that nobody should believe",
        locking(MD5),
        {GREETER.filename: GREETER},
        "release_dependency_weak_hash",
    ),
    (
        "R7 not in the lock",
        locking(LOCK, requires="other"),
        {GREETER.filename: GREETER},
        "wheel_dependency_unavailable",
    ),
    ("R7 start-up hook in it", locking(wheels.lock(HOOKED)), {HOOKED.filename: HOOKED}, "wheel_startup_hook"),
]


@pytest.mark.parametrize(("case", "signed", "offered", "code"), table(DEPENDING))
async def test_what_depends_on_something_else_than_was_signed_is_refused_whole(tmp_path, case, signed, offered, code):
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    for name, built in offered.items():
        (wheelhouse / name).write_bytes(built.content)
    async with supply_rig(tmp_path, acme=ACME, sources=DependencySources((wheelhouse,))) as rig:
        refused = await rig.refusal(signed.wheel, signed.attestations)
    assert refused.word == code


async def test_a_release_that_depends_on_what_was_signed_is_installed(tmp_path):
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    GREETER.put_into(wheelhouse)
    async with supply_rig(tmp_path, acme=ACME, sources=DependencySources((wheelhouse,))) as rig:
        release = await rig.install(locking(LOCK))
        assert [folder.name for folder in release.dependencies] == ["greeter-1.0"]
