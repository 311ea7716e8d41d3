"""The keys of one endpoint: the current one, and old ones that stay valid for a while after a rotation."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from plugin_sdk.webhooks import WebhookKeyError, new_private_key, new_secret, parse_key, public_key
from plugin_sdk.webhooks.keys import PrivateKey, PublicKey
from webhooks.errors import ApiError
from webhooks.messages import instant

MAX_OLD_KEYS: Final = 5
LONGEST_OVERLAP: Final = 7 * 86_400

Kind = Literal["symmetric", "asymmetric"]


class Key(msgspec.Struct, frozen=True):
    """A key that signs; an old one until an instant in seconds since the epoch."""

    written: str
    until: float | None = None

    @property
    def kind(self) -> Kind:
        """Whether the receiver holds the same key, or the public half of it."""
        return "asymmetric" if isinstance(parse_key(self.written), PrivateKey) else "symmetric"

    def valid(self, now: float) -> bool:
        """Whether it still signs."""
        return self.until is None or now < self.until

    def shown(self) -> dict[str, Any]:
        """What the endpoint's owner needs in order to verify; never a private half."""
        if self.kind == "asymmetric":
            return {"kind": self.kind, "publicKey": public_key(self.written)}
        return {"kind": self.kind, "secret": self.written}


Keys = tuple[Key, ...]
"""The current key first, then old ones, the youngest first."""


def first_keys(secret: str | None) -> Keys:
    """The keys of a new endpoint.

    Raises:
        ApiError: the secret given is none that can sign.
    """
    return (_made(secret, "symmetric"),)


def rotated(keys: Keys, *, secret: str | None, kind: Kind | None, overlap: float, now: float) -> Keys:
    """The keys after a rotation; the one that was current stays valid for `overlap` seconds.

    Raises:
        ApiError: the secret given is none that can sign, or too many old keys are still valid.
    """
    current, *old = keys
    still = [key for key in old if key.valid(now)]
    if overlap > 0:
        still.insert(0, Key(current.written, now + overlap))
    if len(still) > MAX_OLD_KEYS:
        raise ApiError(
            409,
            "too_many_keys",
            f"{MAX_OLD_KEYS} old keys are valid already, the first of them until "
            f"{instant(min(key.until or now for key in still[1:]))}: rotate after that, or without an overlap",
        )
    return (_made(secret, kind or current.kind), *still)


def signing(keys: Keys, now: float) -> list[str]:
    """The keys that sign a message now."""
    return [key.written for key in keys if key.valid(now)]


def shown(keys: Keys, now: float) -> dict[str, Any]:
    """The current key as its owner sees it, and until when old ones are valid."""
    current, *old = keys
    valid = [{"kind": key.kind, "validUntil": instant(key.until)} for key in old if key.valid(now)]
    return {**current.shown(), "old": valid}


def _made(secret: str | None, kind: Kind) -> Key:
    if secret is None:
        return Key(new_secret() if kind == "symmetric" else new_private_key())
    try:
        key = parse_key(secret)
    except WebhookKeyError as error:
        raise ApiError(400, "secret_invalid", str(error)) from None
    if isinstance(key, PublicKey):
        raise ApiError(400, "secret_invalid", "a public key only verifies: give whsec_… or whsk_…, or leave it away")
    return Key(str(key))
