"""Keys of an endpoint: made, rotated, and shown without a private half."""

import pytest
from webhooks.errors import ApiError
from webhooks.keys import MAX_OLD_KEYS, first_keys, rotated, shown, signing

from plugin_sdk.webhooks import new_private_key, new_secret, public_key

NOW = 1000.0


def rotate(keys, *, now=NOW, overlap=100.0, secret=None, kind=None):
    return rotated(keys, secret=secret, kind=kind, overlap=overlap, now=now)


def test_a_new_endpoint_has_one_fresh_symmetric_key():
    (key,) = first_keys(None)
    assert key.written.startswith("whsec_")
    assert first_keys(None) != first_keys(None)


@pytest.mark.parametrize("secret", [new_secret(), new_private_key()], ids=["symmetric", "private"])
def test_a_key_that_is_given_is_taken_whichever_kind_it_is(secret):
    assert signing(first_keys(secret), NOW) == [secret]


def test_a_bare_secret_is_kept_with_its_prefix():
    secret = new_secret()
    assert signing(first_keys(secret.removeprefix("whsec_")), NOW) == [secret]


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_short", "hello", public_key(new_private_key())],
    ids=["nothing", "no secret", "too short", "no prefix", "a public key"],
)
def test_what_cannot_sign_is_refused(secret):
    with pytest.raises(ApiError) as refused:
        first_keys(secret)
    assert (refused.value.status, refused.value.word) == (400, "secret_invalid")


def test_an_old_key_signs_beside_the_new_one_until_it_is_over():
    first = first_keys(None)
    second = rotate(first)
    assert signing(second, NOW + 99) == [second[0].written, first[0].written]
    assert signing(second, NOW + 100) == [second[0].written]


def test_a_rotation_without_overlap_ends_the_old_key_at_once():
    first = first_keys(None)
    assert first[0].written not in signing(rotate(first, overlap=0), NOW)


@pytest.mark.parametrize(("before", "after"), [("whsec_", "whsk_"), ("whsk_", "whsec_")])
def test_a_rotation_may_change_the_kind_and_both_keys_sign(before, after):
    kinds = {"whsec_": "symmetric", "whsk_": "asymmetric"}
    first = first_keys(new_secret() if before == "whsec_" else new_private_key())
    second = rotate(first, kind=kinds[after])
    assert [key.partition("_")[0] + "_" for key in signing(second, NOW)] == [after, before]
    assert rotate(second)[0].kind == second[0].kind


def test_the_number_of_old_keys_is_bounded_and_those_that_are_over_do_not_count():
    keys = first_keys(None)
    for number in range(MAX_OLD_KEYS):
        keys = rotate(keys, now=NOW + number)
    with pytest.raises(ApiError) as refused:
        rotate(keys, now=NOW + 10)
    assert (refused.value.status, refused.value.word) == (409, "too_many_keys")
    assert len(rotate(keys, now=NOW + 10, overlap=0)) == MAX_OLD_KEYS + 1
    assert len(rotate(keys, now=NOW + 500)) == 2


def test_only_what_a_receiver_needs_is_shown():
    private = new_private_key()
    keys = rotate(first_keys(private), secret=new_secret())
    assert shown(keys, NOW) == {
        "kind": "symmetric",
        "secret": keys[0].written,
        "old": [{"kind": "asymmetric", "validUntil": "1970-01-01T00:18:20.000Z"}],
    }
    found = shown(first_keys(private), NOW)
    assert found == {"kind": "asymmetric", "publicKey": public_key(private), "old": []}
    assert private not in str(found)
