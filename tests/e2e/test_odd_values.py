"""Every endpoint is walked with a hundred odd values in each of its places; none is ever a crash.

The operations, their parameters and their fields are those of the host's own OpenAPI document.
"""

import asyncio
import json
import re
from collections import Counter
from urllib.parse import quote, quote_from_bytes

import pytest
from odd_values import BODIES, TEXTS, VALUES, Operation, with_field
from plugin_projects import write_project
from raw_http import RawClient

CONNECTIONS = 6
LONGEST = 4000
"""Characters of a target; longer ones the server refuses before it looks at them."""

PLUGIN = '''"""Does nothing, and has one of everything."""
from pydantic import BaseModel

from plugin_sdk import DeadLetter, Drop, HostError, Plugin, Response, Retry, Webhook, cron, on_event, service


def nested(depth):
    found = 1
    for _ in range(depth):
        found = [found]
    return found


ANSWERS = {
    "none": lambda: None,
    "nan": lambda: {"n": float("nan")},
    "infinite": lambda: [float("inf")],
    "surrogate": lambda: "\\ud800",
    "name": lambda: {"\\udcff": 1},
    "deep": lambda: nested(100),
    "deeper": lambda: nested(5000),
    "endless": lambda: 10**5000,
    "large": lambda: "x" * (5 * 2**20),
    "object": object,
    "type": lambda: Plugin,
    "number": lambda: 7,
    "status": lambda: Response(42),
    "status-text": lambda: Response("200"),
    "headers": lambda: Response(200, {"x-line": "a\\rb"}),
    "header-name": lambda: Response(200, {"x line": "a"}),
    "header-type": lambda: Response(200, {"x-number": 7}),
    "header-text": lambda: Response(200, {"x-text": "\\ud800"}),
    "body-text": lambda: Response(200, {}, "text"),
}
RAISED = {
    "drop": Drop("x"),
    "retry": Retry(5),
    "dead": DeadLetter("x"),
    "host": HostError("x", "Not A\\nCode"),
    "exit": SystemExit(3),
    "text": ValueError("\\udcff\\x00" * 10_000),
}


def answered(kind):
    if kind in RAISED:
        raise RAISED[kind]
    return ANSWERS[kind]()


class Config(BaseModel):
    text: str = ""


class Subject(Plugin):
    Config = Config
    routes = True
    webhooks = (Webhook(name="own", scheme="plugin"), Webhook(name="signed", scheme="hmac-sha256", secrets=("key",)))

    @on_event("walk.*")
    async def take(self, event):
        pass

    @cron("0 0 1 1 *")
    async def yearly(self):
        pass

    @service
    async def echo(self, **given):
        """Answer what was given."""
        return given

    @service
    async def odd(self, kind):
        """Answer oddly."""
        return answered(kind)

    async def handle_request(self, request):
        if "kind" in request.query:
            return answered(request.query["kind"])
        return Response(200, {"content-type": "text/plain"}, repr(request).encode())
'''
MANIFEST = """[permissions]
subscribe = ["walk.*"]
secrets = ["key"]
webhooks = ["own", "signed"]
routes = true
"""
SLOW = {"replaceConfig", "enablePlugin", "disablePlugin", "restartPlugin", "replaceGrants", "overridePolicy"}
"""Operations that have the plugin started, or a worker look at a config: of them the plugin sees fewer values."""
WAITS = {"wait"}
FATAL = {"uninstallPlugin", "replaceGrants"}
"""Operations that leave nothing to walk on; they are asked of a plugin that is not there."""


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    wheel = signed.build(write_project(tmp_path_factory.mktemp("subject"), "subject", PLUGIN, manifest=MANIFEST))
    one = daemon_class(tmp_path_factory.mktemp("walk"), log={"level": "warning"}).start()

    async def install():
        await one.trust(signed.public, ["subject"])
        status, answer = await one.install(wheel)
        assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


@pytest.fixture(scope="module")
def operations(host, signed):
    known = {
        "id": "subject",
        "plugin": "subject",
        "name": "own",
        "public": signed.public,
        "method": "echo",
        "plugins": ["walker-*"],
        "path": "x",
        "event": {"specversion": "1.0", "id": "1", "source": "/walk", "type": "walk.one"},
    }
    document = asyncio.run(host.ask("GET", "/api/openapi.json"))[1]
    return [
        Operation(document, path, method.upper(), known)
        for path, methods in document["paths"].items()
        for method in methods
    ]


class Walk:
    """Requests, made over several connections; what came of them is looked at, and the wrong ones are kept."""

    def __init__(self, host):
        self._host = host
        self._requests = []
        self.wrong = []
        self.statuses = Counter()

    def add(self, operation, target, body=None, headers=()):
        if len(target) < LONGEST:
            self._requests.append((operation, target, body, list(headers)))

    async def run(self):
        await asyncio.gather(*(self._run() for _ in range(CONNECTIONS)))
        assert not self.wrong, f"{len(self.wrong)} of {self.statuses.total()}: {self.wrong[:20]}"

    async def _run(self):
        client = RawClient(self._host.port, self._host.token)
        while self._requests:
            operation, target, body, headers = self._requests.pop()
            answer = await client.ask(operation.method, target, body=body, headers=headers)
            self.statuses[answer.status] += 1
            why = wrong(operation, answer)
            if why:
                self.wrong.append((why, operation.id, target[:200], (body or b"")[:200], headers, answer.body[:300]))
        await client.close()


def wrong(operation, answer):
    """What is wrong with an answer; empty for nothing."""
    if answer.status >= 500 and answer.status != 503:
        return f"it is a {answer.status}"
    if not re.fullmatch(r"[0-9a-f-]{32,36}", answer.headers.get("x-trace-id", "")):
        return "it has no trace id"
    if answer.status < 400 or operation.method == "HEAD":
        return ""
    found = answer.json()
    if found["success"] or not re.fullmatch("[a-z][a-z0-9_]*", found["code"]):
        return "it has no code"
    if not (found["message"] and found["message"].isprintable() and "Traceback" not in found["message"]):
        return "it has no sentence"
    return "" if {"timestamp", "traceId"} <= found.keys() else "it is no envelope"


async def delivered(host):
    """Wait until the plugin has had every event that there is."""

    async def drained():
        _, answer = await host.ask("GET", "/api/v1/plugins/subject/health")
        return answer["data"]["lag"] == 0 and answer["data"]["state"] == "running"

    await host.until(drained)
    _, answer = await host.ask("GET", "/api/v1/plugins/subject/health")
    assert answer["data"]["restarts"] == 0, answer


async def lists(host):
    """What every list without a parameter answers."""
    for path in (
        "/readyz",
        "/health",
        "/metrics",
        *("/api/v1/" + name for name in ("plugins", "events", "tokens", "publishers", "schedules", "audit", "alerts")),
        *("/api/v1/" + name for name in ("dead-letters", "replays", "trust-policies", "kept-releases")),
        *("/api/v1/plugins/subject" + name for name in ("", "/health", "/logs", "/deliveries", "/subscriptions")),
    ):
        status, answer = await host.ask("GET", path)
        assert status == 200, (path, answer)
    status, answer = await host.ask("GET", "/api/v1/plugins/subject")
    assert (answer["data"]["state"], answer["data"]["enabled"]) == ("running", True)


async def test_no_value_in_a_path_is_a_crash(host, operations):
    walk = Walk(host)
    for operation in operations:
        body = json.dumps(operation.body()).encode() if operation.body() is not None else None
        headers = [("Content-Type", "application/json")] if body else []
        for part in operation.parts:
            for text in TEXTS:
                walk.add(operation, operation.target({part: quote(text, safe="")}), body, headers)
            for raw in (b"\xff", b"\xed\xa0\x80", b"a\xc3\x28"):
                walk.add(operation, operation.target({part: quote_from_bytes(raw)}), body, headers)
    await walk.run()
    await lists(host)


async def test_no_value_in_a_query_is_a_crash(host, operations):
    walk = Walk(host)
    for operation in operations:
        parts = {"id": "none"} if operation.id in FATAL else None
        names = [name for name in operation.query if not (operation.id in SLOW and name in WAITS)]
        for name in (*names, "unknown"):
            for text in TEXTS:
                walk.add(operation, operation.target(parts, f"{name}={quote(text)}"))
            for raw in ("%ff", "%ed%a0%80", f"1&{name}=1", "1;x", "%"):
                walk.add(operation, operation.target(parts, f"{name}={raw}"))
    await walk.run()
    await lists(host)


async def test_no_value_in_a_body_is_a_crash(host, operations):
    walk = Walk(host)
    for operation in operations:
        body = operation.body()
        if body is None:
            continue
        json_type = [("Content-Type", "application/json")]
        # Of a plugin that is not there, its operations are asked with everything; of one that is, with some.
        targets = [(operation.target({"id": "none"} if "id" in operation.parts else None), 1)]
        if "id" in operation.parts and operation.id not in FATAL:
            targets.append((operation.target(), 6 if operation.id in SLOW else 1))
        for target, step in targets:
            for value in VALUES[::step]:
                walk.add(operation, target, value, json_type)
                for field in (*operation.fields(), "unknown"):
                    walk.add(operation, target, with_field(body, field, value), json_type)
            for content_type, raw in BODIES[::step]:
                walk.add(operation, target, raw, [("Content-Type", content_type)])
    await walk.run()
    await lists(host)


async def test_no_value_in_an_event_is_a_crash(host, operations):
    walk = Walk(host)
    publish = next(one for one in operations if one.id == "publishEvent")
    event = {"specversion": "1.0", "source": "/walk", "type": "walk.one"}
    structured, batched = ([("Content-Type", f"application/cloudevents{kind}+json")] for kind in ("", "-batch"))
    attributes = ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
    number = 0
    for value in VALUES:
        for name in (*attributes, "data", "data_base64", "extension", "Odd", "hops"):
            number += 1
            raw = with_field({**event, "id": f"e{number}"}, name, value)
            walk.add(publish, publish.path, raw, structured)
            walk.add(publish, publish.path, b"[" + raw + b"]", batched)
        walk.add(publish, publish.path, value, structured)
        walk.add(publish, publish.path, value, batched)
        walk.add(publish, publish.path, value, [*binary(f"b{number}"), ("Content-Type", "application/json")])
    for text in TEXTS:
        for name in (*(f"ce-{one}" for one in attributes), "ce-extension", "ce-Odd", "Content-Type"):
            number += 1
            for written in (quote(text), text.encode() if text.isprintable() else b"\xff"):
                headers = [one for one in binary(f"h{number}") if one[0] != name]
                walk.add(publish, publish.path, b"1", [*headers, (name, written)])
    for content_type, raw in BODIES:
        walk.add(publish, publish.path, raw, [("Content-Type", content_type)])
    await walk.run()
    await delivered(host)
    await lists(host)


def binary(id_):
    return [("ce-specversion", "1.0"), ("ce-id", id_), ("ce-source", "/walk"), ("ce-type", "walk.one")]


HEADERS = (
    *("Authorization", "Content-Type", "Content-Encoding", "Accept", "Accept-Encoding", "Cookie", "Origin", "Range"),
    *("traceparent", "tracestate", "User-Agent", "X-Forwarded-For", "If-Match", "If-None-Match", "Idempotency-Key"),
    *("WebHook-Request-Origin", "WebHook-Request-Rate", "Last-Event-ID", "Prefer", "X-Signature", "webhook-id"),
)
SINGLE = {"Content-Type", "User-Agent"}
"""Headers that the server itself refuses where they are there twice."""


async def test_no_value_in_a_header_is_a_crash(host, operations):
    walk = Walk(host)
    chosen = {"publishEvent", "agreeToEvents", "createToken", "listEvents", "live", "health", "installPlugin"}
    # What no header may hold, the server refuses before there is a request.
    texts = [text for text in TEXTS if not re.search("[\x00-\x1f\x7f]", text) and len(text) < LONGEST]
    for operation in operations:
        if operation.id not in chosen and not operation.id.startswith(("pluginRoute", "receiveWebhook")):
            continue
        for name in HEADERS:
            for text in texts:
                walk.add(operation, operation.target(), b"{}", [(name, text.encode())])
            walk.add(operation, operation.target(), b"{}", [(name, b"\xff\xfe")])
            if name not in SINGLE:
                walk.add(operation, operation.target(), b"{}", [(name, b"a"), (name, b"b")])
    await walk.run()
    await lists(host)
    assert not host.logged("request_crashed")


async def test_grants_that_are_none_are_refused_and_change_nothing(host):
    before = (await host.ask("GET", "/api/v1/plugins/subject/grants"))[1]["data"]
    odd = (
        [""],
        ["\0"],
        ["x" * 65],
        ["*"],
        ["a", "a"],
        ["é"],
        [" own"],
        ["own\n"],
        [None],
        [1],
        [["own"]],
        "own",
        None,
        {},
    )
    for field, given in before.items():
        for value in odd if isinstance(given, list) else (None, 0, 1, "true", []):
            body = {**before, field: value}
            status, answer = await host.ask("PUT", "/api/v1/plugins/subject/grants", json_body=body)
            assert (status, answer["code"]) in {(400, "grants_invalid"), (400, "body_invalid")}, (body, answer)
            status, answer = await host.ask("PUT", "/api/v1/plugins/none/grants", json_body=body)
            assert (status, answer["code"]) in {(404, "plugin_not_found"), (400, "body_invalid")}, (body, answer)
    assert (await host.ask("GET", "/api/v1/plugins/subject/grants"))[1]["data"] == before


INVALID, FAILED = (502, "plugin_answer_invalid"), (502, "plugin_call_failed")
OF_SERVICE = {
    **dict.fromkeys(("none", "number"), (200, None)),
    **dict.fromkeys(("nan", "infinite", "surrogate", "name", "deep", "deeper", "endless", "large"), INVALID),
    **dict.fromkeys(("object", "type", "drop", "dead", "retry"), INVALID),
    **dict.fromkeys(("host", "exit", "text"), FAILED),
}
OF_ROUTE = {
    **dict.fromkeys(("none", "nan", "infinite", "surrogate", "name", "deep", "deeper", "endless", "large"), INVALID),
    **dict.fromkeys(("object", "type", "number", "status", "status-text", "header-type", "header-text"), INVALID),
    **dict.fromkeys(("headers", "header-name", "body-text", "drop", "dead", "retry"), INVALID),
    **dict.fromkeys(("host", "exit", "text"), FAILED),
}


async def test_no_answer_of_a_plugin_is_a_crash_of_the_host(host):
    # A breaker that opened would keep the later ones from being asked.
    await host.ask("POST", "/api/v1/plugins/subject/breaker", json_body={"state": "disabled"})
    for path, method, expected in (
        ("/api/v1/plugins/subject/call/odd", "POST", OF_SERVICE),
        ("/p/subject/odd", "GET", OF_ROUTE),
    ):
        for kind, (status, code) in expected.items():
            given = {"json_body": {"kind": kind}} if method == "POST" else {"params": {"kind": kind}}
            found, answer = await host.ask(method, path, **given)
            assert (found, answer.get("code")) == (status, code), (path, kind, answer)
    for kind in OF_ROUTE:
        status, answer = await host.ask("POST", "/hooks/subject/own", params={"kind": kind}, token="")
        assert (status, answer["code"]) in {(401, "webhook_refused"), INVALID}, (kind, answer)
    await lists(host)
    assert not host.logged("request_crashed")
