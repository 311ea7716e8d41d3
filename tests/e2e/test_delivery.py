"""Delivery from outside: filters, overridden policies, replays, decisions on many dead letters, back-pressure."""

import asyncio
import json

import pytest
from plugin_projects import write_project

COURIER = '''"""Delivers parcels, and remembers each."""
from plugin_sdk import DeadLetter, Plugin, on_event, service


class Courier(Plugin):
    def __init__(self):
        super().__init__()
        self.seen = []

    @on_event("parcel.*", filters=[{"pattern": {"data": {"weight": [{"numeric": ["<", 100]}]}}}], first_retry=0.1)
    async def carry(self, event, context):
        self.seen.append([event.id, context.delivery.replay])
        if event.type == "parcel.broken":
            raise DeadLetter("it is broken")
        if event.type == "parcel.stuck":
            raise RuntimeError("stuck")

    @service
    async def carried(self):
        """What was carried."""
        return self.seen
'''
MANIFEST = '[permissions]\nsubscribe = ["parcel.*"]\n'


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    wheel = signed.build(write_project(tmp_path_factory.mktemp("courier"), "courier", COURIER, manifest=MANIFEST))
    one = daemon_class(tmp_path_factory.mktemp("delivery")).start()

    async def install():
        await one.trust(signed.public, ["courier", "wrong"])
        status, answer = await one.install(wheel)
        assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


async def carried(host):
    status, answer = await host.ask("POST", "/api/v1/plugins/courier/call/carried", json_body={})
    if status == 429:  # it is busy with deliveries
        return []
    assert status == 200, answer
    return answer["data"]


async def has_carried(host, *ids):
    async def all_there():
        return set(ids) <= {one for one, _ in await carried(host)}

    await host.until(all_there)


async def letters(host, **query):
    _, answer = await host.ask("GET", "/api/v1/dead-letters", params={"plugin": "courier", **query})
    return answer["data"]


async def test_a_subscription_gets_what_its_filter_takes(host):
    await host.publish("parcel.sent", id_="light", data={"weight": 5})
    await host.publish("parcel.sent", id_="heavy", data={"weight": 500})
    await host.publish("parcel.sent", id_="after", data={"weight": 6})
    await has_carried(host, "light", "after")
    assert "heavy" not in {one for one, _ in await carried(host)}


async def test_a_filter_holds_for_events_so_large_that_the_worker_looks_instead_of_the_host(host):
    large = {"note": "x" * 100_000}
    await host.publish("parcel.sent", id_="large-heavy", data={"weight": 500, **large})
    await host.publish("parcel.sent", id_="large-light", data={"weight": 5, **large})
    await has_carried(host, "large-light")
    assert "large-heavy" not in {one for one, _ in await carried(host)}
    _, log = await host.ask("GET", "/api/v1/plugins/courier/deliveries", params={"event": "large-heavy"})
    assert [one["outcome"] for one in log["data"]] == ["delivered"]


FILTER_TESTS = [
    ({"exact": {"type": "a.b"}}, True, []),
    ({"exact": {"type": "a.c"}}, False, ["filters[0].exact.type"]),
    ([{"prefix": {"type": "a."}}, {"suffix": {"subject": "9"}}], False, ["filters[1].suffix.subject"]),
    ({"pattern": {"data": {"n": [{"numeric": [">", 1]}]}}}, True, []),
    ({"pattern": {"data": {"n": [{"numeric": [">", 9]}]}}}, False, ["filters[0].pattern.data.n"]),
    (None, True, []),
]


@pytest.mark.parametrize(
    ("given", "matches", "paths"), FILTER_TESTS, ids=[json.dumps(case[0]) for case in FILTER_TESTS]
)
async def test_a_filter_can_be_tried_out_and_says_which_clause_failed(host, given, matches, paths):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b", "subject": "x1", "data": {"n": 2}}
    status, answer = await host.ask("POST", "/api/v1/filters/test", json_body={"filter": given, "event": event})
    assert status == 200, answer
    assert answer["data"]["matches"] is matches
    assert [one["path"] for one in answer["data"]["failed"]] == paths


async def test_a_filter_that_is_none_is_refused_with_the_position(host):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}
    body = {"filter": [{"all": [{"prefix": {"type": 5}}]}], "event": event}
    status, answer = await host.ask("POST", "/api/v1/filters/test", json_body=body)
    assert (status, answer["code"]) == (400, "filter_invalid")
    assert answer["message"].startswith("filters[0].all[0].prefix.type")


async def test_a_release_with_a_filter_that_is_none_is_not_installed(host, signed, tmp_path):
    code = COURIER.replace('"numeric": ["<", 100]', '"numeric": ["<", "many"]').replace("Courier", "Wrong")
    wheel = signed.build(write_project(tmp_path, "wrong", code, manifest=MANIFEST))
    status, answer = await host.install(wheel)
    assert status == 422, answer
    assert "filters[0].pattern.data.weight" in answer["message"]
    assert (await host.ask("GET", "/api/v1/plugins/wrong"))[0] == 404


async def test_an_administrator_overrides_a_policy_without_touching_the_plugin(host):
    path = "/api/v1/plugins/courier/subscriptions/carry"
    _, before = await host.ask("GET", path)
    assert before["data"]["policy"]["attempts"] == 8
    status, answer = await host.ask("PUT", path, json_body={"attempts": 2, "firstRetry": 0.05})
    assert status == 200, answer
    assert answer["data"]["policy"]["attempts"] == 2
    assert answer["data"]["overridden"] == ["attempts", "firstRetry"]
    await host.publish("parcel.stuck", id_="stuck-1", data={"weight": 1})

    async def given_up():
        return [one for one in await letters(host) if one["eventId"] == "stuck-1"]

    (letter,) = await host.until(given_up)
    assert letter["attempts"] == 2
    assert [one["attempt"] for one in letter["history"]] == [1, 2]
    _, log = await host.ask("GET", "/api/v1/plugins/courier/deliveries", params={"event": "stuck-1"})
    assert [one["outcome"] for one in log["data"]] == ["dead-lettered", "retried"]
    status, answer = await host.ask("PUT", path, json_body={})
    assert answer["data"]["overridden"] == []
    assert answer["data"]["policy"]["attempts"] == 8


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"attempts": 0}, 422, "policy_invalid"),
        ({"attempts": "many"}, 400, "body_invalid"),
        ({"tempo": 1}, 400, "body_invalid"),
        ({"order": "sideways"}, 400, "body_invalid"),
        ({"firstRetry": 9e9}, 422, "policy_invalid"),
    ],
)
async def test_a_policy_that_cannot_be_meant_is_refused_and_changes_nothing(host, body, status, code):
    path = "/api/v1/plugins/courier/subscriptions/carry"
    found, answer = await host.ask("PUT", path, json_body=body)
    assert (found, answer["code"]) == (status, code)
    assert (await host.ask("GET", path))[1]["data"]["overridden"] == []


async def test_a_subscription_that_is_not_there_is_not_found(host):
    status, answer = await host.ask("PUT", "/api/v1/plugins/courier/subscriptions/nothing", json_body={})
    assert (status, answer["code"]) == (404, "subscription_not_found")


async def test_dead_letters_are_decided_on_by_the_lot_and_a_dry_run_changes_nothing(host):
    for number in range(6):
        await host.publish("parcel.broken", id_=f"broken-{number}", data={"weight": number})

    async def all_there():
        return len(await letters(host, type="parcel.broken")) == 6

    await host.until(all_there)
    light = {"pattern": {"data": {"weight": [{"numeric": ["<", 4]}]}}}
    choice = {"plugin": "courier", "type": "parcel.*", "filter": light}
    _, answer = await host.ask("POST", "/api/v1/dead-letters/discard", json_body={**choice, "dryRun": True})
    fitting = answer["data"]["count"]
    assert fitting >= 4  # other tests may have left light ones
    assert len(await letters(host, type="parcel.broken")) == 6
    _, answer = await host.ask("POST", "/api/v1/dead-letters/discard", json_body=choice)
    assert answer["data"]["count"] == fitting
    assert {one["eventId"] for one in await letters(host, type="parcel.broken")} == {"broken-4", "broken-5"}
    _, answer = await host.ask("POST", "/api/v1/dead-letters/retry", json_body={"plugin": "courier"})
    assert answer["data"]["count"] == 2

    async def again():
        return [one["attempts"] for one in await letters(host, type="parcel.broken")] == [1, 1]

    await host.until(again)
    seen = [one for one, _ in await carried(host)]
    assert seen.count("broken-5") == 2


async def test_a_replay_delivers_a_time_of_the_log_to_one_plugin_again_and_marks_it(host):
    await host.publish("parcel.sent", id_="before", data={"weight": 1})
    await has_carried(host, "before")
    for number in range(20):
        await host.publish("parcel.sent", id_=f"replayed-{number}", data={"weight": number})
    await has_carried(host, *(f"replayed-{number}" for number in range(20)))
    since = (await host.ask("GET", "/api/v1/events/replayed-0"))[1]["data"]["appendedAt"]
    even = {"any": [{"suffix": {"id": str(digit)}} for digit in (0, 2, 4, 6, 8)]}
    body = {"plugin": "courier", "since": since, "filter": even}
    status, answer = await host.ask("POST", "/api/v1/replays", json_body={**body, "dryRun": True})
    assert (status, answer["data"]["matching"], answer["data"]["id"]) == (200, 10, None)
    assert not [one for one, replay in await carried(host) if replay]
    status, answer = await host.ask("POST", "/api/v1/replays", json_body=body)
    assert status == 202, answer
    replay = answer["data"]["id"]

    async def done():
        _, found = await host.ask("GET", f"/api/v1/replays/{replay}")
        return found["data"] if found["data"]["state"] == "done" else None

    found = await host.until(done)
    assert found["delivered"] == 10
    again = [one for one, marked in await carried(host) if marked]
    assert sorted(again) == sorted(f"replayed-{number}" for number in range(0, 20, 2))
    _, health = await host.ask("GET", "/api/v1/plugins/courier/health")
    assert health["data"]["lag"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"plugin": "nobody"}, 404, "plugin_not_found"),
        ({"plugin": "courier", "subscription": "nothing"}, 404, "subscription_not_found"),
        ({"plugin": "courier", "since": "2100-01-01T00:00:00Z"}, 422, "nothing_to_replay"),
        ({"plugin": "courier", "since": "yesterday"}, 400, "body_invalid"),
        ({"plugin": "courier", "filter": {"nearly": {}}}, 400, "filter_invalid"),
        ({}, 400, "body_invalid"),
    ],
)
async def test_a_replay_of_nothing_is_refused(host, body, status, code):
    found, answer = await host.ask("POST", "/api/v1/replays", json_body=body)
    assert (found, answer["code"]) == (status, code), answer


async def test_a_replay_that_has_ended_or_is_not_there_is_said_to_be(host):
    status, answer = await host.ask("GET", "/api/v1/replays/999999")
    assert (status, answer["code"]) == (404, "replay_not_found")
    status, answer = await host.ask("DELETE", "/api/v1/replays/none")
    assert (status, answer["code"]) == (404, "replay_not_found")


async def test_publishing_above_the_rate_is_refused_with_the_time_to_come_back(daemon):
    host = daemon(events={"rate": 2.0}).start()
    answers = [await host.publish("a.b", id_=str(number)) for number in range(5)]
    statuses = [status for status, _ in answers]
    assert statuses[:2] == [202, 202]
    assert 429 in statuses
    assert next(body for status, body in answers if status == 429)["code"] == "rate_limited"


async def test_a_full_log_refuses_publishers_and_takes_them_again_once_a_plugin_has_caught_up(daemon, signed, tmp_path):
    host = daemon(events={"keep_bytes": 2 * 2**20}).start()
    code = COURIER.replace('"pattern": {"data": {"weight": [{"numeric": ["<", 100]}]}}', '"prefix": {"type": "parcel"}')
    wheel = signed.build(write_project(tmp_path, "courier", code, manifest=MANIFEST, version="2.0.0"))
    await host.trust(signed.public, ["courier"])
    status, answer = await host.install(wheel)
    assert status == 201, answer
    await host.ask("POST", "/api/v1/plugins/courier/breaker", json_body={"state": "open"})
    taken = 0
    while True:
        status, answer = await host.publish("parcel.sent", id_=f"big-{taken}", data="x" * 50_000)
        if status != 202 and answer["code"] == "log_full" and "courier/carry" in answer["message"]:
            break
        taken += status == 202
        assert taken < 200
    assert status == 503
    await host.ask("POST", "/api/v1/plugins/courier/breaker", json_body={"state": "auto"})
    await host.ask("POST", "/api/v1/plugins/courier/breaker", json_body={"state": "closed"})
    await has_carried(host, *(f"big-{number}" for number in range(taken)))

    async def room():
        status, _ = await host.publish("parcel.sent", id_="after", data="small")
        return status == 202

    await host.until(room)
    assert host.logged("log_full")
    assert host.logged("log_has_room")
