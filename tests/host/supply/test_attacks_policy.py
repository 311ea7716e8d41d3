"""Attacks where one signature is not enough: thresholds, second statements, and keys that were lost.

Every row goes through the installation; what is refused leaves no trace but the one in the audit trail.
"""

import hashlib
import json
from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from supply_rig import PLUGIN, sign, supply_rig, table
from supply_wheels import Acme

from host.supply.errors import KeyRefusedError, PublisherRefusedError, ReleaseRefusedError
from host.supply.installer import Override
from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, dump, pae, parse_bundle
from host.supply.trust.keys import PREFIX, PublicKey
from host.supply.trust.publishers import Publisher, TrustedKey, TrustPolicy
from host.supply.trust.statement import STATEMENT

REVIEW = "https://example.org/review/v1"
REVIEWED = "acme-reviewed"
ACME, REVIEWER, HELPER, STRANGER = Acme(), Acme("reviewer", ("*",)), Acme("helper", ("acme",)), Acme("globex")
SECOND = Acme()


def parts(signed):
    return signed.wheel, signed.attestations, signed.filename


async def demand(rig):
    """Two must sign `acme`, and `acme-reviewed` needs a statement besides."""
    await rig.trust.add(REVIEWER.publisher)
    await rig.trust.add(HELPER.publisher)
    await rig.trust.add_key("acme", SECOND.publisher.keys[0])
    await rig.trust.set_policy(TrustPolicy("acme", 2, ("acme", "reviewer")))
    await rig.trust.set_policy(TrustPolicy(REVIEWED, 1, ("acme", "reviewer"), (REVIEW,)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory):
    """One host for the whole table: none of the attacks changes it."""
    async with supply_rig(tmp_path_factory.mktemp("attacked"), acme=ACME) as found:
        await demand(found)
        yield found


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path, acme=ACME) as found:
        yield found


def payload_of(signed):
    return parse_bundle(signed.attestations)[0].payload


def together(payload, *signers):
    """One envelope with a signature of each (signer, key id)."""
    message = pae(PAYLOAD_TYPE, payload)
    signatures = tuple(Signature(key_id, one.private.sign(message)) for one, key_id in signers)
    return dump(Envelope(PAYLOAD_TYPE, payload, signatures)) + b"\n"


def demo(*lines):
    """A release of acme's with the lines that these make of it."""
    good = sign(ACME)
    return replace(good, attestations=b"".join(line(good) for line in lines))


def by(signer, **changes):
    return lambda good: signer.line(_stated(good, publisher=signer.publisher.id, **changes))


def _stated(good, **changes):
    return ACME.statement(good.wheel, record_sha256=_record_sha256(good), filename=good.filename, **changes).dump()


def _record_sha256(good):
    return json.loads(payload_of(good))["predicate"]["recordSha256"]


def twice(*key_ids):
    return lambda good: together(payload_of(good), *((ACME, key_id) for key_id in key_ids))


def one_bad(good):
    bad = Signature(REVIEWER.private.public.id, bytes(64))
    (envelope,) = parse_bundle(together(payload_of(good), (ACME, ACME.private.public.id)))
    return dump(replace(envelope, signatures=(*envelope.signatures, bad))) + b"\n"


def review(signer, of=None, kind=REVIEW):
    def line(good):
        digest = of or hashlib.sha256(good.wheel).hexdigest()
        subject = b'[{"name":"%s","digest":{"sha256":"%s"}}]' % (good.filename.encode(), digest.encode())
        return signer.line(
            b'{"_type":"%s","subject":%s,"predicateType":"%s","predicate":{}}'
            % (STATEMENT.encode(), subject, kind.encode())
        )

    return line


def reviewed(*lines):
    good = sign(ACME, plugin=REVIEWED)
    return replace(good, attestations=good.attestations + b"".join(line(good) for line in lines))


OWN = ACME.private.public.id
REFUSED = [
    ("S6 same signature twice", lambda: demo(twice(OWN, OWN)), "threshold_unmet"),
    ("S6 same line twice", lambda: demo(by(ACME), by(ACME)), "threshold_unmet"),
    ("S6 same key under two key ids", lambda: demo(twice(OWN, "0" * 64)), "threshold_unmet"),
    ("S6 same key without a key id", lambda: demo(twice(OWN, "")), "threshold_unmet"),
    (
        "S6 same key under the id of the second signer",
        lambda: demo(twice(OWN, REVIEWER.private.public.id)),
        "threshold_unmet",
    ),
    ("S6 two keys of one publisher", lambda: demo(by(ACME), by(SECOND)), "threshold_unmet"),
    ("S6 two signatures, one bad", lambda: demo(one_bad), "threshold_unmet"),
    ("S6 a stranger beside", lambda: demo(by(ACME), by(STRANGER)), "threshold_unmet"),
    ("S6 a publisher who does not count beside", lambda: demo(by(ACME), by(HELPER)), "threshold_unmet"),
    (
        "S6 second signer of another statement",
        lambda: demo(by(ACME), by(REVIEWER, lock_sha256="0" * 64)),
        "threshold_unmet",
    ),
    ("S15 no second statement", reviewed, "policy_missing_attestation"),
    ("S15 second statement removed, another left", lambda: reviewed(by(REVIEWER)), "policy_missing_attestation"),
    ("S15 statement of another wheel", lambda: reviewed(review(REVIEWER, "0" * 64)), "policy_missing_attestation"),
    ("S15 statement of another kind", lambda: reviewed(review(REVIEWER, kind="urn:x:y")), "policy_missing_attestation"),
    ("S15 statement of a stranger", lambda: reviewed(review(STRANGER)), "policy_missing_attestation"),
    ("S15 statement of one who does not count", lambda: reviewed(review(HELPER)), "policy_missing_attestation"),
    ("K7 the author's key is stolen", lambda: demo(by(ACME)), "threshold_unmet"),
    ("K7 the reviewer's key is stolen", lambda: demo(by(REVIEWER)), "threshold_unmet"),
    (
        "K7 the reviewer's key is stolen, and signs for the author, too",
        lambda: demo(by(REVIEWER), lambda good: REVIEWER.line(payload_of(good))),
        "threshold_unmet",
    ),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "build", "code"), table(REFUSED))
async def test_what_too_few_have_signed_is_refused_and_leaves_no_trace(attacked, case, build, code):
    refused = await attacked.refusal(*parts(build()))
    assert refused.word == f"release_{code}"


async def test_what_enough_have_signed_is_installed(rig):
    await demand(rig)
    assert (await rig.install(demo(by(ACME), by(REVIEWER)))).publisher == "acme"
    assert (await rig.install(reviewed(review(REVIEWER)))).plugin == REVIEWED


def pem(key):
    return key._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


async def test_s6_a_key_is_enrolled_in_one_form_and_for_one_publisher(rig):
    with pytest.raises(KeyRefusedError):
        PublicKey.parse(pem(ACME.private))
    with pytest.raises(KeyRefusedError):
        PublicKey.parse(PREFIX + ACME.private.public.raw.hex())
    with pytest.raises(PublisherRefusedError) as refused:
        await rig.trust.add(Publisher("twin", "Twin", ("acme",), (TrustedKey(ACME.private.public),)))
    assert refused.value.word == "key_exists"


# -- K4 and K8: what an administrator keeps, and what is granted anew


async def revoke(rig):
    await rig.trust.revoke_key("acme", OWN, "stolen")


async def test_k4_a_release_that_is_kept_runs_on_with_a_warning_and_is_not_installed_anew(rig):
    signed = sign(ACME)
    await rig.install(signed)
    await rig.trust.keep(signed.sha256, "we read it")
    await revoke(rig)
    (warning,) = (await rig.installer.verify_installed(signed.sha256)).warnings
    assert "an administrator keeps this release" in warning
    assert (await rig.refusal(*parts(signed))).word == "release_revoked"


async def test_k4_keeping_one_release_keeps_no_other_of_the_same_key(rig):
    older, kept = rig.registry.get(PLUGIN).sha256, sign(ACME)
    await rig.install(kept)
    await rig.trust.keep(kept.sha256, "we read it")
    await revoke(rig)
    with pytest.raises(ReleaseRefusedError) as refused:
        await rig.installer.verify_installed(older)
    assert refused.value.word == "release_revoked"


async def test_k8_a_namespace_that_is_granted_anew_needs_an_administrators_word_for_what_is_there(rig):
    first, globex = rig.registry.get(PLUGIN).sha256, Acme("globex", ("acme",))
    await rig.trust.add(globex.publisher)
    await revoke(rig)
    signed = sign(globex, publisher="globex")
    assert (await rig.refusal(*parts(signed))).word == "release_publisher_changed"
    taken = await rig.take(*parts(signed), overrides=frozenset({Override.PUBLISHER}))
    assert taken.publisher == "globex"
    with pytest.raises(ReleaseRefusedError) as refused:
        await rig.installer.verify_installed(first)
    assert refused.value.word == "release_revoked"
