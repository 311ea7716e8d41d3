"""The hook calls as values: what the host hands to a runtime, in the host's process or across the wire.

They are msgspec structs so that a worker decodes exactly one known shape.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from plugin_sdk.errors import DeadLetter
from plugin_sdk.events import Event

SCHEDULES: Final = "@schedules"
"""Name of the one subscription through which all firings of a plugin arrive; no author can choose it."""


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One handing of one event to one subscription.

    `id` is the same at every attempt, so it serves as an idempotency key; `attempt` starts at 1.
    `traceparent` is the W3C trace context that the plugin's own calls should carry on, or empty. `event` is the id
    of the event, `correlation` that of the first event it came from, and `hops` through how many plugins it came.
    `replay` says that an administrator has the event delivered again, and `unfiltered` that the host left it to the
    worker to look whether the subscription's filters match.
    """

    id: str
    subscription: str
    attempt: int
    sequence: int
    traceparent: str = ""
    event: str = ""
    correlation: str = ""
    hops: int = 0
    replay: bool = False
    unfiltered: bool = False


class Firing(msgspec.Struct, frozen=True, array_like=True):
    """One time that a schedule came due: its name, the instant it was due (RFC 3339) and the firing's id."""

    schedule: str
    due: str
    id: str


class EventCall(msgspec.Struct, frozen=True, array_like=True, tag="on_event"):
    """Deliver an event, which the host checked when it took it into the log."""

    event: Event
    delivery: Delivery


class FiringCall(msgspec.Struct, frozen=True, array_like=True, tag="on_schedule"):
    """Deliver a firing."""

    firing: Firing
    delivery: Delivery


class Flight(msgspec.Struct, frozen=True, array_like=True):
    """Deliveries of one subscription that go to a plugin together, and are answered one by one.

    `home` is the id that the subscription's deliveries begin with, `replay` and `unfiltered` are as in `Delivery`.
    """

    home: str
    subscription: str
    replay: bool
    unfiltered: bool


def delivery_call(flight: Flight, sequence: int, attempt: int, event: Event | bytes) -> EventCall | FiringCall:
    """The hook call that hands over one event of a flight, which may still be JSON.

    Raises:
        DeadLetter: no call can be made of it, at whatever attempt.
    """
    try:
        return _delivery_call(flight, sequence, attempt, event if isinstance(event, Event) else Event.trusted(event))
    except Exception as error:  # noqa: BLE001 - said in the dead letter; the events behind it go on
        raise DeadLetter(f"no call can be made of this event: {type(error).__name__}: {error}") from None


def _delivery_call(flight: Flight, sequence: int, attempt: int, event: Event) -> EventCall | FiringCall:
    home, subscription, replay, unfiltered = flight.home, flight.subscription, flight.replay, flight.unfiltered
    extensions = event.extensions
    trace = correlation = ""
    hops = 0
    if extensions:
        trace, correlation = str(extensions.get("traceparent", "")), str(extensions.get("correlationid", ""))
        hops = event.hops
    delivery = Delivery(
        f"{home}/{sequence}",
        subscription,
        attempt,
        sequence,
        trace,
        event.id,
        correlation,
        hops,
        replay,
        unfiltered,
    )
    if subscription != SCHEDULES:
        return EventCall(event, delivery)
    return FiringCall(Firing(str(event.subject), event.data["due"], event.id), delivery)


class ServiceCall(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """Call a service of the plugin; `caller` is a plugin's id or `api`.

    `chain` has the plugins that the call came through, the first caller first; `seconds` is how long the caller
    waits, 0 for as long as the callee's own limit.
    """

    method: str
    arguments: dict[str, Any]
    caller: str = "api"
    traceparent: str = ""
    chain: tuple[str, ...] = ()
    seconds: float = 0.0


class Request(msgspec.Struct, frozen=True, array_like=True, tag="handle_request"):
    """HTTP under the plugin's own routes: `path` below the plugin's prefix, header names in lower case."""

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: bytes = b""


class Response(msgspec.Struct, frozen=True, array_like=True):
    """The plugin's HTTP answer."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""


class HealthCall(msgspec.Struct, frozen=True, array_like=True, tag="check_health"):
    """Ask the plugin how it is."""


class Health(msgspec.Struct, frozen=True, array_like=True):
    """How the plugin is: `status` is `pass`, `warn` or `fail`; `reason` says why when it is not `pass`."""

    status: str = "pass"
    reason: str = ""

    def __post_init__(self) -> None:
        if self.status not in {"pass", "warn", "fail"}:
            raise ValueError(f"a health status is pass, warn or fail, not {self.status!r}")


class ConfigCall(msgspec.Struct, frozen=True, array_like=True, tag="config_changed"):
    """Hand new config, already validated by the plugin's own model, to the running plugin."""

    config: dict[str, Any]
    secrets: dict[str, str] = {}


class StopCall(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    """Run the plugin's `stop` hook; nothing is called after it."""


HookCall = EventCall | FiringCall | ServiceCall | Request | HealthCall | ConfigCall | StopCall
HOOK_OF: dict[type, str] = {
    EventCall: "on_event",
    FiringCall: "on_schedule",
    ServiceCall: "call",
    Request: "handle_request",
    HealthCall: "check_health",
    ConfigCall: "config_changed",
    StopCall: "stop",
}
"""The hook that each call enters, for logs and metrics."""
