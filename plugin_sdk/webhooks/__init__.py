"""Signing and verifying webhooks: Standard Webhooks both ways, and what Stripe, GitHub and plain HMAC senders send.

Pure functions over bytes and a time that is passed in. `cryptography` is imported where an ed25519 key is used, so a
worker that uses none does not pay for it.
"""

from plugin_sdk.webhooks.errors import Reason, WebhookKeyError, WebhookMessageError, WebhookRefused, WebhookSchemeError
from plugin_sdk.webhooks.keys import Secret, new_private_key, new_secret, parse_key, public_key
from plugin_sdk.webhooks.signing import sign
from plugin_sdk.webhooks.verifying import SCHEMES, Verified, verify

__all__ = [
    "SCHEMES",
    "Reason",
    "Secret",
    "Verified",
    "WebhookKeyError",
    "WebhookMessageError",
    "WebhookRefused",
    "WebhookSchemeError",
    "new_private_key",
    "new_secret",
    "parse_key",
    "public_key",
    "sign",
    "verify",
]
