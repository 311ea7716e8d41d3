"""What an emitted event carries on from the one that was delivered, and where a loop ends."""

import pytest

from plugin_sdk import Context, Event, Plugin, on_event
from plugin_sdk.context import MAX_HOPS
from plugin_sdk.testing import PluginHarness


class Echo(Plugin):
    """Answers every event with another."""

    @on_event("echo.*")
    async def echo(self, event: Event, context: Context) -> None:
        await context.emit("echo.again", data=event.data)


async def test_an_emitted_event_names_its_cause_and_the_first_of_its_line():
    async with PluginHarness(Echo) as plugin:
        await plugin.deliver("echo.first", id="first")
        (one,) = plugin.emitted
        assert one.extensions == {"hops": 1, "causationid": "first", "correlationid": "first"}
        await plugin.deliver("echo.again", id=one.id, extensions=one.extensions)
        assert plugin.emitted[1].extensions == {"hops": 2, "causationid": one.id, "correlationid": "first"}


async def test_an_event_that_came_through_too_many_plugins_is_a_dead_letter():
    async with PluginHarness(Echo) as plugin:
        last = await plugin.deliver("echo.again", extensions={"hops": MAX_HOPS - 1})
        assert last.outcome == "delivered"
        ended = await plugin.deliver("echo.again", extensions={"hops": MAX_HOPS})
    assert ended.outcome == "dead-lettered"
    assert f"come through {MAX_HOPS} plugins" in ended.reason
    assert len(plugin.emitted) == 1


@pytest.mark.parametrize(("said", "hops"), [("3", 3), (3, 3), ("many", 0), (-5, 0), (True, 1)])
def test_hops_are_counted_however_they_are_written(said, hops):
    event = Event.from_attributes({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "hops": said})
    assert event.hops == hops
