"""The real daemon with HTTP in processes of its own: what their deaths cost, who keeps them, and how they end."""

import asyncio
import contextlib
import json
import os
import re
import signal
import uuid

import aiohttp
import pytest

PUBLISH = "/api/v1/events"
POSTED = 'busbar_http_requests_total{method="POST"'


@pytest.fixture
def host(daemon):
    one = daemon(server={"processes": 2}).start()
    yield one
    if one.process.poll() is None:
        assert one.stop() == 0


def pids(host):
    """The HTTP processes that were started, the oldest first."""
    return [record["pid"] for record in host.logged("http_process_ready")]


def alive(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def body(id_):
    return json.dumps({"specversion": "1.0", "id": id_, "source": "/load", "type": "a.b"})


async def publish(host, session, id_):
    """One event; its answer's data, or None where the answer was lost."""
    headers = {"Authorization": f"Bearer {host.token}", "Content-Type": "application/cloudevents+json"}
    try:
        async with session.post(host.url + PUBLISH, data=body(id_), headers=headers) as response:
            answer = await response.json()
            assert response.status == 202, answer
            return answer["data"]
    except (aiohttp.ClientConnectionError, ConnectionError):
        return None


async def test_a_process_that_is_killed_under_load_loses_no_event_that_it_answered_and_doubles_none(host):
    answered, lost = {}, []
    killed = asyncio.Event()

    async def client(session):
        after = 0
        while after < 20:
            id_ = str(uuid.uuid4())
            found = await publish(host, session, id_)
            after += killed.is_set()
            if found is None:
                lost.append(id_)
            else:
                answered[id_] = found["sequence"]

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(16)]
        await host.until(lambda: _true(len(answered) > 200))
        os.kill(pids(host)[0], signal.SIGKILL)
        killed.set()
        await asyncio.gather(*clients)
        assert lost
        for id_ in lost:  # sent again, whether it was taken or not
            found = await publish(host, session, id_)
            answered[id_] = found["sequence"]
    await host.until(lambda: _true(len(pids(host)) == 3))

    stored = {}
    for page in range(1, 1000):
        _, found = await host.ask("GET", PUBLISH, params={"page": str(page), "limit": "200", "source": "/load"})
        stored.update({one["event"]["id"]: one["sequence"] for one in found["data"]})
        if page >= found["pagination"]["totalPages"]:
            break
    assert stored == answered
    assert len(set(stored.values())) == len(stored)

    _, health = await host.ask("GET", "/api/v1/system/health")
    assert re.search("HTTP process [12] died", health["data"]["checks"]["background"]["output"])
    _, alerts = await host.ask("GET", "/api/v1/alerts")
    assert [one["subject"] in {"HTTP process 1", "HTTP process 2"} for one in alerts["data"]] == [True]


async def _true(found):
    return found


async def test_what_a_process_was_asked_is_in_the_metrics_and_the_audit_trail_of_the_host_once(host):
    await host.ask("GET", "/livez")
    for id_ in ("1", "2", "2"):
        assert (await host.ask("POST", PUBLISH, data=body(id_), headers=_json()))[0] == 202
    reserved = json.dumps({"specversion": "1.0", "id": "3", "source": "/x", "type": "busbar.mine"})
    headers = {**_json(), "X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
    assert (await host.ask("POST", PUBLISH, data=reserved, headers=headers))[0] == 403

    async def counted():
        _, text = await host.ask("GET", "/metrics")
        found = dict(re.findall(r"^(busbar_\S+) (\S+)$", text.decode(), re.MULTILINE))
        posted = {name[-5:-2]: value for name, value in found.items() if name.startswith(POSTED)}
        return found if posted == {"202": "3.0", "403": "1.0"} else None

    found = await host.until(counted)
    assert found['busbar_events_received_total{outcome="duplicate"}'] == "1.0"
    assert found['busbar_http_refusals_total{code="event_type_reserved",status="403"}'] == "1.0"
    assert found["busbar_http_processes"] == "2.0"
    _, audit = await host.ask("GET", "/api/v1/audit")
    (entry,) = [one for one in audit["data"] if one["action"] == "access.refuse"]
    assert (entry["target"], entry["detail"]["address"]) == (f"POST {PUBLISH}", "127.0.0.1")


def _json():
    return {"Content-Type": "application/cloudevents+json"}


async def test_a_token_is_worthless_in_every_process_once_its_revocation_is_answered(host):
    _, made = await host.ask("POST", "/api/v1/tokens", json_body={"name": "ci", "role": "operator"})
    secret = made["data"]["token"]
    headers = {**_json(), "Authorization": f"Bearer {secret}"}
    sessions = [aiohttp.ClientSession() for _ in range(6)]

    async def send(session):
        async with session.post(host.url + PUBLISH, data=body(str(uuid.uuid4())), headers=headers) as response:
            return response.status

    try:
        assert {await send(session) for session in sessions} == {202}
        assert (await host.ask("DELETE", f"/api/v1/tokens/{made['data']['id']}"))[0] == 200
        assert {await send(session) for session in sessions} == {401}
    finally:
        for session in sessions:
            await session.close()


async def test_processes_end_with_the_host_however_it_ends(daemon):
    host = daemon(server={"processes": 2}).start()
    first = pids(host)
    assert all(map(alive, first))
    for pid in first:
        os.kill(pid, signal.SIGTERM)  # the service manager may send it to all: the host says when they end
    assert (await host.publish("a.b"))[0] == 202
    assert host.stop() == 0
    assert not any(map(alive, first))
    host.start()
    second = pids(host)[2:]
    host.kill()
    await host.until(lambda: _true(not any(map(alive, second))))
