"""Webhooks from outside services: only authentic ones become events, and nobody learns why another did not."""

import asyncio
import hashlib
import hmac
import json
import time

import aiohttp
import pytest
from plugin_projects import write_project

from plugin_sdk.webhooks import new_secret, sign

PAYMENTS = '''"""Takes webhooks in five ways."""
from plugin_sdk import Plugin, Response, Webhook, on_event, service


class Payments(Plugin):
    webhooks = (
        Webhook(name="orders", scheme="standard-webhooks", secrets=("orders", "orders_old"), rate=1000),
        Webhook(name="stripe", scheme="stripe", secrets=("stripe",)),
        Webhook(name="git-hub", scheme="github", secrets=("github",), headers=("x-github-event",)),
        Webhook(name="plain", scheme="hmac-sha256", secrets=("plain",), header="x-shop-signature"),
        Webhook(name="far", scheme="hmac-sha256", secrets=("plain",), addresses=("192.0.2.0/24",)),
        Webhook(name="slow", scheme="hmac-sha256", secrets=("plain",), rate=1),
        Webhook(name="unset", scheme="hmac-sha256", secrets=("nothing",)),
        Webhook(name="own", scheme="plugin"),
    )

    def __init__(self):
        super().__init__()
        self.seen = []

    @on_event("webhook.payments.*")
    async def take(self, event):
        self.seen.append([event.type, event.id, event.data_base64 or event.data, dict(event.extensions)])

    @service
    async def taken(self):
        """What came."""
        return self.seen

    async def handle_request(self, request, context):
        if "challenge" in request.query:
            return Response(200, {"content-type": "text/plain"}, request.query["challenge"].encode())
        if request.headers.get("authorization") == "Basic b3duOm93bg==":
            return Response(204, {"webhook-id": request.headers["x-id"]})
        return Response(403)
'''
SECRETS = ["orders", "orders_old", "stripe", "github", "plain", "nothing"]
WEBHOOKS = ["orders", "stripe", "git-hub", "plain", "far", "slow", "unset", "own"]
MANIFEST = f"""[permissions]
subscribe = ["webhook.payments.*"]
secrets = {json.dumps(SECRETS)}
webhooks = {json.dumps(WEBHOOKS)}
"""
OLD, NEW = new_secret(), new_secret()


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    wheel = signed.build(write_project(tmp_path_factory.mktemp("payments"), "payments", PAYMENTS, manifest=MANIFEST))
    one = daemon_class(tmp_path_factory.mktemp("webhooks")).start()

    async def install():
        await one.trust(signed.public, ["payments"])
        status, answer = await one.install(wheel)
        assert status == 201, answer
        config = {"orders": NEW, "orders_old": OLD, "stripe": "whsec_st", "github": "gh", "plain": "pl"}
        status, answer = await one.ask("PUT", "/api/v1/plugins/payments/config", json_body=config)
        assert status == 200, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


def digest(secret, content):
    return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def standard(message, body, *, secret=NEW, now=None):
    return sign(message, body, [secret], now=time.time() if now is None else now)


def stripe(body, *, now=None, secret="whsec_st"):
    stamp = int(time.time() if now is None else now)
    return {"Stripe-Signature": f"t={stamp},v1={digest(secret, f'{stamp}.'.encode() + body)}"}


def github(delivery, body, *, secret="gh"):
    return {
        "X-Hub-Signature-256": "sha256=" + digest(secret, body),
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": "push",
    }


def plain(body, *, name="X-Shop-Signature", secret="pl"):
    return {name: "sha256=" + digest(secret, body)}


async def send(host, name, body=b"{}", headers=None, *, method="POST", plugin="payments", params=None):
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{host.url}/hooks/{plugin}/{name}", data=body, headers=headers, params=params
        ) as response,
    ):
        raw = await response.read()
        return response.status, json.loads(raw) if raw.startswith(b"{") else raw


async def event_of(host, id_):
    async def there():
        _, answer = await host.ask("POST", "/api/v1/plugins/payments/call/taken", json_body={})
        return [one for one in answer["data"] if one[1] == id_]

    return (await host.until(there))[0]


# Requests are signed when they are sent: a signature is good for five minutes.
ACCEPTED = [
    ("orders", "msg_1", b'{"n": 1}', lambda body: standard("msg_1", body)),
    ("orders", "msg_old_key", b'{"n": 2}', lambda body: standard("msg_old_key", body, secret=OLD)),
    ("stripe", "evt_1", b'{"id": "evt_1"}', stripe),
    ("git-hub", "d-1", b'{"ref": "main"}', lambda body: github("d-1", body)),
]


@pytest.mark.parametrize(("name", "id_", "body", "made"), ACCEPTED, ids=[case[1] for case in ACCEPTED])
async def test_an_authentic_webhook_is_an_event_of_the_plugin(host, name, id_, body, made):
    status, answer = await send(host, name, body, made(body))
    assert (status, answer["data"]["duplicate"]) == (202, False), answer
    type_, _, data, extensions = await event_of(host, id_)
    assert type_ == f"webhook.payments.{name}"
    assert data == json.loads(body)
    if name == "git-hub":
        assert extensions["xgithubevent"] == "push"


async def test_a_webhook_that_is_sent_again_is_taken_once(host):
    body = b'{"n": 3}'
    first = await send(host, "orders", body, standard("msg_again", body, now=time.time() - 60))
    second = await send(host, "orders", body, standard("msg_again", body))
    assert (first[0], second[0]) == (202, 202)
    assert second[1]["data"] == {"sequence": first[1]["data"]["sequence"], "duplicate": True}


async def test_a_body_that_is_no_json_comes_as_bytes_with_its_type(host):
    body = b"a=1&b=\xff"
    headers = {**plain(body), "Content-Type": "application/x-www-form-urlencoded"}
    status, answer = await send(host, "plain", body, headers)
    assert status == 202, answer
    _, found = await host.ask("GET", "/api/v1/events", params={"source": "/hooks/payments/plain"})
    assert found["data"][0]["event"]["data_base64"] == "YT0xJmI9/w=="
    assert found["data"][0]["event"]["datacontenttype"] == "application/x-www-form-urlencoded"


BODY = b'{"n": 9}'
REFUSED = [
    ("a wrong secret", "orders", lambda: standard("m", BODY, secret=new_secret()), BODY),
    ("another body", "orders", lambda: standard("m", BODY), b'{"n": 8}'),
    ("no signature", "orders", dict, BODY),
    ("too old", "orders", lambda: standard("m", BODY, now=time.time() - 4000), BODY),
    ("from the future", "orders", lambda: standard("m", BODY, now=time.time() + 4000), BODY),
    ("an old stripe time", "stripe", lambda: stripe(BODY, now=time.time() - 4000), BODY),
    ("a wrong stripe secret", "stripe", lambda: stripe(BODY, secret="other"), BODY),
    ("a wrong github secret", "git-hub", lambda: github("d", BODY, secret="other"), BODY),
    (
        "a github delivery without an id",
        "git-hub",
        lambda: {"X-Hub-Signature-256": "sha256=" + digest("gh", BODY)},
        BODY,
    ),
    ("another scheme", "stripe", lambda: standard("m", BODY), BODY),
    ("a wrong plain secret", "plain", lambda: plain(BODY, secret="other"), BODY),
    (
        "a repeated header",
        "plain",
        lambda: [("X-Shop-Signature", digest("pl", BODY)), ("X-Shop-Signature", "0" * 64)],
        BODY,
    ),
    ("another address", "far", lambda: plain(BODY, name="X-Signature"), BODY),
    ("no secret set", "unset", lambda: plain(BODY, name="X-Signature"), BODY),
    ("its own verifier says no", "own", lambda: {"Authorization": "Basic wrong"}, BODY),
    ("no such webhook", "nothing", lambda: plain(BODY), BODY),
]


@pytest.mark.parametrize(("name", "made", "body"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_is_not_authentic_is_refused_and_every_refusal_is_the_same(host, name, made, body):
    status, answer = await send(host, name, body, made())
    assert (status, answer["code"]) == (401, "webhook_refused")
    _, unknown = await send(host, "nothing", body, {}, plugin="nobody")
    different = {"timestamp", "traceId"}
    assert {key: value for key, value in answer.items() if key not in different} == {
        key: value for key, value in unknown.items() if key not in different
    }


async def test_a_webhook_is_posted(host):
    status, answer = await send(host, "orders", b"", standard("m", b""), method="GET")
    assert (status, answer["code"]) == (401, "webhook_refused")


async def test_a_body_beyond_the_bound_is_refused_before_it_is_read(host):
    status, answer = await send(host, "orders", b"x" * (2**20 + 1))
    assert (status, answer["code"]) == (413, "body_too_large")


async def test_more_requests_than_the_rate_are_not_looked_at(host):
    statuses = [(await send(host, "slow", BODY, plain(BODY, name="X-Signature")))[0] for _ in range(4)]
    assert statuses[0] == 202
    assert 429 in statuses


async def test_a_plugin_may_verify_by_itself_and_answer_a_challenge(host):
    assert await send(host, "own", method="GET", body=None, params={"challenge": "say this"}) == (200, b"say this")
    status, _ = await send(host, "own", b'{"n": 5}', {"Authorization": "Basic b3duOm93bg==", "X-Id": "own-1"})
    assert status == 204
    assert (await event_of(host, "own-1"))[2] == {"n": 5}


async def test_webhooks_of_a_disabled_plugin_wait_for_it_in_the_log(host):
    await host.ask("POST", "/api/v1/plugins/payments/disable")
    body = b'{"n": 7}'
    status, _ = await send(host, "orders", body, standard("msg_waits", body))
    assert status == 202
    await host.ask("POST", "/api/v1/plugins/payments/enable")
    assert (await event_of(host, "msg_waits"))[2] == {"n": 7}


async def test_a_header_that_is_no_text_is_no_failure_of_the_plugin(host):
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    head = (
        b"POST /hooks/payments/own HTTP/1.1",
        b"Host: x",
        b"X-Odd: \xff",
        b"Content-Length: 0",
        b"Connection: close",
    )
    writer.write(b"\r\n".join((*head, b"", b"")))
    status = int((await reader.read()).split()[1])
    writer.close()
    assert 400 <= status < 500
    _, answer = await host.ask("GET", "/api/v1/plugins/payments/breaker")
    assert answer["data"]["consecutiveFailures"] == 0
