"""The sender's side of Standard Webhooks, and the content that both sides sign.

Source: Standard Webhooks 1.0.0, "Signature scheme": `id.timestamp.body`, so neither of the first two has a dot.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from plugin_sdk.webhooks.errors import WebhookKeyError, WebhookMessageError
from plugin_sdk.webhooks.keys import PublicKey, Secret, parse_key

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
MAX_SIGNATURES: Final = 16
"""Signatures of one message. Far above what a rotation needs; each may cost a verifier a pass over the body."""
MESSAGE_ID: Final = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")
"""Printable ASCII without the dot, which would let one signature stand for two different messages."""
TIMESTAMP: Final = re.compile(r"0|[1-9][0-9]{0,11}")


def sign(message_id: str, body: bytes, keys: Sequence[Secret], *, now: float) -> dict[str, str]:
    """The headers that make a message verifiable, one signature for each key, in the order of the keys.

    During a rotation give the new key and the old ones: a receiver accepts any. Sign anew at each attempt, with the
    same `message_id`, which is what a receiver knows a repetition by.

    Args:
        message_id: 1 to 256 printable ASCII characters without a dot.
        body: The body as it is sent.
        keys: Symmetric (`whsec_…`) and private (`whsk_…`) ones, 1 to 16.
        now: The time of this attempt in seconds since the epoch.

    Raises:
        WebhookKeyError: no key, too many, or one that is malformed or public.
        WebhookMessageError: an id or a time that cannot be signed.
    """
    if not MESSAGE_ID.fullmatch(message_id):
        raise WebhookMessageError("a message id has 1 to 256 printable ASCII characters and no dot")
    timestamp = str(int(now))
    if not TIMESTAMP.fullmatch(timestamp):
        raise WebhookMessageError(f"{timestamp} is no time: give seconds since the epoch")
    if not 0 < len(keys) <= MAX_SIGNATURES:
        raise WebhookKeyError(f"a message is signed with 1 to {MAX_SIGNATURES} keys, not {len(keys)}")
    content = signed_content(message_id, timestamp, body)
    signatures = []
    for written in keys:
        key = parse_key(written)
        if isinstance(key, PublicKey):
            raise WebhookKeyError("a public key only verifies: sign with the private one, whsk_…")
        signatures.append(f"{key.version},{base64.b64encode(key.signature(content)).decode('ascii')}")
    return {ID_HEADER: message_id, TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: " ".join(signatures)}


def signed_content(message_id: str, timestamp: str, body: bytes) -> bytes:
    """What the signatures of a message are over."""
    return f"{message_id}.{timestamp}.".encode("ascii") + body
