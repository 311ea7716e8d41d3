"""The scheduler as the rest of the host sees it: plugins come and go, people pause and run, crashes and crowds."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from structlog.testing import capture_logs

from host.scheduling.dispatcher import BATCH
from host.scheduling.errors import ScheduleNotFoundError, ScheduleRuleError
from host.scheduling.firing_store import KEPT_FIRINGS
from host.storage.connection import connect as _connect
from host.storage.database import Database
from host.storage.errors import RowRefusedError, StorageFailedError
from plugin_sdk.events import new_event
from plugin_sdk.schedule import Schedule

HOUR = 3600


async def corrupt(world, schedule, rule):
    """Put another rule into the store, as an older host or a lost zone would leave it."""
    text = rule if isinstance(rule, str) else msgspec.json.encode(rule).decode()
    await world.database.write(
        lambda connection: connection.execute("UPDATE schedules SET rule = ? WHERE id = ?", (text, schedule))
    )


# -- firing


async def test_a_firing_is_an_event_of_the_log_with_the_instant_in_its_id(world, every):
    await world.adopt(every(60))
    await world.pass_(60.25)
    (event,) = world.events
    assert event.id == "clock/tick/2026-01-05T12:01:00.000Z"
    assert (event.type, event.source, event.subject) == ("busbar.schedule.due", "/busbar/schedules/clock", "tick")
    assert event.data == {"plugin": "clock", "schedule": "tick", "due": "2026-01-05T12:01:00.000Z"}
    (row,) = await world.runs()
    assert (row.outcome, row.event_id, row.lateness, row.by_hand) == ("fired", event.id, 0.25, False)


async def test_looking_again_fires_nothing_twice(world, every):
    await world.adopt(every(60))
    await world.pass_(60)
    await asyncio.gather(*(world.look() for _ in range(5)))
    assert world.due() == ["12:01:00"]


async def test_a_transaction_that_is_rolled_back_leaves_the_firing_due(world, every):
    await world.adopt(every(60))
    world.clock.advance(60)
    await world.database.write(
        lambda connection: (
            connection.execute(
                "CREATE TRIGGER dies BEFORE INSERT ON firings BEGIN SELECT raise(ABORT, 'the host dies here'); END"
            ).rowcount
        )
    )
    with pytest.raises(RowRefusedError, match="the host dies here"):
        await world.look()
    assert (world.due(), await world.runs()) == ([], [])
    await world.database.write(lambda connection: connection.execute("DROP TRIGGER dies").rowcount)
    await world.look()
    assert world.due() == ["12:01:00"]
    assert await world.outcomes() == [("fired", "", 1)]


async def test_an_id_that_another_event_has_is_noted_and_the_schedule_goes_on(world, every):
    await world.adopt(every(60))
    taken = new_event("a.b", source="/busbar/schedules/clock", id="clock/tick/2026-01-05T12:01:00.000Z")
    await world.log.append(taken, taken.to_json())
    await world.pass_(120, every=60)
    assert await world.outcomes() == [("skipped", "event conflict", 1), ("fired", "", 1)]


async def test_ten_thousand_schedules_of_one_minute_fire_in_few_transactions(world, cron):
    for plugin in range(40):
        await world.adopt(*(cron("1 12 * * *", name=f"s{n}") for n in range(250)), plugin=f"p{plugin}")
    await world.pass_(60)
    assert len({event.id for event in world.events}) == len(world.events) == 10_000
    assert world.operations.count("fire") <= 10_000 / BATCH + 1
    assert await world.look() == 60


async def test_a_look_says_when_the_next_one_is_needed_and_never_later_than_a_minute(world, every):
    assert await world.look() == 60
    await world.adopt(every(HOUR))
    assert await world.look() == 60
    world.clock.advance(HOUR - 5)
    assert await world.look() == 5


async def test_the_scheduler_looks_by_itself_when_something_is_due(world, every):
    world.run()
    await world.adopt(every(60))
    world.clock.advance(60)
    world.scheduler.poke()
    async with asyncio.timeout(10):
        while not world.events:
            await asyncio.sleep(0.01)
    assert world.due() == ["12:01:00"]


async def test_a_disk_that_refuses_does_not_end_the_scheduler(world, every, monkeypatch):
    failing = asyncio.Event()

    async def refuse(now):
        failing.set()
        raise StorageFailedError("the disk is full")

    monkeypatch.setattr("host.scheduling.scheduler.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(world.scheduler._dispatcher, "fire_due", refuse)
    with capture_logs() as logged:
        world.run()
        await asyncio.wait_for(failing.wait(), 10)
        monkeypatch.undo()
        await world.adopt(every(60))
        world.clock.advance(60)
        world.scheduler.poke()
        async with asyncio.timeout(20):
            while not world.events:
                await asyncio.sleep(0.01)
    assert {line["event"] for line in logged} == {"firings_not_written"}


# -- plugins come and go


async def test_an_unchanged_rule_keeps_its_next_instant_over_a_restart(world, every):
    await world.adopt(every(HOUR))
    world.clock.advance(HOUR / 2)
    await world.restart()
    await world.adopt(every(HOUR, misfire="all", overlap="skip"))
    await world.pass_(HOUR / 2)
    assert world.due() == ["13:00:00"]
    assert (await world.record()).schedule.misfire == "all"


async def test_a_changed_rule_starts_anew_and_one_that_is_gone_is_forgotten(world, every):
    await world.adopt(every(HOUR), every(HOUR, name="gone"))
    world.clock.advance(HOUR / 2)
    await world.adopt(every(2 * HOUR))
    found, total = await world.scheduler.page(0, 10)
    assert ([one.id for one in found], total) == (["clock/tick"], 1)
    assert found[0].next_due == world.clock.now().timestamp() + 2 * HOUR


async def test_a_suspended_plugin_fires_nothing_and_a_forgotten_one_is_gone(world, every):
    await world.adopt(every(60))
    await world.scheduler.suspend("clock")
    await world.pass_(300)
    assert world.due() == []
    assert (await world.record()).state == "suspended"
    await world.scheduler.forget("clock")
    with pytest.raises(ScheduleNotFoundError):
        await world.runs()


async def test_an_interval_with_a_start_counts_from_it_and_ends_at_its_end(world, every):
    await world.adopt(every(600, start="2026-01-05T12:05:00Z", end="2026-01-05T12:30:00Z"))
    await world.pass_(HOUR, every=60)
    assert world.due() == ["12:05:00", "12:15:00", "12:25:00"]
    assert (await world.record()).next_due is None


async def test_new_time_zone_data_moves_the_next_instant_at_the_next_start(world, cron, monkeypatch):
    await world.adopt(cron("0 20 * * *", timezone="Europe/Berlin"))
    assert (await world.record()).next_due == datetime(2026, 1, 5, 19, tzinfo=UTC).timestamp()
    await world.restart()
    from zoneinfo import ZoneInfo

    monkeypatch.setattr("host.scheduling.cron_rules.ZoneInfo", lambda _: ZoneInfo("Europe/Lisbon"))
    await world.adopt(cron("0 20 * * *", timezone="Europe/Berlin"))
    await world.pass_(8 * HOUR, every=60)
    assert world.due() == ["20:00:00"]


async def test_new_time_zone_data_does_not_fire_an_instant_again(world, cron, monkeypatch):
    await world.adopt(cron("0 13 * * *", timezone="Europe/Berlin"))
    await world.pass_(60)
    await world.scheduler.suspend("clock")
    await world.restart()
    from zoneinfo import ZoneInfo

    monkeypatch.setattr("host.scheduling.cron_rules.ZoneInfo", lambda _: ZoneInfo("Europe/Athens"))
    await world.adopt(cron("0 13 * * *", timezone="Europe/Berlin"))
    await world.pass_(22 * HOUR, every=600)
    assert world.due() == []
    await world.pass_(HOUR)
    assert [event.data["due"] for event in world.events] == ["2026-01-06T11:00:00.000Z"]


# -- what is broken


async def test_a_rule_whose_zone_is_gone_is_marked_and_the_others_fire(world, cron):
    await world.adopt(*(cron("* * * * *", name=name) for name in ("a", "b", "c")))
    await corrupt(world, "clock/b", cron("* * * * *", name="b", timezone="Mars/Olympus"))
    with capture_logs() as logged:
        await world.pass_(120, every=60)
    assert sorted(event.subject for event in world.events) == ["a", "a", "c", "c"]
    record = await world.record("clock/b")
    assert record.state == "broken"
    assert "'Mars/Olympus' is no time zone" in record.error
    assert [(line["event"], line["schedule"]) for line in logged] == [("schedule_broken", "clock/b")]


async def test_a_marked_rule_fires_again_once_its_zone_is_back(world, cron):
    await world.adopt(cron())
    await corrupt(world, "clock/tick", cron(timezone="Mars/Olympus"))
    await world.pass_(60)
    with pytest.raises(ScheduleRuleError):
        await world.scheduler.resume("clock/tick")
    await corrupt(world, "clock/tick", cron())
    assert (await world.scheduler.resume("clock/tick")).state == "active"
    await world.pass_(0.5)
    assert world.due() == ["12:01:00"]


async def test_a_plugin_starts_although_one_of_its_rules_is_broken(world, cron):
    await world.adopt(cron(name="a"), cron(name="b", timezone="Mars/Olympus"))
    assert (await world.record("clock/b")).state == "broken"
    await world.pass_(60)
    assert [event.subject for event in world.events] == ["a"]


@pytest.mark.parametrize("rule", ["{", '{"name": "tick", "every": 0}', '{"name": 1}', "[]"])
async def test_a_stored_rule_that_cannot_be_read_is_marked_and_replaced_by_the_plugins_own(world, every, rule):
    await world.adopt(every(60), every(60, name="other"))
    await corrupt(world, "clock/tick", rule)
    await world.pass_(60)
    assert [event.subject for event in world.events] == ["other"]
    assert "cannot be read" in (await world.record()).error
    await world.adopt(every(60), every(60, name="other"))
    await world.pass_(60)
    assert sorted(event.subject for event in world.events) == ["other", "other", "tick"]
    assert (await world.record()).state == "active"


# -- by hand


@pytest.mark.parametrize("verb", ["pause", "resume", "run_now", "runs"])
async def test_what_is_not_there_is_said_so(world, verb):
    arguments = (0, 10) if verb == "runs" else ()
    with pytest.raises(ScheduleNotFoundError) as refused:
        await getattr(world.scheduler, verb)("clock/none", *arguments)
    assert (refused.value.word, refused.value.kind.value) == ("schedule_not_found", 404)


async def test_what_comes_due_while_paused_is_noted_when_it_is_resumed_and_does_not_fire(world, every):
    await world.adopt(every(60, misfire="all"))
    assert (await world.scheduler.pause("clock/tick")).state == "paused"
    await world.pass_(330)
    assert (await world.scheduler.resume("clock/tick")).state == "active"
    await world.pass_(30)
    assert world.due() == ["12:06:00"]
    assert await world.outcomes() == [("skipped", "paused", 5), ("fired", "", 1)]


async def test_pausing_outlives_a_restart_and_a_new_rule(world, every):
    await world.adopt(every(60))
    await world.scheduler.pause("clock/tick")
    await world.restart()
    await world.adopt(every(90))
    await world.pass_(180)
    assert world.due() == []
    assert (await world.record()).state == "paused"


async def test_pausing_and_resuming_again_change_nothing(world, every):
    await world.adopt(every(60, misfire="all"))
    assert (await world.scheduler.resume("clock/tick")).next_due == (await world.record()).next_due
    await world.scheduler.pause("clock/tick")
    await world.scheduler.pause("clock/tick")
    await world.scheduler.resume("clock/tick")
    await world.pass_(60)
    assert await world.outcomes() == [("fired", "", 1)]


async def test_a_run_by_hand_is_beside_the_rule(world, every):
    await world.adopt(every(HOUR))
    world.clock.advance(60)
    firing = await world.scheduler.run_now("clock/tick")
    assert (firing.by_hand, firing.reason, firing.lateness) == (True, "by hand", 0)
    assert firing.event_id == "clock/tick/2026-01-05T12:01:00.000Z/by-hand"
    assert [event.id for event in world.events] == [firing.event_id]
    assert (await world.record()).next_due == world.clock.now().timestamp() + HOUR - 60


async def test_two_runs_by_hand_at_one_instant_are_one(world, every):
    await world.adopt(every(HOUR))
    first, second = await asyncio.gather(*(world.scheduler.run_now("clock/tick") for _ in range(2)))
    assert first.event_id == second.event_id
    assert await world.outcomes() == [("fired", "by hand", 1)]


# -- history


async def test_a_schedule_keeps_its_newest_thousand_rows(world, every):
    await world.adopt(every(1, grace=86_400, misfire_limit=1000), every(1, name="other"))
    for _ in range(3):
        await world.pass_(600)
    rows = await world.runs()
    assert len(rows) == KEPT_FIRINGS
    assert rows[-1].due == "2026-01-05T12:30:00.000Z"
    assert rows[0].due == "2026-01-05T12:13:21.000Z"


async def test_the_history_comes_in_pages_the_newest_first(world, every):
    await world.adopt(every(60))
    await world.pass_(300, every=60)
    found, total = await world.scheduler.runs("clock/tick", 1, 2)
    assert ([one.due[11:16] for one in found], total) == (["12:04", "12:03"], 5)


async def test_schedules_and_history_of_an_older_host_go_on(tmp_path, world, every):
    """Rows as they were before the policies, and rules without their keys."""
    await world.adopt(every(60))
    path = tmp_path / "old.db"
    old = await Database.open(path)
    await old.close()
    connection = _connect(path)
    for table, columns in (
        ("schedules", ("seen", "dispatch_at", "queued_due", "adopted_at", "error")),
        ("firings", ("outcome", "reason", "count", "lateness", "last_due", "sequence", "open")),
    ):
        for index in ("schedules_by_dispatch", "schedules_by_queue", "firings_open"):
            connection.execute(f"DROP INDEX IF EXISTS {index}")
        for column in columns:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("DELETE FROM schema_migrations WHERE number = 9")
    now = world.clock.now().timestamp()
    rule = '{"name":"tick","cron":null,"every":60.0,"at":null,"timezone":"UTC","misfire":"skip"}'
    connection.execute(
        "INSERT INTO schedules VALUES ('clock/tick', 'clock', 'tick', ?, ?, ?, 1, 0, ?, ?)",
        (rule, now - 90, now - 30, now - 90, now - 88.5),
    )
    connection.execute(
        "INSERT INTO firings (schedule, due, fired_at, event_id, by_hand) VALUES "
        "('clock/tick', '2026-01-05T11:58:30.000Z', ?, 'x', 0), ('clock/tick', '2026-01-05T11:59:00.000Z', ?, 'y', 1)",
        (now - 88.5, now - 60),
    )
    connection.close()
    await world.close()
    world._path = path
    await world.open()
    await world.adopt(every(60, misfire="skip"))
    await world.look()
    assert world.due() == ["11:59:30"]
    rows = await world.runs()
    assert [(one.outcome, one.reason, one.count, one.lateness) for one in rows] == [
        ("fired", "", 1, 1.5),
        ("fired", "by hand", 1, 0),
        ("fired", "", 1, 30),
    ]


async def test_a_rule_without_the_newer_keys_has_their_defaults():
    found = msgspec.json.decode(b'{"name":"tick","every":60.0,"timezone":"UTC","misfire":"once"}', type=Schedule)
    assert (found.grace, found.overlap, found.misfire_limit, found.jitter) == (60, "allow", 10, 0)
