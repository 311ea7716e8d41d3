"""The management of endpoints over HTTP."""

import json
from collections import Counter

import pytest
from webhooks import Webhooks
from webhooks.administration import RECOVER_WITHIN

from plugin_sdk import HostError, Request
from plugin_sdk.testing import FakeClock, MemoryHost, PluginHarness
from plugin_sdk.webhooks import new_private_key, new_secret, verify

URL = "https://example.com/hook"


def code(answer):
    return answer["error"]["code"]


async def test_an_endpoint_is_made_listed_looked_at_changed_and_deleted(running):
    async with running(allow_private=False) as run:
        made = await run.api(
            "POST", "/endpoints", {"url": URL, "description": "Orders", "types": ["order.*"]}, status=201
        )
        path = f"/endpoints/{made['id']}"
        assert made["secret"].startswith("whsec_")
        assert (made["url"], made["description"], made["types"], made["enabled"]) == (URL, "Orders", ["order.*"], True)
        shown = await run.api("GET", path)
        assert shown == {name: value for name, value in made.items() if name not in {"kind", "secret", "old"}}
        assert await run.api("GET", "/endpoints") == {"data": [shown], "next": None}
        run.clock.advance(5)
        changed = await run.api("PATCH", path, {"ratePerSecond": 2.5, "headers": {"X-Shop": "1"}})
        assert (changed["ratePerSecond"], changed["headers"]) == (2.5, {"x-shop": "1"})
        assert (changed["url"], changed["types"]) == (URL, ["order.*"])
        assert changed["updatedAt"] > changed["createdAt"]
        assert await run.api("DELETE", path, status=204) is None
        for method, suffix in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("GET", "/stats"), ("POST", "/enable")):
            assert code(await run.api(method, path + suffix, status=404)) == "endpoint_not_found"
        assert run.harness.kv == {}


async def test_endpoints_are_there_after_a_restart_with_their_keys(running):
    kv = {}
    async with running(kv=kv) as run:
        path = await run.api.add(URL, filters=[{"exact": {"subject": "x"}}])
        before = [await run.api("GET", path), await run.api("GET", f"{path}/secret")]
    async with running(kv=kv) as run:
        assert [await run.api("GET", path), await run.api("GET", f"{path}/secret")] == before


async def test_endpoints_are_listed_page_by_page(running):
    async with running() as run:
        paths = [await run.api.add(URL) for _ in range(5)]
        seen, after = [], ""
        while after is not None:
            page = await run.api("GET", "/endpoints", limit="2", after=after)
            seen += [f"/endpoints/{one['id']}" for one in page["data"]]
            assert len(page["data"]) <= 2
            after = page["next"]
        assert seen == sorted(paths)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1e1", "", "\u0661", "9" * 50])
async def test_a_limit_is_a_number_from_1_to_100(running, limit):
    async with running() as run:
        assert code(await run.api("GET", "/endpoints", limit=limit, status=400)) == "limit_invalid"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"url": "ftp://example.com"}, "url_invalid"),
        ({"url": "https://user:pass@example.com/"}, "url_invalid"),
        ({"url": "https://127.0.0.1/"}, "url_refused"),
        ({"url": "https://example.com:22/"}, "url_refused"),
        ({"url": None}, "body_invalid"),
        ({"url": 5}, "body_invalid"),
        ({"types": []}, "body_invalid"),
        ({"types": ["a b"]}, "body_invalid"),
        ({"types": ["*" * 20]}, "body_invalid"),
        ({"types": ["a"] * 51}, "body_invalid"),
        ({"filters": [{"nothing": {}}]}, "filter_invalid"),
        ({"filters": "x"}, "body_invalid"),
        ({"enabled": 1}, "body_invalid"),
        ({"ratePerSecond": 0}, "body_invalid"),
        ({"ratePerSecond": -1}, "body_invalid"),
        ({"ratePerSecond": 1e9}, "body_invalid"),
        ({"headers": {"webhook-id": "x"}}, "body_invalid"),
        ({"headers": {"Content-Type": "x"}}, "body_invalid"),
        ({"headers": {"Host": "x"}}, "body_invalid"),
        ({"headers": {"proxy-authorization": "x"}}, "body_invalid"),
        ({"headers": {"x": "a\r\nb: c"}}, "body_invalid"),
        ({"headers": {"x": ""}}, "body_invalid"),
        ({"headers": {"x y": "a"}}, "body_invalid"),
        ({"headers": {"X": "a", "x": "b"}}, "body_invalid"),
        ({"headers": {f"x-{number}": "a" for number in range(21)}}, "body_invalid"),
        ({"format": "xml"}, "body_invalid"),
        ({"secret": "whsec_"}, "secret_invalid"),
        ({"secret": "short"}, "secret_invalid"),
        ({"description": "x" * 501}, "body_invalid"),
        ({"unknown": 1}, "body_invalid"),
        ({"id": "ep_1"}, "body_invalid"),
    ],
)
async def test_an_endpoint_that_cannot_be_meant_is_refused_and_nothing_is_kept(running, fields, word):
    async with running(allow_private=False) as run:
        answer = await run.api("POST", "/endpoints", {"url": URL, **fields}, status=400)
        assert code(answer) == word
        assert len(answer["error"]["message"]) > 10
        assert run.harness.kv == {}
        path = await run.api.add(URL)
        if "secret" not in fields:
            assert code(await run.api("PATCH", path, fields, status=400)) == word


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b""])
async def test_a_body_that_is_no_object_is_refused(running, body):
    async with running() as run:
        assert code(await run.api("POST", "/endpoints", body, status=400)) == "body_invalid"


async def test_the_number_of_endpoints_is_bounded(running):
    async with running(endpoints=2) as run:
        await run.api.add(URL)
        path = await run.api.add(URL)
        assert code(await run.api("POST", "/endpoints", {"url": URL}, status=409)) == "too_many_endpoints"
        await run.api("DELETE", path, status=204)
        await run.api.add(URL)


# -- who may


@pytest.mark.parametrize("token", [None, "", "wrong", "a token of sixteen character", "\u00e9", "\udc80"])
@pytest.mark.parametrize("path", ["/endpoints", "/endpoints/ep_1/secret", "/nowhere"])
async def test_nobody_without_the_token_is_served(running, token, path):
    async with running() as run:
        assert code(await run.api("GET", path, token=token, status=401)) == "token_invalid"


@pytest.mark.parametrize("secrets", [{}, {"admin_token": ""}, {"admin_token": "short"}])
async def test_nobody_is_served_until_a_token_of_some_length_is_set(secrets):
    async with PluginHarness(Webhooks(clock=FakeClock()), secrets=secrets) as harness:
        for given in ("", secrets.get("admin_token", "")):
            answer = await harness.request(Request("GET", "/endpoints", headers={"x-webhooks-token": given}))
            assert (answer.status, code(json.loads(answer.body))) == (503, "admin_token_not_set")


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/", 404, "route_not_found"),
        ("GET", "/endpoints/", 404, "route_not_found"),
        ("GET", "/endpoints/../x", 404, "route_not_found"),
        ("GET", "/endpoints/ep_1/nothing", 404, "route_not_found"),
        ("PUT", "/endpoints", 405, "method_not_allowed"),
        ("GET", "/endpoints/ep_1/test", 405, "method_not_allowed"),
    ],
)
async def test_other_paths_and_methods_are_refused(running, method, path, status, word):
    async with running() as run:
        assert code(await run.api(method, path, status=status)) == word


# -- keys


async def test_a_secret_is_shown_and_rotated(running):
    async with running() as run:
        mine, private = new_secret(), new_private_key()
        path = await run.api.add(URL, secret=mine)
        assert await run.api("GET", f"{path}/secret") == {"kind": "symmetric", "secret": mine, "old": []}
        rotated = await run.api("POST", f"{path}/secret/rotate", {"secret": private})
        assert rotated["kind"] == "asymmetric"
        assert rotated["old"] == [{"kind": "symmetric", "validUntil": "2026-01-02T00:00:00.000Z"}]
        assert await run.api("GET", f"{path}/secret") == rotated
        assert private not in str(rotated)
        for number in range(4):
            await run.api("POST", f"{path}/secret/rotate", {"oldKeyValidSeconds": 100 + number})
        assert code(await run.api("POST", f"{path}/secret/rotate", status=409)) == "too_many_keys"


@pytest.mark.parametrize(
    "body",
    [
        {"secret": new_secret(), "kind": "symmetric"},
        {"kind": "other"},
        {"oldKeyValidSeconds": -1},
        {"oldKeyValidSeconds": 7 * 86_400 + 1},
        {"secret": "x"},
    ],
)
async def test_a_rotation_that_cannot_be_meant_changes_nothing(running, body):
    async with running() as run:
        path = await run.api.add(URL)
        before = await run.api("GET", f"{path}/secret")
        await run.api("POST", f"{path}/secret/rotate", body, status=400)
        assert await run.api("GET", f"{path}/secret") == before


# -- messages


async def test_attempts_are_shown_the_youngest_first(running, receiver):
    receiver.answers = [500, 204, 204]
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver("order.placed", id="1")
        await run.next_attempt(path)
        run.clock.advance(1)
        await run.deliver("order.paid", id="2")
        found = (await run.api("GET", f"{path}/attempts"))["data"]
        assert [(one["eventType"], one["status"], one["state"]) for one in found] == [
            ("order.paid", 204, "delivered"),
            ("order.placed", 204, "delivered"),
            ("order.placed", 500, "delivered"),
        ]
        assert (await run.api("GET", f"{path}/attempts", limit="1"))["data"] == found[:1]
        assert {one["messageId"] for one in found} == set(receiver.ids)


async def test_attempts_of_messages_that_wait_are_shown_however_many_wait_before_them(running, receiver):
    receiver.then = 500
    kv = {}
    async with running(kv=kv) as run:
        path = await run.api.add(receiver.url, ratePerSecond=1)
        for number in range(20):
            await run.deliver(id=str(number))
        found = (await run.api("GET", f"{path}/attempts", limit="5"))["data"]
        assert [(one["state"], one["messageId"]) for one in found] == [("pending", receiver.ids[0])]
    async with running(kv=kv) as run:
        assert found[0] in (await run.api("GET", f"{path}/attempts", limit="5"))["data"]


async def test_a_test_event_is_sent_once_at_once_and_its_outcome_answered(running, receiver):
    async with running() as run:
        path = await run.api.add(receiver.url, enabled=False)
        secret = (await run.api("GET", f"{path}/secret"))["secret"]
        found = await run.api("POST", f"{path}/test", {"type": "order.placed", "data": {"total": 1}})
        assert (found["outcome"], found["status"]) == ("delivered", 204)
        ((headers, body),) = receiver.received
        assert verify("standard-webhooks", headers, body, [secret], now=run.clock.now().timestamp())
        assert json.loads(body)["type"] == "order.placed"
        receiver.then = 500
        assert (await run.api("POST", f"{path}/test"))["outcome"] == "status"
        await run.later(86_400)
        assert len(receiver.received) == 2
        assert code(await run.api("POST", f"{path}/test", {"type": "\u0000"}, status=400)) == "event_invalid"


async def test_tests_keep_to_the_rate_and_the_breaker_of_an_endpoint(running, receiver):
    async with running() as run:
        path = await run.api.add(receiver.url, ratePerSecond=1)
        await run.api("POST", f"{path}/test")
        assert code(await run.api("POST", f"{path}/test", status=429)) == "rate_exceeded"
        receiver.then = 500
        for _ in range(5):
            run.clock.advance(1)
            await run.api("POST", f"{path}/test")
        run.clock.advance(1)
        assert code(await run.api("POST", f"{path}/test", status=409)) == "endpoint_breaker_open"
        await run.api("POST", f"{path}/enable")
        assert (await run.api("POST", f"{path}/test"))["outcome"] == "status"


async def given_up(run, path, name):
    """Have a message be given up at once: its endpoint says that it is gone."""
    await run.deliver(id=name)
    await run.api("POST", f"{path}/enable")


async def test_failed_messages_since_an_instant_are_sent_once_more_from_the_first_attempt_on(running, receiver):
    receiver.then = 410
    async with running() as run:
        path = await run.api.add(receiver.url)
        await given_up(run, path, "1")
        run.clock.advance(1)
        since = run.clock.now().isoformat()
        await given_up(run, path, "2")
        await given_up(run, path, "3")
        receiver.answers, receiver.then = [500], 204
        assert await run.api("POST", f"{path}/recover", {"since": since}, status=202) == {"recovered": 2, "more": False}
        await run.plugin.pump.settle()
        assert 4 <= await run.next_attempt(path) <= 6.1
        assert (await run.api("GET", f"{path}/stats"))["kept"] == {"delivered": 2, "failed": 1}
        counts = Counter(receiver.ids)
        assert counts[receiver.ids[0]] == 1  # it failed before the instant
        assert sorted(counts.values()) == [1, 2, 3]  # and of the others one failed once more


async def test_many_failed_messages_are_recovered_a_hundred_at_a_time(running, receiver, monkeypatch):
    monkeypatch.setattr("webhooks.administration.RECOVERED_AT_ONCE", 2)
    receiver.then = 410
    async with running() as run:
        path = await run.api.add(receiver.url)
        for name in ("1", "2", "3"):
            await given_up(run, path, name)
        receiver.then = 204
        since = {"since": "2026-01-01T00:00:00Z"}
        assert await run.api("POST", f"{path}/recover", since) == {"recovered": 2, "more": True}
        assert await run.api("POST", f"{path}/recover", since) == {"recovered": 1, "more": False}


async def test_one_failed_message_is_sent_once_more_by_its_id(running, receiver):
    receiver.then = 410
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver(id="1")
        (message,) = receiver.ids
        receiver.then = 204
        await run.api("POST", f"{path}/enable")
        assert (await run.api("POST", f"{path}/recover", {"message": message}))["recovered"] == 1
        await run.plugin.pump.settle()
        assert receiver.ids == [message, message]
        assert code(await run.api("POST", f"{path}/recover", {"message": message}, status=404)) == "message_not_found"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "body_invalid"),
        ({"since": "2026-01-01T00:00:00Z", "message": "msg_1"}, "body_invalid"),
        ({"since": "yesterday"}, "body_invalid"),
        ({"since": "2026-01-01T00:00:00"}, "body_invalid"),
        ({"since": "2025-12-17T23:59:59Z"}, "since_too_old"),
    ],
)
async def test_a_recovery_needs_an_instant_within_reach_or_a_message(running, body, word):
    assert RECOVER_WITHIN == 14 * 86_400
    async with running() as run:
        path = await run.api.add(URL)
        assert code(await run.api("POST", f"{path}/recover", body, status=400)) == word


async def test_a_disabled_endpoint_keeps_what_waits_and_sends_it_when_enabled(running, receiver):
    receiver.answers = [500]
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.deliver(id="1")
        assert (await run.api("POST", f"{path}/disable"))["disabledBecause"] == "by hand"
        await run.deliver(id="2")
        await run.later(86_400)
        assert len(receiver.received) == 1
        await run.api("PATCH", path, {"enabled": True})
        await run.plugin.pump.settle()
        assert len(receiver.received) == 2
        assert len(set(receiver.ids)) == 1


async def test_what_the_config_does_not_allow_any_more_is_not_sent(running, receiver):
    async with running() as run:
        path = await run.api.add(receiver.url)
        await run.harness.reconfigure({"allow_private": False})
        await run.deliver(id="1")
        assert receiver.received == []
        (attempt,) = (await run.api("GET", f"{path}/attempts"))["data"]
        assert (attempt["outcome"], attempt["status"]) == ("not_allowed", None)


async def test_what_the_host_does_not_keep_is_an_error_with_the_hosts_word(running, monkeypatch):
    async def refuse(*_):
        raise HostError("the disk is full", "storage_full")

    async with running() as run:
        monkeypatch.setattr(MemoryHost, "kv_set", refuse)
        assert code(await run.api("POST", "/endpoints", {"url": URL}, status=503)) == "storage_full"
        assert (await run.api("GET", "/endpoints"))["data"] == []
