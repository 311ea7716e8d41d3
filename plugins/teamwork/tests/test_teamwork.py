from teamwork import Teamwork

from plugin_sdk.testing import PluginHarness

COMPLETED = {"milestoneId": "m-1", "userId": "ada", "completionDate": "2026-11-20", "progress": 100}


async def test_a_completed_milestone_is_counted_and_its_user_congratulated():
    async with PluginHarness(Teamwork) as plugin:
        await plugin.deliver("milestone.created", data={**COMPLETED, "progress": 0})
        assert (await plugin.deliver("milestone.completed", data=COMPLETED)).outcome == "delivered"
        assert await plugin.call("progress", user="ada") == {"userId": "ada", "created": 1, "completed": 1}
    (notification,) = plugin.emitted
    assert (notification.type, notification.subject) == ("notification.requested", "ada")
    assert "number 1" in notification.data["text"]


async def test_a_milestone_that_is_delivered_twice_counts_once():
    async with PluginHarness(Teamwork) as plugin:
        for _ in range(2):
            await plugin.deliver("milestone.completed", data=COMPLETED, id="same")
        assert (await plugin.call("progress", user="ada"))["completed"] == 1
    assert len({event.id for event in plugin.emitted}) == 1


async def test_an_event_that_is_no_milestone_becomes_a_dead_letter_with_the_reason():
    async with PluginHarness(Teamwork) as plugin:
        delivery = await plugin.deliver("milestone.completed", data={"userId": "ada"})
    assert delivery.outcome == "dead-lettered"
    assert "milestoneId" in delivery.reason
