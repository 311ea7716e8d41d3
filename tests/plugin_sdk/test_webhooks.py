"""Webhooks: the published vectors, every way to be wrong, and agreement with the reference implementation."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import assume, example, given
from hypothesis import strategies as st
from webhook_requests import (
    BODY,
    ID,
    NOISE,
    NOW,
    OTHER,
    PRIVATE,
    PUBLIC,
    SECRET,
    V1,
    V1A,
    reason,
    refusal,
    signed,
)

from plugin_sdk.webhooks import (
    SCHEMES,
    WebhookKeyError,
    WebhookMessageError,
    WebhookRefused,
    WebhookSchemeError,
    new_private_key,
    new_secret,
    parse_key,
    public_key,
    sign,
    verify,
)

# -- the published vectors


@pytest.mark.parametrize(
    ("key", "verifies", "message_id", "timestamp", "body", "signature"),
    [
        (SECRET, SECRET, ID, NOW, BODY, V1),
        (
            OTHER,
            OTHER,
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1649367553,
            b'{"email":"test@example.com","username":"test_user"}',
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (PRIVATE, PUBLIC, ID, NOW, BODY, V1A),
    ],
    ids=["v1", "v1 of the specification", "v1a"],
)
def test_a_published_vector_is_signed_and_verified(key, verifies, message_id, timestamp, body, signature):
    headers = sign(message_id, body, [key], now=timestamp)
    assert headers == signed(signature, timestamp=str(timestamp), message_id=message_id)
    found = verify("standard-webhooks", headers, body, [verifies], now=timestamp)
    assert (found.id, found.timestamp) == (message_id, timestamp)


def test_the_public_key_of_the_published_pair_is_derived():
    assert public_key(PRIVATE) == PUBLIC


def test_githubs_published_vector_is_verified():
    headers = {
        "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    }
    found = verify("github", headers, b"Hello, World!", ["It's a Secret to Everybody"], now=NOW)
    assert (found.id, found.timestamp) == ("72d3162e-cc78-11e3-81ab-4c9367dc0958", None)


# -- the cases of the reference implementations


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_each_header_has_to_be_there(missing, how):
    headers = signed()
    if how == "absent":
        del headers[missing]
    else:
        headers[missing] = ""
    assert reason(headers) == "header_missing"


@pytest.mark.parametrize("secret", ["", "whsec_", b"", "whsec_=="])
def test_an_empty_secret_is_refused(secret):
    with pytest.raises(WebhookKeyError):
        verify("standard-webhooks", signed(), BODY, [secret], now=NOW)
    with pytest.raises(WebhookKeyError):
        sign(ID, BODY, [secret], now=NOW)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("secrets", [[], [""], [SECRET, ""]])
def test_no_scheme_verifies_without_a_secret(scheme, secrets):
    with pytest.raises(WebhookKeyError):
        verify(scheme, {}, BODY, secrets, now=NOW)


@pytest.mark.parametrize(
    "secret",
    [SECRET, SECRET.removeprefix("whsec_"), base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
    ids=["prefixed", "bare", "bytes"],
)
def test_a_secret_is_taken_with_its_prefix_without_it_and_as_bytes(secret):
    assert verify("standard-webhooks", signed(), BODY, [secret], now=NOW).id == ID


def test_a_secret_may_lack_its_padding():
    padded = new_secret(25)
    assert padded.endswith("==")
    headers = sign(ID, BODY, [padded], now=NOW)
    assert verify("standard-webhooks", headers, BODY, [padded.rstrip("=")], now=NOW).id == ID


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (NOISE, "signature_mismatch"),
        ("v1,", "signature_malformed"),
        ("v1", "signature_malformed"),
        (V1[:20], "signature_malformed"),
        (V1[:-1], "signature_malformed"),
        (V1[:-5] + "=", "signature_malformed"),
        (V1.replace("v1,", "v2,"), "signature_malformed"),
        (V1.replace("v1,", "v1a,"), "signature_mismatch"),
        (V1.replace("v1,", "V1,"), "signature_malformed"),
        (V1.removeprefix("v1,"), "signature_malformed"),
        (f"{NOISE} {NOISE} v2,{V1[3:]}", "signature_mismatch"),
    ],
)
def test_a_wrong_signature_is_refused(signature, expected):
    assert reason(signed(signature)) == expected


def test_a_valid_signature_is_found_among_others():
    signature = f"{NOISE} v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= {V1} {NOISE}"
    assert verify("standard-webhooks", signed(signature), BODY, [SECRET], now=NOW).id == ID


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, None),
        (299, None),
        (300, None),
        (301, "timestamp_too_old"),
        (-299, None),
        (-300, None),
        (-301, "timestamp_too_new"),
    ],
)
def test_a_time_is_taken_within_five_minutes_either_way(age, expected):
    if expected is None:
        assert verify("standard-webhooks", signed(), BODY, [SECRET], now=NOW + age).timestamp == NOW
    else:
        assert reason(signed(), now=NOW + age) == expected


# -- what the reference verifier gets wrong


@pytest.mark.parametrize("junk", ["hello", "v1,a,b", ",", "v1,\u00e9", "v1,\ud800", "=", "v1a,AAAA", "v1,AAAA===="])
def test_a_malformed_signature_is_passed_over_and_a_good_one_after_it_counts(junk):
    assert reason(signed(junk)) in {"signature_malformed", "signature_mismatch"}
    assert verify("standard-webhooks", signed(f"{junk} {V1}"), BODY, [SECRET], now=NOW).id == ID


@pytest.mark.parametrize("spoilt", ["v1,g0hM 9SsE", "v1,g0hM-9SsE", "v1,g0hM\n", f"{V1[:10]}!{V1[10:]}", f"{V1}\n"])
def test_junk_inside_the_base64_is_refused(spoilt):
    assert reason(signed(spoilt)) in {"signature_malformed", "signature_mismatch"}


def test_bits_that_the_padding_hides_are_refused():
    assert V1.endswith("OE=")
    assert base64.b64decode(V1[3:-2] + "F=") == base64.b64decode(V1[3:])
    assert reason(signed(V1[:-2] + "F=")) == "signature_malformed"


@pytest.mark.parametrize(
    "written",
    [
        *(f"{NOW}.9", f" {NOW}", f"{NOW} ", f"+{NOW}", f" +{NOW} ", f"-{NOW}", "1_614_265_330", f"0{NOW}", f"{NOW}\n"),
        *("nan", "inf", "1e9", "0x60380672", "now", "9" * 13, "9" * 5000, "\u0661\u0666\u0661\u0664", "16142653\u00b3"),
    ],
)
def test_only_whole_seconds_in_plain_digits_are_a_time(written):
    assert reason(signed(timestamp=written)) == "timestamp_malformed"
    stripe = {"stripe-signature": f"t={written},v1={'0' * 64}"}
    assert refusal("stripe", stripe, BODY, ["key"], now=NOW) == "timestamp_malformed"


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"", b"no json", b"[" * 100_000])
@pytest.mark.parametrize("key", [SECRET, PRIVATE], ids=["v1", "v1a"])
def test_a_body_need_be_neither_text_nor_json(body, key):
    headers = sign(ID, body, [key], now=NOW)
    assert verify("standard-webhooks", headers, body, [PUBLIC, SECRET], now=NOW).id == ID


@pytest.mark.parametrize("written", ["a.b", "a b", "", "a\n", "\u00e9", "\ud800", "x" * 257])
def test_an_id_that_has_no_place_in_the_signed_content_is_refused(written):
    with pytest.raises(WebhookMessageError):
        sign(written, BODY, [SECRET], now=NOW)
    if written:
        assert reason(signed(message_id=written)) == "id_malformed"


def test_one_signature_never_stands_for_two_messages():
    content = f"a.{NOW}.{NOW}.body".encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    forged = "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    honest = verify("standard-webhooks", signed(forged, message_id="a"), f"{NOW}.body".encode(), [SECRET], now=NOW)
    assert honest.id == "a"
    assert reason(signed(forged, message_id=f"a.{NOW}"), b"body") == "id_malformed"


# -- keys and rotation


def test_signatures_of_all_keys_are_sent_and_any_key_verifies():
    fresh = new_private_key()
    headers = sign(ID, BODY, [fresh, SECRET, OTHER], now=NOW)
    assert [one.partition(",")[0] for one in headers["webhook-signature"].split(" ")] == ["v1a", "v1", "v1"]
    for held in (SECRET, OTHER, public_key(fresh)):
        assert verify("standard-webhooks", headers, BODY, [held], now=NOW).id == ID
    for held in (new_secret(), PUBLIC):
        assert reason(headers, secrets=[held]) == "signature_mismatch"


def test_a_receiver_in_rotation_accepts_what_the_old_and_the_new_key_signed():
    for key in (SECRET, OTHER, PRIVATE):
        headers = sign(ID, BODY, [key], now=NOW)
        assert verify("standard-webhooks", headers, BODY, [OTHER, PUBLIC, SECRET], now=NOW).id == ID


def test_a_receiver_of_pairs_is_not_talked_down_to_a_symmetric_key():
    point = parse_key(PUBLIC).point
    headers = sign(ID, BODY, [point], now=NOW)
    assert headers["webhook-signature"].startswith("v1,")
    assert reason(headers, secrets=[PUBLIC]) == "signature_mismatch"


@pytest.mark.parametrize(
    "written",
    [
        *("whsec_!!!!", "whsec_" + "A" * 31, " " + SECRET, SECRET + "\n", SECRET + "===", "whsec_" + "A" * 5000),
        *("\u00e9" * 32, "whsk_", "whpk_", "whsk_AAAA", "whpk_AAAA", PUBLIC.replace("whpk_", "whsk_") + "AAAA"),
        *("whsec_" + PUBLIC, new_secret(24)[:-8], "whsec_" + base64.b64encode(b"x" * 65).decode(), b"x" * 23),
        "whsk_" + base64.b64encode(bytes(64)).decode(),
    ],
    ids=range(17),
)
def test_a_malformed_key_is_refused_and_never_shown(written):
    with pytest.raises(WebhookKeyError) as refused:
        parse_key(written)
    assert refused.value.code == "webhook_key_invalid"
    assert str(written) not in str(refused.value)


@pytest.mark.parametrize("size", [23, 65, 0])
def test_a_fresh_secret_has_24_to_64_bytes(size):
    assert len(parse_key(new_secret(24)).secret) == 24
    assert len(parse_key(new_secret(64)).secret) == 64
    assert new_secret() != new_secret()
    with pytest.raises(WebhookKeyError):
        new_secret(size)


def test_each_half_of_a_pair_is_for_its_own_side():
    with pytest.raises(WebhookKeyError, match="only verifies"):
        sign(ID, BODY, [PUBLIC], now=NOW)
    with pytest.raises(WebhookKeyError, match="keep the private one"):
        verify("standard-webhooks", signed(V1A), BODY, [PRIVATE], now=NOW)
    with pytest.raises(WebhookKeyError, match="public half"):
        public_key(SECRET)


def test_a_private_key_may_be_its_seed_alone():
    seed = "whsk_" + base64.b64encode(parse_key(PRIVATE).seed).decode()
    assert public_key(seed) == PUBLIC
    assert sign(ID, BODY, [seed], now=NOW)["webhook-signature"] == V1A


@pytest.mark.parametrize("written", [SECRET, PRIVATE, PUBLIC])
def test_a_key_is_written_as_it_was_read_and_its_repr_keeps_it_secret(written):
    key = parse_key(written)
    assert str(key) == written
    if written != PUBLIC:
        assert written[6:20] not in repr(key)
        assert "b'" not in repr(key)


@pytest.mark.parametrize("keys", [[], [SECRET] * 17])
def test_a_message_has_one_to_sixteen_signatures(keys):
    with pytest.raises(WebhookKeyError, match="1 to 16"):
        sign(ID, BODY, keys, now=NOW)
    assert reason(signed(" ".join([NOISE] * 16 + [V1]))) == "signature_malformed"


@pytest.mark.parametrize("now", [-1, 10**12])
def test_a_time_that_cannot_be_verified_is_not_signed(now):
    with pytest.raises(WebhookMessageError, match="seconds since the epoch"):
        sign(ID, BODY, [SECRET], now=now)


# -- what a sender learns


def test_every_refusal_says_the_same():
    said = set()
    for headers in ({}, signed(NOISE), signed("v1"), signed(timestamp="x"), signed(timestamp="1"), signed(V1[:-1])):
        with pytest.raises(WebhookRefused) as refused:
            verify("standard-webhooks", headers, BODY, [SECRET], now=NOW)
        said.add((refused.value.code, str(refused.value)))
    assert len(said) == 1


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(WebhookSchemeError, match="standard-webhooks, stripe, github, hmac-sha256"):
        verify("md5", {}, BODY, [SECRET], now=NOW)


def test_a_worker_without_pairs_does_not_load_cryptography():
    code = (
        "import sys; from plugin_sdk.webhooks import *; from plugin_sdk.webhooks import sign, verify, new_secret;"
        "key = new_secret(); verify('standard-webhooks', sign('a', b'', [key], now=1), b'', [key], now=1);"
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- laws


KEYS = st.sampled_from([(SECRET, SECRET), (PRIVATE, PUBLIC)])
IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=256)


@given(KEYS, IDS, st.binary(max_size=512), st.integers(0, 10**12 - 1), st.integers(-300, 300))
def test_what_is_signed_verifies(keys, message_id, body, at, later):
    headers = sign(message_id, body, [keys[0]], now=at)
    found = verify("standard-webhooks", headers, body, [keys[1]], now=at + later)
    assert (found.id, found.timestamp) == (message_id, at)


@given(KEYS, st.binary(min_size=1, max_size=64), st.data())
def test_a_body_with_any_byte_changed_is_refused(keys, body, data):
    headers = sign(ID, body, [keys[0]], now=NOW)
    at = data.draw(st.integers(0, len(body) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != body[at]))
    changed = body[:at] + bytes([byte]) + body[at + 1 :]
    assert reason(headers, changed, [keys[1]]) == "signature_mismatch"


@given(
    KEYS,
    st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
    st.characters(max_codepoint=0xFF),
    st.data(),
)
def test_a_header_with_any_character_changed_is_refused(keys, name, character, data):
    headers = sign(ID, BODY, [keys[0]], now=NOW)
    at = data.draw(st.integers(0, len(headers[name]) - 1))
    assume(headers[name][at] != character)
    headers[name] = headers[name][:at] + character + headers[name][at + 1 :]
    reason(headers, secrets=[keys[1]])


NAMES = ["webhook-id", "webhook-timestamp", "webhook-signature", "stripe-signature", "x-hub-signature-256"]
VALUES = [str(NOW), f"t={NOW},v1=", "v1,", "sha256=", "v1a," + "A" * 86 + "=="]
HEADERS = st.dictionaries(
    st.sampled_from([*NAMES, "x-github-delivery", "x-signature"]), st.text() | st.sampled_from(VALUES)
)


@given(st.sampled_from(SCHEMES), HEADERS, st.binary())
@example("standard-webhooks", signed("v1," + "\ud800"), b"\xff")
def test_no_request_raises_anything_but_the_refusal(scheme, headers, body):
    assert refusal(scheme, headers, body, [SECRET, PUBLIC], now=NOW)


# -- agreement with the reference implementation


@given(IDS, st.text(max_size=200))
def test_the_reference_implementation_verifies_what_is_signed_here(message_id, text):
    body = json.dumps({"text": text}).encode()
    headers = sign(message_id, body, [OTHER, SECRET], now=time.time())
    assert standardwebhooks.Webhook(SECRET).verify(body, headers) == {"text": text}


@given(IDS, st.text(max_size=200))
def test_what_the_reference_implementation_signs_verifies_here(message_id, text):
    body = json.dumps({"text": text})
    at = datetime.fromtimestamp(NOW, UTC)
    signature = standardwebhooks.Webhook(SECRET).sign(message_id, at, body)
    headers = signed(signature, message_id=message_id)
    assert verify("standard-webhooks", headers, body.encode(), [SECRET], now=NOW).id == message_id
