"""A message: one event on its way to one endpoint, with the attempts made so far, and the body that is sent."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from plugin_sdk import Event

MAX_EVENT_BYTES: Final = 200 * 1024
"""Of an event as JSON. A message with all its attempts has to fit into one value of the kv, 256 KiB."""
MAX_ATTEMPTS_KEPT: Final = 10
OWN: Final = "webhooks."
"""What the types of the plugin's own events begin with."""

Format = Literal["cloudevents", "standard"]
Outcome = Literal["delivered", "status", "timeout", "unreachable", "not_allowed"]
_encode: Final = msgspec.json.Encoder().encode


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `at` is in seconds since the epoch, `duration` in seconds.

    `outcome` is `delivered`, `status` (not 2xx), `timeout`, `unreachable` or `not_allowed`; `reason` says more.
    `body` is the beginning of the answer.
    """

    at: float
    duration: float
    outcome: Outcome
    status: int | None = None
    reason: str = ""
    body: str = ""
    retry_after: float | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint. Times are in seconds since the epoch.

    `event` has the event's attributes by their JSON names; a message that was delivered keeps none.
    """

    id: str
    endpoint: str
    type: str
    event: dict[str, Any] | None
    created: float
    due: float
    failures: int = 0
    attempts: tuple[Attempt, ...] = ()

    @property
    def about_webhooks(self) -> bool:
        """Whether the event is one of the plugin's own; nothing more is told about such a message."""
        return self.type.startswith(OWN)

    def tried(self, attempt: Attempt) -> Message:
        """The message after one more attempt."""
        failures = self.failures if attempt.outcome == "delivered" else self.failures + 1
        kept = (*self.attempts, attempt)[-MAX_ATTEMPTS_KEPT:]
        return msgspec.structs.replace(self, attempts=kept, failures=failures)


def new_message(event: Event, endpoint: str, now: float) -> Message:
    """The message of an event to an endpoint, due now; the same event always makes the same id."""
    return Message(
        id=message_id(event, endpoint),
        endpoint=endpoint,
        type=event.type,
        event=event.attributes(),
        created=now,
        due=now,
    )


def message_id(event: Event, endpoint: str) -> str:
    """What a receiver knows a repetition by: made from the event's identity and the endpoint's."""
    return f"msg_{hashlib.sha256(_encode([event.source, event.id, endpoint])).hexdigest()[:32]}"


def rendered(message: Message, form: Format) -> tuple[bytes, str]:
    """The body that is sent for a message, and its content type.

    `cloudevents` is the event's JSON format; `standard` the payload that Standard Webhooks recommends, with `type`,
    `timestamp` and `data` alone.
    """
    event = message.event or {}
    if form == "cloudevents":
        return _encode(event), "application/cloudevents+json; charset=utf-8"
    payload = {"type": message.type, "timestamp": event.get("time") or instant(message.created)}
    payload |= {name: event[name] for name in ("data", "data_base64") if name in event}
    return _encode(payload), "application/json"


def instant(seconds: float | None) -> str | None:
    """A time as the API writes it: RFC 3339, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
