"""Busbar and `securesystemslib`, an independent implementation of DSSE, accept and refuse each other's envelopes."""

import base64
import json

import pytest
import supply_wheels as wheels
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, dump, pae, parse_bundle
from host.supply.trust.keys import PrivateKey
from host.supply.trust.verification import Purpose, verify_release


def their_key(private, key_id=None):
    raw = Ed25519PublicKey.from_public_bytes(private.public.raw)
    return SSlibKey.from_crypto(raw, keyid=key_id or private.public.id)


def their_line(payload, *privates, key_id=None):
    """A line of attestations, signed by `securesystemslib`."""
    envelope = TheirEnvelope(payload, PAYLOAD_TYPE, {})
    for private in privates:
        envelope.sign(CryptoSigner(private._key, their_key(private, key_id)))
    return json.dumps(envelope.to_dict()).encode() + b"\n"


def verify(acme, wheel, line):
    return verify_release(
        sha256=acme.statement(wheel).sha256,
        filename=wheels.NAME,
        attestations=line,
        trust=acme.trust,
        now=wheels.NOW,
        purpose=Purpose.INSTALL,
    )


def test_they_accept_what_we_sign(acme):
    line = acme.sign(wheels.good())
    TheirEnvelope.from_dict(json.loads(line)).verify([their_key(acme.private)], 1)


def test_they_refuse_what_we_signed_for_another_payload(acme):
    theirs = TheirEnvelope.from_dict(json.loads(acme.sign(wheels.good())))
    theirs.payload += b" "
    with pytest.raises(VerificationError):
        theirs.verify([their_key(acme.private)], 1)


@pytest.mark.parametrize("key_id", [None, "any name of theirs", "ab" * 32], ids=["ours", "a name", "a stranger's"])
def test_we_accept_what_they_sign_whatever_they_call_the_key(acme, key_id):
    wheel = wheels.good()
    line = their_line(acme.statement(wheel).dump(), acme.private, key_id=key_id)
    assert verify(acme, wheel, line).publisher.id == "acme"


def test_we_accept_what_they_sign_with_several_keys_where_one_is_trusted(acme):
    wheel = wheels.good()
    line = their_line(acme.statement(wheel).dump(), PrivateKey.new(), acme.private)
    assert verify(acme, wheel, line).key_id == acme.private.public.id


def test_we_refuse_what_they_sign_with_a_key_that_nobody_trusts(acme):
    wheel = wheels.good()
    with pytest.raises(Exception, match="no trusted key") as refused:
        verify(acme, wheel, their_line(acme.statement(wheel).dump(), PrivateKey.new()))
    assert refused.value.word == "release_unknown_publisher"


def test_we_refuse_what_they_sign_under_the_id_of_a_trusted_key(acme):
    wheel = wheels.good()
    line = their_line(acme.statement(wheel).dump(), PrivateKey.new(), key_id=acme.private.public.id)
    with pytest.raises(Exception, match="names a trusted key") as refused:
        verify(acme, wheel, line)
    assert refused.value.word == "release_invalid"


@settings(max_examples=50, deadline=None)
@given(payload=st.binary(max_size=200), payload_type=st.text("a/+é€ \n", min_size=1, max_size=40))
def test_both_sign_the_same_bytes_and_read_each_others_envelopes(payload, payload_type):
    private = PrivateKey.new()
    theirs = TheirEnvelope(payload, payload_type, {})
    assert pae(payload_type, payload) == theirs.pae()
    theirs.sign(CryptoSigner(private._key, their_key(private)))
    (read,) = parse_bundle(json.dumps(theirs.to_dict()).encode())
    assert (read.payload_type, read.payload) == (payload_type, payload)
    assert private.public.verifies(read.signatures[0].signature, pae(payload_type, payload))

    ours = dump(Envelope(payload_type, payload, (Signature(private.public.id, private.sign(theirs.pae())),)))
    again = TheirEnvelope.from_dict(json.loads(ours))
    assert (again.payload_type, again.payload) == (payload_type, payload)
    again.verify([their_key(private)], 1)


def test_base64_of_both_alphabets_is_read(acme):
    # A signature with characters that the alphabets write differently.
    payload = next(
        found
        for found in (acme.statement(wheels.good(), sequence=number).dump() for number in range(1000))
        if {"+", "/"} <= set(base64.b64encode(acme.private.sign(pae(PAYLOAD_TYPE, found))).decode())
    )
    standard = json.loads(acme.line(payload))
    (signature,) = standard["signatures"]
    url_safe = {"+": "-", "/": "_"}
    signature["sig"] = signature["sig"].translate(str.maketrans(url_safe))
    line = json.dumps(standard).encode()
    assert parse_bundle(line) == parse_bundle(acme.line(payload))
    assert verify(acme, wheels.good(), line).publisher.id == "acme"
