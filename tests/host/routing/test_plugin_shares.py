"""Each plugin's share of the log: it is counted, its own oldest go first, and what is held refuses it alone."""

import asyncio
import itertools
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import host.storage
from host.routing import log_shares
from host.routing.bus import Bus
from host.routing.errors import LogShareFullError
from host.routing.event_log import Outcome, Settlement
from host.routing.log_shares import owner, weight
from host.routing.plugin_shares import LOOK_SECONDS, PluginShares
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from host.storage.errors import RowRefusedError
from host.storage.log_writer.firings import ByHand, Fire
from plugin_sdk.events import Event, new_event
from plugin_sdk.testing import FakeClock

EVERYTHING = 1e12
ROOMY = 2**31
SHARE = 20_000
A_SCHEDULE = """
INSERT INTO schedules (id, plugin, name, rule, anchor, active, paused) VALUES ('greedy/s', 'greedy', 's', '', 0, 1, 0)
"""


def emitted(plugin="greedy", size=1000, **more):
    return new_event("greedy.note", source=f"/plugins/{plugin}", data="x" * size, **more)


def outside(size=1000):
    return new_event("order.placed", source="/shop", data="x" * size)


async def append(log, *events):
    return [await log.append(one, one.to_json()) for one in events]


async def counted(log, plugin="greedy"):
    """What the log says that a plugin has, which must be what its events weigh."""
    events = await log.read(0, 100_000)
    held = sum(weight(one.event, one.body) for one in events if owner(one.event.source) == plugin)
    assert log.plugin_bytes(plugin) == held
    return held


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def log(database, clock):
    return await SQLiteLog.open(database, clock)


@pytest.fixture
def said():
    return []


@pytest.fixture
def shares(log, clock, said):
    async def tell(pruned):
        said.append(pruned.skipped)

    return PluginShares(log, share_bytes=SHARE, clock=clock, tell_skipped=tell)


@pytest.fixture
def bus(log, shares):
    return Bus(log, max_body=10_000, shares=shares)


async def fill(bus, plugin="greedy"):
    """Publish until the plugin is refused; how many events were taken, and why no more are."""
    for taken in itertools.count():
        assert taken < 1000
        try:
            await bus.publish_for(plugin, emitted(plugin))
        except LogShareFullError as error:
            return taken, error
    raise AssertionError


# -- whose it is


@pytest.mark.parametrize(
    ("source", "plugin"),
    [
        ("/plugins/acme", "acme"),
        ("/hooks/acme/stripe", "acme"),
        ("/busbar/schedules/acme", None),
        ("/shop", None),
        ("https://example.com/plugins/acme", None),
        ("/pluginsacme", None),
    ],
)
def test_an_event_belongs_to_the_plugin_that_emitted_it_or_whose_webhook_brought_it(source, plugin):
    assert owner(source) == plugin


def test_an_event_is_charged_its_attributes_as_often_as_they_are_kept_in_bytes():
    event = emitted(size=10, subject="é" * 100, id="i" * 50)
    body = event.to_json()
    assert weight(event, body) == len(body) + 2 * (200 + 50 + len("greedy.note")) + log_shares.OVERHEAD


# -- the count


async def test_what_is_appended_counts_once_and_what_nobody_emitted_counts_for_nobody(log):
    one = emitted(id="one")
    await append(log, one, outside(), emitted("other"))
    assert (await append(log, one))[0].duplicate
    assert await counted(log) == weight(one, one.to_json())
    assert await counted(log, "other") > 0
    assert log.plugin_bytes("nobody") == 0


async def test_what_a_batch_has_counts_although_some_of_it_was_there_before(log):
    events = [emitted(id=str(number)) for number in range(5)]
    await append(log, events[1], events[3])
    await asyncio.gather(*(log.append(one, one.to_json()) for one in events))
    assert await counted(log) == sum(weight(one, one.to_json()) for one in events)


async def test_the_count_is_there_after_a_start_and_pruning_takes_off_what_went(log, database, clock):
    await append(log, *(emitted(id=str(number)) for number in range(10)), outside())
    await log.cursor("p/s", start=4)
    await log.prune(EVERYTHING, ROOMY)
    again = await SQLiteLog.open(database, clock)
    assert await counted(again) == await counted(log) > 0
    await log.release("p/s")
    await log.prune(EVERYTHING, ROOMY)
    assert await counted(log) == 0
    assert (await SQLiteLog.open(database, clock)).plugin_bytes("greedy") == 0


async def test_an_operation_that_is_rolled_back_counts_for_nothing(log, database):
    """Given an operation that appends an event and is then refused, when it is, then its event was never there."""
    await database.write(lambda connection: connection.execute(A_SCHEDULE).rowcount)
    fire = Fire(0, "", "1", by_hand=True, reason="", lateness=float("nan"))  # which the table refuses: it is no number
    kept = emitted()
    answers = await asyncio.gather(
        log.operate("fire by hand", ByHand(0.0, "greedy/s", fire), [emitted()]),
        log.append(kept, kept.to_json()),
        return_exceptions=True,
    )
    assert isinstance(answers[0], RowRefusedError)
    assert await counted(log) == weight(kept, kept.to_json())


async def test_events_of_a_log_from_before_there_were_shares_are_added_up_once(tmp_path):
    """Given a database that an older host wrote, when this one opens it, then every plugin has what is there."""
    migrations = tmp_path / "migrations"
    shutil.copytree(Path(host.storage.__file__).parent / "migrations", migrations)
    path = tmp_path / "old.db"
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, applied_at REAL NOT NULL) STRICT")
    for file in sorted(migrations.glob("*.sql")):
        if int(file.name[:4]) < 16:
            old.executescript(file.read_text())
            old.execute("INSERT INTO schema_migrations VALUES (?, 0)", (int(file.name[:4]),))
    brought = new_event("webhook.greedy.shop", source="/hooks/greedy/shop", data="é" * 10)
    events = [emitted(subject="ü"), emitted("other"), brought, outside()]
    for sequence, event in enumerate(events, 1):
        row = (sequence, event.source, event.id, event.type, event.subject, 1, event.to_json())
        old.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    old.close()
    database = await Database.open(path)
    try:
        log = await SQLiteLog.open(database, FakeClock())
        assert await counted(log) > await counted(log, "other") > 0
    finally:
        await database.close()


_numbers = itertools.count()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["greedy", "other", "hook", ""]), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=3),
    st.integers(0, 15_000),
)
async def test_whatever_is_removed_for_a_plugin_is_its_own_and_needed_by_nobody_and_the_count_is_right(
    tmp_path, who, cursors, left
):
    database = await Database.open(tmp_path / f"{next(_numbers)}.db")
    try:
        clock = FakeClock()
        log = await SQLiteLog.open(database, clock)
        hook = lambda: new_event("webhook.greedy.a", source="/hooks/greedy/a", data="x" * 500)  # noqa: E731 - as the others
        make = {"greedy": emitted, "other": lambda: emitted("other"), "hook": hook, "": outside}
        for one in who:
            clock.advance(1)
            await append(log, make[one]())
        before = await log.read(0, 1000)
        for number, (position, holds) in enumerate(cursors):
            await log.cursor(f"p/s{number}", start=min(position, len(who)), holds=holds)
        floor = min([len(who), *(position for position, holds in cursors if holds)])
        pruned = await log.prune_plugin("greedy", left)
        after = {one.sequence for one in await log.read(0, 1000)}
        gone = [one for one in before if one.sequence not in after]
        assert len(gone) == pruned.events
        assert all(owner(one.event.source) == "greedy" and one.sequence <= floor for one in gone)
        held = await counted(log)
        await counted(log, "other")
        if held > left:
            mine = [one for one in before if owner(one.event.source) == "greedy" and one.sequence in after]
            assert all(one.sequence > floor for one in mine)
        for number, (position, holds) in enumerate(cursors):
            lost = 0 if holds else sum(one.sequence > min(position, len(who)) for one in gone)
            assert pruned.skipped.get(f"p/s{number}", 0) == lost
        assert (await SQLiteLog.open(database, clock)).plugin_bytes("greedy") == held
    finally:
        await database.close()


# -- the share


async def test_beyond_its_share_a_plugins_own_oldest_go_first_and_those_of_others_stay(bus, log):
    older = outside()
    await bus.publish(older)
    for _ in range(100):
        await bus.publish_for("greedy", emitted())
    assert await counted(log) <= SHARE
    kept = await log.read(0, 1000)
    assert kept[0].event.id == older.id
    assert kept[-1].sequence == 101


async def test_what_somebody_did_not_have_yet_refuses_the_plugin_alone_and_says_whose_fault_it_is(bus, log, shares):
    await log.cursor("slow/one", start=0)
    taken, refused = await fill(bus)
    assert 10 < taken < SHARE / 1000
    assert (refused.word, refused.kind.value, refused.retry_after) == ("log_share_full", 503, LOOK_SECONDS)
    assert "slow/one did not have the oldest events yet" in refused.message
    assert "'busbar plugin skip slow'" in refused.message
    assert shares.full == {"greedy": ("slow/one",)}
    assert len(await log.read(0, 1000)) == taken
    await bus.publish(outside())
    await bus.publish_for("other", emitted("other"))


async def test_a_plugin_may_publish_again_once_its_events_are_had(bus, log, clock, shares):
    await log.cursor("slow/one", start=0)
    taken, _ = await fill(bus)
    await log.settle([], {"slow/one": taken}, {})
    with pytest.raises(LogShareFullError):
        await bus.publish_for("greedy", emitted())
    clock.advance(LOOK_SECONDS)
    await bus.publish_for("greedy", emitted())
    assert shares.full == {}
    assert shares.refused["greedy"] == 2


async def test_who_is_told_that_something_let_go_looks_at_once(bus, log, shares):
    await log.cursor("slow/one", start=0)
    taken, _ = await fill(bus)
    await log.settle([], {"slow/one": taken}, {})
    shares.look_again()
    await bus.publish_for("greedy", emitted())


async def test_a_subscription_that_does_without_is_told_of_what_it_lost_and_so_are_its_retries(bus, log, said):
    await log.cursor("p/skips", start=1, holds=False)
    await bus.publish_for("greedy", emitted())
    (first,) = await log.read(0, 1)
    await log.settle([Settlement("p/skips", "p", first, 1, Outcome.RETRIED, 1.0, 0.1, "no", retry_at=1.0)], {}, {})
    for _ in range(30):
        await bus.publish_for("greedy", emitted())
    gone = (await log.read(0, 1))[0].sequence - 1
    assert sum(one.get("p/skips", 0) for one in said) == gone
    assert await log.waiting_retries("p/skips") == 0


async def test_many_at_once_do_not_get_beyond_the_share_together(bus, log):
    await log.cursor("slow/one", start=0)
    answers = await asyncio.gather(*(bus.publish_for("greedy", emitted()) for _ in range(200)), return_exceptions=True)
    assert {type(one).__name__ for one in answers} == {"Appended", "LogShareFullError"}
    assert SHARE - 2000 < await counted(log) <= SHARE


async def test_an_event_that_was_refused_otherwise_takes_nothing_of_the_share(bus, log, shares):
    await bus.publish_for("greedy", emitted(id="one", size=10))
    for number in range(100):
        with pytest.raises(Exception, match="another event has source"):
            await bus.publish_for("greedy", emitted(id="one", size=2000 + number))
    assert await counted(log) < 1000
    assert shares.full == {}


async def test_nothing_is_said_any_more_of_a_plugin_that_is_forgotten(bus, log, shares):
    await log.cursor("slow/one", start=0)
    await fill(bus)
    shares.forget("greedy")
    assert (shares.full, dict(shares.refused)) == ({}, {})


def test_events_are_weighed_alike_when_they_come_and_when_they_are_read(tmp_path):
    event = emitted(subject="\u00e9")
    assert weight(event, event.to_json()) == weight(Event.trusted(event.to_json()), event.to_json())
