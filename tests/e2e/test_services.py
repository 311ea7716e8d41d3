"""Service calls between plugins: permission, deadline, circles, the callee's guard, and what `requires` means."""

import asyncio
import time

import pytest
from plugin_projects import write_project

MAILER = '''"""Answers, slowly or not at all, as it is asked."""
import asyncio

from plugin_sdk import Plugin, service


class Mailer(Plugin):
    @service
    async def send(self, to, context):
        """Say who asked."""
        return {"to": to, "caller": context.service_call.caller}

    @service
    async def slow(self, seconds):
        """Answer late."""
        await asyncio.sleep(seconds)
        return "late"

    @service
    async def broken(self):
        """Raise."""
        raise ValueError("no such mailbox")

    @service
    async def back(self, context):
        """Call the caller."""
        return await context.call("shop.ask", service="mailer.send", arguments={"to": "me"})
'''
SHOP = '''"""Calls what it is told to."""
from plugin_sdk import HostError, Plugin, service


class Shop(Plugin):
    @service
    async def ask(self, service, arguments, context, timeout=5.0):
        """Call a service and answer what came of it."""
        try:
            return {"answer": await context.call(service, arguments, timeout=timeout)}
        except HostError as error:
            return {"code": error.word, "message": str(error)}
'''
CALLS = '[permissions]\ncall = ["mailer.*", "nobody.send", "shop.ask"]\n'


@pytest.fixture(scope="module")
def made(signed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("services")
    return {
        "mailer": signed.build(
            write_project(folder, "mailer", MAILER, manifest='[permissions]\ncall = ["shop.ask"]\n')
        ),
        "shop": signed.build(
            write_project(folder, "shop", SHOP, manifest=CALLS, requires='["mailer>=1.0", "mailer<2"]')
        ),
    }


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, made, daemon_class):
    one = daemon_class(tmp_path_factory.mktemp("services-host")).start()

    async def install():
        await one.trust(signed.public, ["mailer", "shop"])
        for name in ("mailer", "shop"):
            status, answer = await one.install(made[name])
            assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


async def ask(host, service, arguments, **more):
    body = {"service": service, "arguments": arguments, **more}
    status, answer = await host.ask("POST", "/api/v1/plugins/shop/call/ask", json_body=body)
    assert status == 200, answer
    return answer["data"]


async def test_a_plugin_calls_a_service_of_another_and_gets_its_answer(host):
    assert await ask(host, "mailer.send", {"to": "ann"}) == {"answer": {"to": "ann", "caller": "shop"}}


REFUSALS = [
    ("mailer.broken", {}, "plugin_call_failed", "mailer.broken failed: ValueError: no such mailbox"),
    ("mailer.nothing", {}, "method_not_found", "Method nothing not found on plugin mailer"),
    ("nobody.send", {}, "plugin_not_found", "Plugin nobody not found"),
    ("courier.send", {}, "permission_denied", "shop may not call 'courier.send'"),
    ("mailer.send", {"too": "ann"}, "arguments_invalid", "mailer.send"),
    ("shop.ask", {"service": "mailer.send", "arguments": {}}, "call_cycle", "shop -> shop"),
]


@pytest.mark.parametrize(("service", "arguments", "code", "sentence"), REFUSALS, ids=[case[2] for case in REFUSALS])
async def test_a_call_that_cannot_be_made_says_why(host, service, arguments, code, sentence):
    found = await ask(host, service, arguments)
    assert found["code"] == code
    assert sentence in found["message"]


async def test_a_call_in_a_circle_is_refused_and_does_not_hang(host):
    found = await ask(host, "mailer.back", {})
    assert found["code"] == "call_cycle"
    assert "shop -> mailer -> shop" in found["message"]


async def test_a_caller_waits_no_longer_than_it_said(host):
    started = time.monotonic()
    found = await ask(host, "mailer.slow", {"seconds": 5}, timeout=0.2)
    assert found["code"] == "hook_timeout"
    assert time.monotonic() - started < 4


async def test_a_call_of_a_plugin_whose_breaker_is_open_is_refused_at_once(host):
    await host.ask("POST", "/api/v1/plugins/mailer/breaker", json_body={"state": "open"})
    try:
        found = await ask(host, "mailer.send", {"to": "ann"})
        assert found["code"] == "breaker_open"
    finally:
        await host.ask("POST", "/api/v1/plugins/mailer/breaker", json_body={"state": "closed"})
    assert "answer" in await ask(host, "mailer.send", {"to": "ann"})


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nobody/call/send", 404, "Plugin nobody not found"),
        ("mailer/call/nothing", 404, "Method nothing not found on plugin mailer"),
    ],
)
async def test_over_http_a_service_that_is_not_there_is_not_found(host, path, status, message):
    found, answer = await host.ask("POST", f"/api/v1/plugins/{path}", json_body={})
    assert found == status
    assert answer["message"].startswith(message)


async def test_a_plugin_whose_requirement_is_gone_is_degraded_and_goes_on_working(host):
    async def state():
        return (await host.ask("GET", "/api/v1/plugins/shop"))[1]["data"]

    assert (await state())["state"] == "running"
    await host.ask("POST", "/api/v1/plugins/mailer/disable")
    found = await state()
    assert found["state"] == "degraded"
    assert found["cause"] == "it requires mailer>=1.0, which is disabled"
    assert (await ask(host, "mailer.send", {"to": "ann"}))["code"] == "plugin_not_running"
    await host.ask("POST", "/api/v1/plugins/mailer/enable")
    assert (await state())["state"] == "running"


async def test_a_plugin_is_started_after_what_it_requires(host):
    assert host.stop() == 0
    host.start()

    async def both():
        _, answer = await host.ask("GET", "/api/v1/plugins")
        return {one["state"] for one in answer["data"]} == {"running"}

    await host.until(both)
    since = {one["id"]: one["since"] for one in (await host.ask("GET", "/api/v1/plugins"))[1]["data"]}
    assert since["mailer"] <= since["shop"]


async def test_a_plugin_that_requires_one_that_is_not_installed_runs_degraded(daemon, signed, made):
    alone = daemon().start()
    await alone.trust(signed.public, ["shop"])
    status, answer = await alone.install(made["shop"])
    assert status == 201, answer

    async def degraded():
        _, found = await alone.ask("GET", "/api/v1/plugins/shop")
        return found["data"] if found["data"]["state"] == "degraded" else None

    found = await alone.until(degraded)
    assert found["cause"] == "it requires mailer>=1.0, which is not installed"
    assert (await ask(alone, "mailer.send", {"to": "ann"}))["code"] == "plugin_not_found"
