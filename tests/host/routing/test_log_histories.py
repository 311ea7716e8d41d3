"""The history of a delivery: every attempt, gathered beside the retry, taken along by the dead letter."""

import json

import pytest
from delivery_rig import event

from host.routing.event_log import LetterQuery, Outcome, PendingRetry, Settlement
from host.routing.log_deliveries import MAX_REMEMBERED_REASON
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.log_writer.settling import MAX_HISTORY
from plugin_sdk.testing import FakeClock


@pytest.fixture
async def log(tmp_path):
    database = await Database.open(tmp_path / "busbar.db")
    opened = await SQLiteLog.open(database, FakeClock())
    one = event(1)
    await opened.append(one, one.to_json())
    yield opened
    await database.close()


async def outcome(log, attempt, kind=Outcome.RETRIED, *, subscription="p/s", error=None, noted=None):
    """Settle one attempt, each made a second after the other."""
    (stored,) = await log.read(0, 1)
    settlement = Settlement(
        subscription,
        "p",
        stored,
        attempt,
        kind,
        100.0 + attempt,
        0.5,
        f"error {attempt}" if error is None else error,
        retry_at=1.0 if kind is Outcome.RETRIED else None,
        noted=attempt > 1 if noted is None else noted,
    )
    await log.settle([settlement], {}, {})


async def history(log, subscription="p/s"):
    letters, _ = await log.dead_letters(LetterQuery(subscription=subscription), 0, 9)
    return json.loads(letters[0].history)


async def test_a_dead_letter_has_every_attempt_the_last_one_included(log):
    await outcome(log, 1)
    await outcome(log, 2)
    await outcome(log, 3, Outcome.DEAD_LETTERED)
    assert await history(log) == [
        {"attempt": attempt, "at": 100.0 + attempt, "duration": 0.5, "error": f"error {attempt}"}
        for attempt in (1, 2, 3)
    ]


async def test_a_delivery_that_is_given_up_at_once_has_one_attempt(log):
    await outcome(log, 1, Outcome.DEAD_LETTERED)
    assert [one["attempt"] for one in await history(log)] == [1]


async def test_histories_of_two_subscriptions_do_not_mix(log):
    await outcome(log, 1, error="of s")
    await outcome(log, 1, subscription="p/t", error="of t")
    await outcome(log, 2, Outcome.DEAD_LETTERED, error="end")
    await outcome(log, 2, Outcome.DEAD_LETTERED, subscription="p/t", error="end")
    assert [one["error"] for one in await history(log)] == ["of s", "end"]
    assert [one["error"] for one in await history(log, "p/t")] == ["of t", "end"]


async def test_a_delivered_one_leaves_no_history_to_a_later_failure(log):
    await outcome(log, 1)
    await outcome(log, 2, Outcome.DELIVERED)
    await outcome(log, 1, Outcome.DEAD_LETTERED, error="anew", noted=True)
    assert [one["error"] for one in await history(log)] == ["anew"]


async def test_an_attempt_that_is_written_down_before_its_call_keeps_the_history(log):
    await outcome(log, 1)
    await log.begin([PendingRetry("p/s", 1, 2, 5.0, "started")])
    await outcome(log, 2, Outcome.DEAD_LETTERED)
    assert [one["error"] for one in await history(log)] == ["error 1", "error 2"]


async def test_of_very_many_attempts_the_first_ones_and_the_last_are_kept(log):
    for attempt in range(1, MAX_HISTORY + 6):
        await outcome(log, attempt)
    await outcome(log, 999, Outcome.DEAD_LETTERED)
    assert [one["attempt"] for one in await history(log)] == [*range(1, MAX_HISTORY + 1), 999]


async def test_long_reasons_are_cut(log):
    await outcome(log, 1, error="x" * 10_000)
    await outcome(log, 2, Outcome.DEAD_LETTERED, error="y" * 10_000)
    assert [len(one["error"]) for one in await history(log)] == [MAX_REMEMBERED_REASON] * 2


@pytest.mark.parametrize(
    "error", ['"', "'; DROP TABLE retries; --", "\\", "$[#]", "\n\t\x00", "\U0001f600 ü", "[]", ""]
)
async def test_a_reason_is_kept_whatever_it_holds(log, error):
    await outcome(log, 1, error=error)
    await outcome(log, 2, error=error)
    await outcome(log, 3, Outcome.DEAD_LETTERED, error=error)
    assert [one["error"] for one in await history(log)] == [error] * 3


async def test_a_revived_delivery_begins_anew_and_the_replays_letter_is_of_the_subscription(log):
    await outcome(log, 1, subscription="p/s#4")
    await outcome(log, 2, Outcome.DEAD_LETTERED, subscription="p/s#4")
    letters, _ = await log.dead_letters(LetterQuery(), 0, 9)
    assert letters[0].subscription == "p/s"
    assert [one["attempt"] for one in json.loads(letters[0].history)] == [1, 2]
    await log.revive([letters[0].id])
    await outcome(log, 1, Outcome.DEAD_LETTERED, error="anew", noted=True)
    assert [one["error"] for one in await history(log)] == ["anew"]
