"""What goes wrong with requests from outside services."""

from __future__ import annotations

from typing import ClassVar

from host.errors import BusbarError, ErrorKind


class IngressError(BusbarError):
    """Base of the errors of this folder."""

    code: ClassVar[str] = "ingress_error"
    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class WebhookRefusedError(IngressError):
    """A webhook that is not taken; the sentence does not say why, and the status is always the same."""

    code = "webhook_refused"
    kind = ErrorKind.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("this webhook is not accepted: check its address, its secret and the sender's clock")


class WebhookBusyError(IngressError):
    """Webhooks come faster than they are looked at, or nobody is there to look."""

    code = "webhook_busy"
    kind = ErrorKind.BUSY
