"""What signing and verifying raise: one refusal for whoever sent a webhook, and errors for whoever set it up."""

from __future__ import annotations

from typing import Literal

from plugin_sdk.errors import PluginError

Reason = Literal[
    "header_missing",
    "id_malformed",
    "timestamp_malformed",
    "timestamp_too_old",
    "timestamp_too_new",
    "signature_malformed",
    "signature_mismatch",
]
"""Why a webhook is refused. For logs and metrics; its sender learns none of it."""


class WebhookRefused(PluginError):
    """A webhook that is not authentic, or not provably so.

    The message is the same whatever was wrong, so that answering with it helps nobody to forge one. `reason` says
    what it was.
    """

    code = "webhook_refused"

    def __init__(self, reason: Reason) -> None:
        super().__init__(
            "this webhook is not accepted: send the body as it was signed, with every header of the scheme, "
            "the current time and the endpoint's secret"
        )
        self.reason: Reason = reason


class WebhookKeyError(PluginError):
    """A key that is empty, malformed, or of the wrong kind for what it is to do; the sentence never shows it."""

    code = "webhook_key_invalid"


class WebhookSchemeError(PluginError):
    """A scheme of signing that is not among `SCHEMES`."""

    code = "webhook_scheme_unknown"


class WebhookMessageError(PluginError):
    """A message that cannot be signed: its id or its time has no place in the signed content."""

    code = "webhook_message_invalid"
