"""The main job, end to end: install, publish, crash, recover; spoken over HTTP to a real daemon."""

import asyncio
import itertools
import os
import signal
import uuid
from datetime import datetime

import aiohttp
import pytest

EVENTS = 1000


@pytest.mark.timeout(240)
async def test_every_acknowledged_event_is_handled_although_worker_and_daemon_are_killed(daemon, wheels, signed):
    host = daemon().start()
    await host.trust(signed.public, ["saboteur"])
    status, answer = await host.install(wheels["saboteur"])
    assert status == 201, answer
    assert answer["data"]["state"] == "running"

    ids = [f"work-{number:04d}-{uuid.uuid4()}" for number in range(EVENTS)]
    acknowledged = set()

    async def publish_all():
        waiting = asyncio.Queue()
        for id_ in ids:
            waiting.put_nowait(id_)

        async def publisher():
            while not waiting.empty():
                id_ = waiting.get_nowait()
                while id_ not in acknowledged:
                    try:
                        async with aiohttp.ClientSession() as session:
                            status, _ = await host.publish("saboteur.work", data={"key": id_}, id_=id_, session=session)
                        if status == 202:
                            acknowledged.add(id_)
                    except (aiohttp.ClientError, ConnectionError):
                        await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(publisher())

    publishing = asyncio.create_task(publish_all())
    await host.until(lambda: _true(len(acknowledged) >= EVENTS // 5))
    _, health = await host.ask("GET", "/api/v1/plugins/saboteur/health")
    os.kill(health["data"]["worker"]["pid"], signal.SIGKILL)

    await host.until(lambda: _true(len(acknowledged) >= EVENTS // 2))
    host.kill()
    host.start()
    await publishing
    assert len(acknowledged) == EVENTS

    async def handled():
        status, answer = await host.ask("POST", "/api/v1/plugins/saboteur/call/handled", json_body={})
        return status == 200 and set(answer["data"]["keys"]) >= acknowledged

    await host.until(handled, seconds=90)
    assert host.stop() == 0


async def test_a_release_that_is_not_signed_altered_or_not_trusted_is_refused_and_leaves_nothing(
    daemon, wheels, signed, tmp_path
):
    host = daemon().start()

    status, answer = await host.install(wheels["heartbeat"])
    assert (status, answer["code"]) == (422, "release_unknown_publisher")

    await host.trust(signed.public, ["heartbeat"])
    status, answer = await host.install(wheels["heartbeat"], attestations=b"")
    assert (status, answer["code"]) == (422, "release_unsigned")

    altered = tmp_path / wheels["heartbeat"].name
    content = bytearray(wheels["heartbeat"].read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    sidecar = wheels["heartbeat"].with_name(wheels["heartbeat"].name + ".intoto.jsonl").read_bytes()
    status, answer = await host.install(altered, attestations=sidecar)
    assert (status, answer["code"]) == (422, "release_digest_mismatch")

    status, answer = await host.install(wheels["teamwork"])
    assert (status, answer["code"]) == (422, "release_namespace_violation")

    _, answer = await host.ask("GET", "/api/v1/plugins")
    assert answer["data"] == []
    var = tmp_path / "var"
    assert list((var / "staging").iterdir()) == []
    assert list((var / "releases").iterdir()) == []
    assert host.stop() == 0


async def test_a_failing_plugin_trips_its_own_breaker_and_no_other_plugin_notices(daemon, wheels, signed):
    host = daemon(breaker={"open_for": "3s"}).start()
    await host.trust(signed.public, ["saboteur", "heartbeat"])
    for name in ("heartbeat", "saboteur"):
        status, answer = await host.install(wheels[name])
        assert status == 201, answer

    async def beats():
        _, answer = await host.ask("GET", "/api/v1/events", params={"type": "heartbeat.beat", "limit": "200"})
        return [row["event"] for row in answer["data"]]

    await host.until(beats)
    await host.publish("saboteur.switch", data={"mode": "raise"})

    async def switched():
        _, answer = await host.ask("GET", "/api/v1/plugins/saboteur/deliveries", params={"outcome": "delivered"})
        return answer["data"]

    await host.until(switched)
    for number in range(8):
        status, _ = await host.publish("saboteur.work", data={"key": f"waiting-{number}"})
        assert status == 202

    async def breaker_is(*states):
        _, answer = await host.ask("GET", "/api/v1/plugins/saboteur/breaker")
        return answer["data"]["state"] in states

    await host.until(lambda: breaker_is("open"))
    _, answer = await host.ask("GET", "/api/v1/plugins/saboteur")
    assert answer["data"]["state"] == "degraded"
    assert "breaker" in answer["data"]["cause"]

    before = len(await beats())
    status, answer = await host.ask("PUT", "/api/v1/plugins/saboteur/config", json_body={"mode": "ok"})
    assert status == 200, answer
    await host.until(lambda: breaker_is("closed"), seconds=60)

    async def all_arrived():
        _, answer = await host.ask("POST", "/api/v1/plugins/saboteur/call/handled", json_body={})
        return answer["success"] and {f"waiting-{n}" for n in range(8)} <= set(answer["data"]["keys"])

    await host.until(all_arrived, seconds=60)
    found = await beats()
    assert len(found) > before
    due = sorted(event["data"]["due"] for event in found)
    assert len(due) == len(set(due))
    gaps = {
        (datetime.fromisoformat(after) - datetime.fromisoformat(one)).total_seconds()
        for one, after in itertools.pairwise(due)
    }
    assert gaps <= {2.0}
    _, answer = await host.ask("GET", "/api/v1/events", params={"type": "busbar.breaker.*"})
    assert [row["event"]["data"]["state"] for row in reversed(answer["data"])][:1] == ["open"]
    assert host.stop() == 0


async def test_what_is_installed_and_enabled_survives_a_restart_and_a_disabled_plugin_stays_disabled(
    daemon, wheels, signed
):
    host = daemon().start()
    await host.trust(signed.public, ["teamwork", "heartbeat"])
    await host.install(wheels["teamwork"])
    await host.install(wheels["heartbeat"], enable=False)
    assert host.stop() == 0
    host.start()

    async def state(name):
        _, answer = await host.ask("GET", f"/api/v1/plugins/{name}")
        return answer["data"]["state"]

    await host.until(lambda: _is(state("teamwork"), "running"))
    assert await state("heartbeat") == "disabled"
    assert host.stop() == 0


async def test_events_published_while_a_plugin_is_disabled_wait_for_it(daemon, wheels, signed):
    host = daemon().start()
    await host.trust(signed.public, ["teamwork"])
    await host.install(wheels["teamwork"])
    status, _ = await host.ask("POST", "/api/v1/plugins/teamwork/disable")
    assert status == 200
    milestone = {
        "milestoneId": "m-1",
        "userId": "ada",
        "completionDate": "2026-11-20T10:00:00Z",
        "progress": 100,
    }
    status, _ = await host.publish("milestone.completed", data=milestone, subject="m-1")
    assert status == 202
    status, answer = await host.ask("POST", "/api/v1/plugins/teamwork/enable")
    assert (status, answer["data"]["state"]) == (200, "running")

    async def notified():
        _, answer = await host.ask("GET", "/api/v1/events", params={"type": "notification.requested"})
        return answer["data"]

    found = await host.until(notified)
    assert found[0]["event"]["subject"] == "ada"
    assert host.stop() == 0


async def _true(value):
    return value


async def _is(awaitable, expected):
    return await awaitable == expected
