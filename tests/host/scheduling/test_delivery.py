"""Schedules and the consumer that delivers their firings, together."""

import asyncio

import pytest
from delivery_rig import rig

from host.routing.subscriptions import bind
from host.scheduling.overlaps import ConsumerCancels
from host.scheduling.scheduler import Scheduler
from plugin_sdk.description import Description
from plugin_sdk.schedule import Schedule


@pytest.fixture
async def path(tmp_path):
    """A rig whose plugin `p` holds every firing until `release` is set."""
    async with rig(tmp_path) as found:
        found.release = asyncio.Event()

        async def hold(_call):
            await found.release.wait()

        found.plugin.answer = hold
        found.scheduler = Scheduler(found.database, found.log, found.clock, cancels=ConsumerCancels(found.router))
        yield found
        found.release.set()
        found.scheduler.close()


async def run(path, schedule):
    """Have the plugin's one schedule delivered."""
    for bound in bind("p", Description(schedules=(schedule,)), 3600.0):
        await path.consume(bound)
    await path.scheduler.adopt("p", [schedule])


async def minutes(path, count):
    """Let minutes pass, and every firing reach the plugin."""
    for _ in range(count):
        path.clock.advance(60)
        await path.scheduler.look()
        for _ in range(5):
            await asyncio.sleep(0.01)


def instants(path):
    return [call.firing.due[11:16] for call in path.plugin.calls]


async def test_a_schedule_that_skips_fires_again_once_its_delivery_has_ended(path):
    await run(path, Schedule(name="tick", every=60, overlap="skip"))
    await minutes(path, 3)
    assert instants(path) == ["00:01"]
    path.release.set()
    await path.quiet()
    await minutes(path, 1)
    assert instants(path) == ["00:01", "00:04"]


async def test_a_schedule_that_queues_fires_what_waited_once_the_delivery_has_ended(path):
    await run(path, Schedule(name="tick", every=60, overlap="queue"))
    await minutes(path, 3)
    path.release.set()
    await path.quiet()
    await path.scheduler.look()
    await path.quiet()
    assert instants(path) == ["00:01", "00:02"]


async def test_a_schedule_that_cancels_ends_the_delivery_that_runs_and_it_is_dropped(path):
    await run(path, Schedule(name="tick", every=60, overlap="cancel-previous"))
    await minutes(path, 3)
    assert instants(path) == ["00:01", "00:02", "00:03"]
    await path.settlements.flushed()
    assert [one.outcome.value for one in await path.attempts()] == ["dropped", "dropped"]
    assert path.consumers[0].in_flight == 1


async def test_a_schedule_that_allows_has_its_firings_run_beside_each_other(path):
    await run(path, Schedule(name="tick", every=60))
    await minutes(path, 3)
    assert path.consumers[0].in_flight == 3


async def test_a_delivery_that_waits_for_its_next_attempt_still_holds_the_schedule(path):
    async def fail(_call):
        raise ValueError("not now")

    path.plugin.answer = fail
    await run(path, Schedule(name="tick", every=60, overlap="skip"))
    await minutes(path, 1)
    await path.settlements.flushed()
    await minutes(path, 1)
    (row, skipped), _ = await path.scheduler.runs("p/tick", 0, 10)
    assert (row.reason, skipped.reason) == ("overlap", "")


async def test_there_is_nothing_to_cancel_of_a_plugin_that_does_not_run(path):
    assert ConsumerCancels(path.router).cancel("nobody", 1) is False
