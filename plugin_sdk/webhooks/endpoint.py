"""An inbound webhook as a plugin describes it: who may send, and how the host tells."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import msgspec

from plugin_sdk.errors import DescriptionError
from plugin_sdk.events import ATTRIBUTES
from plugin_sdk.webhooks.verifying import SCHEMES

OWN: Final = "plugin"
"""The scheme of a webhook that the plugin verifies itself, in its hook `handle_request`."""
MESSAGE_ID: Final = "webhook-id"
"""Header of the plugin's answer by which it says that a request is authentic: the id of the message."""
MAX_TOLERANCE: Final = 3600
MAX_RATE: Final = 10_000.0
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_HEADER: Final = re.compile(r"[a-z0-9-]{1,64}")


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /hooks/{plugin}/{name}` takes: an authentic request is an event in the log before it is answered.

    The event has the type `webhook.{plugin}.{name}`, the source `/hooks/{plugin}/{name}`, the message's id, and the
    body as its data.

    Args:
        name: Its name; the manifest must list it under `permissions.webhooks`.
        scheme: `standard-webhooks`, `stripe`, `github`, `hmac-sha256`, or `plugin`: then `handle_request` gets the
            request with the path `/hooks/{name}`, and what it answers is the answer. With a status below 300 and a
            header `webhook-id`, the request is taken into the log first.
        secrets: Names of the plugin's secrets; any one that is set may have signed it, so that one can replace another.
        header: Of `hmac-sha256`: where the signature is.
        id_header: Of `hmac-sha256`: where the id of the message is.
        headers: Request headers that the event carries, each as an extension named by its letters and digits.
        tolerance: Seconds that a signed time may be off.
        addresses: Networks (CIDR) from which requests may come; empty for all.
        rate: Requests a second that are looked at.
    """

    name: str
    scheme: str
    secrets: tuple[str, ...] = ()
    header: str = "x-signature"
    id_header: str | None = None
    headers: tuple[str, ...] = ()
    tolerance: float = 300.0
    addresses: tuple[str, ...] = ()
    rate: float = 100.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            DescriptionError: the sentence says what, and how to mend it.
        """
        where = f"webhook '{self.name}'"
        if not _NAME.fullmatch(self.name):
            raise DescriptionError(f"'{self.name}' is no name for a webhook: write lower-case letters, digits, _ and -")
        if self.scheme not in {*SCHEMES, OWN}:
            raise DescriptionError(f"{where}: scheme must be one of {', '.join([*SCHEMES, OWN])}, not '{self.scheme}'")
        if bool(self.secrets) == (self.scheme == OWN):
            needs = "takes no secrets here: read them from the context" if self.scheme == OWN else "needs a secret"
            raise DescriptionError(f"{where}: the scheme '{self.scheme}' {needs}")
        for header in (self.header, *self.headers, *([self.id_header] if self.id_header else [])):
            if not _HEADER.fullmatch(header):
                raise DescriptionError(f"{where}: '{header}' is no header: write it in lower case")
        for header in self.headers:
            if extension_of(header) in ATTRIBUTES:
                raise DescriptionError(f"{where}: an event has an attribute '{extension_of(header)}' of its own")
        if not 0 < self.tolerance <= MAX_TOLERANCE or not 0 < self.rate <= MAX_RATE:
            raise DescriptionError(f"{where}: tolerance is up to {MAX_TOLERANCE} s, rate up to {MAX_RATE:g} a second")
        for network in self.addresses:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise DescriptionError(f"{where}: '{network}' is no network ({error}): write 192.0.2.0/24") from None


def extension_of(header: str) -> str:
    """The extension under which an event carries a request header."""
    return header.replace("-", "")
