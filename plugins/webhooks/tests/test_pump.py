"""The pump: endpoints that hold up nobody, and workers that are killed."""

import asyncio

import pytest
from webhooks.messages import rendered

from plugin_sdk import HostError
from plugin_sdk.testing import FakeClock, MemoryHost


async def test_a_broken_endpoint_waits_behind_its_breaker_and_holds_up_nobody(running, receivers):
    broken, well = await receivers(then=500), await receivers()
    async with running() as run:
        path = await run.api.add(broken.url)
        await run.api.add(well.url)
        for number in range(8):
            await run.deliver(id=str(number))
        assert len(broken.received) < 8
        assert len(well.received) == 8
        stats = await run.api("GET", f"{path}/stats")
        assert stats["breaker"]["state"] == "open"
        broken.then = 204
        for _ in range(4):
            await run.later(70)
        assert len(set(broken.ids)) == 8


async def test_an_endpoint_that_refuses_single_messages_keeps_its_breaker_closed(running, receiver):
    receiver.then = 400
    async with running() as run:
        path = await run.api.add(receiver.url)
        for number in range(8):
            await run.deliver(id=str(number))
        assert len(receiver.received) == 8
        assert (await run.api("GET", f"{path}/stats"))["breaker"]["state"] == "closed"


async def test_an_endpoint_gets_no_more_than_its_rate(running, receiver):
    async with running() as run:
        await run.api.add(receiver.url, ratePerSecond=2)
        for number in range(7):
            await run.deliver(id=str(number))
        assert len(receiver.received) == 2
        await run.later(1)
        assert len(receiver.received) == 4
        await run.later(10)
        assert len(receiver.received) == 6
        await run.later(10)
        assert len(receiver.received) == 7


async def test_an_endpoint_that_is_slow_has_only_its_share_of_the_requests(running, receivers):
    slow, well = await receivers(hold=asyncio.Event()), await receivers()
    async with running(in_flight_of_one=2, in_flight=3) as run:
        await run.api.add(slow.url)
        await run.api.add(well.url)
        for number in range(6):
            await run.harness.deliver("order.placed", id=str(number))
        async with asyncio.timeout(10):
            while len(well.received) < 6 or slow.at_once < 2:
                await asyncio.sleep(0)
        assert slow.most_at_once == 2
        slow.hold.set()
        await run.plugin.pump.settle()
        assert len(slow.received) == 6


async def test_a_killed_worker_loses_nothing(running, receiver):
    receiver.then = 500
    kv, clock = {}, FakeClock()
    async with running(kv=kv, clock=clock) as run:
        await run.api.add(receiver.url, types=["order.*"])
        await run.deliver(id="1")
        killed = dict(kv)
    receiver.then = 204
    async with running(kv=killed, clock=clock) as run:
        assert len(receiver.received) == 1
        await run.later(10)
        await run.deliver(id="1")
        assert len(receiver.received) == 2
        assert len(set(receiver.ids)) == 1


async def test_a_request_that_is_cut_off_is_made_again_after_a_restart(running, receiver, monkeypatch):
    monkeypatch.setattr("webhooks.pump.STOP_GRACE", 0.01)
    receiver.hold = asyncio.Event()
    kv = {}
    async with running(kv=kv) as run:
        path = await run.api.add(receiver.url)
        await run.harness.deliver("order.placed", id="1")
        async with asyncio.timeout(10):
            while not receiver.at_once:
                await asyncio.sleep(0)
    receiver.hold.set()
    async with running(kv=kv) as run:
        await run.plugin.pump.settle()
        assert (await run.api("GET", f"{path}/stats"))["kept"]["delivered"] == 1
        assert len(set(receiver.ids)) == 1


async def test_a_full_endpoint_leaves_its_events_in_the_log_and_the_others_get_theirs(running, receivers):
    full, well = await receivers(then=500), await receivers()
    async with running(pending=2) as run:
        await run.api.add(full.url)
        await run.api.add(well.url)
        for number in range(2):
            assert (await run.deliver(id=str(number))).outcome == "delivered"
        found = await run.deliver(id="2")
        assert (found.outcome, found.after) == ("retried", None)
        assert "2 messages wait" in found.reason
        assert len(well.received) == 3
        full.then = 204
        for _ in range(3):
            await run.later(70)
        assert (await run.deliver(id="2", attempt=2)).outcome == "delivered"
        assert (len(set(full.ids)), len(well.received)) == (3, 3)


async def test_an_event_that_is_too_large_becomes_a_dead_letter_where_someone_wants_it(running, receiver):
    async with running() as run:
        await run.api.add(receiver.url, types=["big"])
        assert (await run.deliver("big", data="x" * 200_000)).outcome == "delivered"
        assert (await run.deliver("big", data="x" * 210_000)).outcome == "dead-lettered"
        assert (await run.deliver("other", data="x" * 210_000)).outcome == "delivered"


async def test_an_attempt_that_the_host_does_not_keep_is_made_again(running, receiver, monkeypatch):
    async with running() as run:
        path = await run.api.add(receiver.url)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryHost, "kv_set", _refuse_done(MemoryHost.kv_set))
            await run.deliver()
            assert (await run.api("GET", f"{path}/stats"))["pending"] == 1
        await run.later(5)
        assert (await run.api("GET", f"{path}/stats"))["kept"]["delivered"] == 1
        assert len(receiver.received) == 2
        assert len(set(receiver.ids)) == 1


async def test_a_message_that_cannot_be_sent_for_an_unknown_reason_ends_nothing(
    running, receivers, monkeypatch, caplog
):
    odd, well = await receivers(), await receivers()
    async with running() as run:
        await run.api.add(odd.url, format="standard")
        await run.api.add(well.url)
        with monkeypatch.context() as patch:
            patch.setattr("webhooks.sending.rendered", _broken_for("standard"))
            await run.deliver()
            assert (len(odd.received), len(well.received)) == (0, 1)
            assert "is tried again in 60 s" in caplog.text
        await run.later(61)
        assert len(odd.received) == 1
        assert (await run.harness.check_health()).status == "pass"


async def test_a_pump_that_has_ended_is_a_failed_health(running, monkeypatch, caplog):
    async with running() as run:
        monkeypatch.setattr(run.plugin.pump, "_turn", None)
        run.plugin.pump.wake()
        async with asyncio.timeout(10):
            while "the pump has ended" not in caplog.text:
                await asyncio.sleep(0)
        assert (await run.harness.check_health()).status == "fail"


def _refuse_done(kv_set):
    async def refusing(host, key, value):
        if key.startswith("done/"):
            raise HostError("the disk is full", "storage_full")
        await kv_set(host, key, value)

    return refusing


def _broken_for(form):
    def broken(message, wanted):
        if wanted == form:
            raise ArithmeticError("broken")
        return rendered(message, wanted)

    return broken


@pytest.fixture
async def way_out():
    """A maker of ways out that answer with one status and one code, as a host's broker does."""
    servers = []

    async def make(status, code):
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status} No\r\nX-Busbar-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield make
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("status", "code", "outcome", "reason"),
    [
        (502, "name_not_resolved", "unreachable", "name_not_resolved"),
        (403, "address_refused", "not_allowed", "no public address"),
        (403, "network_not_granted", "not_allowed", "is not granted"),
    ],
)
async def test_what_the_hosts_way_out_refuses_is_a_failed_attempt(
    running, way_out, monkeypatch, status, code, outcome, reason
):
    monkeypatch.setenv("HTTPS_PROXY", await way_out(status, code))
    async with running() as run:
        path = await run.api.add("https://example.com/hook")
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert (attempt["outcome"], attempt["status"]) == (outcome, None)
        assert reason in attempt["reason"]


async def test_a_way_out_that_is_busy_says_nothing_about_the_endpoint(running, way_out, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", await way_out(503, "too_many_connections"))
    async with running() as run:
        path = await run.api.add("https://example.com/hook")
        await run.deliver()
        for _ in range(8):
            await run.later(5)
        assert (await run.api("GET", f"{path}/attempts"))["data"] == []
        stats = await run.api("GET", f"{path}/stats")
        assert (stats["pending"], stats["breaker"]["state"], stats["failingSince"]) == (1, "closed", None)
        answer = await run.api("POST", f"{path}/test", status=503)
        assert answer["error"]["code"] == "busy"
