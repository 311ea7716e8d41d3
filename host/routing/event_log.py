"""The event log as everything above it sees it: one narrow protocol and the values that pass through it.

Engines implement `EventLog` and pass one contract test suite. `SQLiteLog` is the embedded one. What is made for
every event is a msgspec struct: it costs a tenth of a frozen dataclass to make.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from plugin_sdk.events import Event


class Outcome(Enum):
    """What became of one attempt."""

    DELIVERED = "delivered"
    RETRIED = "retried"
    DROPPED = "dropped"
    DEAD_LETTERED = "dead-lettered"


# One of each is made for every event; a frozen dataclass takes seven times as long to make.
class StoredEvent(msgspec.Struct, frozen=True):
    """An event in the log. `body` is its CloudEvents JSON; `appended_at` is in seconds since the epoch."""

    sequence: int
    event: Event
    body: bytes
    appended_at: float


class Appended(msgspec.Struct, frozen=True):
    """Where an event stands in the log; a duplicate stands where the first one does."""

    sequence: int
    duplicate: bool


class Settlement(msgspec.Struct, frozen=True):
    """The outcome of one attempt. Times are seconds since the epoch, `duration` seconds.

    `noted` says that the delivery has a row in the retry table, which this outcome replaces or removes.
    """

    subscription: str
    plugin: str
    stored: StoredEvent
    attempt: int
    outcome: Outcome
    started_at: float
    duration: float
    error: str = ""
    traceback: str = ""
    retry_at: float | None = None
    noted: bool = False


@dataclass(frozen=True, slots=True)
class PendingRetry:
    """A delivery that stepped aside after `attempt` attempts and is due again at `due_at`."""

    subscription: str
    sequence: int
    attempt: int
    due_at: float
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A delivery that was given up on, with its own copy of the event."""

    id: int
    plugin: str
    subscription: str
    sequence: int
    event_id: str
    event_type: str
    body: bytes
    reason: str
    traceback: str
    attempts: int
    at: float
    history: str
    """Every attempt as a JSON array of objects `attempt`, `at` (seconds since the epoch), `duration`, `error`."""


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One line of the attempt log."""

    subscription: str
    sequence: int
    event_id: str
    attempt: int
    outcome: Outcome
    started_at: float
    duration: float
    error: str


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events an auditor wants: `type` may hold `*`; `since` is included, `until` is not."""

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class LetterQuery:
    """Which dead letters: `type` may hold `*`; `since` is included, `until` is not; `below` is an id."""

    plugin: str | None = None
    subscription: str | None = None
    type: str | None = None
    since: float | None = None
    until: float | None = None
    letter: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Which lines of the attempt log."""

    outcome: Outcome | None = None
    event_id: str | None = None
    subscription: str | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning removed, and which subscriptions kept it from removing more.

    `skipped` has the subscriptions that do without what is too old, and how many places of the log, and deliveries
    to be tried again, each of them has lost by it.
    """

    events: int
    held_by: tuple[str, ...]
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """What one subscription did not have: `places` of the log, matching or not, and deliveries to be tried again."""

    subscription: str
    places: int
    retries: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the subscriptions of a plugin did not have yet: events of the log and their bytes, and each by itself."""

    events: int
    bytes: int
    subscriptions: tuple[HeldPlace, ...]


@dataclass(frozen=True, slots=True)
class LogStats:
    """Sizes of the log, for metrics and health.

    `events` counts places in the log: duplicates that were refused may have left some empty. `bytes` is
    what the database holds in all.
    """

    events: int
    bytes: int
    head: int
    oldest_at: float | None
    retries: int
    dead_letters: int


class EventLog(Protocol):
    """A durable, ordered record of events with cursors, retries and dead letters."""

    def head(self) -> int:
        """The highest sequence that is durable."""
        ...

    def listen(self, committed: Callable[[int, Sequence[StoredEvent]], None]) -> None:
        """Call `committed` on the loop with the new events of each commit, in order, before it is answered.

        Before them it gets the head that the commit followed: who has been told of another has missed something.
        """
        ...

    def append(self, event: Event, body: bytes) -> Awaitable[Appended]:
        """Append an event; durable once what it answers is awaited. `body` is its JSON.

        The same event again is answered with its first place and dispatched once.

        Raises:
            EventConflictError: another event stands under the same source and id.
            StorageBusyError: too much waits already; nothing was kept.
            StorageFailedError: the disk refused it; nothing was kept.
        """
        ...

    async def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The events above `after`, in order: at most `limit`, and of large ones some 1 MiB, but always one.

        Empty only where there is none.
        """
        ...

    async def query(self, query: EventQuery, offset: int, limit: int) -> tuple[list[StoredEvent], int]:
        """A page of matching events, the newest first, and how many match; an engine may stop counting.

        Where a page would be large, the last of its events come without payload and body.
        """
        ...

    async def find(self, event_id: str) -> list[StoredEvent]:
        """The events with this id, one for each source that used it."""
        ...

    async def cursor(self, subscription: str, *, start: int, holds: bool = True) -> int:
        """Where a subscription stands; a new one is made to stand at `start`.

        `holds` says whether events above it stay in the log until it has passed them.
        """
        ...

    async def ahead(self, subscription: str) -> set[int]:
        """What is settled above the cursor."""
        ...

    async def settle(
        self, outcomes: Sequence[Settlement], cursors: Mapping[str, int], ahead: Mapping[str, Sequence[int]]
    ) -> None:
        """Write outcomes, cursors, and what was settled above them, in one transaction."""
        ...

    async def begin(self, attempts: Sequence[PendingRetry]) -> None:
        """Write down attempts that are about to be made: a reader who starts anew finds them among the retries."""
        ...

    async def waiting_retries(self, subscription: str) -> int:
        """How many deliveries wait for their next attempt."""
        ...

    async def shift_retries(self, seconds: float) -> None:
        """Move every due time by `seconds`: the clock that they were read from was set."""
        ...

    async def waiting_events(self, subscription: str, after: int, limit: int) -> list[StoredEvent]:
        """Events above `after` whose delivery failed and is to be made again, in order; not those of dead letters.

        Bounds as of `read`.
        """
        ...

    async def due(
        self, subscription: str, now: float, limit: int, besides: Collection[int] = ()
    ) -> list[tuple[PendingRetry, StoredEvent]]:
        """Retries due at `now` besides those of some sequences, the longest due first; bounds as of `read`."""
        ...

    async def next_due(self, subscription: str, *, after: float) -> float | None:
        """When the next retry after the instant `after` comes due."""
        ...

    def kept_letters(self, plugin: str) -> int:
        """How many dead letters of a plugin are kept."""
        ...

    def letter_bytes(self, plugin: str) -> int:
        """What the dead letters of a plugin weigh that are kept: event, reason, traceback and history."""
        ...

    async def dead_letters(self, query: LetterQuery, offset: int, limit: int) -> tuple[list[DeadLetterRecord], int]:
        """A page of dead letters, the newest first, and how many fit."""
        ...

    async def revive(self, letters: Collection[int]) -> tuple[list[DeadLetterRecord], Mapping[str, int]]:
        """Move dead letters back to be delivered, with no attempt counted; those that there were.

        Beside them, by subscription, how many more deliveries wait now: two letters of one delivery are one.
        """
        ...

    async def discard(self, letters: Collection[int]) -> list[DeadLetterRecord]:
        """Remove dead letters for good; those that there were."""
        ...

    async def deliveries(
        self, plugin: str, query: DeliveryQuery, offset: int, limit: int
    ) -> tuple[list[DeliveryRecord], int]:
        """A page of the attempt log of a plugin, the newest first, and how many lines fit."""
        ...

    async def forget(self, plugin: str) -> None:
        """Drop a plugin's cursors, retries, dead letters and attempt log."""
        ...

    async def held(self, plugin: str) -> Held:
        """What the log keeps for a plugin: everything from the lowest place on that a subscription or replay is at."""
        ...

    async def skip(self, plugin: str) -> tuple[HeldPlace, ...]:
        """Move the cursors of a plugin's subscriptions to the end of the log; what each of them did not have.

        Its retries and replays go, too. Retries that have their own copy of the event stay: they keep nothing.
        """
        ...

    async def release(self, subscription: str) -> None:
        """Drop the cursor and the retries of one subscription."""
        ...

    async def plugins(self) -> set[str]:
        """The plugins that have something here: a cursor, a retry, a dead letter, an attempt or a replay."""
        ...

    async def retire(self, plugin: str, kept: Collection[str]) -> int:
        """Drop the cursors and retries of a plugin's subscriptions other than `kept` (ids); how many subscriptions.

        For a release that no longer has them: a cursor that nobody moves keeps the log from being pruned.
        """
        ...

    async def prune(self, older_than: float, max_bytes: int) -> Pruned:
        """Remove events that are too old or beyond the budget, and that no subscription still needs."""
        ...

    def plugin_bytes(self, plugin: str) -> int:
        """What the events of a plugin take of the log: those that it emitted, and those that its webhooks brought."""
        ...

    async def prune_plugin(self, plugin: str, max_bytes: int) -> Pruned:
        """Remove a plugin's own oldest events that no subscription still needs, until they take `max_bytes`.

        Events of others stay, however old they are. `held_by` names who is the furthest behind where too many stay.
        """
        ...

    async def used_bytes(self) -> int:
        """Bytes that the log and what belongs to it hold on the disk."""
        ...

    async def stats(self) -> LogStats:
        """How large the log is."""
        ...
