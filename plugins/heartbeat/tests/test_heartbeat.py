from heartbeat import Heartbeat

from plugin_sdk.testing import PluginHarness


async def test_each_firing_emits_one_beat_and_the_count_goes_on_after_a_restart():
    async with PluginHarness(Heartbeat, config={"greeting": "hello"}) as plugin:
        await plugin.fire("beat")
        await plugin.fire("beat")
    async with PluginHarness(Heartbeat, kv=plugin.kv) as again:
        await again.fire("beat")
    assert [event.data["count"] for event in plugin.emitted + again.emitted] == [1, 2, 3]
    assert plugin.emitted[0].data["greeting"] == "hello"
