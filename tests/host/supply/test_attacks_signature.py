"""Attacks on the signature of a release: each is refused with its code, before the archive is opened.

Every row goes through the installer; what is refused leaves no trace on disk or in the database, and runs no code.
"""

import base64
import hmac
import json
import string
from dataclasses import replace

import pytest
import pytest_asyncio
import supply_wheels as wheels
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from supply_rig import Signed, sign, supply_rig, table

from host.supply.errors import KeyRefusedError
from host.supply.trust.dsse import PAYLOAD_TYPE, pae, parse_bundle
from host.supply.trust.keys import PREFIX, PublicKey

Acme = wheels.Acme
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group that Ed25519 signs in; L in RFC 8032."""
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
SIGSTORE = (
    b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"dsseEnvelope":{}}\n'
)


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory):
    """One host for a whole table of attacks: none of them changes it."""
    async with supply_rig(tmp_path_factory.mktemp("attacked")) as found:
        yield found


# -- releases that are signed, and then not as they should be


def payload_of(good):
    return parse_bundle(good.attestations)[0].payload


def attested(good, line):
    return replace(good, attestations=line)


def rebuilt(acme, change):
    """A good release with other bytes."""
    good = sign(acme)
    return replace(good, wheel=change(good.wheel))


def paid(acme, edit, **signed):
    """A release whose statement is edited as bytes, and then signed."""
    good = sign(acme, **signed)
    return attested(good, acme.line(edit(payload_of(good))))


def stated(acme, edit):
    """The same, edited as JSON."""

    def change(payload):
        statement = json.loads(payload)
        edit(statement)
        return json.dumps(statement).encode()

    return paid(acme, change)


def predicate(acme, **changes):
    return stated(acme, lambda statement: statement["predicate"].update(changes))


def enveloped(acme, **changes):
    """A good release whose envelope is changed afterwards."""
    good = sign(acme)
    return attested(good, json.dumps(json.loads(good.attestations) | changes).encode())


def resigned(acme, change, **beside):
    """A good release with another signature, under the trusted key's id."""
    good = sign(acme)
    (found,) = parse_bundle(good.attestations)[0].signatures
    signature = base64.b64encode(change(found.signature, pae(PAYLOAD_TYPE, payload_of(good)))).decode()
    return enveloped(acme, signatures=[{"keyid": found.key_id, "sig": signature}], **beside)


def encoded(acme, field, change):
    """A good release in which the base64 of the payload or of the signature is written otherwise.

    Read with a lax decoder, it would be the same bytes.
    """
    for sequence in range(7, 1000):
        good = sign(acme, sequence=sequence)
        # A blank more makes a payload of a length with tail bits to play with; it is JSON all the same.
        payload = payload_of(good) + b" " * (1 + -len(payload_of(good)) % 3)
        envelope = json.loads(acme.line(payload))
        holder = envelope if field == "payload" else envelope["signatures"][0]
        changed = change(holder[field])
        if changed != holder[field]:
            holder[field] = changed
            return attested(good, json.dumps(envelope).encode())
    raise AssertionError("no example found")


def tail(text):
    """The last character that counts, with bits set that no byte takes."""
    body = text.rstrip("=")
    return body[:-1] + ALPHABET[ALPHABET.index(body[-1]) | 1] + text[len(body) :]


def mixed(text):
    """One character in the alphabet for URLs, another in the standard one."""
    return text.replace("+", "-") if {"+", "/"} <= set(text) else text


def stranger(acme, **key):
    """A release of acme's that someone else signed."""
    good = sign(acme)
    return attested(good, Acme().line(payload_of(good), **key))


def named(acme, plugin):
    """A release of acme's of a plugin that has this name."""
    good = sign(acme)
    filename = f"{plugin.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return Signed(good.wheel, filename, acme.sign(good.wheel, filename=filename, plugin=plugin))


def rsa_signature(_signature, message):
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - quick to make, and its size decides nothing
    return key.sign(message, padding.PKCS1v15(), hashes.SHA256())


def deep(statement):
    return b'{"_type":' + b"[" * 100_000 + b"]" * 100_000 + b"," + statement[1:]


def shifted(signature, _message):
    """The same signature with S + L in the place of S: another text for it where S is not looked at closely."""
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


def keyless(good):
    """A keyless bundle, with a certificate that names anybody, around a signature that nobody here can tie to a key."""
    stranger = json.loads(Acme().line(payload_of(good)))
    material = {"certificate": {"rawBytes": "MIIB"}, "tlogEntries": [{"logIndex": "1"}]}
    return {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": material}, stranger


def keyless_bundle(acme):
    """As its tools write it: the envelope inside."""
    bundle, envelope = keyless(sign(acme))
    return attested(sign(acme), json.dumps({**bundle, "dsseEnvelope": envelope}).encode())


def keyless_envelope(acme):
    """The envelope itself, with the certificate beside it."""
    bundle, envelope = keyless(sign(acme))
    return attested(sign(acme), json.dumps({**envelope, **bundle}).encode())


REFUSED = [
    ("S1 no sidecar", lambda a: attested(sign(a), b""), "unsigned"),
    ("S1 empty sidecar", lambda a: attested(sign(a), b"\n \n"), "unsigned"),
    ("S1 only unknown lines", lambda a: attested(sign(a), SIGSTORE * 2 + b"{}\n"), "unsigned"),
    ("S1 an envelope without a signature", lambda a: enveloped(a, signatures=[]), "unsigned"),
    (
        "S2 sidecar of another wheel",
        lambda a: attested(sign(a), sign(a, plugin="acme-other").attestations),
        "subject_mismatch",
    ),
    (
        "S2 sidecar of another version",
        lambda a: attested(sign(a), sign(a, version="2.0.0").attestations),
        "subject_mismatch",
    ),
    (
        "S2 other filename, same bytes",
        lambda a: replace(sign(a), filename="acme_demo-1.0.0-1-py3-none-any.whl"),
        "subject_mismatch",
    ),
    (
        "S2 file name that stands for 10^9 wheels",
        lambda a: replace(sign(a), filename="acme_demo-1.0.0-" + "-".join([".".join("abcdefghij" * 100)] * 3) + ".whl"),
        "malformed",
    ),
    (
        "S2 other version, same bytes",
        lambda a: replace(sign(a), filename="acme_demo-1.0.1-py3-none-any.whl"),
        "subject_mismatch",
    ),
    ("S2 statement of another version", lambda a: predicate(a, version="1.0.1"), "subject_mismatch"),
    ("S2 statement of another plugin", lambda a: predicate(a, plugin="acme-other"), "subject_mismatch"),
    ("S3 one byte changed", lambda a: rebuilt(a, lambda w: w[:99] + bytes((w[99] ^ 1,)) + w[100:]), "digest_mismatch"),
    ("S3 byte appended", lambda a: rebuilt(a, lambda w: w + b"\0"), "digest_mismatch"),
    ("S3 prefix added", lambda a: rebuilt(a, lambda w: b"#!/bin/sh\n" + w), "digest_mismatch"),
    ("S3 something that is no archive", lambda a: rebuilt(a, lambda _: b"no archive"), "digest_mismatch"),
    ("S4 unknown key", stranger, "unknown_publisher"),
    ("S4 unknown key without an id", lambda a: stranger(a, key_id=""), "unknown_publisher"),
    ("S4 id of a trusted key on a foreign signature", lambda a: stranger(a, key_id=a.private.public.id), "invalid"),
    ("S4 right id, signature of another statement", lambda a: resigned(a, lambda *_: a.private.sign(b"x")), "invalid"),
    ("S4 another publisher's name", lambda a: predicate(a, publisher="globex"), "invalid"),
    ("S5 other-x", lambda a: named(a, "other-x"), "namespace_violation"),
    ("S5 acmecorp-x", lambda a: named(a, "acmecorp-x"), "namespace_violation"),
    ("S5 a shorter name", lambda a: named(a, "acm"), "namespace_violation"),
    ("S5 acmecorp in other letters", lambda a: named(a, "AcmeCorp-X"), "namespace_violation"),
    ("S5 acmecorp with _", lambda a: named(a, "acmecorp_x"), "namespace_violation"),
    ("S5 acmecorp with .", lambda a: named(a, "acmecorp.x"), "namespace_violation"),
    ("S7 payload type changed", lambda a: enveloped(a, payloadType="application/json"), "wrong_type"),
    (
        "S7 signed with another payload type",
        lambda a: attested(sign(a), a.line(payload_of(sign(a)), payload_type="text/plain")),
        "wrong_type",
    ),
    (
        "S7 signed as another payload type",
        lambda a: attested(sign(a), a.line(payload_of(sign(a)), sign_as="text/plain")),
        "invalid",
    ),
    (
        "S7 other predicate type",
        lambda a: stated(a, lambda s: s.update(predicateType="urn:busbar:release:v2")),
        "wrong_type",
    ),
    ("S7 a review", lambda a: stated(a, lambda s: s.update(predicateType="urn:busbar:review:v1")), "wrong_type"),
    (
        "S7 a provenance",
        lambda a: stated(a, lambda s: s.update(predicateType="https://slsa.dev/provenance/v1")),
        "wrong_type",
    ),
    (
        "S7 no in-toto statement",
        lambda a: stated(a, lambda s: s.update(_type="https://in-toto.io/Link/v1")),
        "wrong_type",
    ),
    (
        "S8 duplicate name in the payload",
        lambda a: paid(a, lambda p: p.replace(b"{", b'{"_type":"x",', 1)),
        "malformed",
    ),
    (
        "S8 duplicate name in the predicate",
        lambda a: paid(a, lambda p: p.replace(b'"sequence":7', b'"sequence":7,"\\u0073equence":8')),
        "malformed",
    ),
    ("S8 NaN", lambda a: paid(a, lambda p: p.replace(b'"sequence":7', b'"sequence":NaN')), "malformed"),
    ("S8 infinity", lambda a: paid(a, lambda p: p.replace(b'"sequence":7', b'"sequence":7,"x":1e999')), "malformed"),
    ("S8 100 000 levels", lambda a: paid(a, deep), "malformed"),
    ("S8 100 000 levels in the envelope", lambda a: attested(sign(a), deep(sign(a).attestations)), "malformed"),
    ("S8 sequence of 2^64", lambda a: predicate(a, sequence=2**64), "malformed"),
    ("S8 sequence of 2^53", lambda a: predicate(a, sequence=2**53), "malformed"),
    ("S8 sequence below zero", lambda a: predicate(a, sequence=-1), "malformed"),
    ("S8 sequence is true", lambda a: predicate(a, sequence=True), "malformed"),
    ("S8 sequence with a fraction", lambda a: predicate(a, sequence=7.0), "malformed"),
    ("S8 trailing data in the payload", lambda a: paid(a, lambda p: p + b"{}"), "malformed"),
    ("S8 trailing data in the line", lambda a: attested(sign(a), sign(a).attestations[:-1] + b"{}"), "malformed"),
    ("S8 two subjects", lambda a: stated(a, lambda s: s.update(subject=s["subject"] * 2)), "malformed"),
    ("S8 no subject", lambda a: stated(a, lambda s: s.update(subject=[])), "malformed"),
    ("S8 md5 only", lambda a: stated(a, lambda s: s["subject"][0].update(digest={"md5": "0" * 32})), "malformed"),
    (
        "S8 upper-case digest",
        lambda a: stated(a, lambda s: s["subject"][0].update(digest={"sha256": sign(a).sha256.upper()})),
        "malformed",
    ),
    ("S8 time out of the calendar", lambda a: predicate(a, issuedAt="0001-01-01T00:00:00+23:59"), "malformed"),
    ("S8 time without an offset", lambda a: predicate(a, issuedAt="2026-11-20T10:00:00"), "malformed"),
    ("S8 a line that is no JSON", lambda a: attested(sign(a), b"hello\n"), "malformed"),
    ("S8 a line that is a list", lambda a: attested(sign(a), b"[]\n"), "malformed"),
    ("S8 byte-order mark", lambda a: paid(a, lambda p: b"\xef\xbb\xbf" + p), "malformed"),
    ("S8 UTF-16", lambda a: paid(a, lambda p: p.decode().encode("utf-16")), "malformed"),
    *(
        row
        for field in ("payload", "sig")
        for row in (
            (f"S9 blank in the {field}", lambda a, f=field: encoded(a, f, lambda t: t[:4] + " " + t[4:]), "malformed"),
            (f"S9 line end in the {field}", lambda a, f=field: encoded(a, f, lambda t: t + "\n"), "malformed"),
            (f"S9 !! in the {field}", lambda a, f=field: encoded(a, f, lambda t: t[:4] + "!!" + t[4:]), "malformed"),
            (f"S9 tail bits in the {field}", lambda a, f=field: encoded(a, f, tail), "malformed"),
            (f"S9 {field} without padding", lambda a, f=field: encoded(a, f, lambda t: t.rstrip("=")), "malformed"),
            (f"S9 {field} with more padding", lambda a, f=field: encoded(a, f, lambda t: t + "===="), "malformed"),
        )
    ),
    ("S9 mixed alphabets", lambda a: encoded(a, "sig", mixed), "malformed"),
    (
        "S10 first payload of two",
        lambda a: attested(sign(a), sign(a).attestations.replace(b'"payload":', b'"payload":"e30=","payload":', 1)),
        "malformed",
    ),
    (
        "S10 last payload of two",
        lambda a: attested(sign(a), sign(a).attestations.rstrip()[:-1] + b',"payload":"e30="}'),
        "malformed",
    ),
    (
        "S10 payload under an escaped name",
        lambda a: attested(sign(a), sign(a).attestations.replace(b"{", b'{"p\\u0061yload":"e30=",', 1)),
        "malformed",
    ),
    ("S11 S >= L", lambda a: resigned(a, shifted), "invalid"),
    ("S11 malleated R", lambda a: resigned(a, lambda s, _: s[:31] + bytes((s[31] ^ 0x80,)) + s[32:]), "invalid"),
    ("S11 all-zero signature", lambda a: resigned(a, lambda *_: bytes(64)), "invalid"),
    (
        "S11 all-zero signature without an id",
        lambda a: enveloped(a, signatures=[{"sig": base64.b64encode(bytes(64)).decode()}]),
        "unknown_publisher",
    ),
    ("S11 identity as R, S of zero", lambda a: resigned(a, lambda *_: b"\1" + bytes(63)), "invalid"),
    ("S11 signature cut short", lambda a: resigned(a, lambda s, _: s[:63]), "invalid"),
    (
        "S12 HMAC with the public key",
        lambda a: resigned(a, lambda _, m: hmac.digest(a.private.public.raw, m, "sha512")),
        "invalid",
    ),
    ("S12 alg: none", lambda a: resigned(a, lambda *_: b"", alg="none"), "invalid"),
    ("S12 RSA", lambda a: resigned(a, rsa_signature, alg="RS256"), "invalid"),
    ("S14 keyless bundle", keyless_bundle, "unsigned"),
    ("S14 certificate beside a foreign signature", keyless_envelope, "unknown_publisher"),
    ("S13 sidecar of 1 GB", lambda a: attested(sign(a), bytes(2**30)), "size_limit"),
    ("S13 a million lines", lambda a: attested(sign(a), sign(a).attestations + b"{}\n" * 10**6), "size_limit"),
    ("S13 65 lines", lambda a: attested(sign(a), sign(a).attestations + b"{}\n" * 64), "size_limit"),
    ("S13 100 000 signatures", lambda a: enveloped(a, signatures=[{"sig": ""}] * 100_000), "size_limit"),
    ("S13 17 signatures", lambda a: enveloped(a, signatures=[{"sig": ""}] * 17), "size_limit"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "attack", "code"), table(REFUSED))
async def test_an_attack_on_the_signature_is_refused_and_leaves_no_trace(attacked, case, attack, code):
    signed = attack(attacked.acme)
    refused = await attacked.refusal(signed.wheel, signed.attestations, signed.filename)
    assert refused.word == f"release_{code}"
    assert refused.message.isprintable()


async def test_the_same_release_without_an_attack_is_installed(rig):
    assert (await rig.install(sign(rig.acme))).publisher == "acme"


@pytest.mark.parametrize(
    "beside",
    [SIGSTORE, b"\n\n", Acme("globex").sign(b"another wheel")],
    ids=["another format", "empty lines", "a stranger's line"],
)
async def test_lines_that_nobody_here_knows_take_nothing_from_a_good_one(rig, beside):
    signed = sign(rig.acme)
    assert (await rig.install(attested(signed, beside + signed.attestations + beside))).version == "1.0.0"


@pytest.mark.parametrize("plugin", ["acme", "acme-x", "Acme_X", "ACME.x"])
async def test_a_publisher_signs_inside_its_namespace_however_the_name_is_written(rig, plugin):
    # What is refused is the archive, which is another plugin's: so the signature held.
    signed = named(rig.acme, plugin)
    assert (await rig.refusal(signed.wheel, signed.attestations, signed.filename)).word == "wheel_dist_info"


def spki(key):
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        PREFIX + spki(rsa.generate_private_key(65537, 1024).public_key()),  # noqa: S505 - as above
        PREFIX + spki(wheels.PrivateKey.new()._key.public_key()),
        "rsa:" + "A" * 43,
        "none:",
        "",
    ],
    ids=["RSA", "Ed25519 with its algorithm beside it", "another prefix", "none", "nothing"],
)
def test_the_slot_of_a_key_takes_32_bytes_of_ed25519_and_nothing_else(text):
    with pytest.raises(KeyRefusedError) as refused:
        PublicKey.parse(text)
    assert refused.value.word == "key_refused"
