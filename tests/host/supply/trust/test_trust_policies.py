"""How many publishers must have signed, who counts, and what a revoked key still holds."""

import hashlib
import itertools

import pytest
import supply_wheels as wheels
from supply_wheels import NAME, NOW, Acme

from host.errors import BusbarError
from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, dump, pae
from host.supply.trust.publishers import KeyState, Publisher, TrustedKey, TrustPolicy, TrustSnapshot
from host.supply.trust.verification import Purpose, verify_release

REVIEW = "https://example.org/review/v1"


def trusted(*signers, policies=(), kept=()):
    return TrustSnapshot(tuple(one.publisher for one in signers), tuple(policies), frozenset(kept))


def verify(wheel, attestations, trust, purpose=Purpose.INSTALL):
    return verify_release(
        sha256=hashlib.sha256(wheel).hexdigest(),
        filename=NAME,
        attestations=attestations,
        trust=trust,
        now=NOW,
        purpose=purpose,
    )


def refusal(wheel, attestations, trust, purpose=Purpose.INSTALL):
    with pytest.raises(BusbarError) as refused:
        verify(wheel, attestations, trust, purpose)
    return refused.value.word


def together(payload, *signers):
    """One envelope with a signature of each."""
    signatures = tuple(
        Signature(one.private.public.id, one.private.sign(pae(PAYLOAD_TYPE, payload))) for one in signers
    )
    return dump(Envelope(PAYLOAD_TYPE, payload, signatures)) + b"\n"


def review(signer, wheel, sha256=None):
    digest = sha256 or hashlib.sha256(wheel).hexdigest()
    return signer.line(
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"%s","digest":{"sha256":"%s"}}],'
        b'"predicateType":"%s","predicate":{}}' % (NAME.encode(), digest.encode(), REVIEW.encode())
    )


TWO = TrustPolicy("acme", 2, ("acme", "reviewer"))


@pytest.fixture
def reviewer():
    return Acme("reviewer", ("*",))


@pytest.fixture
def wheel():
    return wheels.good()


def test_author_and_reviewer_are_two_in_whatever_order_their_lines_stand(acme, reviewer, wheel):
    lines = [acme.sign(wheel), reviewer.sign(wheel, sequence=99)]
    for order in itertools.permutations(lines):
        verified = verify(wheel, b"".join(order), trusted(acme, reviewer, policies=[TWO]))
        assert (verified.publisher.id, verified.statement.sequence) == ("acme", 7)
        assert verified.signers == ("acme", "reviewer")


def test_a_second_signature_in_the_authors_envelope_counts_as_well(acme, reviewer, wheel):
    both = together(acme.statement(wheel).dump(), acme, reviewer)
    assert verify(wheel, both, trusted(acme, reviewer, policies=[TWO])).signers == ("acme", "reviewer")


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("author alone", "release_threshold_unmet"),
        ("reviewer alone", "release_threshold_unmet"),
        ("the same line twice", "release_threshold_unmet"),
        ("two signatures of one key in an envelope", "release_threshold_unmet"),
        ("two keys of one publisher", "release_threshold_unmet"),
        ("one of the two is bad", "release_threshold_unmet"),
        ("a stranger beside the author", "release_threshold_unmet"),
        ("a trusted publisher whom the policy does not count", "release_threshold_unmet"),
        ("the reviewer signed other contents", "release_threshold_unmet"),
        ("the reviewer signed other bytes", "release_threshold_unmet"),
        ("the reviewer's key is revoked", "release_threshold_unmet"),
        ("the reviewer signs in the author's name alone", "release_invalid"),
    ],
)
def test_fewer_than_the_policy_asks_for_are_not_enough(acme, reviewer, wheel, case, code):
    second = Acme("acme")
    second.publisher = Publisher("acme", "acme", ("acme",), acme.publisher.keys + second.publisher.keys)
    helper = Acme("helper", ("acme",))
    revoked = Acme("reviewer", ("*",), state=KeyState.REVOKED)
    mine = acme.sign(wheel)
    trust = trusted(acme, reviewer, helper, policies=[TWO])
    attestations = {
        "author alone": mine,
        "reviewer alone": reviewer.sign(wheel),
        "the same line twice": mine * 2,
        "two signatures of one key in an envelope": together(acme.statement(wheel).dump(), acme, acme),
        "two keys of one publisher": mine + second.sign(wheel),
        "one of the two is bad": mine + Acme().line(acme.statement(wheel).dump(), key_id=reviewer.private.public.id),
        "a stranger beside the author": mine + Acme("globex").sign(wheel),
        "a trusted publisher whom the policy does not count": mine + helper.sign(wheel),
        "the reviewer signed other contents": mine + reviewer.sign(wheel, record_sha256="0" * 64),
        "the reviewer signed other bytes": mine + reviewer.sign(wheel + b"x", publisher="reviewer"),
        "the reviewer's key is revoked": mine + revoked.sign(wheel),
        "the reviewer signs in the author's name alone": reviewer.sign(wheel, publisher="acme"),
    }[case]
    if case == "two keys of one publisher":
        trust = TrustSnapshot((second.publisher, reviewer.publisher), (TWO,))
    if case == "the reviewer's key is revoked":
        trust = trusted(acme, revoked, policies=[TWO])
    assert refusal(wheel, attestations, trust) == code


def test_one_raw_key_enrolled_for_two_publishers_counts_once(acme, wheel):
    twin = Publisher("reviewer", "reviewer", ("*",), (TrustedKey(acme.private.public),))
    lines = acme.sign(wheel) + acme.sign(wheel, publisher="reviewer")
    trust = TrustSnapshot((acme.publisher, twin), (TWO,))
    assert refusal(wheel, lines, trust) == "release_threshold_unmet"


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ([], 1),
        ([TrustPolicy("*", 3)], 3),
        ([TrustPolicy("*", 3), TrustPolicy("acme", 2)], 2),
        ([TrustPolicy("acme-demo", 1), TrustPolicy("acme", 2)], 1),
        ([TrustPolicy("acme-demo-more", 3), TrustPolicy("ac", 3)], 1),
    ],
)
def test_the_policy_with_the_longest_namespace_owns_the_name(policies, wanted):
    assert TrustSnapshot((), tuple(policies)).policy("acme-demo").threshold == wanted


@pytest.mark.parametrize("missing", ["no line", "of other bytes", "by a stranger", "by one who does not count"])
def test_a_statement_that_the_policy_demands_must_stand_beside_the_release(acme, reviewer, wheel, missing):
    policy = TrustPolicy("acme", 1, ("acme", "reviewer"), (REVIEW,))
    trust = trusted(acme, reviewer, Acme("helper", ("acme",)), policies=[policy])
    line = {
        "no line": b"",
        "of other bytes": review(reviewer, wheel, "0" * 64),
        "by a stranger": review(Acme("globex"), wheel),
        "by one who does not count": review(Acme("helper", ("acme",)), wheel),
    }[missing]
    assert verify(wheel, acme.sign(wheel) + review(reviewer, wheel), trust)
    assert refusal(wheel, acme.sign(wheel) + line, trust) == "release_policy_missing_attestation"


def test_a_release_that_an_administrator_keeps_runs_on_with_a_warning_and_is_not_installed_anew(wheel):
    stolen = Acme(state=KeyState.REVOKED, reason="stolen")
    trust = trusted(stolen, kept=[hashlib.sha256(wheel).hexdigest()])
    verified = verify(wheel, stolen.sign(wheel), trust, Purpose.START)
    assert "stolen" in verified.warnings[0]
    assert refusal(wheel, stolen.sign(wheel), trust) == "release_revoked"
    assert refusal(wheels.good() + b"", stolen.sign(wheel), trusted(stolen), Purpose.START) == "release_revoked"


def test_a_key_id_decides_nothing(acme, wheel):
    line = acme.line(acme.statement(wheel).dump(), key_id="0" * 64)
    assert verify(wheel, line, acme.trust).publisher.id == "acme"


def test_attestations_that_would_take_too_many_checks_are_refused_in_bounded_time(acme, wheel):
    crowd = TrustSnapshot(
        tuple(
            Publisher(f"p{n}", "", ("acme",), tuple(TrustedKey(Acme().private.public) for _ in range(8)))
            for n in range(20)
        )
    )
    envelope = Envelope(PAYLOAD_TYPE, acme.statement(wheel).dump(), (Signature("", bytes(64)),) * 16)
    assert refusal(wheel, (dump(envelope) + b"\n") * 64, crowd) == "release_size_limit"
