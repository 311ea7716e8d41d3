"""Attacks on signatures and trust: each is refused with its own code before an archive is opened."""

import base64
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
import supply_wheels as wheels

import host.supply.keys as keys_module
from host.errors import BusbarError
from host.supply.dsse import PAYLOAD_TYPE, pae, parse_bundle
from host.supply.errors import KeyRefusedError
from host.supply.keys import PrivateKey, PublicKey
from host.supply.trust import KeyState, TrustSnapshot
from host.supply.verification import Purpose, verify_release

NAME, NOW, Acme = wheels.NAME, wheels.NOW, wheels.Acme
VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "ed25519_test.json"


def verify(wheel, attestations, trust, *, filename=NAME, now=NOW, purpose=Purpose.INSTALL):
    return verify_release(
        sha256=hashlib.sha256(wheel).hexdigest(),
        filename=filename,
        attestations=attestations,
        trust=trust,
        now=now,
        purpose=purpose,
    )


def envelope(line, **changes):
    found = json.loads(line)
    found.update(changes)
    return json.dumps(found).encode() + b"\n"


def restated(acme, wheel, change):
    statement = json.loads(acme.statement(wheel).dump())
    return acme.line(json.dumps(change(statement)).encode())


def edited(**predicate):
    def change(statement):
        statement["predicate"].update(predicate)
        return statement

    return change


ATTACKS = [
    ("no sidecar", lambda a, w: b"", "unsigned"),
    ("empty lines only", lambda a, w: b"\n\n", "unsigned"),
    ("no signature in the envelope", lambda a, w: envelope(a.sign(w), signatures=[]), "unsigned"),
    (
        "another wheel's sidecar",
        lambda a, w: a.sign(w, filename="acme_demo-2.0.0-py3-none-any.whl"),
        "subject_mismatch",
    ),
    ("another version", lambda a, w: a.sign(w, version="1.0.1"), "subject_mismatch"),
    ("other bytes", lambda a, w: a.sign(w + b"x"), "digest_mismatch"),
    ("unknown key", lambda a, w: Acme().sign(w), "unknown_publisher"),
    (
        "trusted key's id on a foreign signature",
        lambda a, w: Acme().line(a.statement(w).dump(), key_id=a.private.public.id),
        "invalid",
    ),
    ("outside the namespace", lambda a, w: a.sign(w, plugin="other-x"), "subject_mismatch"),
    ("other payload type", lambda a, w: a.line(a.statement(w).dump(), payload_type="application/json"), "wrong_type"),
    ("payload type changed afterwards", lambda a, w: envelope(a.sign(w), payloadType="application/json"), "wrong_type"),
    ("signed as another type", lambda a, w: a.line(a.statement(w).dump(), sign_as="text/plain"), "invalid"),
    (
        "a review shown as a release",
        lambda a, w: restated(a, w, lambda s: {**s, "predicateType": "urn:busbar:review:v1"}),
        "wrong_type",
    ),
    ("no in-toto statement", lambda a, w: restated(a, w, lambda s: {**s, "_type": "x"}), "wrong_type"),
    ("two subjects", lambda a, w: restated(a, w, lambda s: {**s, "subject": s["subject"] * 2}), "malformed"),
    (
        "md5 digest only",
        lambda a, w: restated(a, w, lambda s: {**s, "subject": [{"name": NAME, "digest": {"md5": "x"}}]}),
        "malformed",
    ),
    ("upper-case digest", lambda a, w: a.sign(w, sha256=hashlib.sha256(w).hexdigest().upper()), "malformed"),
    ("huge sequence", lambda a, w: restated(a, w, edited(sequence=2**64)), "malformed"),
    ("sequence is no number", lambda a, w: restated(a, w, edited(sequence=True)), "malformed"),
    ("another publisher's name", lambda a, w: a.sign(w, publisher="globex"), "invalid"),
    (
        "duplicate JSON name",
        lambda a, w: a.line(a.statement(w).dump().replace(b'{"_type"', b'{"_type":"x","_type"', 1)),
        "malformed",
    ),
    ("NaN", lambda a, w: a.line(a.statement(w).dump().replace(b'"sequence":7', b'"sequence":NaN')), "malformed"),
    ("100 000 levels", lambda a, w: b'{"payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "malformed"),
    (
        "duplicate payload",
        lambda a, w: a.sign(w).replace(b'"payload":', b'"payload":"e30=","payload":', 1),
        "malformed",
    ),
    ("trailing data", lambda a, w: a.sign(w)[:-1] + b"{}\n", "malformed"),
    ("base64 with blanks", lambda a, w: envelope(a.sign(w), payload="e30 ="), "malformed"),
    ("base64 with !!", lambda a, w: envelope(a.sign(w), payload="!!e30="), "malformed"),
    ("base64 tail bits", lambda a, w: envelope(a.sign(w), payload="e31="), "malformed"),
    ("mixed alphabets", lambda a, w: envelope(a.sign(w), payload="-_+/"), "malformed"),
    ("no JSON", lambda a, w: b"hello\n", "malformed"),
    ("JSON list", lambda a, w: b"[]\n", "malformed"),
    (
        "all-zero signature",
        lambda a, w: envelope(a.sign(w), signatures=[{"sig": base64.b64encode(bytes(64)).decode()}]),
        "unknown_publisher",
    ),
    ("a million lines", lambda a, w: b"{}\n" * 1_000_000, "size_limit"),
    ("5 MiB", lambda a, w: b"x" * (5 * 2**20), "size_limit"),
    ("100 000 signatures", lambda a, w: envelope(a.sign(w), signatures=[{"sig": ""}] * 10_000), "size_limit"),
]


@pytest.mark.parametrize(("attack", "code"), [case[1:] for case in ATTACKS], ids=[case[0] for case in ATTACKS])
def test_an_attack_on_the_signature_is_refused_with_its_code(acme, attack, code):
    wheel = wheels.good()
    with pytest.raises(BusbarError) as refused:
        verify(wheel, attack(acme, wheel), acme.trust)
    assert refused.value.word == f"release_{code}"


@pytest.mark.parametrize("plugins", [("other",), ("acme-demo-x",), ("acm",), ("acme-dem",)])
def test_a_publisher_signs_only_inside_its_namespaces(plugins):
    acme = Acme(plugins=plugins)
    wheel = wheels.good()
    with pytest.raises(BusbarError) as refused:
        verify(wheel, acme.sign(wheel), acme.trust)
    assert refused.value.word == "release_namespace_violation"


@pytest.mark.parametrize(
    ("key", "purpose", "code"),
    [
        ({"state": KeyState.REVOKED, "reason": "stolen"}, Purpose.INSTALL, "release_revoked"),
        ({"state": KeyState.REVOKED}, Purpose.START, "release_revoked"),
        ({"state": KeyState.RETIRED}, Purpose.INSTALL, "release_key_retired"),
        ({"not_after": (NOW - timedelta(days=1)).timestamp()}, Purpose.INSTALL, "release_key_expired"),
        ({"not_before": (NOW + timedelta(days=1)).timestamp()}, Purpose.START, "release_key_not_yet_valid"),
    ],
)
def test_a_key_that_is_revoked_retired_or_out_of_time_is_not_believed(key, purpose, code):
    acme = Acme(**key)
    wheel = wheels.good()
    with pytest.raises(BusbarError) as refused:
        verify(wheel, acme.sign(wheel), acme.trust, purpose=purpose)
    assert refused.value.word == code


@pytest.mark.parametrize("key", [{"state": KeyState.RETIRED}, {"not_after": (NOW - timedelta(days=1)).timestamp()}])
def test_what_is_installed_goes_on_with_a_warning_when_its_key_retires_or_expires(key):
    acme = Acme(**key)
    wheel = wheels.good()
    assert verify(wheel, acme.sign(wheel), acme.trust, purpose=Purpose.START).warnings


def test_a_good_release_is_believed_and_unknown_lines_beside_it_change_nothing(acme):
    wheel = wheels.good()
    stranger = Acme("globex").sign(wheel)
    verified = verify(wheel, stranger + acme.sign(wheel), acme.trust)
    assert (verified.publisher.id, verified.statement.sequence) == ("acme", 7)


def test_a_release_signed_with_the_old_and_the_new_key_holds_when_the_old_one_is_revoked(acme):
    old = Acme(state=KeyState.REVOKED)
    wheel = wheels.good()
    both = old.sign(wheel) + acme.sign(wheel)
    publisher = type(acme.publisher)("acme", "acme", ("acme",), old.publisher.keys + acme.publisher.keys)
    assert verify(wheel, both, TrustSnapshot((publisher,))).key_id == acme.private.public.id


def test_the_dsse_vector_of_the_specification():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_independent_implementation_accepts_our_envelopes_and_we_accept_its(acme):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.dsse import Envelope as TheirEnvelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    wheel = wheels.good()
    payload = acme.statement(wheel).dump()
    their_key = SSlibKey.from_crypto(
        Ed25519PublicKey.from_public_bytes(acme.private.public.raw), keyid=acme.private.public.id
    )
    ours = TheirEnvelope.from_dict(json.loads(acme.line(payload)))
    ours.verify([their_key], 1)

    signer = CryptoSigner(acme.private._key, SSlibKey.from_crypto(acme.private._key.public_key(), keyid="theirs"))
    theirs = TheirEnvelope(payload, PAYLOAD_TYPE, {})
    theirs.sign(signer)
    line = json.dumps(theirs.to_dict()).encode() + b"\n"
    assert verify(wheel, line, acme.trust).publisher.id == "acme"
    assert parse_bundle(line)[0].payload == payload


# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(secret, public, message, signature):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.verifies(bytes.fromhex(signature), bytes.fromhex(message))
    assert not key.public.verifies(bytes.fromhex(signature), bytes.fromhex(message) + b"x")


@pytest.mark.skipif(not VECTORS.exists(), reason="the Wycheproof vectors are not beside this checkout")
def test_the_wycheproof_vectors():
    for group in json.loads(VECTORS.read_text())["testGroups"]:
        public = PublicKey.checked(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            holds = public.verifies(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert holds == (case["result"] == "valid"), case


def weak_encodings():
    """Every encoding of the eight small-order points, canonical or not, with either sign bit."""
    prime = keys_module._P
    values = [y + extra for y in keys_module._SMALL_ORDER_Y for extra in (0, prime) if y + extra < 2**255]
    return [(value | sign << 255).to_bytes(32, "little") for value in values for sign in (0, 1)]


@pytest.mark.parametrize("raw", weak_encodings(), ids=lambda raw: raw.hex()[:12])
def test_a_weak_public_key_is_not_enrolled(raw):
    text = "ed25519:" + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(KeyRefusedError):
        PublicKey.parse(text)


def test_all_fourteen_weak_encodings_are_among_them():
    assert len(weak_encodings()) >= 14


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:!!!!", "ed25519:" + "A" * 44])
def test_text_that_is_no_key_is_refused(text):
    with pytest.raises(KeyRefusedError):
        PublicKey.parse(text)


def test_a_private_key_file_is_its_owners_alone_and_is_never_overwritten(tmp_path):
    path = tmp_path / "acme.key"
    key = PrivateKey.new()
    key.save(path, "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert PrivateKey.load(path, "secret").public == key.public
    with pytest.raises(KeyRefusedError):
        PrivateKey.load(path, "wrong")
    with pytest.raises(KeyRefusedError):
        PrivateKey.load(path)
    with pytest.raises(KeyRefusedError, match="never overwritten"):
        PrivateKey.new().save(path, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["acme.key"]
