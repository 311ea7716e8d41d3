"""Webhooks of Stripe, of GitHub, and of senders with a plain HMAC: what is taken, and every way to be wrong."""

import hashlib
import hmac

import pytest
from webhook_requests import (
    BODY,
    NOW,
    SECRET,
    digest,
    refusal,
    stripe,
)

from plugin_sdk.webhooks import (
    verify,
)


@pytest.mark.parametrize(
    "form",
    [
        "t={t},v1={v1}",
        "v1={v1},t={t}",
        "t={t},v0=ab,v1={v1}",
        "t={t},v1=" + "0" * 64 + ",v1={v1}",
        "t={t},v2=x,junk,=,v1={v1},",
    ],
)
def test_stripes_header_is_read_as_stripe_writes_it(form):
    found = verify("stripe", stripe(form=form), BODY, [SECRET], now=NOW + 300)
    assert found.timestamp == NOW


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "header_missing"),
        ({"stripe-signature": ""}, "header_missing"),
        (stripe(form="v1={v1}"), "timestamp_malformed"),
        (stripe(form="t={t},t={t},v1={v1}"), "timestamp_malformed"),
        (stripe(form="t={t}"), "signature_malformed"),
        (stripe(form="t={t},v0={v1}"), "signature_malformed"),
        (stripe(form="t={t}, v1={v1}"), "signature_malformed"),
        (stripe(form="t={t},v1= {v1}"), "signature_malformed"),
        (stripe(form="t={t},v1=\u00e9"), "signature_malformed"),
        (stripe(form="t={t}" + ",v1={v1}" * 17), "signature_malformed"),
        (stripe(at=NOW - 301), "timestamp_too_old"),
        (stripe(at=NOW + 301), "timestamp_too_new"),
        (stripe(body=b"other"), "signature_mismatch"),
        (stripe(key="whsec_other"), "signature_mismatch"),
    ],
)
def test_what_stripe_does_not_send_is_refused(headers, expected):
    assert refusal("stripe", headers, BODY, [SECRET], now=NOW) == expected


@pytest.mark.parametrize(
    ("body", "message_id"),
    [
        (b'{"id":"evt_1","type":"x"}', "evt_1"),
        (b'{"id":5}', None),
        (b'{"id":""}', None),
        (b'{"id":"a\\nb"}', None),
        (b'[{"id":"evt_1"}]', None),
        (b"\xff", None),
        (b'{"id":"\xff"}', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
    ],
)
def test_a_stripe_message_is_known_by_its_events_id_or_else_by_its_digest(body, message_id):
    found = verify("stripe", stripe(body), body, [SECRET], now=NOW)
    assert found.id == (message_id or "sha256:" + hashlib.sha256(f"{NOW}.".encode() + body).hexdigest())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x-hub-signature-256": None}, "header_missing"),
        ({"x-github-delivery": None}, "header_missing"),
        ({"x-github-delivery": "a b"}, "id_malformed"),
        ({"x-github-delivery": "x" * 257}, "id_malformed"),
        ({"x-hub-signature-256": digest("key", BODY)}, "signature_malformed"),
        ({"x-hub-signature-256": "sha1=" + digest("key", BODY)}, "signature_malformed"),
        ({"x-hub-signature-256": "sha256=" + digest("key", BODY)[:-1]}, "signature_malformed"),
        ({"x-hub-signature-256": "sha256=" + digest("other", BODY)}, "signature_mismatch"),
        (
            {"x-hub-signature-256": None, "x-hub-signature": "sha1=" + hmac.new(b"key", BODY, "sha1").hexdigest()},
            "header_missing",
        ),
    ],
)
def test_what_github_does_not_send_is_refused(changes, expected):
    headers = {"x-hub-signature-256": "sha256=" + digest("key", BODY), "x-github-delivery": "1"}
    assert verify("github", headers, BODY, ["old", "key"], now=NOW).id == "1"
    changed = {name: value for name, value in {**headers, **changes}.items() if value is not None}
    assert refusal("github", changed, BODY, ["key"], now=NOW) == expected


@pytest.mark.parametrize("form", ["sha256={}", "{}"])
def test_a_plain_signature_is_hex_with_or_without_the_name_of_the_digest(form):
    signature = form.format(digest("key", BODY))
    found = verify("hmac-sha256", {"x-signature": signature}, BODY, ["key"], now=NOW)
    assert (found.id, found.timestamp) == ("sha256:" + hashlib.sha256(BODY).hexdigest(), None)
    found = verify(
        "hmac-sha256",
        {"x-service1-signature": signature, "x-request-id": "r-1"},
        BODY,
        [b"key"],
        now=NOW,
        header="x-service1-signature",
        id_header="x-request-id",
    )
    assert found.id == "r-1"


@pytest.mark.parametrize(
    ("headers", "options", "expected"),
    [
        ({}, {}, "header_missing"),
        ({"x-signature": digest("key", BODY)}, {"header": "x-other"}, "header_missing"),
        ({"x-signature": digest("key", BODY)}, {"id_header": "x-request-id"}, "header_missing"),
        ({"x-signature": digest("key", BODY), "x-id": "a b"}, {"id_header": "x-id"}, "id_malformed"),
        ({"x-signature": "sha256=sha256=" + digest("key", BODY)}, {}, "signature_malformed"),
        ({"x-signature": "sha512=" + digest("key", BODY)}, {}, "signature_malformed"),
        ({"x-signature": digest("key", BODY) + "\n"}, {}, "signature_malformed"),
        ({"x-signature": " " + digest("key", BODY)}, {}, "signature_malformed"),
        ({"x-signature": digest("other", BODY)}, {}, "signature_mismatch"),
    ],
)
def test_a_plain_signature_that_is_none_is_refused(headers, options, expected):
    assert refusal("hmac-sha256", headers, BODY, ["key"], now=NOW, **options) == expected
