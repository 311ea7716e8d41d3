"""What a plugin is refused, and what of it is written down: names are short, entries few, events small."""

import pytest
from registry_rig import registry_rig

from host.observe.audit import Audit
from host.port.plugin_port import AUDITED_AT_ONCE, MAX_REMEMBERED, PluginPort
from host.routing.bus import Bus
from host.routing.guard import Guard
from host.routing.sqlite_log import SQLiteLog
from plugin_sdk.errors import HostError, PermissionDeniedError
from plugin_sdk.events import new_event
from plugin_sdk.manifest import Permissions
from plugin_sdk.resilience import Breaker, BreakerPolicy


class Bench:
    def __init__(self, rig, log):
        self.now = 0.0
        self.audit = Audit(rig.database, rig.clock)
        self.log = log
        guard = Guard("p", breaker=Breaker(BreakerPolicy(), clock=rig.clock), places=1)
        self.port = PluginPort(
            "p",
            granted=Permissions(publish=("p.*",)),
            bus=Bus(log, max_body=10_000),
            key_values=None,
            guard=guard,
            audit=self.audit,
            now=lambda: self.now,
        )

    async def refused(self, service):
        with pytest.raises(PermissionDeniedError) as error:
            await self.port.call(service, b"{}", 1.0, [], "")
        return str(error.value)

    async def entries(self):
        return (await self.audit.page(0, 2000))[0]


@pytest.fixture
async def bench(tmp_path):
    async with registry_rig(tmp_path) as rig:
        yield Bench(rig, await SQLiteLog.open(rig.database, rig.clock))


async def test_a_name_of_megabytes_is_refused_and_written_down_by_its_beginning(bench):
    sentence = await bench.refused("n" * 2**22)
    assert len(sentence) < 500
    (entry,) = await bench.entries()
    assert len(entry.detail["permission"]) == 200
    assert sum(map(len, bench.port._audited)) == 16


async def test_a_refusal_is_written_down_once_and_another_that_begins_alike_by_itself(bench):
    for _ in range(3):
        await bench.refused("n" * 2**20 + ".a")
        await bench.refused("n" * 2**20 + ".b")
    assert len(await bench.entries()) == 2


async def test_names_that_are_made_up_do_not_fill_the_trail_and_how_many_there_were_is_said(bench):
    for number in range(AUDITED_AT_ONCE + 50):
        await bench.refused(f"made.up{number}")
    assert len(await bench.entries()) == AUDITED_AT_ONCE
    bench.now += 360
    await bench.refused("made.uplast")
    newest, *others = await bench.entries()
    assert newest.detail == {"permission": "call: made.uplast", "unlisted": 50}
    assert len(others) == AUDITED_AT_ONCE


async def test_what_is_remembered_of_refusals_is_bounded(bench):
    for number in range(MAX_REMEMBERED + 100):
        bench.now += 3600
        await bench.refused(f"made.up{number}")
    assert len(bench.port._audited) == MAX_REMEMBERED


@pytest.mark.parametrize(
    "event",
    [
        new_event("other.type" + "x" * 9000, source="/plugins/p"),
        new_event("p.type", source="/somebody/" + "x" * 9000),
    ],
    ids=["type", "source"],
)
async def test_an_event_of_another_type_or_source_is_refused_in_a_short_sentence(bench, event):
    with pytest.raises(PermissionDeniedError) as error:
        await bench.port.emit(event.to_json())
    assert len(str(error.value)) < 500


async def test_an_event_that_is_too_large_is_refused_before_it_is_parsed(bench):
    with pytest.raises(HostError) as error:
        await bench.port.emit(b"[" * 20_000)
    assert error.value.word == "event_too_large"
    assert await bench.log.read(0, 9) == []
