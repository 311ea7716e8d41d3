"""What goes wrong on the path of an event."""

from __future__ import annotations

from collections.abc import Sequence

from host.errors import BusbarError, ErrorKind


class RoutingError(BusbarError):
    """Base of the errors of this folder."""

    code = "routing_error"


class EventRefusedError(RoutingError):
    """The bus does not take this event."""

    code = "event_refused"
    kind = ErrorKind.INVALID

    @classmethod
    def reserved(cls, event_type: str) -> EventRefusedError:
        """Its type is one that only the host publishes."""
        return _Reserved(f"'{event_type}' is a type of the host's own: choose one that does not start with 'busbar.'")

    @classmethod
    def too_large(cls, size: int, limit: int) -> EventRefusedError:
        """It has more bytes than an event may have."""
        return _TooLarge(f"the event has {size} bytes and may have {limit}: send a reference to large data instead")

    @classmethod
    def stopping(cls) -> EventRefusedError:
        """The host is about to end."""
        return _Stopping("the host is stopping and takes no events: try again shortly", retry_after=5.0)


class _Reserved(EventRefusedError):
    code = "event_type_reserved"
    kind = ErrorKind.FORBIDDEN


class _TooLarge(EventRefusedError):
    code = "event_too_large"
    kind = ErrorKind.TOO_LARGE


class _Stopping(EventRefusedError):
    code = "host_stopping"
    kind = ErrorKind.UNAVAILABLE


class EventConflictError(RoutingError):
    """The log holds another event under the same source and id."""

    code = "event_conflict"
    kind = ErrorKind.CONFLICT

    def __init__(self, source: str, event_id: str) -> None:
        super().__init__(
            f"another event has source '{source}' and id '{event_id}' already: an id names one event for ever, "
            "so give this one a new id"
        )


class BreakerOpenError(RoutingError):
    """The plugin's breaker lets nothing through now."""

    code = "breaker_open"
    kind = ErrorKind.UNAVAILABLE


class BulkheadFullError(RoutingError):
    """The plugin has as many calls in flight as it may have."""

    code = "bulkhead_full"
    kind = ErrorKind.BUSY


class HookTimeoutError(RoutingError):
    """A hook did not end within its time."""

    code = "hook_timeout"
    kind = ErrorKind.TIMEOUT


class NoSuchDeliveryError(RoutingError):
    """No delivery of that id is running."""

    code = "no_such_delivery"
    kind = ErrorKind.NOT_FOUND


class ReplayNotFoundError(RoutingError):
    """No replay of that id."""

    code = "replay_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, replay: object) -> None:
        super().__init__(f"replay {replay} not found: GET /api/v1/replays lists them")


class LogFullError(RoutingError):
    """The event log has no room for another event."""

    code = "log_full"
    kind = ErrorKind.UNAVAILABLE


class LogShareFullError(RoutingError):
    """The events of one plugin fill its share of the log, and some subscription did not have them yet."""

    code = "log_share_full"
    kind = ErrorKind.UNAVAILABLE

    def __init__(self, plugin: str, share: int, held_by: Sequence[str], *, retry_after: float) -> None:
        held = f": {', '.join(held_by)} did not have the oldest events yet" if held_by else ""
        super().__init__(
            f"the events of {plugin} fill its share of the event log, {share} bytes{held}; publish less, or"
            f"{give_up(held_by)} raise events.plugin_share",
            retry_after=retry_after,
        )


def give_up(held_by: Sequence[str]) -> str:
    """What a person can do about subscriptions that hold the log, in words that go before another way out."""
    plugins = dict.fromkeys(subscription.partition("/")[0] for subscription in held_by)
    commands = " or ".join(f"'busbar plugin skip {plugin}'" for plugin in plugins)
    return f" give up what is held with {commands}, or" if commands else ""


class PublishRateError(RoutingError):
    """Events come faster than the operator allows."""

    code = "rate_limited"
    kind = ErrorKind.BUSY


class TooManyReplaysError(RoutingError):
    """As many replays of a plugin run as may."""

    code = "too_many_replays"
    kind = ErrorKind.CONFLICT

    def __init__(self, plugin: str, limit: int) -> None:
        super().__init__(
            f"{limit} replays of {plugin} run already: wait for one, or cancel it with DELETE /api/v1/replays/{{id}}"
        )
