"""What goes wrong between an event and the log."""

from __future__ import annotations

from host.errors import BusbarError, ErrorKind


class EventConflictError(BusbarError):
    """The log holds another event under the same source and id."""

    code = "event_conflict"
    kind = ErrorKind.CONFLICT

    def __init__(self, source: str, event_id: str) -> None:
        super().__init__(
            f"another event has source '{source}' and id '{event_id}' already: an id names one event for ever, "
            "so give this one a new id"
        )
