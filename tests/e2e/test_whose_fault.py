"""Whose fault is it: whatever callers and strangers do to a plugin, what it is delivered goes on.

One real daemon for the whole file. After each attack, and during those that hang, events still flow, the breaker of
deliveries is closed, and the worker is the same.
"""

import asyncio
import uuid

import aiohttp
import pytest
from plugin_projects import write_project

PLACES = 8
ATTEMPTS = 8  # three more than open a breaker
CROWD = 120

KIOSK = '''"""Serves whoever comes, badly where it is asked to."""
import asyncio

from plugin_sdk import Plugin, Response, Webhook, on_event, service


class Kiosk(Plugin):
    webhooks = (Webhook(name="bell", scheme="plugin"),)
    routes = True

    @on_event("order.*")
    async def note(self, event):
        pass

    @service
    async def sell(self, item: str, count: int = 1):
        """Sell something."""
        return [item] * count

    @service
    async def slow(self):
        """Answer late, within the plugin's own time."""
        await asyncio.sleep(0.3)
        return "late"

    @service
    async def broken(self):
        """Raise."""
        raise ValueError("out of order")

    async def handle_request(self, request, context):
        if request.path == "/raise" or request.path == "/hooks/bell":
            raise ValueError("out of order")
        if request.path == "/hang":
            await asyncio.Event().wait()
        while request.path == "/stubborn":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        return Response(200, {}, b"ok")
'''
PLAIN = '''"""As the kiosk, in plain functions."""
import threading

from plugin_sdk import Plugin, Response, on_event, service


class Booth(Plugin):
    routes = True

    @on_event("order.*")
    def note(self, event):
        pass

    @service
    def slow(self):
        """Never answer."""
        threading.Event().wait()

    def handle_request(self, request, context):
        if request.path == "/hang":
            threading.Event().wait()
        return Response(200, {}, b"ok")
'''
SHOP = '''"""Calls what it is told to."""
import asyncio

from plugin_sdk import HostError, Plugin, service


class Shop(Plugin):
    @service
    async def ask(self, service: str, arguments: dict, times: int, context, timeout: float = 5.0):
        """Call a service so many times at once; the codes of what came of it."""
        async def once():
            try:
                await context.call(service, arguments, timeout=timeout)
            except HostError as error:
                return error.word
            return ""

        return await asyncio.gather(*(once() for _ in range(times)))
'''
SERVED = (
    '[permissions]\nsubscribe = ["order.*"]\nroutes = true\n{more}\n[runtime]\ntimeout = "{timeout}"\nconcurrency = 8\n'
)


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    folder = tmp_path_factory.mktemp("fault")
    made = [
        write_project(folder, "kiosk", KIOSK, manifest=SERVED.format(timeout="1s", more='webhooks = ["bell"]')),
        write_project(folder, "booth", PLAIN, manifest=SERVED.format(timeout="1s", more="")),
        write_project(folder, "shop", SHOP, manifest='[permissions]\ncall = ["kiosk.*", "booth.*"]\n'),
    ]
    one = daemon_class(tmp_path_factory.mktemp("fault-host"), runtime={"overdue": "500ms"}).start()

    async def install():
        await one.trust(signed.public, ["kiosk", "booth", "shop"])
        for project in made:
            status, answer = await one.install(signed.build(project))
            assert status == 201, answer

    asyncio.run(install())
    yield one
    one.process.kill()
    one.process.wait(10)


@pytest.fixture(autouse=True)
async def fresh(host):
    yield
    for plugin in ("kiosk", "booth"):
        status, _ = await host.ask("POST", f"/api/v1/plugins/{plugin}/breaker", json_body={"state": "closed"})
        assert status == 200


async def health(host, plugin):
    return (await host.ask("GET", f"/api/v1/plugins/{plugin}/health"))[1]["data"]


async def breakers(host, plugin):
    answer = (await host.ask("GET", f"/api/v1/plugins/{plugin}/breaker"))[1]["data"]
    assert answer["state"] == answer["shares"]["deliveries"]["state"]
    return {share: found["state"] for share, found in answer["shares"].items()}


async def events_flow(host, plugin, count=10):
    """Publish events and see each delivered to the plugin."""
    ids = {str(uuid.uuid4()) for _ in range(count)}
    for id_ in ids:
        status, answer = await host.publish("order.placed", id_=id_)
        assert status == 202, answer

    async def delivered():
        _, answer = await host.ask("GET", f"/api/v1/plugins/{plugin}/deliveries?outcome=delivered&limit=100")
        return ids <= {one["eventId"] for one in answer["data"]}

    await host.until(delivered, seconds=20)
    found = await health(host, plugin)
    assert (found["breaker"]["state"], found["restarts"], found["lag"]) == ("closed", 0, 0)


async def ask(host, service, arguments=None, *, times=ATTEMPTS, **more):
    body = {"service": service, "arguments": arguments or {}, "times": times, **more}
    status, answer = await host.ask("POST", "/api/v1/plugins/shop/call/ask", json_body=body)
    assert status == 200, answer
    return answer["data"]


async def knock(host, path, *, times=ATTEMPTS, address="127.0.0.1"):
    """Requests of a stranger, all at once; their statuses."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, local_addr=(address, 0))) as session:

        async def once():
            async with session.post(host.url + path, data=b"knock") as response:
                return response.status

        return await asyncio.gather(*(once() for _ in range(times)))


async def _no_call_goes_on(host, plugin):
    _, answer = await host.ask("GET", f"/api/v1/plugins/{plugin}/breaker")
    return answer["data"]["shares"]["calls"]["inFlight"] == 0


async def test_calls_that_their_callers_cut_short_do_not_count_against_the_callee(host):
    for _ in range(2):
        assert set(await ask(host, "kiosk.slow", timeout=0.001, times=PLACES // 2)) == {"hook_timeout"}
        await host.until(lambda: _no_call_goes_on(host, "kiosk"))  # a hook gives its place back at its end
    await events_flow(host, "kiosk")
    assert set((await breakers(host, "kiosk")).values()) == {"closed"}
    assert await ask(host, "kiosk.slow", times=1) == [""]


@pytest.mark.parametrize(
    "arguments", [{}, {"itme": "tea"}, {"item": 5}, {"item": "tea", "count": "many"}, {"item": "tea", "context": 1}]
)
async def test_arguments_that_do_not_fit_do_not_count_against_the_callee(host, arguments):
    assert set(await ask(host, "kiosk.sell", arguments)) == {"arguments_invalid"}
    for _ in range(ATTEMPTS):
        status, answer = await host.ask("POST", "/api/v1/plugins/kiosk/call/sell", json_body=arguments)
        assert (status, answer["code"]) == (422, "arguments_invalid"), answer
        assert answer["message"].startswith("kiosk.sell: ")
    await events_flow(host, "kiosk")
    assert set((await breakers(host, "kiosk")).values()) == {"closed"}
    assert await ask(host, "kiosk.sell", {"item": "tea"}, times=1) == [""]


async def test_services_that_raise_open_the_breaker_of_calls_alone(host):
    for _ in range(ATTEMPTS):
        await ask(host, "kiosk.broken", times=1)
    assert await ask(host, "kiosk.sell", {"item": "tea"}, times=1) == ["breaker_open"]
    await events_flow(host, "kiosk")
    assert await breakers(host, "kiosk") == {"deliveries": "closed", "calls": "open", "requests": "closed"}
    assert await knock(host, "/p/kiosk/", times=1) == [200]
    found = await health(host, "kiosk")
    assert (found["state"], found["cause"]) == ("degraded", "breaker of calls is open")
    (check,) = (one for one in found["checks"] if one["name"] == "breaker")
    assert (check["status"], check["output"].partition(",")[0]) == ("warn", "calls: 5 failures in a row")
    _, answer = await host.ask("GET", "/api/v1/events", params={"type": "busbar.breaker.open"})
    announced = [one["event"]["data"] for one in answer["data"]]
    assert {(one["plugin"], one["share"], one["state"]) for one in announced} == {("kiosk", "calls", "open")}


@pytest.mark.parametrize("path", ["/p/kiosk/raise", "/hooks/kiosk/bell"])
async def test_requests_of_a_stranger_that_make_a_hook_raise_open_the_breaker_of_requests_alone(host, path):
    for _ in range(ATTEMPTS):
        await knock(host, path, times=1)
    await events_flow(host, "kiosk")
    assert await breakers(host, "kiosk") == {"deliveries": "closed", "calls": "closed", "requests": "open"}
    assert await ask(host, "kiosk.sell", {"item": "tea"}, times=1) == [""]


@pytest.mark.parametrize("path", ["/p/kiosk/hang", "/p/booth/hang", "/p/kiosk/stubborn"])
async def test_requests_of_strangers_that_hang_take_no_place_of_a_delivery(host, path):
    """Given a hook that hangs, in a plain function or whatever is done to end it, events flow while it does."""
    plugin = path.split("/")[2]
    crowd = asyncio.create_task(knock(host, path, times=CROWD))

    async def hanging():
        return (await health(host, plugin))["breaker"]["shares"]["requests"]["inFlight"] == PLACES // 2

    await host.until(hanging)
    await events_flow(host, plugin)
    if plugin == "kiosk":
        assert await ask(host, "kiosk.sell", {"item": "tea"}, times=1) == [""]
    assert set(await crowd) <= {429, 503, 504}
    await events_flow(host, plugin)
    assert (await breakers(host, plugin))["calls"] == "closed"


async def test_plain_functions_that_never_end_take_every_place_of_their_share_and_no_thread_of_a_delivery(host):
    """Given two strangers, a plugin and an administrator who do their worst, nobody else is served, and events flow."""
    served = "/api/v1/plugins/booth/call/slow"
    await asyncio.gather(
        ask(host, "booth.slow", timeout=0.1, times=CROWD // 2),
        *(host.ask("POST", served, json_body={}) for _ in range(ATTEMPTS)),
        *(knock(host, "/p/booth/hang", address=address) for address in ("127.0.0.1", "127.0.0.2")),
    )
    shares = (await health(host, "booth"))["breaker"]["shares"]
    assert {name: found["inFlight"] for name, found in shares.items()} == {
        "deliveries": 0,
        "calls": PLACES,
        "requests": PLACES,
    }
    await events_flow(host, "booth", count=50)
    assert (await breakers(host, "booth"))["deliveries"] == "closed"
    status, _ = await host.ask("POST", "/api/v1/plugins/booth/breaker", json_body={"state": "closed"})
    assert status == 200
    found = await health(host, "booth")
    assert (found["state"], found["cause"]) == ("degraded", "no place for calls")


async def test_an_operators_word_is_for_every_share(host):
    for state, shown in (("open", "forced-open"), ("disabled", "disabled"), ("auto", "closed")):
        await host.ask("POST", "/api/v1/plugins/kiosk/breaker", json_body={"state": state})
        assert set((await breakers(host, "kiosk")).values()) == {shown}
    _, metrics = await host.ask("GET", "/metrics")
    for share in ("deliveries", "calls", "requests"):
        assert f'busbar_breaker_state{{plugin="kiosk",share="{share}",state="closed"}} 1.0' in metrics.decode()
