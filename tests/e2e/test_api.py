"""The contracts of the API, asked of a real daemon from outside."""

import json
import re
import uuid

import pytest
from openapi_spec_validator import validate

EVENT = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "a.b"}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "HTTP in processes"])
def host(request, tmp_path_factory, daemon_class):
    folder = tmp_path_factory.mktemp("api")
    one = daemon_class(folder, server={"processes": request.param}, breaker={"open_for": "1s"}).start()
    yield one
    assert one.stop() == 0


REFUSALS = [
    ("nothing there", "GET", "/nothing", {}, 404, "not_found"),
    ("wrong method", "DELETE", "/api/v1/events", {}, 405, "method_not_allowed"),
    ("no token", "GET", "/api/v1/plugins", {"token": ""}, 401, "unauthenticated"),
    ("wrong token", "GET", "/api/v1/plugins", {"token": "bbt_x"}, 401, "unauthenticated"),
    ("no token on publish", "POST", "/api/v1/events", {"token": "", "data": "{}"}, 401, "unauthenticated"),
    ("unknown plugin", "GET", "/api/v1/plugins/none", {}, 404, "plugin_not_found"),
    ("unknown plugin, enable", "POST", "/api/v1/plugins/none/enable", {}, 404, "plugin_not_found"),
    ("unknown plugin, health", "GET", "/api/v1/plugins/none/health", {}, 404, "plugin_not_found"),
    ("unknown plugin, breaker", "GET", "/api/v1/plugins/none/breaker", {}, 404, "plugin_not_found"),
    ("unknown plugin, config", "PUT", "/api/v1/plugins/none/config", {"json_body": {}}, 404, "plugin_not_found"),
    ("unknown plugin, call", "POST", "/api/v1/plugins/none/call/x", {"json_body": {}}, 404, "plugin_not_found"),
    ("unknown plugin, remove", "DELETE", "/api/v1/plugins/none", {}, 404, "plugin_not_found"),
    ("unknown plugin, route", "GET", "/p/none/x", {}, 404, "plugin_not_found"),
    ("bad page", "GET", "/api/v1/plugins", {"params": {"page": "0"}}, 400, "query_invalid"),
    ("bad limit", "GET", "/api/v1/events", {"params": {"limit": "1000"}}, 400, "query_invalid"),
    ("bad time", "GET", "/api/v1/events", {"params": {"since": "yesterday"}}, 400, "query_invalid"),
    ("bad state", "GET", "/api/v1/plugins", {"params": {"state": "happy"}}, 400, "query_invalid"),
    ("unknown query", "GET", "/api/v1/tokens", {"params": {"x": "1"}}, 400, "query_invalid"),
    ("unknown event", "GET", "/api/v1/events/none", {}, 404, "event_not_found"),
    ("unknown dead letter", "POST", "/api/v1/dead-letters/7/retry", {}, 404, "dead_letter_not_found"),
    ("dead letter that is no number", "DELETE", "/api/v1/dead-letters/x", {}, 404, "dead_letter_not_found"),
    ("unknown schedule", "POST", "/api/v1/schedules/a/b/run", {}, 404, "schedule_not_found"),
    ("unknown publisher", "GET", "/api/v1/publishers/none", {}, 404, "publisher_not_found"),
    ("unknown token", "DELETE", "/api/v1/tokens/none", {}, 404, "token_not_found"),
    (
        "body is no JSON",
        "POST",
        "/api/v1/tokens",
        {"data": "{", "headers": {"Content-Type": "application/json"}},
        400,
        "body_invalid",
    ),
    ("body is a list", "POST", "/api/v1/tokens", {"json_body": []}, 400, "body_invalid"),
    ("unknown field", "POST", "/api/v1/tokens", {"json_body": {"name": "x", "rolle": "admin"}}, 400, "body_invalid"),
    ("unknown role", "POST", "/api/v1/tokens", {"json_body": {"name": "x", "role": "king"}}, 400, "body_invalid"),
    ("wrong content type", "POST", "/api/v1/tokens", {"data": "name=x"}, 415, "unsupported_media_type"),
    ("install without a form", "POST", "/api/v1/plugins", {"data": "x"}, 415, "unsupported_media_type"),
    (
        "event as text",
        "POST",
        "/api/v1/events",
        {"data": "x", "headers": {"Content-Type": "text/plain"}},
        400,
        "event_invalid",
    ),
    ("event is no JSON", "POST", "/api/v1/events", {"data": "{", "headers": STRUCTURED}, 400, "event_invalid"),
    (
        "event without id",
        "POST",
        "/api/v1/events",
        {"data": json.dumps({**EVENT, "id": ""}), "headers": STRUCTURED},
        400,
        "event_invalid",
    ),
    (
        "event of the host's own type",
        "POST",
        "/api/v1/events",
        {"data": json.dumps({**EVENT, "type": "busbar.schedule.due"}), "headers": STRUCTURED},
        403,
        "event_type_reserved",
    ),
    (
        "event too large",
        "POST",
        "/api/v1/events",
        {"data": json.dumps({**EVENT, "data": "x" * 2**20}), "headers": STRUCTURED},
        413,
        "body_too_large",
    ),
    (
        "weak key",
        "POST",
        "/api/v1/publishers",
        {"json_body": {"id": "x", "plugins": ["x"], "keys": [{"public": "ed25519:" + "A" * 43}]}},
        400,
        "key_refused",
    ),
    (
        "bad publisher id",
        "POST",
        "/api/v1/publishers",
        {"json_body": {"id": "X!", "plugins": ["x"], "keys": []}},
        400,
        "body_invalid",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
async def test_bad_input_gets_its_status_its_code_and_a_sentence(host, method, path, more, status, code):
    found, answer = await host.ask(method, path, **more)
    assert (found, answer["code"]) == (status, code)
    assert answer["success"] is False
    assert len(answer["message"]) > 15
    assert "Traceback" not in json.dumps(answer)
    assert {"timestamp", "traceId"} <= answer.keys()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff" * 500,
        b"--x\r\n\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--x--\r\n',
    ],
)
async def test_a_form_that_is_none_is_refused(host, garbage):
    status, answer = await host.ask(
        "POST", "/api/v1/plugins", data=garbage, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (status, answer["code"]) == (400, "form_invalid")


async def test_an_event_is_acknowledged_with_its_place_and_a_second_sending_is_the_same_event(host):
    event = json.dumps({**EVENT, "id": str(uuid.uuid4()), "data": {"a": 1}})
    status, first = await host.ask("POST", "/api/v1/events", data=event, headers=STRUCTURED)
    assert status == 202
    status, second = await host.ask("POST", "/api/v1/events", data=event, headers=STRUCTURED)
    assert status == 202
    assert second["data"] == {**first["data"], "duplicate": True}
    status, third = await host.ask("POST", "/api/v1/events", data=event.replace("1}", "2}"), headers=STRUCTURED)
    assert (status, third["code"]) == (409, "event_conflict")
    status, shown = await host.ask("GET", f"/api/v1/events/{first['data']['id']}")
    assert shown["data"]["sequence"] == first["data"]["sequence"]
    assert shown["data"]["event"]["data"] == {"a": 1}


async def test_lists_have_pages(host):
    for number in range(5):
        await host.publish("page.test", id_=f"page-{number}")
    _, answer = await host.ask("GET", "/api/v1/events", params={"type": "page.*", "limit": "2", "page": "3"})
    assert answer["pagination"] == {"page": 3, "limit": 2, "total": 5, "totalPages": 3}
    assert [row["event"]["id"] for row in answer["data"]] == ["page-0"]


async def test_tokens_have_roles_and_can_be_revoked(host):
    status, made = await host.ask("POST", "/api/v1/tokens", json_body={"name": "watcher", "role": "viewer"})
    assert status == 201
    secret = made["data"]["token"]
    assert (await host.ask("GET", "/api/v1/plugins", token=secret))[0] == 200
    status, refused = await host.ask("POST", "/api/v1/events", token=secret, data=json.dumps(EVENT), headers=STRUCTURED)
    assert (status, refused["code"]) == (403, "forbidden")
    _, listed = await host.ask("GET", "/api/v1/tokens")
    assert secret not in json.dumps(listed)
    assert (await host.ask("DELETE", f"/api/v1/tokens/{made['data']['id']}"))[0] == 200
    assert (await host.ask("GET", "/api/v1/plugins", token=secret))[0] == 401
    _, audit = await host.ask("GET", "/api/v1/audit")
    assert [*(entry["action"] for entry in audit["data"] if entry["action"] != "access.refuse")][:2] == [
        "token.revoke",
        "token.create",
    ]
    refused = next(entry for entry in audit["data"] if entry["actor"] == "token:watcher")
    assert (refused["target"], refused["outcome"]) == ("POST /api/v1/events", "refused")
    assert refused["detail"] == {
        "address": "127.0.0.1",
        "path": "/api/v1/events",
        "status": 403,
        "code": "forbidden",
        "token": made["data"]["id"],
    }


async def test_the_openapi_document_is_valid_and_names_every_path(host):
    _, document = await host.ask("GET", "/api/openapi.json", token="")
    validate(document)
    assert document["openapi"].startswith("3.1")
    for path in ("/api/v1/plugins/{id}/breaker", "/api/v1/events", "/api/v1/schedules", "/livez"):
        assert path in document["paths"]


async def test_probes_need_no_token_and_details_do(host):
    for path in ("/livez", "/readyz", "/health"):
        status, answer = await host.ask("GET", path, token="")
        assert (status, answer["data"]["status"]) == (200, "pass")
    assert "checks" not in (await host.ask("GET", "/health", token=""))[1]["data"]
    assert "checks" in (await host.ask("GET", "/health"))[1]["data"]
    assert (await host.ask("GET", "/metrics", token=""))[0] == 401
    status, text = await host.ask("GET", "/metrics")
    assert b"busbar_log_head" in text
    status, page = await host.ask("GET", "/api/docs", token="")
    assert b"/api/v1/plugins" in page


async def test_every_answer_has_a_trace_id_and_a_valid_traceparent_is_continued(host):
    import aiohttp

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with aiohttp.ClientSession() as session:
        async with session.get(host.url + "/livez", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}) as one:
            assert one.headers["X-Trace-ID"] == trace
        async with session.get(host.url + "/nothing", headers={"traceparent": "00-zero-x-01"}) as other:
            assert re.fullmatch(
                r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", other.headers["X-Trace-ID"]
            )
            assert (await other.json())["traceId"] == other.headers["X-Trace-ID"]


async def test_a_plugin_from_install_to_removal(host, wheels, signed):
    await host.trust(signed.public, ["teamwork", "heartbeat"], publisher="acme")
    status, answer = await host.install(wheels["teamwork"], enable=False)
    assert (status, answer["data"]["state"]) == (201, "disabled")
    assert answer["data"]["grants"] == answer["data"]["permissions"]
    status, answer = await host.install(wheels["teamwork"])
    assert (status, answer["code"]) == (409, "plugin_already_installed")

    base = "/api/v1/plugins/teamwork"
    status, answer = await host.ask("POST", base + "/call/progress", json_body={"user": "ada"})
    assert (status, answer["code"]) == (503, "plugin_not_running")
    assert (await host.ask("POST", base + "/enable"))[1]["data"]["state"] == "running"
    assert (await host.ask("POST", base + "/call/progress", json_body={"user": "ada"}))[1]["data"]["completed"] == 0
    status, answer = await host.ask("POST", base + "/call/none", json_body={})
    assert (status, answer["message"]) == (404, "Method none not found on plugin teamwork")
    status, answer = await host.ask("POST", base + "/call/progress", json_body={"usr": "ada"})
    assert (status, answer["code"]) == (422, "arguments_invalid")

    assert (await host.ask("PUT", base + "/config", json_body={"message": "Bravo {user}"}))[0] == 200
    assert (await host.ask("GET", base + "/config"))[1]["data"] == {"message": "Bravo {user}"}
    status, answer = await host.ask("PUT", base + "/config", json_body={"message": 5})
    assert (status, answer["code"]) == (400, "config_invalid")
    assert "message" in (await host.ask("GET", base + "/config/schema"))[1]["data"]["properties"]

    _, health = await host.ask("GET", base + "/health")
    assert health["data"]["worker"]["isolation"] == "process"
    assert [check["status"] for check in health["data"]["checks"]] == ["pass", "pass", "pass"]
    assert (await host.ask("POST", base + "/restart"))[1]["data"]["state"] == "running"

    status, answer = await host.ask("POST", base + "/breaker", json_body={"state": "open"})
    assert (status, answer["data"]["state"]) == (200, "forced-open")
    assert (await host.ask("POST", base + "/breaker", json_body={"state": "auto"}))[1]["data"]["state"] == "closed"

    grants = {**(await host.ask("GET", base + "/grants"))[1]["data"], "publish": []}
    assert (await host.ask("PUT", base + "/grants", json_body=grants))[0] == 200
    _, shown = await host.ask("GET", base)
    assert (shown["data"]["state"], shown["data"]["missingGrants"]) == (
        "needs-approval",
        ["publish: notification.requested"],
    )
    status, answer = await host.ask("POST", base + "/enable")
    assert (status, answer["code"]) == (409, "plugin_needs_approval")
    status, answer = await host.ask("PUT", base + "/grants", json_body={**grants, "subscribe": ["everything"]})
    assert (status, answer["code"]) == (400, "grants_invalid")
    assert (await host.ask("DELETE", base, params={"purge": "true"}))[0] == 200
    assert (await host.ask("GET", base))[0] == 404


async def test_a_dead_letter_is_kept_with_its_reason_and_decided_on(host, wheels, signed):
    await host.install(wheels["teamwork"])
    await host.publish("milestone.completed", data={"userId": "ada"}, id_="no-milestone")

    async def letters():
        return (await host.ask("GET", "/api/v1/dead-letters", params={"plugin": "teamwork"}))[1]["data"]

    (letter,) = await host.until(letters)
    assert letter["eventId"] == "no-milestone"
    assert "milestoneId" in letter["reason"]
    assert letter["event"]["data"] == {"userId": "ada"}
    assert (await host.ask("POST", f"/api/v1/dead-letters/{letter['id']}/retry"))[0] == 200

    async def again():
        found = await letters()
        return found and found[0]["id"] != letter["id"] and found

    (second,) = await host.until(again)
    assert (await host.ask("DELETE", f"/api/v1/dead-letters/{second['id']}"))[0] == 200
    assert await letters() == []
    _, tried = await host.ask("GET", "/api/v1/plugins/teamwork/deliveries", params={"outcome": "dead-lettered"})
    assert tried["pagination"]["total"] == 2


async def test_a_schedule_is_paused_resumed_run_by_hand_and_has_a_history(host, wheels):
    status, answer = await host.install(wheels["heartbeat"])
    assert status == 201, answer
    one = "/api/v1/schedules/heartbeat/beat"

    async def fired():
        return (await host.ask("GET", one + "/runs"))[1]["data"]

    await host.until(fired)
    assert (await host.ask("POST", one + "/pause"))[1]["data"]["state"] == "paused"
    before = len(await fired())
    status, ran = await host.ask("POST", "/api/v1/schedules/heartbeat%2Fbeat/run")
    assert (status, ran["data"]["byHand"]) == (200, True)
    assert len(await fired()) == before + 1
    assert (await host.ask("POST", one + "/resume"))[1]["data"]["state"] == "active"
    (listed,) = (await host.ask("GET", "/api/v1/schedules"))[1]["data"]
    assert (listed["id"], listed["rule"]) == ("heartbeat/beat", "every 2 s")
