"""A worker's log lines wait within a bound of characters, whatever field of theirs is long."""

import asyncio

import pytest

from host.runtime.worker_lines import MAX_LINE, MAX_PENDING, WorkerLines
from plugin_sdk.worker.wire import LogLine


class Bench:
    def __init__(self, rate=1000.0):
        self.taken, self.dropped, self.broken = [], 0, []
        self.lines = WorkerLines(self._take, rate, self.broken.append)

    def _take(self, lines, dropped):
        self.taken += lines
        self.dropped += dropped

    async def all_of(self, count):
        async with asyncio.timeout(5):
            while len(self.taken) + self.dropped < count:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("field", ["message", "level", "delivery"])
async def test_a_field_that_is_too_long_is_no_line(field):
    bench = Bench()
    given = {"at": 0.0, "level": "info", "message": "m", "delivery": "", field: "x" * (MAX_LINE + 1)}
    bench.lines.keep([LogLine(0.0, "info", "fine"), LogLine(**given)], 0)
    assert "a log line of 8193 characters" in bench.broken[0]


async def test_a_line_that_is_too_long_is_none_although_it_would_be_dropped_for_the_rate():
    bench = Bench(rate=1.0)
    for _ in range(5):
        bench.lines.keep([LogLine(0.0, "info", "fine")], 0)
    bench.lines.keep([LogLine(0.0, "x" * 9000, "m")], 0)
    assert bench.broken


async def test_what_waits_is_bounded_in_characters_and_what_is_beyond_is_counted():
    bench = Bench()
    sent = 6 * 64
    for _ in range(6):
        bench.lines.keep([LogLine(0.0, "info", "x" * MAX_LINE)] * 64, 0)
    await bench.all_of(sent)
    assert sum(len(line.message) for line in bench.taken) <= MAX_PENDING + 5 * MAX_LINE
    assert bench.dropped == sent - len(bench.taken) > sent // 2
    assert not bench.broken


async def test_what_was_handed_on_makes_room_for_more():
    bench = Bench(rate=100_000.0)
    for round_ in range(1, 4):
        bench.lines.keep([LogLine(0.0, "info", "x" * MAX_LINE)] * 100, 0)
        await bench.all_of(100 * round_)
    assert (len(bench.taken), bench.dropped) == (300, 0)


@pytest.mark.parametrize("size", [MAX_LINE, MAX_LINE // 2 + 1])
async def test_long_lines_are_handed_on_one_at_a_time(size):
    at_once = []
    lines = WorkerLines(lambda found, _dropped: at_once.append(len(found)), 1000.0, lambda _why: None)
    lines.keep([LogLine(0.0, "info", "x" * size)] * 6, 0)
    async with asyncio.timeout(30):
        while sum(at_once) < 6:
            await asyncio.sleep(0.001)
    assert set(at_once) == {1}
