"""Ed25519 keys: their text form, their files, and the encodings that must never be trusted.

RFC 8032. A public key reads `ed25519:` and base64url of its 32 bytes; its id is the SHA-256 of those bytes,
in hex, and only narrows a search.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from host.supply.errors import KeyRefusedError

PREFIX: Final = "ed25519:"
_P: Final = 2**255 - 19
# The y-coordinates of the points of order 1, 2, 4 and 8 (two of order 8), as in the curve's definition. A
# signature under one of them can be forged for any message.
_EIGHTH: Final = 55188659117513257062467267217118295137698188065244968500265048394206261417927
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _EIGHTH, _P - _EIGHTH})
_D: Final = -121665 * pow(121666, -1, _P) % _P


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with. Make it with `parse`."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `ed25519:…`.

        Raises:
            KeyRefusedError: it is no such text, or one of the encodings under which anything verifies.
        """
        encoded = text.removeprefix(PREFIX)
        if encoded == text:
            raise KeyRefusedError(f"a public key starts with '{PREFIX}': 'busbar key show FILE' prints it")
        try:
            raw = base64.b64decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise KeyRefusedError("the public key is not base64url") from None
        if len(raw) != 32:  # noqa: PLR2004 - RFC 8032, section 5.1.5
            raise KeyRefusedError(f"a public key has 32 bytes, not {len(raw)}")
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != encoded.rstrip("="):
            raise KeyRefusedError("the public key is not canonical base64url")
        return cls.checked(raw)

    @classmethod
    def checked(cls, raw: bytes) -> PublicKey:
        """A key from its 32 bytes; errors as in `parse`."""
        y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
        if y >= _P or y in _SMALL_ORDER_Y:
            raise KeyRefusedError("this public key is weak: a signature for it can be forged by anyone")
        if len(raw) != 32 or not _on_curve(y):  # noqa: PLR2004 - RFC 8032, section 5.1.5
            raise KeyRefusedError("this is no point of the curve: nothing could ever be verified with it")
        return cls(raw)

    @property
    def id(self) -> str:
        """SHA-256 of the raw key, in hex."""
        return hashlib.sha256(self.raw).hexdigest()

    def __str__(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(self.raw).decode().rstrip("=")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def _on_curve(y: int) -> bool:
    """Whether some x belongs to `y` (RFC 8032, section 5.1.3); `cryptography` takes any 32 bytes for a key."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return pow(square, (_P - 1) // 2, _P) == 1


class PrivateKey:
    """A key that signs. It never shows in a repr."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def new(cls) -> PrivateKey:
        """A fresh key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, pem: bytes, passphrase: str | None = None) -> PrivateKey:
        """Read PKCS#8 PEM.

        Raises:
            KeyRefusedError: no PEM, another algorithm, or a wrong or missing passphrase.
        """
        try:
            key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
        except TypeError:
            needs = "needs a passphrase" if passphrase is None else "has no passphrase"
            raise KeyRefusedError(f"the private key {needs}") from None
        except (ValueError, UnsupportedAlgorithm):
            raise KeyRefusedError("the private key is no PKCS#8 PEM, or the passphrase is wrong") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyRefusedError("the private key is not Ed25519: make one with 'busbar key new FILE'")
        return cls(key)

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> PrivateKey:
        """Read a key file; errors as in `parse`, and OSError."""
        return cls.parse(path.read_bytes(), passphrase)

    def save(self, path: Path, passphrase: str | None) -> None:
        """Write the key to a new file, readable by its owner alone.

        Raises:
            KeyRefusedError: there is a file of that name; a key is never overwritten.
        """
        encryption = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        pem = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(beside, path)  # unlike a rename, a link never replaces a key that is there
            except FileExistsError:
                raise KeyRefusedError(f"{path} exists: a key is never overwritten, choose another name") from None
        finally:
            beside.unlink()

    @property
    def public(self) -> PublicKey:
        """The key that others check with."""
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return PublicKey(raw)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return self._key.sign(message)
