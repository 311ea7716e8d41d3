"""What one worker may ask of its host, in bytes: a second, at once, and while it does not read its answers."""

import asyncio
import itertools

import msgspec
import pytest

from host.errors import MAX_SENTENCE
from host.runtime.requests import AT_ONCE_SECONDS, MAX_CALLS, MAX_SERVED, SERVED_BYTES, RequestRates, Requests
from plugin_sdk.errors import HostError
from plugin_sdk.worker.wire import MAX_PAYLOAD, Ask


class Port:
    """Serves everything, or nothing before it is let go; counts what is being served."""

    def __init__(self):
        self.go = asyncio.Event()
        self.go.set()
        self.now = self.most = 0
        self.raising = None

    async def _serve(self, *_arguments):
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        if self.raising is not None:
            raise self.raising
        return b"1"

    emit = kv_get = kv_set = call = _serve


class Bench:
    def __init__(self, **rates):
        self.port, self.time, self.unread = Port(), 0.0, False
        self.answers, self.broken = [], []
        every = {"requests": 1e6, "emits": 1e6, "writes": 1e6, **rates}
        self.requests = Requests(
            "p",
            self.port,
            RequestRates(**every),
            now=lambda: self.time,
            answer=self.answers.append,
            broken=self.broken.append,
            full=lambda _full: None,
            unread=lambda: self.unread,
        )
        self._number = 0

    def ask(self, operation, *arguments):
        self._number += 1
        self.requests.take(Ask(self._number, operation, msgspec.Raw(msgspec.msgpack.encode(arguments))))

    async def answered(self, count):
        async with asyncio.timeout(30):
            while len(self.answers) < count:
                await asyncio.sleep(0.001)
        return self.answers


@pytest.mark.parametrize(("operation", "limit"), [("emit", "emit_bytes"), ("kv_set", "write_bytes")])
async def test_few_large_requests_are_refused_where_many_small_ones_would_not_be(operation, limit):
    bench = Bench(**{limit: 2.0**20})
    key = ("key",) if operation == "kv_set" else ()
    for _ in range(8):
        bench.ask(operation, *key, b"x" * 900_000)
    answers = await bench.answered(8)
    refused = [one for one in answers if one.error]
    assert len(refused) == 4  # four megabytes may come at once
    assert {one.word for one in refused} == {"rate_limited"}
    assert f"'{operation}' with more than 1048576 bytes a second" in refused[0].error
    bench.time += 1.0
    bench.ask(operation, *key, b"x" * 900_000)
    assert not (await bench.answered(9))[-1].error


async def test_the_largest_request_there_is_is_taken_although_a_second_has_fewer_bytes():
    bench = Bench(emit_bytes=65536.0)
    bench.ask("emit", b"x" * (MAX_PAYLOAD - 10))
    assert not (await bench.answered(1))[0].error


async def test_what_is_only_read_costs_none_of_the_bytes_that_may_be_written():
    bench = Bench(write_bytes=65536.0)
    bench.ask("kv_set", "key", b"x" * 4_000_000)
    for _ in range(20):
        bench.ask("kv_get", "k" * 100_000)
    assert not [one for one in await bench.answered(21) if one.error]


async def test_a_worker_that_does_not_read_gets_no_further_answers_until_it_does():
    bench = Bench()
    bench.unread = True
    for _ in range(20):
        bench.ask("kv_get", "key")
        bench.ask("call", "a.b", b"{}", 1.0, [], "")
    await asyncio.sleep(0.12)
    assert (bench.answers, bench.port.most) == ([], 0)
    bench.unread = False
    await bench.answered(40)
    assert not bench.broken


async def test_a_worker_that_asks_on_and_on_without_reading_has_broken_the_protocol():
    bench = Bench()
    bench.unread = True
    for _ in range(200):
        bench.ask("kv_get", "key")
    assert "requests at once" in bench.broken[0]
    bench.requests.close()


async def test_so_many_calls_are_under_way_and_they_keep_no_other_request_waiting():
    bench = Bench()
    bench.port.go.clear()
    for _ in range(50):
        bench.ask("call", "a.b", b"{}", 1.0, [], "")
    for _ in range(20):
        bench.ask("kv_get", "key")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.port.most == MAX_CALLS + MAX_SERVED
    bench.port.go.set()
    await bench.answered(70)


async def test_a_refusal_that_quotes_megabytes_is_answered_in_a_sentence():
    bench = Bench()
    bench.port.raising = HostError("x" * 2**21, "odd")
    bench.ask("kv_get", "key")
    (answer,) = await bench.answered(1)
    assert (len(answer.error), answer.word) == (MAX_SENTENCE, "odd")


@pytest.fixture
def begun(monkeypatch):
    """When requests were begun to be served, in the loop's time."""
    times, begin = [], Requests._begin

    def beginning(requests, request, tasks):
        times.append(asyncio.get_running_loop().time())
        begin(requests, request, tasks)

    monkeypatch.setattr(Requests, "_begin", beginning)
    return times


async def test_a_large_request_is_followed_by_the_next_once_the_loop_has_had_time_for_others(begun):
    bench = Bench()
    for _ in range(3):
        bench.ask("emit", b"x" * 2**20)
    await bench.answered(3)
    gaps = [after - before for before, after in itertools.pairwise(begun)]
    assert min(gaps) >= 0.9 * 2**20 / SERVED_BYTES


@pytest.mark.parametrize(("operation", "arguments"), [("emit", (b"{}",)), ("kv_set", ("key", b"1"))])
async def test_a_flood_of_small_writes_is_served_in_groups_with_time_for_others_between(begun, operation, arguments):
    bench = Bench(emits=500.0, writes=500.0)
    for _ in range(60):
        bench.ask(operation, *arguments)
    await bench.answered(60)
    assert max(after - before for before, after in itertools.pairwise(begun)) >= AT_ONCE_SECONDS / 2
    assert begun[-1] - begun[0] >= 0.9 * (60 - 2 * MAX_SERVED) * 0.001


async def test_small_requests_wait_for_no_bytes(begun):
    bench = Bench()
    for _ in range(MAX_SERVED):
        bench.ask("kv_get", "key")
    assert len(begun) == MAX_SERVED
    await bench.answered(MAX_SERVED)
