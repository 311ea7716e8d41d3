"""The verdict of attestations, keys and an instant, where no installer is needed to see it; and the keys themselves."""

import hashlib
import itertools
from datetime import timedelta

import pytest
import supply_wheels as wheels

from host.supply.errors import KeyRefusedError, ReleaseRefusedError
from host.supply.trust import verification
from host.supply.trust.keys import PrivateKey, PublicKey
from host.supply.trust.publishers import KeyState, Publisher, TrustSnapshot
from host.supply.trust.verification import Purpose, verify_release

NAME, NOW, Acme = wheels.NAME, wheels.NOW, wheels.Acme
WHEEL = wheels.good()
DAY = timedelta(days=1)


def verify(attestations, trust, purpose=Purpose.INSTALL, wheel=WHEEL):
    return verify_release(
        sha256=hashlib.sha256(wheel).hexdigest(),
        filename=NAME,
        attestations=attestations,
        trust=trust,
        now=NOW,
        purpose=purpose,
    )


def refusal(attestations, trust, purpose=Purpose.INSTALL):
    with pytest.raises(ReleaseRefusedError) as refused:
        verify(attestations, trust, purpose)
    return refused.value


@pytest.mark.parametrize("plugins", [("other",), ("acme-demo-x",), ("acm",), ("acme-dem",)])
def test_a_publisher_signs_only_inside_its_namespaces(plugins):
    acme = Acme(plugins=plugins)
    assert refusal(acme.sign(WHEEL), acme.trust).reason == "namespace_violation"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ({"state": KeyState.REVOKED}, "revoked"),
        ({"not_before": (NOW + DAY).timestamp()}, "key_not_yet_valid"),
    ],
)
def test_what_is_installed_does_not_start_with_a_key_that_is_believed_no_more_or_not_yet(key, reason):
    acme = Acme(**key)
    assert refusal(acme.sign(WHEEL), acme.trust, Purpose.START).reason == reason


@pytest.mark.parametrize("key", [{"state": KeyState.RETIRED}, {"not_after": (NOW - DAY).timestamp()}])
def test_what_is_installed_goes_on_with_a_warning_when_its_key_retires_or_expires(key):
    acme = Acme(**key)
    assert verify(acme.sign(WHEEL), acme.trust, Purpose.START).warnings


def test_a_release_signed_with_the_old_and_the_new_key_holds_when_the_old_one_is_revoked(acme):
    old = Acme(state=KeyState.REVOKED)
    publisher = Publisher("acme", "acme", ("acme",), old.publisher.keys + acme.publisher.keys)
    both = old.sign(WHEEL) + acme.sign(WHEEL)
    assert verify(both, TrustSnapshot((publisher,))).key_id == acme.private.public.id


# -- of several lines that are refused, what is said

REVOKED, RETIRED = Acme(state=KeyState.REVOKED, reason="stolen"), Acme("retiree", state=KeyState.RETIRED)
EXPIRED, EARLY = (
    Acme("late", not_after=(NOW - DAY).timestamp()),
    Acme("early", not_before=(NOW + DAY).timestamp()),
)
OUTSIDE, TRUSTED = Acme("globex", plugins=("globex",)), Acme("trusted")
CROWD = TrustSnapshot(tuple(one.publisher for one in (REVOKED, RETIRED, EXPIRED, EARLY, OUTSIDE, TRUSTED)))
LINES = {
    "revoked": REVOKED.sign(WHEEL),
    "key_retired": RETIRED.sign(WHEEL),
    "key_expired": EXPIRED.sign(WHEEL),
    "key_not_yet_valid": EARLY.sign(WHEEL),
    "expired": TRUSTED.sign(WHEEL, valid_until=NOW - DAY),
    "namespace_violation": OUTSIDE.sign(WHEEL),
    "digest_mismatch": TRUSTED.sign(WHEEL + b"x"),
    "subject_mismatch": TRUSTED.sign(WHEEL, version="1.0.1"),
    "malformed": TRUSTED.line(TRUSTED.statement(WHEEL).dump().replace(b'"sequence":7', b'"sequence":-7')),
    "invalid": TRUSTED.sign(WHEEL, publisher="globex"),
    "unknown_publisher": Acme("stranger").sign(WHEEL),
    "wrong_type": TRUSTED.line(TRUSTED.statement(WHEEL).dump(), payload_type="text/plain"),
    "unsigned": b'{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}\n',
}


def test_every_refusal_of_a_line_has_its_place_in_the_ranking():
    assert tuple(LINES) == verification._TELLING
    assert {reason: refusal(line, CROWD).reason for reason, line in LINES.items()} == {one: one for one in LINES}


@pytest.mark.parametrize(("telling", "other"), list(itertools.pairwise(LINES)))
def test_the_most_telling_refusal_is_said_wherever_its_line_stands(telling, other):
    for order in ((telling, other), (other, telling)):
        refused = refusal(b"".join(LINES[one] for one in order), CROWD)
        assert refused.reason == telling
        assert refused.message == refused.errors[0]
        assert len(refused.errors) == 2


def test_no_line_of_a_stranger_hides_that_a_key_is_revoked():
    refused = refusal(LINES["unknown_publisher"] * 3 + LINES["revoked"] + LINES["unsigned"], CROWD)
    assert (refused.word, len(refused.errors)) == ("release_revoked", 3)
    assert "stolen" in refused.message


# -- keys


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
