"""Inbound webhooks at the edges of time, address and rate; what each request counts as, and what the event carries."""

import base64
import hashlib
import hmac
from functools import partial

import pytest
from registry_rig import FakeCallee

from host.ingress import inbound_webhooks
from host.ingress.errors import WebhookBusyError, WebhookRefusedError
from host.ingress.inbound_webhooks import UNKNOWN_RATE, InboundWebhooks, Received
from host.registry.endpoints import endpoint_of
from host.routing.bus import Bus
from host.routing.errors import EventRefusedError
from host.routing.event_log import EventQuery
from host.routing.sqlite_log import SQLiteLog
from host.runtime.errors import HookAnswerError, HookFailedError
from plugin_sdk.calls import Response
from plugin_sdk.errors import Drop, HostError, Retry
from plugin_sdk.webhooks import new_secret, sign, verify
from plugin_sdk.webhooks.endpoint import Webhook

SECRET = new_secret()
DEEP = b"[" * 65 + b"]" * 65
OLD = new_secret()
PLAIN = "a plain secret"

WEBHOOKS = (
    Webhook(name="orders", scheme="standard-webhooks", secrets=("orders", "old"), tolerance=300, rate=1000),
    Webhook(name="stripe", scheme="stripe", secrets=("plain",), tolerance=60, rate=1000),
    Webhook(
        name="plain",
        scheme="hmac-sha256",
        secrets=("plain",),
        id_header="x-id",
        headers=("x-shop-topic", "user-agent"),
        rate=1000,
    ),
    Webhook(
        name="near",
        scheme="hmac-sha256",
        secrets=("plain",),
        addresses=("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"),
        rate=1000,
    ),
    Webhook(name="slow", scheme="hmac-sha256", secrets=("plain",), rate=2),
    Webhook(name="unset", scheme="hmac-sha256", secrets=("unset",)),
    Webhook(name="broken", scheme="standard-webhooks", secrets=("plain",)),
    Webhook(name="own", scheme="plugin"),
    Webhook(name="ungranted", scheme="hmac-sha256", secrets=("plain",)),
)


class Bench:
    def __init__(self, rig, log):
        self.rig = rig
        self.log = log
        self.bus = Bus(log, max_body=2**16)
        self.callee = FakeCallee()
        self.hosted = {"shop": self.callee}
        self.inbound = InboundWebhooks(partial(endpoint_of, rig.registry), self.bus, self.hosted.get, rig.clock)

    @property
    def now(self):
        return self.rig.clock.now().timestamp()

    async def receive(
        self, name, body=b"{}", *, plugin="shop", method="POST", remote="192.0.2.1", query=None, **headers
    ):
        """A request; `x_id` is the header `x-id`, a list is a header that was repeated."""
        found = {key.replace("_", "-"): value if isinstance(value, list) else [value] for key, value in headers.items()}
        return await self.inbound.receive(plugin, name, Received(method, query or {}, found, body, remote))

    async def plain(self, name, body=b"{}", **more):
        """A request that is authentic by a plain signature."""
        signature = hmac.new(PLAIN.encode(), body, hashlib.sha256).hexdigest()
        return await self.receive(name, body, **{"x_signature": signature, **more})

    async def refused(self, request):
        with pytest.raises(WebhookRefusedError) as found:
            await request
        assert (found.value.word, found.value.kind.value) == ("webhook_refused", 401)
        return found.value.message

    async def events(self):
        return [one.event for one in (await self.log.query(EventQuery(), 0, 100))[0]]


@pytest.fixture
async def bench(rig):
    names = [one.name for one in WEBHOOKS if one.name != "ungranted"]
    secrets = {"secrets": ("orders", "old", "plain", "unset"), "webhooks": names}
    await rig.install("shop", webhooks=WEBHOOKS, permissions=secrets)
    await rig.registry.change("shop", secrets={"orders": SECRET, "old": OLD, "plain": PLAIN})
    return Bench(rig, await SQLiteLog.open(rig.database, rig.clock))


def counts(bench):
    return {key: number for key, number in bench.inbound.outcomes.items() if number}


# -- time


@pytest.mark.parametrize(
    ("age", "outcome"),
    [
        (300, "accepted"),
        (301, "timestamp_too_old"),
        (0, "accepted"),
        (-300, "accepted"),
        (-301, "timestamp_too_new"),
    ],
)
async def test_a_signed_time_may_be_off_by_the_tolerance_either_way_and_no_more(bench, age, outcome):
    headers = sign("msg_1", b"{}", [SECRET], now=bench.now - age)
    request = bench.receive("orders", **headers)
    if outcome == "accepted":
        assert not (await request).duplicate
    else:
        await bench.refused(request)
    assert counts(bench) == {("shop", outcome): 1}


@pytest.mark.parametrize(("step", "outcome"), [(59, "accepted"), (61, "timestamp_too_old"), (-61, "timestamp_too_new")])
async def test_the_age_is_told_by_the_clock_on_the_wall_when_the_request_comes(bench, step, outcome):
    stamp = int(bench.now)
    signature = hmac.new(PLAIN.encode(), f"{stamp}.{{}}".encode(), hashlib.sha256).hexdigest()
    bench.rig.clock.step(step)
    request = bench.receive("stripe", stripe_signature=f"t={stamp},v1={signature}")
    if outcome == "accepted":
        await request
    else:
        await bench.refused(request)
    assert counts(bench) == {("shop", outcome): 1}


async def test_either_secret_may_have_signed_it_until_it_is_taken_away(bench):
    await bench.receive("orders", **sign("msg_new", b"{}", [SECRET], now=bench.now))
    await bench.receive("orders", **sign("msg_old", b"{}", [OLD], now=bench.now))
    await bench.rig.registry.change("shop", secrets={"orders": SECRET})
    await bench.refused(bench.receive("orders", **sign("msg_old2", b"{}", [OLD], now=bench.now)))
    assert counts(bench) == {("shop", "accepted"): 2, ("shop", "signature_mismatch"): 1}


# -- addresses


@pytest.mark.parametrize(
    ("remote", "taken"),
    [
        ("192.0.2.0", True),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("192.0.1.255", False),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("2001:db8::1", True),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", True),
        ("2001:db9::", False),
        ("::ffff:192.0.2.9", True),
        ("::ffff:c000:209", True),
        ("::ffff:203.0.113.9", False),
        ("::192.0.2.9", False),
        ("::1", False),
        ("", False),
        ("unknown", False),
        ("192.0.2.1:443", False),
        ("192.0.2.1, 203.0.113.1", False),
    ],
)
async def test_requests_come_from_the_networks_that_are_allowed_ipv4_written_as_ipv6_among_them(bench, remote, taken):
    request = bench.plain("near", remote=remote)
    if taken:
        await request
    else:
        await bench.refused(request)
    assert counts(bench) == {("shop", "accepted" if taken else "address"): 1}


async def test_a_webhook_without_networks_takes_requests_from_anywhere(bench):
    await bench.plain("plain", remote="not even an address", x_id="1")
    assert counts(bench) == {("shop", "accepted"): 1}


# -- rates


async def test_requests_above_the_rate_are_not_looked_at_until_there_is_time_again(bench):
    for number in range(2):
        await bench.plain("slow", str(number).encode())
    for request in (bench.plain("slow", b"2"), bench.receive("slow", b"forged")):
        with pytest.raises(WebhookBusyError) as busy:
            await request
        assert (busy.value.kind.value, busy.value.retry_after) == (429, 1.0)
    bench.rig.clock.advance(0.5)
    await bench.plain("slow", b"2")
    assert counts(bench) == {("shop", "accepted"): 3, ("shop", "rate"): 2}


async def test_each_webhook_has_its_own_rate(bench):
    for number in range(2):
        await bench.plain("slow", str(number).encode())
    await bench.plain("plain", x_id="1")


async def test_endpoints_that_are_not_there_share_one_rate_whatever_they_are_called(bench):
    for number in range(int(UNKNOWN_RATE)):
        await bench.refused(bench.receive(f"ghost-{number}", plugin=f"ghost-{number % 3}"))
    with pytest.raises(WebhookBusyError):
        await bench.receive("ghost", plugin="other")
    assert counts(bench) == {("-", "unknown"): UNKNOWN_RATE, ("-", "rate"): 1}
    await bench.plain("plain", x_id="1")


async def test_the_memory_of_rates_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(inbound_webhooks, "MAX_BUCKETS", 2)
    for name in ("plain", "near", "slow", "plain"):
        await bench.plain(name, x_id="1")
    assert len(bench.inbound._buckets) == 2


# -- what is refused, and that nobody learns why


async def test_every_refusal_says_the_same_and_is_counted_by_its_reason(bench):
    signed = sign("msg_1", b"{}", [SECRET], now=bench.now)
    requests = {
        ("-", "unknown"): bench.receive("ghost"),
        ("shop", "method"): bench.receive("orders", method="PUT", **signed),
        ("shop", "repeated_header"): bench.receive("orders", **{**signed, "webhook-id": ["msg_1", "msg_2"]}),
        ("shop", "header_missing"): bench.receive("orders"),
        ("shop", "signature_mismatch"): bench.receive("orders", b"other", **signed),
        ("shop", "signature_malformed"): bench.receive("orders", **{**signed, "webhook-signature": "v9,x"}),
        ("shop", "no_secret_set"): bench.plain("unset"),
        ("shop", "unusable_secret"): bench.receive("broken", **signed),
        ("shop", "address"): bench.plain("near", remote="203.0.113.1"),
    }
    said = {await bench.refused(request) for request in requests.values()}
    assert len(said) == 1
    assert counts(bench) == dict.fromkeys(requests, 1)
    assert await bench.events() == []


@pytest.mark.parametrize(("plugin", "name"), [("shop", "ungranted"), ("ghost", "orders"), ("shop", ""), ("", "")])
async def test_an_endpoint_that_is_not_there_or_not_granted_is_unknown(bench, plugin, name):
    await bench.refused(bench.plain(name, plugin=plugin))
    assert counts(bench) == {("-", "unknown"): 1}


@pytest.mark.parametrize("header", ["x_signature", "x_id"])
async def test_a_header_that_signature_or_id_is_read_from_must_not_come_twice(bench, header):
    await bench.refused(bench.plain("plain", **{"x_id": "1", header: ["1", "2"]}))
    assert counts(bench) == {("shop", "repeated_header"): 1}


# -- the event


async def test_headers_are_carried_as_extensions_the_first_value_of_each(bench):
    await bench.plain("plain", x_id="1", x_shop_topic=["orders/create", "other"], user_agent="Shop/1", x_other="no")
    (found,) = await bench.events()
    assert found.attributes() == {
        "specversion": "1.0",
        "id": "1",
        "source": "/hooks/shop/plain",
        "type": "webhook.shop.plain",
        "xshoptopic": "orders/create",
        "useragent": "Shop/1",
        "datacontenttype": "application/json",
        "data": {},
    }


@pytest.mark.parametrize("value", [None, ""])
async def test_a_header_that_is_absent_or_empty_is_no_extension(bench, value):
    headers = {} if value is None else {"x_shop_topic": value}
    await bench.plain("plain", x_id="1", **headers)
    (found,) = await bench.events()
    assert found.extensions == {}


@pytest.mark.parametrize(
    ("body", "sent", "held"),
    [
        (b'{"a": [1]}', "text/plain", {"data": {"a": [1]}, "datacontenttype": "application/json"}),
        (b"null", None, {"data": None, "datacontenttype": "application/json"}),
        (b"a=1&b=2", "application/x-www-form-urlencoded", {"data_base64": "YT0xJmI9Mg==", "datacontenttype": ...}),
        (b"\xff", None, {"data_base64": "/w=="}),
        (b'{"a": 1, "a": 2}', "application/json", {"data_base64": "eyJhIjogMSwgImEiOiAyfQ==", "datacontenttype": ...}),
        (b'"\\ud800"', "application/json", {"data_base64": "Ilx1ZDgwMCI=", "datacontenttype": ...}),
        (b'{"n":1e400}', "application/json", {"data_base64": "eyJuIjoxZTQwMH0=", "datacontenttype": ...}),
        (DEEP, "application/json", {"data_base64": base64.b64encode(DEEP).decode(), "datacontenttype": ...}),
        (b"{", "not a type", {"data_base64": "ew=="}),
        (b"{", "text/plain; x=\x01", {"data_base64": "ew=="}),
        (b"", "application/json", {}),
    ],
)
async def test_the_body_is_the_data_of_the_event_or_its_bytes(bench, body, sent, held):
    headers = {} if sent is None else {"content_type": sent}
    await bench.plain("plain", body, x_id="1", **headers)
    (found,) = await bench.events()
    expected = {key: sent if value is ... else value for key, value in held.items()}
    kept = {"data", "data_base64", "datacontenttype"}
    assert {key: value for key, value in found.attributes().items() if key in kept} == expected


async def test_a_message_that_comes_again_is_a_duplicate_however_late_and_from_wherever(bench):
    first = await bench.plain("plain", b"1", x_id="1")
    bench.rig.clock.advance(86_400)
    again = await bench.plain("plain", b"1", x_id="1", remote="203.0.113.5")
    assert (again.sequence, again.duplicate) == (first.sequence, True)
    assert counts(bench) == {("shop", "accepted"): 1, ("shop", "duplicate"): 1}


async def test_what_the_log_does_not_take_is_neither_accepted_nor_called_forged(bench):
    bench.bus.close()
    with pytest.raises(EventRefusedError) as refused:
        await bench.plain("plain", x_id="1")
    assert refused.value.kind.value == 503
    assert counts(bench) == {}


# -- plugins that verify by themselves


def answering(status, headers=None):
    async def answer(_request):
        return Response(status, headers or {}, b"ok")

    return answer


async def test_the_plugin_gets_the_request_as_it_came_and_its_answer_is_the_answer(bench):
    bench.callee.answer = answering(200, {"Webhook-Id": "m1"})
    answer = await bench.receive("own", b"body", method="GET", query={"challenge": "c"}, x_any=["1", "2"])
    assert answer.body == b"ok"
    ((request, hook, _),) = bench.callee.served
    assert (request.method, request.path, request.query) == ("GET", "/hooks/own", {"challenge": "c"})
    assert (request.headers, request.body, hook) == ({"x-any": "1"}, b"body", "handle_request")
    assert [one.id for one in await bench.events()] == ["m1"]
    assert counts(bench) == {("shop", "accepted"): 1}


async def test_an_answer_without_an_id_is_no_event(bench):
    bench.callee.answer = answering(200)
    await bench.receive("own")
    assert await bench.events() == []


async def nothing(_request):
    return None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (answering(400, {"webhook-id": "m1"}), "plugin_refused"),
        (answering(302, {"webhook-id": "m1"}), "plugin_refused"),
        (answering(199, {"webhook-id": "m1"}), "plugin_refused"),
        (nothing, "plugin_refused"),
        (HookFailedError("KeyError", "no such header"), "plugin_failed"),
        (HostError("no"), "plugin_failed"),
        (Drop("no"), "plugin_failed"),
        (Retry(5, "no"), "plugin_failed"),
        (HookAnswerError("no"), "plugin_failed"),
    ],
)
async def test_what_the_plugin_refuses_or_fails_at_is_refused_like_everything_else(bench, answer, outcome):
    async def fail(_request):
        raise answer

    bench.callee.answer = fail if isinstance(answer, Exception) else answer
    await bench.refused(bench.receive("own"))
    assert await bench.events() == []
    assert counts(bench) == {("shop", outcome): 1}


@pytest.mark.parametrize("hosted", [True, False])
async def test_while_the_plugin_does_not_run_its_sender_is_told_to_come_again(bench, hosted):
    bench.callee.running = False
    if not hosted:
        del bench.hosted["shop"]
    with pytest.raises(WebhookBusyError) as busy:
        await bench.receive("own")
    assert busy.value.retry_after == 30.0


async def test_for_an_endpoint_that_is_not_there_a_signature_is_computed_all_the_same(bench, monkeypatch):
    computed = []

    def counted(scheme, headers, body, *rest, **options):
        computed.append(body)
        return verify(scheme, headers, body, *rest, **options)

    monkeypatch.setattr(inbound_webhooks, "verify", counted)
    await bench.refused(bench.receive("ghost", b"body"))
    assert computed == [b"body"]
