"""DSSE v1 envelopes and the bundle of them that stands beside a wheel, parsed strictly.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md and envelope.md; the bundle is in-toto's:
one envelope a line. The decoded payload bytes are what was signed; nothing else of the envelope is used.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from host.supply import strict_json
from host.supply.errors import ReleaseRefusedError, ReleaseTooLargeError

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_BUNDLE: Final = 4 * 2**20
MAX_LINES: Final = 64
MAX_LINE: Final = 2**20
MAX_SIGNATURES: Final = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the key id that its maker wrote beside it, which may be empty or wrong."""

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """One envelope: the type and bytes that were signed, and by whom they claim to be."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is really signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def dump(envelope: Envelope) -> bytes:
    """An envelope as one line, without its end."""
    return msgspec.json.encode(
        {
            "payloadType": envelope.payload_type,
            "payload": base64.b64encode(envelope.payload).decode(),
            "signatures": [
                {"keyid": one.key_id, "sig": base64.b64encode(one.signature).decode()} for one in envelope.signatures
            ],
        }
    )


def parse_bundle(bundle: bytes) -> tuple[Envelope, ...]:
    """The envelopes of a bundle, in order; empty lines are skipped, and so are JSON objects of another kind.

    What is skipped counts for nothing, so that leaving a line out never makes a release look better.

    Raises:
        ReleaseTooLargeError: more bytes, lines or signatures than allowed.
        ReleaseRefusedError: `release_malformed`, with the line.
    """
    if len(bundle) > MAX_BUNDLE:
        raise ReleaseTooLargeError("size_limit", f"the attestations have {len(bundle)} bytes, {MAX_BUNDLE} are allowed")
    lines = [line for line in bundle.split(b"\n") if line.strip()]
    if len(lines) > MAX_LINES:
        raise ReleaseTooLargeError("size_limit", f"the attestations have {len(lines)} lines, {MAX_LINES} are allowed")
    read = (_parse(line, number) for number, line in enumerate(lines, 1))
    return tuple(envelope for envelope in read if envelope is not None)


def _parse(line: bytes, number: int) -> Envelope | None:
    """The envelope of one line; None where it has nothing of an envelope, as a line of a format of its own."""
    if len(line) > MAX_LINE:
        raise ReleaseTooLargeError("size_limit", f"line {number} of the attestations is longer than {MAX_LINE} bytes")
    try:
        found = strict_json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        if not found.keys() & {"payload", "payloadType", "signatures"}:
            return None
        signatures = found["signatures"]
        if not isinstance(signatures, list):
            raise ValueError("signatures is no list")
        if len(signatures) > MAX_SIGNATURES:
            raise ReleaseTooLargeError(
                "size_limit", f"line {number} has {len(signatures)} signatures, {MAX_SIGNATURES} are allowed"
            )
        return Envelope(
            _text(found, "payloadType"),
            _base64(_text(found, "payload")),
            tuple(Signature(_key_id(one), _base64(_text(one, "sig"))) for one in signatures),
        )
    except (ValueError, KeyError, TypeError) as error:
        detail = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ReleaseRefusedError(
            "malformed", f"line {number} of the attestations is no DSSE envelope: {detail}"
        ) from None


def _text(found: Any, name: str) -> str:
    value = found[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is no string")
    return value


def _key_id(found: Any) -> str:
    if not isinstance(found, dict):
        raise ValueError("a signature is no object")
    value = found.get("keyid", "")
    if not isinstance(value, str):
        raise ValueError("keyid is no string")
    return value


def _base64(text: str) -> bytes:
    """Standard or URL-safe base64, one alphabet at a time, nothing else in it, canonical to the last bit."""
    url_safe = "-" in text or "_" in text
    try:
        raw = base64.b64decode(text, b"-_" if url_safe else None, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it holds something that is not base64") from None
    again = (base64.urlsafe_b64encode(raw) if url_safe else base64.b64encode(raw)).decode()
    if again != text:
        raise ValueError("its base64 is not canonical")
    return raw
