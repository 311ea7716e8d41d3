"""A log that one plugin has filled, and the one command that gives up what that plugin did not have yet."""

import asyncio
import json

import aiohttp
import forked_command
import pytest
from plugin_projects import write_project

from tests.e2e.conftest import ROOT, Daemon

DATA = "x" * 200_000
STUCK = '''"""Never gets any further."""
import asyncio

from plugin_sdk import Plugin, on_event


class Stuck(Plugin):
    @on_event("order.*", timeout=3600.0)
    async def see(self, event):
        if event.type == "order.last":
            return
        await asyncio.Event().wait()
'''


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed):
    project = write_project(
        tmp_path_factory.mktemp("project"), "stuck", STUCK, manifest='[permissions]\nsubscribe = ["order.*"]\n'
    )
    wheel = signed.build(project)
    one = Daemon(tmp_path_factory.mktemp("skip"), events={"keep_bytes": "4MiB"}).start()

    async def install():
        await one.trust(signed.public, ["stuck"])
        status, answer = await one.install(wheel)
        assert status == 201, answer

    asyncio.run(install())
    yield one
    one.process.kill()
    one.process.wait(10)


async def publish_until_full(host):
    """Publish until the log is full; why the last one was refused."""
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            status, answer = await host.publish("order.placed", data=DATA, session=session)
            if status != 202 and "events come faster" not in answer["message"]:
                assert status == 503, answer
                return answer
    raise AssertionError("the log was never full")


async def busbar(host, *arguments):
    environment = {"PYTHONPATH": str(ROOT), "BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}
    return await asyncio.to_thread(forked_command.busbar, host.folder, *arguments, environment=environment)


async def state_of(host):
    _, answer = await host.ask("GET", "/api/v1/plugins/stuck")
    return answer["data"]["state"]


@pytest.mark.parametrize("state", ["disabled", "running"])
async def test_what_a_plugin_holds_is_given_up_in_one_command_and_publishing_goes_on(host, state):
    """Given a log that a disabled or hanging plugin keeps full, when a person says so, then others publish again."""
    await host.ask("POST", f"/api/v1/plugins/stuck/{'disable' if state == 'disabled' else 'enable'}")
    refused = await publish_until_full(host)
    assert refused["code"] == "log_full"
    assert "stuck/see did not have the oldest events yet" in refused["message"]
    assert "'busbar plugin skip stuck'" in refused["message"]
    _, answer = await host.ask("GET", "/api/v1/alerts")
    assert "'busbar plugin skip stuck'" in next(
        one["nextAction"] for one in answer["data"] if one["code"] == "log_full"
    )

    would = await busbar(host, "plugin", "skip", "stuck", "--dry-run")
    assert "would be given up: " in would.stdout
    unasked = await busbar(host, "plugin", "skip", "stuck", "--json")
    assert (unasked.returncode, json.loads(unasked.stdout)["code"]) == (2, "not_agreed")
    assert (await host.publish("order.placed"))[0] == 503

    done = await busbar(host, "plugin", "skip", "stuck", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    given_up = json.loads(done.stdout)
    assert given_up["events"] >= 10
    assert given_up["bytes"] > 10 * len(DATA)
    assert [one["subscription"] for one in given_up["subscriptions"]] == ["stuck/see"]

    async def taken():
        return (await host.publish("order.last"))[0] == 202

    await host.until(taken)
    assert await state_of(host) == state
    _, answer = await host.ask("GET", "/api/v1/audit?limit=5")
    (entry,) = [one for one in answer["data"] if one["action"] == "plugin.skip"][:1]
    assert (entry["target"], entry["detail"]["bytes"]) == ("stuck", given_up["bytes"])
    _, answer = await host.ask("GET", "/api/v1/events?type=busbar.subscription.skipped")
    assert answer["data"][0]["event"]["subject"] == "stuck/see"


async def test_after_a_skip_what_is_published_is_delivered_as_before(host):
    """Given the plugin that hung and was given up for, when an event comes that it takes, then it has it."""
    await host.ask("POST", "/api/v1/plugins/stuck/enable")
    await host.ask("POST", "/api/v1/plugins/stuck/skip", json_body={})
    status, answer = await host.publish("order.last")
    assert status == 202, answer

    async def had():
        _, found = await host.ask("GET", "/api/v1/plugins/stuck/deliveries?outcome=delivered")
        return answer["data"]["id"] in [one["eventId"] for one in found["data"]]

    await host.until(had)


@pytest.mark.parametrize(
    ("plugin", "body", "status", "code"),
    [("nobody", {}, 404, "plugin_not_found"), ("stuck", {"all": True}, 400, "body_invalid")],
)
async def test_a_skip_that_means_nothing_is_refused(host, plugin, body, status, code):
    found = await host.ask("POST", f"/api/v1/plugins/{plugin}/skip", json_body=body)
    assert (found[0], found[1]["code"]) == (status, code)


async def test_who_may_only_look_may_not_give_anything_up(host):
    _, made = await host.ask("POST", "/api/v1/tokens", json_body={"name": "looks", "role": "viewer"})
    status, answer = await host.ask(
        "POST", "/api/v1/plugins/stuck/skip", json_body={"dryRun": True}, token=made["data"]["token"]
    )
    assert (status, answer["code"]) == (403, "forbidden")
