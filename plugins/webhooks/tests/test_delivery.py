"""From an event to an endpoint: what is sent, when it is sent again, and what becomes of those that fail."""

import asyncio
import json

import pytest
from webhooks.schedule import SCHEDULE

from plugin_sdk.webhooks import verify


async def test_an_event_is_sent_signed_to_an_endpoint_that_takes_it(running, receiver):
    async with running() as run:
        path = await run.api.add(receiver.url, types=["order.*"], headers={"Authorization": "Bearer abc"})
        secret = (await run.api("GET", f"{path}/secret"))["secret"]
        assert (await run.deliver(source="/shop", id="1", subject="o-1")).outcome == "delivered"
        ((headers, body),) = receiver.received
        found = verify("standard-webhooks", headers, body, [secret], now=run.clock.now().timestamp())
        assert found.id.startswith("msg_")
        assert headers["content-type"].startswith("application/cloudevents+json")
        assert headers["authorization"] == "Bearer abc"
        sent = json.loads(body)
        assert (sent["source"], sent["id"], sent["type"], sent["subject"]) == ("/shop", "1", "order.placed", "o-1")
        assert sent["data"] == {"total": 5}


async def test_an_endpoint_may_have_the_payload_of_standard_webhooks_instead(running, receiver):
    async with running() as run:
        await run.api.add(receiver.url, format="standard")
        await run.deliver()
        ((headers, body),) = receiver.received
        assert headers["content-type"] == "application/json"
        sent = json.loads(body)
        assert (sorted(sent), sent["type"], sent["data"]) == (
            ["data", "timestamp", "type"],
            "order.placed",
            {"total": 5},
        )


@pytest.mark.parametrize(
    ("fields", "event", "sent"),
    [
        ({}, {}, True),
        ({"types": ["invoice.*"]}, {}, False),
        ({"types": ["invoice.*", "order.placed"]}, {}, True),
        ({"types": ["order.plac"]}, {}, False),
        ({"filters": [{"exact": {"subject": "o-1"}}]}, {"subject": "o-1"}, True),
        ({"filters": [{"exact": {"subject": "o-1"}}]}, {"subject": "o-2"}, False),
        ({"filters": [{"exact": {"subject": "o-1"}}, {"prefix": {"source": "/x"}}]}, {"subject": "o-1"}, False),
        ({"enabled": False}, {}, False),
    ],
)
async def test_an_endpoint_gets_the_events_of_its_types_that_pass_its_filters(running, receiver, fields, event, sent):
    async with running() as run:
        await run.api.add(receiver.url, **fields)
        await run.deliver(**event)
        assert len(receiver.received) == sent


async def test_an_event_that_is_delivered_twice_is_one_message(running, receiver):
    async with running() as run:
        await run.api.add(receiver.url)
        receiver.then = 500
        await run.deliver(id="same")
        await run.deliver(id="same", attempt=2)
        receiver.then = 204
        await run.later(6)
        await run.deliver(id="same", attempt=3)
        assert len(receiver.received) == 2
        assert len(set(receiver.ids)) == 1


async def test_each_endpoint_has_a_message_of_its_own(running, receivers):
    one, other = await receivers(then=500), await receivers()
    async with running() as run:
        await run.api.add(one.url)
        await run.api.add(other.url)
        await run.deliver()
        await run.later(6)
        assert (len(one.received), len(other.received)) == (2, 1)
        assert set(one.ids).isdisjoint(other.ids)


async def test_a_failing_message_is_tried_ten_times_over_three_days_with_one_id_and_fresh_signatures(running, receiver):
    receiver.then = 500
    async with running() as run:
        path = await run.api.add(receiver.url)
        secret = (await run.api("GET", f"{path}/secret"))["secret"]
        await run.deliver()
        for number in range(1, 10):
            assert len(receiver.received) == number
            waited = await run.next_attempt(path)
            assert 0.8 * SCHEDULE[number] <= waited <= 1.2 * SCHEDULE[number] + 0.01
            headers, body = receiver.received[-1]
            assert verify("standard-webhooks", headers, body, [secret], now=run.clock.now().timestamp())
        await run.later(30 * 86_400)
        assert len(receiver.received) == 10
        assert len(set(receiver.ids)) == 1
        assert len({headers["webhook-timestamp"] for headers, _ in receiver.received}) == 10
        stats = await run.api("GET", f"{path}/stats")
        assert (stats["pending"], stats["kept"]) == (0, {"delivered": 0, "failed": 1})


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_success(running, receiver, status):
    receiver.then = status
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert (attempt["outcome"], attempt["state"]) == ("delivered", "delivered")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
async def test_anything_else_is_a_failure_and_a_redirect_is_not_followed(running, receiver, receivers, status):
    elsewhere = await receivers()
    receiver.then, receiver.headers = status, {"location": elsewhere.url}
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert (attempt["outcome"], attempt["status"], attempt["state"]) == ("status", status, "pending")
        assert elsewhere.received == []


async def test_an_endpoint_that_is_gone_is_disabled_at_once(running, receiver):
    receiver.then = 410
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        found = await run.api("GET", path)
        assert (found["enabled"], found["disabledBecause"]) == (False, "it answered 410 Gone")
        assert run.said == ["webhooks.endpoint.disabled"]
        await run.deliver()
        await run.later(86_400)
        assert len(receiver.received) == 1


async def test_too_many_requests_and_timeouts_wait_a_minute_at_least(running, receiver):
    receiver.then = 429
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        assert await run.next_attempt(path) >= 60


async def test_an_endpoint_that_does_not_answer_in_time_has_failed(running, receiver, monkeypatch):
    monkeypatch.setattr("webhooks.sending.TIMEOUT", 0.05)
    receiver.hold = asyncio.Event()
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert (attempt["outcome"], attempt["status"]) == ("timeout", None)
        assert await run.next_attempt(path) >= 60
        receiver.hold.set()


async def test_an_endpoint_that_is_not_there_has_failed(running, unused_tcp_port):
    async with running() as run:
        path = await run.api.add(f"http://127.0.0.1:{unused_tcp_port}/")
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert attempt["outcome"] == "unreachable"
        assert attempt["reason"]


@pytest.mark.parametrize(("asked", "least", "most"), [("8", 8, 8.1), ("1", 5, 5.1), ("100", 10, 10.1)])
async def test_retry_after_is_heeded_between_the_schedule_and_twice_of_it(running, receiver, asked, least, most):
    receiver.then, receiver.headers = 503, {"retry-after": asked}
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        assert least <= await run.next_attempt(path) <= most


async def test_the_beginning_of_an_answer_is_kept(running, receiver):
    receiver.then, receiver.body = 500, b"no\x00 \xff" + b"x" * 100_000
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert attempt["body"].startswith("no  \ufffdxxx")
        assert len(attempt["body"]) <= 1024


async def test_people_are_told_of_the_fourth_failure_of_recovery_and_of_exhaustion(running, receiver):
    receiver.answers = [500] * 5
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        for _ in range(2):
            await run.next_attempt(path)
        assert run.said == []
        await run.next_attempt(path)
        assert run.said == ["webhooks.message.failing"]
        await run.next_attempt(path)
        await run.next_attempt(path)
        assert run.said == ["webhooks.message.failing", "webhooks.message.recovered"]
        receiver.then = 500
        await run.deliver()
        for _ in range(9):
            await run.next_attempt(path)
        assert run.said[2:] == ["webhooks.message.failing", "webhooks.message.exhausted"]
        assert run.harness.emitted[-1].data["failures"] == 10


async def test_an_endpoint_is_disabled_when_a_message_is_exhausted_after_five_days_without_success(running, receiver):
    receiver.then = 500
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver(id="1")
        began = run.clock.now()
        while (run.clock.now() - began).total_seconds() < 50 * 3600:
            await run.next_attempt(path)
        await run.deliver(id="2")
        while (await run.api("GET", f"{path}/stats"))["kept"]["failed"] < 1:
            await run.next_attempt(path)
        assert (await run.api("GET", path))["enabled"]
        while (await run.api("GET", f"{path}/stats"))["kept"]["failed"] < 2:
            await run.next_attempt(path)
        found = await run.api("GET", path)
        assert not found["enabled"]
        assert found["disabledBecause"].startswith("it has failed for 1")
        assert run.said[-1] == "webhooks.endpoint.disabled"
        assert (await run.harness.check_health()).status == "warn"
        receiver.then = 204
        enabled = await run.api("POST", f"{path}/enable")
        assert (enabled["enabled"], enabled["failingSince"], enabled["disabledBecause"]) == (True, None, "")
        await run.deliver(id="3")
        assert (await run.api("GET", f"{path}/stats"))["kept"]["delivered"] == 1
        assert (await run.harness.check_health()).status == "pass"


async def test_any_success_ends_the_failing_of_an_endpoint(running, receiver):
    receiver.answers = [500]
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver()
        assert (await run.api("GET", path))["failingSince"] == "2026-01-01T00:00:00.000Z"
        await run.next_attempt(path)
        assert (await run.api("GET", path))["failingSince"] is None


async def test_news_of_webhooks_goes_only_where_it_is_asked_for_and_breeds_no_news(running, receivers):
    everything, news = await receivers(), await receivers(then=500)
    async with running() as run:
        await run.api.add(everything.url)
        path = await run.api.add(news.url, types=["webhooks.*"])
        await run.deliver("webhooks.message.failing")
        assert everything.received == []
        for _ in range(9):
            await run.next_attempt(path)
        assert len(news.received) == 10
        assert run.said == []


async def test_signatures_of_the_old_and_the_new_key_are_sent_until_the_old_one_is_over(running, receiver):
    async with running() as run:
        path = await run.api.add(receiver.url)
        old = (await run.api("GET", f"{path}/secret"))["secret"]
        new = await run.api("POST", f"{path}/secret/rotate", {"kind": "asymmetric", "oldKeyValidSeconds": 3600})
        assert new["publicKey"].startswith("whpk_")
        await run.deliver(id="1")
        headers, body = receiver.received[-1]
        for key in (old, new["publicKey"]):
            assert verify("standard-webhooks", headers, body, [key], now=run.clock.now().timestamp())
        await run.later(3601)
        await run.deliver(id="2")
        headers, body = receiver.received[-1]
        assert len(headers["webhook-signature"].split(" ")) == 1
        assert verify("standard-webhooks", headers, body, [new["publicKey"]], now=run.clock.now().timestamp())


async def test_a_cookie_that_an_endpoint_sets_is_never_sent(running, receiver):
    receiver.headers = {"set-cookie": "a=b; Path=/"}
    async with running() as run:
        await run.api.add(receiver.url.replace("127.0.0.1", "localhost"))
        await run.deliver(id="1")
        await run.deliver(id="2")
        assert len(receiver.received) == 2
        assert not any("cookie" in headers for headers, _ in receiver.received)
