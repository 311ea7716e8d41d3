"""The receiver's side: is this body from whoever holds the secret, and is it fresh.

Sources: Standard Webhooks 1.0.0, "Verifying webhook authenticity"; Stripe's "Verify webhook signatures manually";
GitHub's "Validating webhook deliveries". The parsers are strict: what a sender of the scheme would not write is
refused or skipped, never repaired, and nothing that a request holds raises anything but `WebhookRefused`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from plugin_sdk.webhooks.errors import Reason, WebhookKeyError, WebhookRefused, WebhookSchemeError
from plugin_sdk.webhooks.keys import PrivateKey, PublicKey, Secret, SymmetricKey, parse_key, strict_base64
from plugin_sdk.webhooks.signing import (
    ID_HEADER,
    MAX_SIGNATURES,
    MESSAGE_ID,
    SIGNATURE_HEADER,
    TIMESTAMP,
    TIMESTAMP_HEADER,
    signed_content,
)

_STRIPE_HEADER: Final = "stripe-signature"
_GITHUB_HEADER: Final = "x-hub-signature-256"
_GITHUB_ID_HEADER: Final = "x-github-delivery"
_SHA256: Final = "sha256="
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_ID: Final = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True)
class Verified:
    """A webhook that is authentic.

    `id` is what a repetition of it is known by: remember it for at least twice the tolerance, and accept it once.
    `timestamp` is when it was signed, in seconds since the epoch; None where the scheme signs no time.
    """

    id: str
    timestamp: float | None


@dataclass(frozen=True, slots=True)
class _Received:
    """One request as a scheme looks at it."""

    headers: Mapping[str, str]
    body: bytes
    secrets: Sequence[Secret]
    now: float
    tolerance: float
    header: str
    id_header: str | None

    def named(self, name: str) -> str:
        """The value of a header that has to be there."""
        found = self.headers.get(name)
        if not found:
            raise WebhookRefused("header_missing")
        return found

    def fresh(self, text: str) -> float:
        """A time that is within the tolerance of now, on either side."""
        if not TIMESTAMP.fullmatch(text):
            raise WebhookRefused("timestamp_malformed")
        found = float(text)
        if found < self.now - self.tolerance:
            raise WebhookRefused("timestamp_too_old")
        if found > self.now + self.tolerance:
            raise WebhookRefused("timestamp_too_new")
        return found

    def keys(self) -> list[bytes]:
        """The secrets as the plain HMAC schemes take them: as text, whatever it looks like."""
        return [one.encode() if isinstance(one, str) else one for one in self.secrets]


def verify(
    scheme: str,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[Secret],
    *,
    now: float,
    tolerance: float = 300.0,
    header: str = "x-signature",
    id_header: str | None = None,
) -> Verified:
    """Whether a request is an authentic webhook of a scheme; any one of the secrets may have signed it.

    Args:
        scheme: `standard-webhooks`, `stripe`, `github` or `hmac-sha256`. Fixed by the endpoint, never by the request.
        headers: Names in lower case. A request that repeats a signature's header is the caller's to refuse.
        body: The bytes as they came, before anything parsed them; they need not be text.
        secrets: What the receiver holds. `standard-webhooks` takes `whsec_…`, base64, bytes, and `whpk_…`; the
            others take the text itself.
        now: Seconds since the epoch.
        tolerance: Seconds that a signed time may be off, either way.
        header: Of `hmac-sha256`: where the signature is, as hex digits or `sha256=` and hex digits.
        id_header: Of `hmac-sha256`: where the sender puts an id for each message. Without one the body's digest is
            the id, so two messages with one body count as one. Neither this header nor GitHub's is signed.

    Raises:
        WebhookRefused: it is not authentic, or too old or too new; `reason` says which, its message does not.
        WebhookKeyError: there is no secret, or one that the scheme cannot use.
        WebhookSchemeError: there is no such scheme.
    """
    check = _CHECKS.get(scheme)
    if check is None:
        raise WebhookSchemeError(f"there is no webhook scheme '{scheme[:64]}': use one of {', '.join(SCHEMES)}")
    if not secrets or not all(secrets):
        raise WebhookKeyError("a webhook is verified with at least one secret, and none of them is empty")
    return check(_Received(headers, body, secrets, now, tolerance, header, id_header))


def _standard(received: _Received) -> Verified:
    keys = [_verifying(written) for written in received.secrets]
    message_id = received.named(ID_HEADER)
    written_at = received.named(TIMESTAMP_HEADER)
    candidates = received.named(SIGNATURE_HEADER).split(" ")
    if not MESSAGE_ID.fullmatch(message_id):
        raise WebhookRefused("id_malformed")
    signed_at = received.fresh(written_at)
    if len(candidates) > MAX_SIGNATURES:
        raise WebhookRefused("signature_malformed")
    signatures: dict[str, list[bytes]] = {SymmetricKey.version: [], PublicKey.version: []}
    for candidate in candidates:
        version, _, written = candidate.partition(",")
        signature = strict_base64(written)
        if signature and version in signatures:
            signatures[version].append(signature)
    content = signed_content(message_id, written_at, received.body)
    _judge(signatures.values(), [_accepts(key, content, signatures) for key in keys])
    return Verified(message_id, signed_at)


def _accepts(key: SymmetricKey | PublicKey, content: bytes, signatures: Mapping[str, list[bytes]]) -> bool:
    candidates = signatures[key.version]
    if isinstance(key, SymmetricKey):
        return _among(key.signature(content), candidates)
    return any(key.holds(content, one) for one in candidates)


def _verifying(written: Secret) -> SymmetricKey | PublicKey:
    key = parse_key(written)
    if isinstance(key, PrivateKey):
        raise WebhookKeyError("a receiver holds the public key, whpk_…: keep the private one with the sender")
    return key


def _stripe(received: _Received) -> Verified:
    items = [item.partition("=") for item in received.named(_STRIPE_HEADER).split(",")]
    times = [value for name, _, value in items if name == "t"]
    if len(times) != 1:
        raise WebhookRefused("timestamp_malformed")
    signed_at = received.fresh(times[0])
    content = f"{times[0]}.".encode("ascii") + received.body
    _match_hex(content, [value for name, _, value in items if name == "v1"], received.keys())
    return Verified(_event_id(received.body) or _digest(content), signed_at)


def _github(received: _Received) -> Verified:
    signature = received.named(_GITHUB_HEADER)
    delivery = _identified(received.named(_GITHUB_ID_HEADER))
    if not signature.startswith(_SHA256):
        raise WebhookRefused("signature_malformed")
    _match_hex(received.body, [signature.removeprefix(_SHA256)], received.keys())
    return Verified(delivery, None)


def _hmac_sha256(received: _Received) -> Verified:
    signature = received.named(received.header)
    message_id = None if received.id_header is None else _identified(received.named(received.id_header))
    _match_hex(received.body, [signature.removeprefix(_SHA256)], received.keys())
    return Verified(message_id or _digest(received.body), None)


def _match_hex(content: bytes, written: Sequence[str], keys: Sequence[bytes]) -> None:
    """Refuse content that none of the signatures, in hex, is for."""
    if len(written) > MAX_SIGNATURES:
        raise WebhookRefused("signature_malformed")
    signatures = [bytes.fromhex(one) for one in written if _HEX.fullmatch(one)]
    _judge([signatures], [_among(hmac.digest(key, content, hashlib.sha256), signatures) for key in keys])


def _judge(candidates: Iterable[Sequence[bytes]], found: Sequence[bool]) -> None:
    if not any(found):
        reason: Reason = "signature_mismatch" if any(candidates) else "signature_malformed"
        raise WebhookRefused(reason)


def _among(expected: bytes, candidates: Sequence[bytes]) -> bool:
    """Whether a signature is among the candidates; all are looked at, so the time does not tell which it was."""
    return sum(hmac.compare_digest(expected, one) for one in candidates) > 0


def _identified(text: str) -> str:
    if not _ID.fullmatch(text):
        raise WebhookRefused("id_malformed")
    return text


class _StripeEvent(msgspec.Struct):
    id: str = ""


def _event_id(body: bytes) -> str | None:
    """The id of a Stripe event; None where the body is no JSON object with one."""
    try:
        found = msgspec.json.decode(body, type=_StripeEvent).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if _ID.fullmatch(found) else None


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


_CHECKS: Final[dict[str, Callable[[_Received], Verified]]] = {
    "standard-webhooks": _standard,
    "stripe": _stripe,
    "github": _github,
    "hmac-sha256": _hmac_sha256,
}
SCHEMES: Final = tuple(_CHECKS)
"""The schemes that `verify` knows."""
