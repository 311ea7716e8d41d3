"""HTTP processes beside a host: tokens, deaths, ends and bounds."""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from http_process_rig import GET, MAX_EVENT, SECRET, event, post

from host.api.processes import http_process, http_processes, remote
from host.api.processes.http_processes import HttpProcessEndedError
from host.identity.access import Role

# Tokens


async def test_a_token_that_is_revoked_is_refused_at_once_in_every_process(rig):
    host = await rig(2)
    hashed = host.add("bbt_other", Role.ADMIN)
    await host.processes._changed()
    clients = [await host.client() for _ in range(4)]
    for number, client in enumerate(clients):
        assert (await client.ask(post(event(str(number)), secret="bbt_other")))[0] == 202
    assert [len(one.away) for one in host.ready] == [2, 2]
    del host.tokens.table.by_hash[hashed]
    await host.processes._changed()
    for client in clients:
        assert (await client.ask(post(event("later"), secret="bbt_other")))[0] == 401
    assert host.away == 0
    assert len(host.refusals.noted) == 4


async def test_a_token_that_is_revoked_while_a_process_starts_is_none_to_it(rig):
    host = await rig(0)
    hashed = host.add("bbt_other", Role.ADMIN)
    host.lives.append(asyncio.create_task(host.processes.live()))
    await host.until(lambda: host.processes._running)
    del host.tokens.table.by_hash[hashed]
    await host.processes._changed()
    await host.until(lambda: host.ready)
    client = await host.client()
    assert (await client.ask(post(event("1"))))[0] == 202
    assert (await client.ask(post(event("2"), secret="bbt_other")))[0] == 401
    assert host.bus.taken == ["1"]


async def test_a_process_that_does_not_go_by_other_tokens_is_killed_for_it(rig, monkeypatch):
    monkeypatch.setattr(http_processes, "IN_FORCE_SECONDS", 0.2)
    host = await rig(1)
    client = await host.client()
    assert (await client.ask(post(event())))[0] == 202
    os.kill(host.ready[0].pid, signal.SIGSTOP)
    host.tokens.table.by_hash.clear()
    await host.processes._changed()
    assert host.ready == []
    assert await client.ended()


# Life


async def test_the_death_of_one_process_cuts_its_own_connections_and_nobody_elses(rig):
    host = await rig(2)
    clients = [await host.client() for _ in range(2)]
    for client in clients:
        assert (await client.ask(post(event())))[0] == 202
    first, second = host.ready
    os.kill(first.pid, signal.SIGKILL)
    assert await clients[0].ended()
    assert (await clients[1].ask(post(event("2"))))[0] == 202
    await host.until(lambda: host.ready == [second] and host.server.connections.count == 1)
    with pytest.raises(HttpProcessEndedError, match="status -9"):
        await host.lives[0]
    os.kill(second.pid, signal.SIGKILL)
    await host.until(lambda: not host.ready)
    assert (await (await host.client()).ask(post(event("3"))))[0] == 202
    assert host.bus.taken == ["1", "2", "3"]


async def test_a_process_ends_with_the_host_that_speaks_to_it(host):
    process = host.ready[0]
    process._channel._socket.shutdown(socket.SHUT_RDWR)
    await host.until(lambda: process._process.returncode is not None)
    assert process._process.returncode == 0


async def test_a_process_has_nothing_of_the_host_but_its_way_to_it(host):
    process = host.ready[0]
    descriptors = {os.readlink(f"/proc/{process.pid}/fd/{one}") for one in os.listdir(f"/proc/{process.pid}/fd")}
    assert not [one for one in descriptors if one.endswith((".db", ".key"))]
    assert b"BUSBAR" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


async def test_requests_that_are_served_are_answered_before_the_processes_end(rig):
    host = await rig(1)
    served, idle = await host.client(), await host.client()
    assert (await idle.ask(post(event("0"))))[0] == 202
    host.bus.open.clear()
    served.writer.write(post(event("1")))
    await host.until(lambda: host.bus.calls == 2)
    process = host.ready[0]
    stopping = asyncio.create_task(host.processes.stop(20.0))
    await asyncio.sleep(0)
    host.bus.open.set()
    assert (await served.answer())[0] == 202
    await stopping
    assert await served.ended()
    assert await idle.ended()
    assert process._process.returncode == 0


async def test_a_process_that_is_told_to_end_and_does_not_is_killed(rig):
    host = await rig(1)
    process = host.ready[0]
    os.kill(process.pid, signal.SIGSTOP)
    await host.processes.stop(0.1)
    assert process._process.returncode == -signal.SIGKILL


async def test_clients_that_the_host_served_meanwhile_are_served_by_the_next_process(rig):
    host = await rig(0)
    client = await host.client()
    assert (await client.ask(post(event("1"))))[0] == 202
    assert (await client.ask(GET))[0] == 200
    host.lives.append(asyncio.create_task(host.processes.live()))
    await host.until(lambda: host.ready)
    assert (await client.ask(post(event("2"))))[0] == 202
    assert host.away == 1


# Bounds


async def test_the_cap_of_an_address_counts_over_the_host_and_all_processes(rig):
    host = await rig(2, connections=8, connections_per_address=4)
    publishers = [await host.client() for _ in range(4)]
    for number, client in enumerate(publishers):
        assert (await client.ask(post(event(str(number)))))[0] == 202
    assert host.away == 4
    fifth = await host.client()
    assert (await fifth.ask(GET))[0] == 200
    assert await publishers[0].ended()
    assert host.server.connections.count == 4
    elsewhere = await host.client("127.0.0.2")
    assert (await elsewhere.ask(post(event("x"))))[0] == 202
    assert (await publishers[1].ask(post(event("y"))))[0] == 202


async def test_making_room_breaks_no_request_off(rig):
    host = await rig(1, connections=8, connections_per_address=4)
    publishers = [await host.client() for _ in range(4)]
    host.bus.open.clear()
    for number, client in enumerate(publishers):
        client.writer.write(post(event(str(number))))
    await host.until(lambda: host.away == 4)
    fifth = await host.client()
    assert (await fifth.ask(GET))[0] == 200
    host.bus.open.set()
    for client in publishers:
        assert (await client.answer())[0] == 202
    assert await publishers[0].ended()


async def test_more_than_the_host_takes_is_refused_with_when_to_come_back(rig):
    host = await rig(1)
    host.bus.open.clear()
    large = event(data="x" * (MAX_EVENT - 1000))
    clients = [await host.client() for _ in range(remote.MAX_WAITING // MAX_EVENT + 8)]
    for client in clients:
        client.writer.write(post(large))
    refused = [asyncio.create_task(client.answer()) for client in clients]
    done, _ = await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)
    status, headers, body = done.pop().result()
    assert (status, headers["Retry-After"]) == (429, "1")
    assert json.loads(body)["code"] == "storage_busy"
    host.bus.open.set()
    answers = await asyncio.gather(*refused)
    assert [one[0] for one in answers].count(202) >= remote.MAX_WAITING // MAX_EVENT


async def test_a_process_that_does_not_read_is_given_no_more_connections(rig, monkeypatch):
    monkeypatch.setattr(http_process, "MAX_BACKLOG", 1)
    host = await rig(1)
    os.kill(host.ready[0].pid, signal.SIGSTOP)
    waiting = [await host.client() for _ in range(60)]
    for number, client in enumerate(waiting):
        client.writer.write(post(event(str(number), data="x" * 60_000)))
    await host.until(lambda: len(host.bus.taken) + host.away == 60)
    assert len(host.bus.taken) > 0
    os.kill(host.ready[0].pid, signal.SIGCONT)
    for client in waiting:
        assert (await client.answer())[0] == 202


async def test_a_body_that_does_not_come_is_cut_off_and_counted(rig):
    host = await rig(1, body_within=0.3)
    client = await host.client()
    assert (await client.ask(post(event())))[0] == 202
    client.writer.write(post(event("2"))[:-5])
    status, _, body = await client.answer()
    assert (status, json.loads(body)["code"]) == (408, "body_too_slow")
    cuts = host.server.connections.counts
    await host.until(lambda: cuts._cut["body"] == 1)


async def test_a_client_that_pipelines_without_end_is_read_no_further_than_it_is_served(rig):
    host = await rig(1)
    process = host.ready[0]
    before = resident(process)
    host.bus.open.clear()
    client = await host.client()
    client.writer.write(post(event()) * 200_000)
    await host.until(lambda: host.bus.calls == 1)
    for _ in range(20):
        await asyncio.sleep(0.02)
    assert client.writer.transport.get_write_buffer_size() > 0
    assert resident(process) - before < 8 * 2**20
    client.writer.transport.abort()
    host.bus.open.set()


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
