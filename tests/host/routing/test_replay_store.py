import pytest
from delivery_rig import event

from host.routing import replay_store
from host.routing.errors import ReplayNotFoundError, TooManyReplaysError
from host.routing.event_log import Outcome, Settlement
from host.routing.replay_store import ReplayState, ReplayStore
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from plugin_sdk.testing import FakeClock


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(database, clock):
    return ReplayStore(database, clock)


@pytest.fixture
async def log(database, clock):
    return await SQLiteLog.open(database, clock)


async def add(store, plugin="p", subscription=None, **more):
    filters = more.get("filters", [])
    return await store.add(plugin, subscription, (1, 9), (None, None), filters, actor="alice")


async def test_a_replay_is_kept_as_it_was_asked_for(store, clock):
    filters = [{"exact": {"type": "a.b"}}, {"not": {"prefix": {"subject": "x"}}}]
    made = await store.add("p", "s", (3, 7), (100.0, 200.5), filters, actor="alice")
    assert made == await store.get(made.id)
    assert (made.plugin, made.subscription, made.first, made.last) == ("p", "s", 3, 7)
    assert (made.since, made.until, made.filters, made.actor) == (100.0, 200.5, tuple(filters), "alice")
    assert (made.state, made.created_at, made.ended_at) == (ReplayState.RUNNING, clock.now().timestamp(), None)
    assert (made.delivered, made.dropped, made.dead_lettered, made.retried) == (0, 0, 0, 0)


async def test_a_replay_that_is_not_there_is_not_found(store):
    with pytest.raises(ReplayNotFoundError, match="GET /api/v1/replays"):
        await store.get(1)


async def test_a_stretch_is_what_was_appended_in_a_time_its_end_not_included(store, log, clock):
    start = clock.now().timestamp()
    for number in range(1, 6):
        one = event(number)
        await log.append(one, one.to_json())
        clock.advance(10)
    assert await store.stretch(start, start + 100) == (1, 5)
    assert await store.stretch(start + 10, start + 30) == (2, 3)
    assert await store.stretch(start + 1, start + 10) is None
    assert await store.stretch(start + 100, start + 200) is None


async def test_lists_have_the_newest_first_and_can_be_narrowed_to_a_plugin(store):
    made = [(await add(store, plugin)).id for plugin in ("p", "q", "p", "p")]
    found, total = await store.all(None, 0, 3)
    assert ([one.id for one in found], total) == ([made[3], made[2], made[1]], 4)
    found, total = await store.all("p", 1, 9)
    assert ([one.id for one in found], total) == ([made[2], made[0]], 3)


async def test_those_that_run_are_taken_up_again_oldest_first(store):
    first, second, third = [await add(store) for _ in range(3)]
    await add(store, "q")
    await store.end(second.id, ReplayState.DONE)
    assert await store.running("p") == [first, third]


async def test_a_replay_ends_once(store, clock):
    made = await add(store)
    clock.advance(5)
    await store.end(made.id, ReplayState.DONE)
    ended_at = clock.now().timestamp()
    clock.advance(5)
    await store.end(made.id, ReplayState.CANCELLED)
    found = await store.get(made.id)
    assert (found.state, found.ended_at) == (ReplayState.DONE, ended_at)


async def test_at_its_end_a_replay_lets_go_of_its_own_place_in_the_log_and_of_no_other(store, log):
    one, other = await add(store), await add(store)
    stored = await append(log)
    keys = [f"p/a#{one.id}", f"p/b#{one.id}", f"p/a#{other.id}", f"p/a#1{one.id}", "p/a"]
    for key in keys:
        await log.cursor(key, start=0)
        await log.settle([Settlement(key, "p", stored, 1, Outcome.RETRIED, 1.0, 0.1, retry_at=1.0)], {}, {key: [1]})
    await store.end(one.id, ReplayState.CANCELLED)
    assert [await log.waiting_retries(key) for key in keys] == [0, 0, 1, 1, 1]
    assert [await log.cursor(key, start=7) for key in keys] == [7, 7, 0, 0, 0]
    assert [await log.ahead(key) for key in keys] == [set(), set(), {1}, {1}, {1}]


async def append(log):
    one = event(1)
    await log.append(one, one.to_json())
    return (await log.read(0, 1))[0]


async def test_outcomes_of_its_deliveries_are_counted_with_the_replay_alone(store, log):
    one, other = await add(store), await add(store)
    stored = await append(log)
    outcomes = [
        (f"p/s#{one.id}", Outcome.DELIVERED),
        (f"p/t#{one.id}", Outcome.DELIVERED),
        (f"p/s#{one.id}", Outcome.RETRIED),
        (f"p/s#{one.id}", Outcome.DROPPED),
        (f"p/s#{other.id}", Outcome.DEAD_LETTERED),
        ("p/s", Outcome.DELIVERED),
    ]
    settlements = [Settlement(key, "p", stored, 1, outcome, 1.0, 0.1, retry_at=1.0) for key, outcome in outcomes]
    await log.settle(settlements, {}, {})
    counts = [
        (f.delivered, f.dropped, f.dead_lettered, f.retried)
        for f in (await store.get(one.id), await store.get(other.id))
    ]
    assert counts == [(2, 1, 0, 1), (0, 0, 1, 0)]


async def test_a_plugin_that_is_removed_ends_its_replays(store):
    one, done, other = await add(store), await add(store), await add(store, "q")
    await store.end(done.id, ReplayState.DONE)
    await store.cancel_all("p")
    states = [(await store.get(each.id)).state for each in (one, done, other)]
    assert states == [ReplayState.CANCELLED, ReplayState.DONE, ReplayState.RUNNING]


async def test_only_the_newest_are_remembered_and_those_that_run(store, monkeypatch):
    monkeypatch.setattr(replay_store, "KEPT_REPLAYS", 3)
    running = await add(store)
    for _ in range(6):
        await store.end((await add(store)).id, ReplayState.DONE)
    found, total = await store.all(None, 0, 99)
    assert total == 4
    assert found[-1] == running


async def test_only_so_many_replays_of_a_plugin_run_at_once(store):
    running = [await add(store) for _ in range(replay_store.MAX_RUNNING)]
    with pytest.raises(TooManyReplaysError, match="8 replays of p run already"):
        await add(store)
    await add(store, plugin="another")
    await store.end(running[0].id, ReplayState.DONE)
    await add(store)
