"""An uninstall in whose middle the host was killed is finished at the next start."""

import pytest
import structlog
from delivery_rig import event, rig

from host.lifecycle.leftovers import clear_leftovers
from host.routing.event_log import LetterQuery
from host.routing.replay_store import ReplayStore
from host.scheduling.scheduler import Scheduler
from plugin_sdk.errors import DeadLetter
from plugin_sdk.schedule import Schedule


class Registry:
    """What the leftovers ask of the registry: who is installed, and who ever was."""

    def __init__(self, *installed, history=()):
        self._installed = installed
        self._history = history

    def all(self):
        return tuple(type("Record", (), {"id": plugin}) for plugin in self._installed)

    async def history(self, plugin):
        return plugin if plugin in self._history else None


@pytest.fixture
async def bench(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def leave_behind(bench):
    """A plugin with a cursor, a dead letter and a schedule."""

    async def give_up(call):
        raise DeadLetter("no")

    bench.plugin.answer = give_up
    consumer = await bench.consumer()
    await bench.publish(event(1))
    await bench.quiet()
    await consumer.stop(1)
    bench.consumers.clear()
    scheduler = Scheduler(bench.database, bench.log, bench.clock)
    await scheduler.adopt("p", (Schedule(name="tick", every=60.0),))
    return scheduler


async def clear(bench, scheduler, registry):
    await clear_leftovers(registry, bench.log, ReplayStore(bench.database, bench.clock), scheduler)


async def test_who_is_installed_keeps_everything(bench):
    scheduler = await leave_behind(bench)
    await clear(bench, scheduler, Registry("p", history=("p",)))
    assert await bench.log.cursor("p/s", start=0) == 1
    assert await scheduler.plugins() == {"p"}


async def test_who_was_uninstalled_holds_the_log_no_more_and_keeps_its_dead_letters(bench):
    scheduler = await leave_behind(bench)
    await clear(bench, scheduler, Registry(history=("p",)))
    assert await bench.log.cursor("p/s", start=0) == 0
    assert await scheduler.plugins() == set()
    assert (await bench.log.dead_letters(LetterQuery(), 0, 9))[1] == 1


async def test_who_was_purged_has_nothing_left(bench):
    scheduler = await leave_behind(bench)
    await clear(bench, scheduler, Registry())
    assert await bench.log.plugins() == set()
    assert await scheduler.plugins() == set()


async def test_one_whose_leftovers_cannot_be_cleared_keeps_nobody_elses(bench, monkeypatch):
    scheduler = await leave_behind(bench)
    await scheduler.adopt("a", (Schedule(name="tick", every=60.0),))
    forget = scheduler.forget

    async def broken_for_a(plugin):
        if plugin == "a":
            raise LookupError("no")
        await forget(plugin)

    monkeypatch.setattr(scheduler, "forget", broken_for_a)
    with structlog.testing.capture_logs() as logged:
        await clear(bench, scheduler, Registry())
    assert await scheduler.plugins() == {"a"}
    assert await bench.log.plugins() == set()
    assert [line["plugin"] for line in logged if line["event"] == "uninstall_not_finished"] == ["a"]
