"""Giving up what a plugin did not have yet: its cursors go to the end, and nothing of it keeps the log any more."""

import asyncio
import random

import pytest
from delivery_rig import event, rig

from host.lifecycle.deliveries import Deliveries, DeliveryParts
from host.routing.event_log import HeldPlace, LetterQuery, Outcome, Settlement
from host.routing.replay_store import ReplayStore
from plugin_sdk.description import Description, Subscription

EVERYTHING = 1e12
ROOMY = 2**31


@pytest.fixture
async def bench(tmp_path):
    async with rig(tmp_path) as made:
        yield made


@pytest.fixture
def log(bench):
    return bench.log


async def publish(bench, count):
    await bench.publish(*(event(number) for number in range(1, count + 1)))
    return await bench.log.read(0, count)


def settled(stored, subscription, outcome=Outcome.RETRIED):
    return Settlement(subscription, subscription.partition("/")[0], stored, 1, outcome, 1.0, 0.1, "no", retry_at=1.0)


async def test_what_a_plugin_holds_is_said_by_subscription_and_in_bytes(bench, log):
    events = await publish(bench, 10)
    await log.cursor("p/behind", start=4)
    await log.cursor("p/retries", start=10)
    await log.cursor("q/other", start=0)
    await log.settle([settled(events[7], "p/retries")], {}, {})
    held = await log.held("p")
    assert held.subscriptions == (HeldPlace("p/behind", 6, 0), HeldPlace("p/retries", 0, 1))
    assert (held.events, held.bytes) == (6, sum(len(one.body) for one in events[4:]))
    assert (await log.held("nobody")).events == 0


async def test_a_plugin_whose_id_begins_alike_is_another(bench, log):
    await publish(bench, 3)
    await log.cursor("acme-two/s", start=0)
    assert await log.skip("acme") == ()
    assert await log.cursor("acme-two/s", start=9) == 0


async def test_after_a_skip_the_log_lets_go_and_what_others_need_stays(bench, log):
    events = await publish(bench, 10)
    for name in ("p/a", "p/b"):
        await log.cursor(name, start=2)
    await log.settle([settled(events[0], "p/a")], {}, {"p/b": (6,)})
    await log.cursor("q/other", start=5)
    assert await log.skip("p") == (HeldPlace("p/a", 8, 1), HeldPlace("p/b", 8, 0))
    assert (await log.prune(EVERYTHING, ROOMY)).events == 5
    assert await log.waiting_retries("p/a") == 0
    assert await log.ahead("p/b") == set()
    assert [await log.cursor(name, start=0) for name in ("p/a", "p/b", "q/other")] == [10, 10, 5]
    assert await log.skip("p") == (HeldPlace("p/a", 0, 0), HeldPlace("p/b", 0, 0))


async def test_dead_letters_stay_and_so_do_those_that_were_revived(bench, log):
    events = await publish(bench, 2)
    await log.cursor("p/s", start=2)
    await log.settle([settled(one, "p/s", Outcome.DEAD_LETTERED) for one in events], {}, {})
    letters, _ = await log.dead_letters(LetterQuery(), 0, 9)
    await log.revive([letters[0].id])
    await log.skip("p")
    assert await log.waiting_retries("p/s") == 1
    assert len((await log.dead_letters(LetterQuery(), 0, 9))[0]) == 1


# -- while the plugin is there


@pytest.fixture
async def following(bench):
    """The deliveries of a plugin with one subscription, and how they are begun."""
    replays = ReplayStore(bench.database, bench.clock)
    parts = DeliveryParts(
        bench.log, replays, bench.router, bench.settlements, bench.clock, random.Random(1), max_dead_letters=100
    )
    made = Deliveries("p", parts, guard=bench.guard, target=bench.plugin, timeout=10.0, note_first=False)

    class Record:
        id = "p"
        description = Description(subscriptions=(Subscription(name="s", types=("*",)),))
        policies = {}

    await made.start(Record())
    bench.plugin.on_start.append(made.pump)
    yield made
    await made.stop(0)


async def give_up(bench):
    await bench.log.skip("p")


async def test_a_plugin_that_hangs_goes_on_with_what_comes_after_the_skip(bench, following):
    hang = asyncio.Event()

    async def hangs(_call):
        await hang.wait()

    bench.plugin.answer = hangs
    await publish(bench, 50)
    await asyncio.sleep(0.01)
    assert following.lag == 50
    await following.pass_over(lambda: give_up(bench))
    assert following.lag == 0
    assert (await bench.log.prune(EVERYTHING, ROOMY)).events == 50
    bench.plugin.answer = bench.plugin._fine
    bench.plugin.calls.clear()
    await bench.publish(event("new"))
    await bench.quiet()
    assert bench.plugin.ids == ["new"]


async def test_a_plugin_that_does_not_run_follows_from_there_when_it_does(bench, following):
    bench.plugin.stop()
    await publish(bench, 5)
    await following.pass_over(lambda: give_up(bench))
    await bench.publish(event("new"))
    bench.plugin.start()
    await bench.quiet()
    assert bench.plugin.ids == ["new"]


async def test_what_could_not_be_given_up_is_delivered_as_before(bench, following):
    bench.plugin.stop()
    await publish(bench, 3)

    async def refused():
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await following.pass_over(refused)
    bench.plugin.start()
    await bench.quiet()
    assert bench.plugin.ids == ["1", "2", "3"]


async def test_deliveries_that_were_stopped_do_not_begin_again_by_a_skip(bench, following):
    await following.stop(0)
    await publish(bench, 3)
    await following.pass_over(lambda: give_up(bench))
    assert bench.router.consumers() == ()


async def test_a_skip_and_a_stop_at_once_leave_nothing_following(bench, following):
    await publish(bench, 3)
    await asyncio.gather(*(following.pass_over(lambda: give_up(bench)) for _ in range(3)), following.stop(0))
    assert bench.router.consumers() == ()
