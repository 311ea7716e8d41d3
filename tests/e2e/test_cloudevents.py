"""Publishing CloudEvents in all three modes to a real daemon, as the receiver table has it, and with a real client."""

import json
import subprocess
import uuid

import aiohttp
import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from npm_packages import install_npm

BASE = "/api/v1/events"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
LIMIT = 64 * 1024

NPM_PACKAGE = "cloudevents@10.0.0"
NPM_CLIENT = """
const { CloudEvent, CONSTANTS, HTTP } = require("cloudevents");
const { url, token, mode, events } = JSON.parse(process.argv[1]);
const made = events.map(({ bytes, ...fields }) =>
  new CloudEvent(bytes ? { ...fields, data: Uint8Array.from(bytes) } : fields));
const messages = {
  binary: () => made.map(HTTP.binary),
  structured: () => made.map(HTTP.structured),
  batched: () => [{ headers: { "content-type": CONSTANTS.MIME_CE_BATCH }, body: JSON.stringify(made) }],
}[mode]();
(async () => {
  const statuses = [];
  for (const { headers, body } of messages) {
    headers.authorization = `Bearer ${token}`;
    const answer = await fetch(url, { method: "POST", headers, body });
    statuses.push(answer.status);
  }
  console.log(JSON.stringify({ statuses, sent: made }));
})();
"""


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "HTTP in processes"])
def host(request, tmp_path_factory, daemon_class):
    folder = tmp_path_factory.mktemp("cloudevents")
    one = daemon_class(folder, server={"event_body": LIMIT, "processes": request.param}).start()
    yield one
    assert one.stop() == 0


def event(**changes):
    made = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/tests", "type": "a.b", **changes}
    return {name: value for name, value in made.items() if value is not ...}


async def stored(host, id_):
    _, answer = await host.ask("GET", f"{BASE}/{id_}")
    return answer["data"]["event"]


async def test_a_binary_event_is_stored_with_its_attributes(host):
    id_ = str(uuid.uuid4())
    headers = {
        "ce-specversion": "1.0",
        "ce-id": id_,
        "ce-source": "/tests",
        "ce-type": "a.b",
        "ce-subject": "Euro%20%E2%82%AC",
        "ce-partitionkey": "7",
        "Content-Type": "application/json",
    }
    status, answer = await host.ask("POST", BASE, data='{"a": 1}', headers=headers)
    assert (status, answer["data"]["duplicate"]) == (202, False)
    assert await stored(host, id_) == {
        "specversion": "1.0",
        "id": id_,
        "source": "/tests",
        "type": "a.b",
        "subject": "Euro €",
        "partitionkey": "7",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }


async def test_an_event_without_a_content_type_is_bytes(host):
    id_ = str(uuid.uuid4())
    headers = {"ce-specversion": "1.0", "ce-id": id_, "ce-source": "/tests", "ce-type": "a.b"}
    headers["Authorization"] = f"Bearer {host.token}"
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.post(host.url + BASE, data=b"bytes", headers=headers) as answer,
    ):
        assert answer.status == 202
    assert (await stored(host, id_))["data_base64"] == "Ynl0ZXM="


async def test_the_python_sdk_is_understood_in_both_modes(host):
    for encode in (to_binary, to_structured):
        id_ = str(uuid.uuid4())
        made = CloudEvent(
            {"id": id_, "source": "/tests/sdk", "type": "sdk.sent", "specversion": "1.0", "subject": "Grüße, 100 %"},
            {"text": "hello"},
        )
        message = encode(made, JSONFormat())
        status, answer = await host.ask("POST", BASE, data=message.body, headers=dict(message.headers))
        assert status == 202, answer
        found = await stored(host, id_)
        assert (found["subject"], found["source"]) == ("Grüße, 100 %", "/tests/sdk")


@pytest.fixture(scope="module")
def npm_client(tmp_path_factory):
    """The reference client in JavaScript: sends events in a mode; the statuses, and the events as it sees them."""
    folder = install_npm(tmp_path_factory.mktemp("node"), NPM_PACKAGE)

    def send(host, mode, *events):
        what = {"url": host.url + BASE, "token": host.token, "mode": mode, "events": events}
        command = ["node", "-e", NPM_CLIENT, json.dumps(what)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return send


NPM_EVENTS = {
    "an object": {"data": {"text": "Gr\u00fc\u00dfe", "count": 1}, "datacontenttype": "application/json"},
    "a text": {"data": "Gr\u00fc\u00dfe", "datacontenttype": "text/plain"},
    "no payload": {"datacontenttype": "application/json"},
    "every attribute": {
        "subject": "orders/1?part=2",
        "time": "2026-01-02T03:04:05.678Z",
        "dataschema": "https://example.com/schema#v1",
        "partitionkey": "7",
        "datacontenttype": "application/json",
        "data": [1, 2.5, None, True],
    },
}


@pytest.mark.parametrize("mode", ["binary", "structured", "batched"])
async def test_the_npm_client_is_understood_in_every_mode(host, npm_client, mode):
    events = [
        {"id": str(uuid.uuid4()), "source": "/tests/npm", "type": "npm.sent", **more} for more in NPM_EVENTS.values()
    ]
    found = npm_client(host, mode, *events)
    assert set(found["statuses"]) == {202}
    assert len(found["sent"]) == len(events)
    for sent, given in zip(found["sent"], events, strict=True):
        assert sent.items() >= given.items()
        assert await stored(host, sent["id"]) == sent


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_bytes_of_the_npm_client_arrive_as_the_same_bytes(host, npm_client, mode):
    id_ = str(uuid.uuid4())
    payload = {"bytes": [0, 255, 1], "datacontenttype": "application/octet-stream"}
    found = npm_client(host, mode, {"id": id_, "source": "/tests/npm", "type": "npm.sent", **payload})
    assert found["statuses"] == [202]
    assert (await stored(host, id_))["data_base64"] == "AP8B"


async def test_the_same_event_in_another_mode_is_a_duplicate_and_other_content_a_conflict(host):
    one = event(data={"a": 1}, datacontenttype="application/json")
    headers = {f"ce-{name}": one[name] for name in ("specversion", "id", "source", "type")}
    headers["Content-Type"] = "application/json"
    status, answer = await host.ask("POST", BASE, data='{"a":1}', headers=headers)
    first = answer["data"]["sequence"]
    structured = {"Content-Type": "Application/CloudEvents+JSON; charset=UTF-8"}
    status, answer = await host.ask("POST", BASE, data=json.dumps(one), headers=structured)
    assert (status, answer["data"]["sequence"], answer["data"]["duplicate"]) == (202, first, True)
    status, answer = await host.ask("POST", BASE, data=json.dumps({**one, "data": 2}), headers=structured)
    assert (status, answer["code"]) == (409, "event_conflict")


async def test_each_event_of_a_batch_has_its_own_result(host):
    good, twice = event(), event(data=1)
    batch = [good, twice, {**twice, "data": 2}, event(time="noon"), event(data="x" * 70_000)]
    status, answer = await host.ask("POST", BASE, data=json.dumps(batch), headers=BATCH)
    assert status == 202
    results = answer["data"]
    assert [one["status"] for one in results] == [202, 202, 409, 400, 413]
    assert results[0]["id"] == good["id"]
    assert "'time'" in results[3]["message"]
    assert (await stored(host, twice["id"]))["data"] == 1


async def test_a_batch_of_several_versions_is_refused_whole(host):
    good = event()
    status, answer = await host.ask("POST", BASE, data=json.dumps([good, event(specversion="0.3")]), headers=BATCH)
    assert (status, answer["code"]) == (400, "event_invalid")
    assert "'specversion'" in answer["message"]
    assert (await host.ask("GET", f"{BASE}/{good['id']}"))[0] == 404


async def test_an_event_of_just_the_limit_is_taken_and_one_byte_more_is_not(host):
    one = event(data="")
    room = LIMIT - len(json.dumps(one, separators=(",", ":")))
    for size, expected in ((room, 202), (room + 1, 413)):
        body = json.dumps({**one, "id": str(uuid.uuid4()), "data": "x" * size}, separators=(",", ":"))
        status, _ = await host.ask("POST", BASE, data=body, headers=STRUCTURED)
        assert (len(body), status) == (LIMIT - room + size, expected)


async def test_in_structured_mode_the_body_is_the_event_whatever_headers_repeat(host):
    one = event(subject="body")
    headers = {**STRUCTURED, "ce-subject": "header", "ce-id": "other", "ce-specversion": "0.3"}
    status, _ = await host.ask("POST", BASE, data=json.dumps(one), headers=headers)
    assert (status, await stored(host, one["id"])) == (202, one)


BINARY_TABLE = [
    *((f"no {name}", {f"ce-{name}": None}, name) for name in ("id", "source", "type", "specversion")),
    *((f"empty {name}", {f"ce-{name}": ""}, name) for name in ("id", "source", "type", "subject")),
    ("old version", {"ce-specversion": "0.3"}, "specversion"),
    ("a content type among the attributes", {"ce-datacontenttype": "text/plain"}, "datacontenttype"),
    ("data among the attributes", {"ce-data": "x"}, "data"),
    ("bad name", {"ce-my-name": "x"}, "my-name"),
    ("bad time", {"ce-time": "yesterday"}, "time"),
    ("bad schema", {"ce-dataschema": "relative"}, "dataschema"),
    ("overlong UTF-8", {"ce-subject": "%C0%A0"}, "subject"),
    ("a surrogate", {"ce-subject": "%ED%A0%80"}, "subject"),
    ("a control character", {"ce-subject": "a%01"}, "subject"),
    ("no JSON", {"Content-Type": "application/json"}, "data"),
]


@pytest.mark.parametrize(("changes", "attribute"), [row[1:] for row in BINARY_TABLE], ids=[r[0] for r in BINARY_TABLE])
async def test_a_bad_header_is_refused_by_the_name_of_its_attribute(host, changes, attribute):
    headers = {f"ce-{name}": value for name, value in event().items()} | {"Content-Type": "text/plain"} | changes
    kept = {name: value for name, value in headers.items() if value is not None}
    status, answer = await host.ask("POST", BASE, data=b"{", headers=kept)
    assert (status, answer["code"]) == (400, "event_invalid")
    assert f"'{attribute}'" in answer["message"]


async def test_an_empty_batch_is_accepted_and_one_without_a_good_event_is_not(host):
    status, answer = await host.ask("POST", BASE, data="[]", headers=BATCH)
    assert (status, answer["data"]) == (202, [])
    status, answer = await host.ask("POST", BASE, data=json.dumps([event(type=...), event(id=...)]), headers=BATCH)
    assert (status, answer["code"]) == (400, "event_invalid")
    assert "'type'" in answer["errors"][0]
    assert "'id'" in answer["errors"][1]


EMPTY = ("id", "source", "type", "subject", "time", "dataschema", "datacontenttype")
TABLE = [
    *((f"no {name}", event(**{name: ...}), 400, name) for name in ("id", "source", "type", "specversion")),
    *((f"empty {name}", event(**{name: ""}), 400, name) for name in EMPTY),
    ("old version", event(specversion="0.3"), 400, "specversion"),
    ("bad name", event(myName="x"), 400, "myName"),
    ("bad source", event(source="a b"), 400, "source"),
    ("bad time", event(time="2026-13-01T00:00:00Z"), 400, "time"),
    ("bad schema", event(dataschema="relative"), 400, "dataschema"),
    ("large integer", event(count=2**31), 400, "count"),
    ("small integer", event(count=-(2**31) - 1), 400, "count"),
    ("fraction", event(count=1.5), 400, "count"),
    ("object", event(count={}), 400, "count"),
    ("control character", event(subject="a\u0001"), 400, "subject"),
    ("surrogate", event(subject="\ud800"), 400, "subject"),
    ("non-character", event(subject="\uffff"), 400, "subject"),
    ("both payloads", event(data=1, data_base64="eA=="), 400, "data_base64"),
    ("bad base64", event(data_base64="!"), 400, "data_base64"),
    ("bad media type", event(datacontenttype="json"), 400, "datacontenttype"),
]


@pytest.mark.parametrize(("sent", "status", "attribute"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
async def test_bad_input_is_refused_by_the_name_of_its_attribute(host, sent, status, attribute):
    found, answer = await host.ask("POST", BASE, data=json.dumps(sent), headers=STRUCTURED)
    assert (found, answer["code"]) == (status, "event_invalid")
    assert f"'{attribute}'" in answer["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/cloudevents+avro", b"x", 415, "unsupported_media_type"),
        ("application/cloudevents-batch+avro", b"x", 415, "unsupported_media_type"),
        ("application/cloudevents+json", b"x" * 70_000, 413, "body_too_large"),
        ("application/cloudevents-batch+json", b"x" * 600_000, 413, "body_too_large"),
        ("application/cloudevents+json", b"[]", 400, "event_invalid"),
        ("application/cloudevents-batch+json", b"{}", 400, "event_invalid"),
        ("application/cloudevents+json", b'{"id": "1", "id": "2"}', 400, "event_invalid"),
        ("application/cloudevents+json", b'{"id": NaN}', 400, "event_invalid"),
        ("text/plain", b"x", 400, "event_invalid"),
    ],
)
async def test_what_is_no_event_is_refused(host, content_type, body, status, code):
    found, answer = await host.ask("POST", BASE, data=body, headers={"Content-Type": content_type})
    assert (found, answer["code"]) == (status, code)


async def test_a_sender_of_web_hooks_is_told_that_it_may(host):
    bare = {"Authorization": f"Bearer {host.token}"}
    headers = {**bare, "WebHook-Request-Origin": "sender.example.com"}
    async with (
        aiohttp.ClientSession() as session,
        session.options(host.url + BASE, headers={**headers, "WebHook-Request-Rate": "120"}) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Allow"] == "GET, OPTIONS, POST"
        assert answer.headers["WebHook-Allowed-Origin"] == "sender.example.com"
        assert answer.headers["WebHook-Allowed-Rate"] == "120"
    async with aiohttp.ClientSession() as session, session.options(host.url + BASE, headers=bare) as answer:
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("WebHook-")], "it agreed, and nobody had asked"
    status, _ = await host.ask("OPTIONS", BASE, token="bbt_unknown")
    assert status == 401
