import pytest
from saboteur import ANSWERS, MODES, Saboteur, attempts, modes

from plugin_sdk import HostError, Request
from plugin_sdk.testing import PluginHarness


async def test_work_is_written_down():
    async with PluginHarness(Saboteur) as plugin:
        await plugin.deliver("saboteur.work", data={"key": "a"})
        assert await plugin.call("handled") == {"keys": ["a"], "mode": "ok"}


async def test_the_standing_mode_makes_work_fail_until_it_is_switched_back():
    async with PluginHarness(Saboteur) as plugin:
        await plugin.deliver("saboteur.switch", data={"mode": "raise"})
        delivery = await plugin.deliver("saboteur.work", data={"key": "a"})
        assert (delivery.outcome, delivery.reason) == ("failed", "RuntimeError: sabotage")
        await plugin.deliver("saboteur.switch", data={"mode": "ok"})
        assert (await plugin.deliver("saboteur.work", data={"key": "a"})).outcome == "delivered"


async def test_new_config_overrides_the_standing_mode():
    async with PluginHarness(Saboteur, config={"mode": "raise"}) as plugin:
        await plugin.reconfigure({"mode": "ok"})
        assert (await plugin.deliver("saboteur.work", data={"key": "a"})).outcome == "delivered"


@pytest.mark.parametrize("mode", ["raise", "sysexit", "unknown"])
async def test_a_command_misbehaves_once(mode):
    async with PluginHarness(Saboteur) as plugin:
        assert (await plugin.deliver("saboteur.command", data={"mode": mode})).outcome == "failed"


@pytest.mark.parametrize("mode", ["nonsense", "malformed"])
async def test_what_is_no_json_is_refused_wherever_it_is_handed_over(mode):
    async with PluginHarness(Saboteur) as plugin:
        assert (await plugin.deliver("saboteur.command", data={"mode": mode})).outcome == "delivered"
        assert plugin.emitted == []


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_route_gives_the_answer_of_its_name(name):
    async with PluginHarness(Saboteur) as plugin:
        assert await plugin.request(Request("GET", f"/answer/{name}")) == ANSWERS[name]


@pytest.mark.parametrize("kinds", [modes.KINDS, attempts.KINDS], ids=["modes", "attempts"])
def test_no_two_of_them_have_the_same_name(kinds):
    names = [
        name
        for kind in kinds
        for name, found in vars(kind).items()
        if not name.startswith("_") and getattr(found, "__module__", "") == kind.__name__
    ]
    assert len(names) == len(set(names))


def test_every_mode_is_listed():
    assert {"raise", "hang", "block", "spin", "exit", "segfault", "leak", "flood", "chatter"} <= set(MODES)


async def test_a_bad_caller_is_refused_for_its_arguments_and_does_not_mind():
    def seen():
        return []

    def takes_nothing(**arguments):
        raise HostError(f"unexpected {', '.join(arguments)}", "arguments_invalid")

    async with PluginHarness(Saboteur, services={"bystander-0.seen": seen}) as plugin:
        for mode in ("hurry", "crowd"):
            assert (await plugin.deliver("saboteur.command", data={"mode": mode})).outcome == "delivered"
    async with PluginHarness(Saboteur, services={"bystander-0.seen": takes_nothing}) as plugin:
        assert (await plugin.deliver("saboteur.command", data={"mode": "misuse"})).outcome == "delivered"
