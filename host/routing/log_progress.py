"""Rows of cursors and retries: how far each subscription has got, and which deliveries are still to be made.

Functions that take a connection run in the writer's thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from host.routing.event_log import DeadLetterRecord, HeldPlace, Outcome, PendingRetry, Settlement
from host.routing.log_deliveries import MAX_REASON
from host.routing.subscriptions import home, replay_of

MAX_HISTORY: Final = 100
"""Failed attempts of one delivery that are remembered beside its retry, the first ones."""
MAX_REMEMBERED_REASON: Final = 200
"""Characters of each: a delivery that waits has up to a hundred, and a subscription up to ten thousand that wait."""

_CURSOR: Final = "SELECT position FROM cursors WHERE subscription = ?"
_NEW_CURSOR: Final = (
    "INSERT INTO cursors (subscription, position, holds) VALUES (?, ?, ?) "
    "ON CONFLICT (subscription) DO UPDATE SET holds = excluded.holds"
)
_MOVE: Final = "UPDATE cursors SET position = max(position, ?) WHERE subscription = ?"
_ADD_AHEAD: Final = "INSERT OR IGNORE INTO settled_ahead (subscription, sequence) VALUES (?, ?)"
_LEAVE_AHEAD: Final = "DELETE FROM settled_ahead WHERE subscription = ? AND sequence <= ?"
_ANY_AHEAD: Final = "SELECT 1 FROM settled_ahead WHERE subscription = ? LIMIT 1"
_BEGIN: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = excluded.attempt, due_at = excluded.due_at, error = excluded.error"
)
_RETRY: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, history) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = excluded.attempt, due_at = excluded.due_at, error = excluded.error, "
    f"history = CASE WHEN json_array_length(history) < {MAX_HISTORY} "
    "THEN json_insert(history, '$[#]', json(json_extract(excluded.history, '$[0]'))) ELSE history END"
)
_HISTORY: Final = "SELECT history FROM retries WHERE subscription = ? AND sequence = ?"
_SETTLED: Final = "DELETE FROM retries WHERE subscription = ? AND sequence = ?"
_REVIVE: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, body) VALUES (?, ?, 0, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = 0, due_at = excluded.due_at, body = excluded.body"
)
_COUNT_REPLAYED: Final = (
    "UPDATE replays SET delivered = delivered + ?, dropped = dropped + ?, dead_lettered = dead_lettered + ?, "
    "retried = retried + ? WHERE id = ?"
)
PER_SUBSCRIPTION: Final = ("cursors", "settled_ahead", "retries")
_OF_PLUGIN: Final = "SELECT subscription FROM cursors WHERE substr(subscription, 1, ?) = ?"
_HELD: Final = (
    "SELECT c.subscription, c.position, count(r.sequence) AS retries, "
    "min(c.position, coalesce(min(r.sequence) - 1, c.position)) AS lowest FROM cursors c "
    "LEFT JOIN retries r ON r.subscription = c.subscription AND r.body IS NULL "
    "WHERE substr(c.subscription, 1, ?) = ? GROUP BY c.subscription ORDER BY c.subscription"
)
_GIVE_UP_RETRIES: Final = "DELETE FROM retries WHERE subscription = ? AND body IS NULL"
_GIVE_UP_AHEAD: Final = "DELETE FROM settled_ahead WHERE subscription = ?"
_OUTCOMES: Final = (Outcome.DELIVERED, Outcome.DROPPED, Outcome.DEAD_LETTERED, Outcome.RETRIED)


def take_cursor(connection: sqlite3.Connection, subscription: str, start: int, *, holds: bool) -> int:
    """Where a subscription stands; a new one stands at `start`."""
    connection.execute(_NEW_CURSOR, (subscription, start, int(holds)))
    return int(connection.execute(_CURSOR, (subscription,)).fetchone()[0])


def begin(connection: sqlite3.Connection, attempts: Sequence[PendingRetry]) -> None:
    """Write down attempts that are about to be made, and that their events need not be read again."""
    rows = [(one.subscription, one.sequence, one.attempt, one.due_at, one.error) for one in attempts]
    connection.executemany(_BEGIN, rows)
    connection.executemany(_ADD_AHEAD, [(one.subscription, one.sequence) for one in attempts])


def histories(connection: sqlite3.Connection, given_up: Sequence[Settlement]) -> list[str]:
    """Every attempt at each of these deliveries, the last one included, as JSON; read before they are settled."""
    found = []
    for one in given_up:
        row = connection.execute(_HISTORY, (one.subscription, one.stored.sequence)).fetchone() if one.noted else None
        earlier = json.loads(row[0]) if row else []
        found.append(json.dumps([*earlier, _attempt(one)]))
    return found


def settle(connection: sqlite3.Connection, outcomes: Sequence[Settlement]) -> None:
    """Keep what is to be tried again, and remove what is decided."""
    connection.executemany(
        _SETTLED,
        [
            (one.subscription, one.stored.sequence)
            for one in outcomes
            if one.noted and one.outcome is not Outcome.RETRIED
        ],
    )
    connection.executemany(
        _RETRY,
        [
            (
                one.subscription,
                one.stored.sequence,
                one.attempt,
                one.retry_at,
                one.error[:MAX_REASON],
                json.dumps([_attempt(one)]),
            )
            for one in outcomes
            if one.outcome is Outcome.RETRIED
        ],
    )
    _count_replayed(connection, outcomes)


def _attempt(one: Settlement) -> dict[str, Any]:
    return {
        "attempt": one.attempt,
        "at": one.started_at,
        "duration": one.duration,
        "error": one.error[:MAX_REMEMBERED_REASON],
    }


def _count_replayed(connection: sqlite3.Connection, outcomes: Sequence[Settlement]) -> None:
    counts: dict[int, dict[Outcome, int]] = {}
    for one in outcomes:
        if "#" in one.subscription and (replay := replay_of(one.subscription)) is not None:
            found = counts.setdefault(replay, dict.fromkeys(_OUTCOMES, 0))
            found[one.outcome] += 1
    for replay, found in counts.items():
        connection.execute(_COUNT_REPLAYED, (*(found[outcome] for outcome in _OUTCOMES), replay))


def move(
    connection: sqlite3.Connection,
    cursors: Mapping[str, int],
    ahead: Mapping[str, Sequence[int]],
    known_ahead: set[str],
) -> None:
    """Move cursors, and note what is settled above them.

    `known_ahead` has the subscriptions that may have such rows already, and is kept up to date: to look for rows to
    remove costs as much as to move the cursor, and most subscriptions never have any.
    """
    for subscription, found in ahead.items():
        if found:
            known_ahead.add(subscription)
            connection.executemany(_ADD_AHEAD, [(subscription, sequence) for sequence in found])
    for subscription, position in cursors.items():
        connection.execute(_MOVE, (position, subscription))
        if subscription in known_ahead:
            connection.execute(_LEAVE_AHEAD, (subscription, position))
            if not connection.execute(_ANY_AHEAD, (subscription,)).fetchone():
                known_ahead.discard(subscription)


def revive(connection: sqlite3.Connection, letter: DeadLetterRecord, now: float) -> bool:
    """Have a dead letter delivered again, with its own copy of the event and no attempt counted.

    False where the delivery was waiting already: a replay may have given up on the same event.
    """
    waits = connection.execute(_HISTORY, (letter.subscription, letter.sequence)).fetchone() is not None
    row = (letter.subscription, letter.sequence, now, letter.reason, letter.body)
    connection.execute(_REVIVE, row)
    return not waits


def drop_subscription(connection: sqlite3.Connection, subscription: str) -> None:
    """Remove the cursor and the retries of a subscription."""
    for table in PER_SUBSCRIPTION:
        connection.execute(f"DELETE FROM {table} WHERE subscription = ?", (subscription,))


def retire(connection: sqlite3.Connection, plugin: str, kept: Collection[str]) -> int:
    """Remove the cursors and retries of a plugin's subscriptions and their replays, other than `kept`; how many.

    What was revived for a subscription that has no cursor waits for the plugin to come back.
    """
    prefix = plugin + "/"
    found = connection.execute(_OF_PLUGIN, (len(prefix), prefix)).fetchall()
    gone = [subscription for (subscription,) in found if home(subscription) not in kept]
    for subscription in gone:
        drop_subscription(connection, subscription)
    return len(gone)


def held(connection: sqlite3.Connection, plugin: str, head: int) -> tuple[tuple[HeldPlace, ...], int]:
    """What each subscription of a plugin did not have yet, and the lowest place of the log that one of them is at."""
    prefix = plugin + "/"
    rows = connection.execute(_HELD, (len(prefix), prefix)).fetchall()
    places = tuple(HeldPlace(row["subscription"], max(0, head - row["position"]), row["retries"]) for row in rows)
    return places, min((row["lowest"] for row in rows), default=head)


def skip(connection: sqlite3.Connection, plugin: str, head: int) -> tuple[HeldPlace, ...]:
    """Move a plugin's cursors to `head`, and remove the retries and replays that keep events."""
    found, _ = held(connection, plugin, head)
    for one in found:
        if replay_of(one.subscription) is not None:
            drop_subscription(connection, one.subscription)
            continue
        connection.execute(_MOVE, (head, one.subscription))
        connection.execute(_GIVE_UP_RETRIES, (one.subscription,))
        connection.execute(_GIVE_UP_AHEAD, (one.subscription,))
    return found


def forget(connection: sqlite3.Connection, plugin: str) -> None:
    """Remove everything that stands under a plugin's subscriptions."""
    prefix = plugin + "/"
    for table in PER_SUBSCRIPTION:
        connection.execute(f"DELETE FROM {table} WHERE substr(subscription, 1, ?) = ?", (len(prefix), prefix))
