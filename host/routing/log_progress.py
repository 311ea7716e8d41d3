"""Cursors and retries: how outcomes become their rows, and what administrators do with those.

Outcomes are written by the log's writer. Functions that take a connection run in the thread of the other one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from host.routing.event_log import DeadLetterRecord, HeldPlace, Outcome, Settlement
from host.routing.log_deliveries import MAX_REASON, entry_of, letter_of, line_of
from host.routing.subscriptions import home, replay_of
from host.storage.log_writer.frames import Letter, Retried, Settled

_MOVE: Final = "UPDATE cursors SET position = max(position, ?) WHERE subscription = ?"
_WAITS: Final = "SELECT 1 FROM retries WHERE subscription = ? AND sequence = ?"
_REVIVE: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, body) VALUES (?, ?, 0, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = 0, due_at = excluded.due_at, body = excluded.body"
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


def settled(
    outcomes: Sequence[Settlement], cursors: Mapping[str, int], ahead: Mapping[str, Sequence[int]], now: float
) -> Settled:
    """Outcomes and cursors as the log's writer gets them. `now` is in seconds since the epoch."""
    lines: list[str | int | float] = []
    decided: list[tuple[str, int]] = []
    retried: list[Retried] = []
    letters: list[Letter] = []
    for one in outcomes:
        lines += line_of(one)
        if one.outcome is Outcome.RETRIED:
            retried.append(_retried(one))
        elif one.noted:
            decided.append((one.subscription, one.stored.sequence))
        if one.outcome is Outcome.DEAD_LETTERED:
            letters.append(letter_of(one, now))
    above = {subscription: list(found) for subscription, found in ahead.items() if found}
    return Settled(lines, dict(cursors), above, decided, retried, letters, _replayed(outcomes))


def _retried(one: Settlement) -> Retried:
    reason = one.error[:MAX_REASON]
    return Retried(one.subscription, one.stored.sequence, one.attempt, one.retry_at, reason, entry_of(one))


def _replayed(outcomes: Sequence[Settlement]) -> list[tuple[int, int, int, int, int]]:
    """How each replay went."""
    counts: dict[int, dict[Outcome, int]] = {}
    for one in outcomes:
        if "#" in one.subscription and (replay := replay_of(one.subscription)) is not None:
            found = counts.setdefault(replay, dict.fromkeys(Outcome, 0))
            found[one.outcome] += 1
    return [
        (
            replay,
            found[Outcome.DELIVERED],
            found[Outcome.DROPPED],
            found[Outcome.DEAD_LETTERED],
            found[Outcome.RETRIED],
        )
        for replay, found in counts.items()
    ]


def revive(connection: sqlite3.Connection, letter: DeadLetterRecord, now: float) -> bool:
    """Have a dead letter delivered again, with its own copy of the event and no attempt counted.

    False where the delivery was waiting already: a replay may have given up on the same event.
    """
    waits = connection.execute(_WAITS, (letter.subscription, letter.sequence)).fetchone() is not None
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
