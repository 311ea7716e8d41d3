"""Keys of Standard Webhooks: symmetric ones (`whsec_`, HMAC-SHA256) and pairs (`whsk_`, `whpk_`, ed25519).

Source: Standard Webhooks 1.0.0, "Signature scheme". A private key is written as its 32-byte seed, or as the seed and
the public key in one, which is how Svix writes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import ClassVar, Final

from plugin_sdk.webhooks.errors import WebhookKeyError

Secret = str | bytes
"""A key as it is written; bytes are a symmetric key itself."""

SYMMETRIC: Final = "whsec_"
PRIVATE: Final = "whsk_"
PUBLIC: Final = "whpk_"
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
_SEED: Final = 32
_MAX_TEXT: Final = 256


@dataclass(frozen=True, slots=True)
class SymmetricKey:
    """A key that both sides hold; signs and verifies `v1`."""

    version: ClassVar[str] = "v1"
    secret: bytes = field(repr=False)

    def signature(self, content: bytes) -> bytes:
        """The 32 bytes that sign the content."""
        return hmac.digest(self.secret, content, hashlib.sha256)

    def __str__(self) -> str:
        return SYMMETRIC + _written(self.secret)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a pair that verifies `v1a`."""

    version: ClassVar[str] = "v1a"
    point: bytes

    def holds(self, content: bytes, signature: bytes) -> bool:
        """Whether the other half signed the content."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - paid for by those who use such a key
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above

        try:
            Ed25519PublicKey.from_public_bytes(self.point).verify(signature, content)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return PUBLIC + _written(self.point)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """The half of a pair that signs `v1a`."""

    version: ClassVar[str] = "v1a"
    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The other half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above

        return PublicKey(Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def signature(self, content: bytes) -> bytes:
        """The 64 bytes that sign the content."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(content)

    def __str__(self) -> str:
        return PRIVATE + _written(self.seed + self.public.point)


def new_secret(size: int = 32) -> str:
    """A fresh symmetric key of `size` random bytes, 24 to 64, as `whsec_…`.

    Raises:
        WebhookKeyError: another size.
    """
    return str(_symmetric(secrets.token_bytes(size)))


def new_private_key() -> str:
    """A fresh private key, as `whsk_…`; its public half is `public_key` of it."""
    return str(PrivateKey(secrets.token_bytes(_SEED)))


def public_key(private: str) -> str:
    """The `whpk_…` that belongs to a `whsk_…`: what a receiver is given.

    Raises:
        WebhookKeyError: it is no private key.
    """
    found = parse_key(private)
    if not isinstance(found, PrivateKey):
        raise WebhookKeyError(f"only a private key, {PRIVATE} and base64, has a public half")
    return str(found.public)


def parse_key(written: Secret) -> SymmetricKey | PrivateKey | PublicKey:
    """Read a key. One without a prefix is a symmetric key in base64; the padding may be left away.

    Raises:
        WebhookKeyError: it is empty, no base64, or of a length that its kind does not have.
    """
    if isinstance(written, bytes):
        return _symmetric(written)
    if written.startswith(PRIVATE):
        return _private(_read(written.removeprefix(PRIVATE)))
    if written.startswith(PUBLIC):
        point = _read(written.removeprefix(PUBLIC))
        if len(point) != _SEED:
            raise WebhookKeyError(f"a public key has {_SEED} bytes, not {len(point)}: copy all of it")
        return PublicKey(point)
    return _symmetric(_read(written.removeprefix(SYMMETRIC)))


def strict_base64(text: str) -> bytes | None:
    """The bytes of a text that is exactly what base64 makes of them, padding included; None for any other text."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters outside ASCII
        return None
    # Characters after the padding and set bits that the padding hides decode, too: one signature, many spellings.
    return found if _written(found) == text else None


def _symmetric(secret: bytes) -> SymmetricKey:
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise WebhookKeyError(
            f"a secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes, not {len(secret)}: make one "
            "with new_secret()"
        )
    return SymmetricKey(secret)


def _private(found: bytes) -> PrivateKey:
    if len(found) not in {_SEED, 2 * _SEED}:
        raise WebhookKeyError(f"a private key has {_SEED} or {2 * _SEED} bytes, not {len(found)}: copy all of it")
    key = PrivateKey(found[:_SEED])
    # A signature made with one half and checked with another pair's gives the private half away.
    if found[_SEED:] not in {b"", key.public.point}:
        raise WebhookKeyError("the two halves of this private key do not belong together: make a new one")
    return key


def _read(text: str) -> bytes:
    bare = text.rstrip("=")
    if len(text) - len(bare) > 2 or len(text) > _MAX_TEXT:  # noqa: PLR2004 - base64 pads with two at most
        raise _no_base64()
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _no_base64() from None


def _no_base64() -> WebhookKeyError:
    return WebhookKeyError(
        f"a key is written {SYMMETRIC}, {PRIVATE} or {PUBLIC} and then base64: copy all of it, without blanks or quotes"
    )


def _written(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
