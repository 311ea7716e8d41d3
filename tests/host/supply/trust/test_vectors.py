"""The verifier against what others published: RFC 8032, Wycheproof, and the vector of the DSSE specification."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import host.supply.trust.keys as keys_module
from host.supply.errors import KeyRefusedError
from host.supply.trust.dsse import pae, parse_bundle
from host.supply.trust.keys import PrivateKey, PublicKey

WYCHEPROOF = Path(__file__).parents[5] / "shared" / "vectors" / "ed25519_test.json"

# ruff: noqa: ISC004 - the long vectors are one string in several lines

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "TEST 1024": (
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        "08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98"
        "fa6e264bf09efe12ee50f8f54e9f77b1e355f6c50544e23fb1433ddf73be84d8"
        "79de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a1b270b20329d"
        "658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89ffbc"
        "1a858efcb8550ee3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4fe"
        "ba15452f80288a821a579116ec6dad2b3b310da903401aa62100ab5d1a36553e"
        "06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573cb116dbef"
        "efd75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206be6cd9ec7"
        "aff6f6c94fcd7204ed3455c68c83f4a41da4af2b74ef5c53f1d8ac70bdcb7ed1"
        "85ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2"
        "d17ba70eb6248e594e1a2297acbbb39d502f1a8c6eb6f1ce22b3de1a1f40cc24"
        "554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f270"
        "88d78b7e883c8759d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc"
        "2732e69485bbc9c90bfbd62481d9089beccf80cfe2df16a2cf65bd92dd597b07"
        "07e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128ba"
        "b27af87a71314f318c782b23ebfe808b82b0ce26401d2e22f04d83d1255dc51a"
        "ddd3b75a2b1ae0784504df543af8969be3ea7082ff7fc9888c144da2af58429e"
        "c96031dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb7"
        "51fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e22904cc8c"
        "42f58c30c04aafdb038dda0847dd988dcda6f3bfd15c4b4c4525004aa06eeff8"
        "ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34df"
        "f7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08"
        "d78ff4ef5d63653a65040cf9bfd4aca7984a74d37145986780fc0b16ac451649"
        "de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939ae49e4"
        "88acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc5600a3"
        "2ef5b52a1ecc820e308aa342721aac0943bf6686b64b2579376504ccc493d97e"
        "6aed3fb0f9cd71a43dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5f"
        "b93246f6b1116398a346f1a641f3b041e989f7914f90cc2c7fff357876e506b5"
        "0d334ba77c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa933a15ef1"
        "369546868a7f3a45a96768d40fd9d03412c091c6315cf4fde7cb68606937380d"
        "b2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c"
        "0618983f8741c5ef68d3a101e8a3b8cac60c905c15fc910840b94c00a0b9d0",
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}

# The DSSE specification, protocol.md, "Test Vectors": the key is ECDSA, the encoding that it signs is ours.
DSSE_TYPE = "http://example.com/HelloWorld"
DSSE_PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
DSSE_ENVELOPE = (
    b'{"payload": "aGVsbG8gd29ybGQ=", "payloadType": "http://example.com/HelloWorld", "signatures": [{"sig": '
    b'"A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}'
)
DSSE_KEY = ec.EllipticCurvePublicNumbers(
    46950820868899156662930047687818585632848591499744589407958293238635476079160,
    5640078356564379163099075877009565129882514886557779369047442380624545832820,
    ec.SECP256R1(),
)


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032.values(), ids=RFC_8032)
def test_the_vectors_of_rfc_8032(secret, public, message, signature):
    key = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert PublicKey.checked(bytes.fromhex(public)).verifies(bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.parametrize(("public", "message", "signature"), [v[1:] for v in RFC_8032.values()], ids=RFC_8032)
def test_a_vector_of_rfc_8032_with_any_byte_changed_does_not_hold(public, message, signature):
    key, good = PublicKey.checked(bytes.fromhex(public)), bytes.fromhex(signature)
    for at in range(len(good)):
        changed = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        assert not key.verifies(changed, bytes.fromhex(message)), at
    assert not key.verifies(good, bytes.fromhex(message) + b"\0")
    assert not key.verifies(good + b"\0", bytes.fromhex(message))
    assert not key.verifies(good[:-1], bytes.fromhex(message))


def test_the_long_vector_of_rfc_8032_is_whole():
    assert len(bytes.fromhex(RFC_8032["TEST 1024"][2])) == 1023
    assert bytes.fromhex(RFC_8032["TEST SHA(abc)"][2]) == hashlib.sha512(b"abc").digest()


@pytest.mark.skipif(not WYCHEPROOF.exists(), reason="the Wycheproof vectors are not beside this checkout")
def test_the_wycheproof_vectors():
    seen = set()
    for group in json.loads(WYCHEPROOF.read_text())["testGroups"]:
        public = PublicKey.checked(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            holds = public.verifies(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert holds == (case["result"] == "valid"), case
            seen.add(case["tcId"])
    assert len(seen) >= 150


def test_the_dsse_vector_is_what_its_publisher_signed():
    (envelope,) = parse_bundle(DSSE_ENVELOPE)
    assert (envelope.payload_type, envelope.payload) == (DSSE_TYPE, b"hello world")
    message = pae(envelope.payload_type, envelope.payload)
    assert message == DSSE_PAE
    (signature,) = envelope.signatures
    assert signature.key_id == ""
    r, s = (int.from_bytes(half, "big") for half in (signature.signature[:32], signature.signature[32:]))
    key = DSSE_KEY.public_key()
    key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(utils.encode_dss_signature(r, s), message + b" ", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("payload_type", "payload", "encoded"),
    [
        ("", b"", b"DSSEv1 0  0 "),
        ("a b", b"1 c", b"DSSEv1 3 a b 3 1 c"),
        ("é", b"\xff\n", b"DSSEv1 2 \xc3\xa9 2 \xff\n"),
    ],
    ids=["empty", "blanks", "bytes are counted, not characters"],
)
def test_the_encoding_counts_bytes_and_escapes_nothing(payload_type, payload, encoded):
    assert pae(payload_type, payload) == encoded


def weak_encodings():
    """Every encoding of the eight small-order points, canonical or not, with either sign bit."""
    prime = keys_module._P
    values = [y + extra for y in keys_module._SMALL_ORDER_Y for extra in (0, prime) if y + extra < 2**255]
    return [(value | sign << 255).to_bytes(32, "little") for value in values for sign in (0, 1)]


@pytest.mark.parametrize("raw", weak_encodings(), ids=lambda raw: raw.hex()[:12])
def test_a_weak_public_key_is_not_enrolled(raw):
    text = "ed25519:" + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(KeyRefusedError) as refused:
        PublicKey.parse(text)
    assert refused.value.word == "key_refused"


def test_all_fourteen_weak_encodings_are_among_them():
    assert len(weak_encodings()) == 14


@pytest.mark.parametrize("y", [2**255 - 19, 2**255 - 18, 2**255 - 1], ids=["p", "p + 1", "all ones"])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_public_key_that_is_not_canonical_is_not_enrolled(y, sign):
    with pytest.raises(KeyRefusedError):
        PublicKey.checked((y | sign << 255).to_bytes(32, "little"))


def test_a_public_key_that_is_no_point_is_not_enrolled():
    with pytest.raises(KeyRefusedError):
        PublicKey.checked((2).to_bytes(32, "little"))
