"""Strangers at the port, and a plugin that answers them: what they may take, set and try, and what the host says of it.

The daemon may open so few descriptors that strangers would have them all.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess

import pytest

from tests.e2e.conftest import BUSBAR, ROOT, Daemon

LIMIT = 300
STRANGERS = 500
ELSEWHERE = "127.0.0.9"


class FewDescriptors(Daemon):
    """A daemon that its service manager gave few descriptors."""

    def _command(self):
        with self.output.open("ab") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", f'ulimit -n {LIMIT} && exec "$@"', "sh", *BUSBAR, "run", "--config", self.config],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "HTTP in processes"])
def host(request, tmp_path_factory, signed, wheels):
    server = {"head_within": "2s", "body_within": "2s", "processes": request.param}
    one = FewDescriptors(tmp_path_factory.mktemp("strangers"), server=server).start(cold=True)

    async def install():
        await one.trust(signed.public, ["saboteur"])
        status, answer = await one.install(wheels["saboteur"])
        assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


@contextlib.contextmanager
def strangers(host, sends=b"", count=STRANGERS):
    """So many connections that have sent this and are silent."""
    made = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", host.port), timeout=5))
            with contextlib.suppress(ConnectionError):
                made[-1].sendall(sends)
        yield made
    finally:
        for one in made:
            one.close()


def raw(host, request, source=None):
    """Everything that comes back, as bytes."""
    address = ("127.0.0.1", host.port)
    with socket.create_connection(address, timeout=10, source_address=(source, 0) if source else None) as made:
        made.sendall(request)
        found = b""
        while part := made.recv(65536):
            found += part
    return found


def get(path, **headers):
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *(f"{n}: {v}" for n, v in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


async def metrics(host):
    _, text = await host.ask("GET", "/metrics")
    return {name: float(value) for name, value in re.findall(r"^(busbar_\S+) (\S+)$", text.decode(), re.MULTILINE)}


async def _all_were_taken_in(host, before):
    """The metrics, once no stranger waits to be accepted any more; else None."""
    now, accepted = await metrics(host), "busbar_connections_accepted_total"
    return now if now[accepted] - before[accepted] >= STRANGERS else None


def _cut(found):
    """Connections that the host has ended, for whatever reason."""
    return sum(count for name, count in found.items() if name.startswith("busbar_connections_cut_total"))


@pytest.mark.parametrize(
    "sends",
    [
        b"",
        b"GET / HTTP/1.1\r\nX",
        get("/livez").replace(b"close", b"keep-alive"),
        b"POST /hooks/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1",
    ],
    ids=["silent", "half a head", "idle", "half a body"],
)
async def test_strangers_who_hold_connections_take_no_descriptor_from_plugins_and_keep_nobody_out(host, sends):
    before = await metrics(host)
    with strangers(host, sends):
        status, answer = await host.ask("POST", "/api/v1/plugins/saboteur/restart")
        assert (status, answer["data"]["state"]) == (200, "running"), answer
        assert (await host.publish("saboteur.work", data={"key": "a"}))[0] == 202
        now = await host.until(lambda: _all_were_taken_in(host, before))
    assert now["busbar_descriptors_limit"] == LIMIT
    assert now["busbar_descriptors_open"] < LIMIT - 50
    assert now["busbar_connections_open"] <= LIMIT // 4
    # Whichever came first for each, the want of room or its time.
    assert _cut(now) - _cut(before) >= STRANGERS - LIMIT // 4
    await host.until(lambda: _true(host.logged("connections_refused")))


async def _true(found):
    return bool(found)


async def test_strangers_are_let_go_when_their_time_is_up(host):
    with strangers(host, count=20) as silent:
        for one in silent:
            one.settimeout(30)
            assert one.recv(1) == b""
    assert (await metrics(host))['busbar_connections_cut_total{reason="head"}'] >= 20


async def test_too_few_descriptors_are_said_in_the_log_and_in_health(host):
    assert host.logged("descriptors_scarce")
    _, answer = await host.ask("GET", "/api/v1/system/health")
    check = answer["data"]["checks"]["descriptors"]
    assert check["status"] == "warn"
    assert "raise its hard limit" in check["output"]


@pytest.mark.parametrize("name", ["origin", "framing", "proxy", "challenge"])
async def test_a_plugins_answer_speaks_for_itself_alone(host, name):
    head, _, body = raw(host, get(f"/p/saboteur/answer/{name}")).partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].decode().lower() for line in head.split(b"\r\n")[1:]]
    assert sorted(set(names) - {"date", "server", "connection"}) == [
        "cache-control",
        "content-length",
        "content-security-policy",
        "content-type",
        "x-content-type-options",
        "x-kept",
        "x-trace-id",
    ]
    assert len(names) == len(set(names))
    assert b"Content-Security-Policy: sandbox\r\n" in head + b"\r\n"
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("name", ["blank", "tab", "break", "switch"])
async def test_an_answer_that_is_none_is_the_plugins_failure(host, name):
    found = raw(host, get(f"/p/saboteur/answer/{name}"))
    assert found.startswith(b"HTTP/1.1 502 ")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["code"] == "plugin_answer_invalid"
    assert b"stolen" not in found


async def test_an_answer_without_content_has_none(host):
    head, _, body = raw(host, get("/p/saboteur/answer/empty")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 ")
    assert body == b""


async def test_whoever_guesses_tokens_is_slowed_and_seen_and_a_valid_one_is_taken_all_the_same(host):
    answers = [
        raw(host, get("/api/v1/plugins", Authorization=f"Bearer bbt_{number}"), ELSEWHERE) for number in range(40)
    ]
    assert answers[0].startswith(b"HTTP/1.1 401 ")
    slowed = answers[-1]
    assert slowed.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 3\r\n" in slowed
    assert b"Connection: close\r\n" in slowed
    assert json.loads(slowed.partition(b"\r\n\r\n")[2])["code"] == "too_many_attempts"
    valid = raw(host, get("/api/v1/plugins", Authorization=f"Bearer {host.token}"), ELSEWHERE)
    assert valid.startswith(b"HTTP/1.1 200 ")
    _, answer = await host.ask("GET", "/api/v1/audit")
    found = [one for one in answer["data"] if one["detail"].get("address") == ELSEWHERE]
    assert [(one["actor"], one["target"], one["detail"]["code"]) for one in reversed(found)] == [
        ("unknown", "GET /api/v1/plugins", "unauthenticated"),
        ("unknown", "GET /api/v1/plugins", "too_many_attempts"),
    ]
    now = await metrics(host)
    assert now["busbar_wrong_tokens_total"] == 40
    assert now['busbar_http_refusals_total{code="unauthenticated",status="401"}'] == 20
