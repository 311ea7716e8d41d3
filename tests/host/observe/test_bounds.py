"""What the host keeps of what others say: lines of plugins, and entries of the audit trail, each within bytes."""

import sys

import pytest

from host.errors import MAX_NAME, MAX_SENTENCE, BusbarError, shortened
from host.observe.audit import MAX_DETAIL, MAX_TEXT, Audit
from host.observe.logging import KEPT_BYTES, KEPT_LINES, MAX_DELIVERY, MAX_MESSAGE, PluginLogs
from host.storage.database import Database
from plugin_sdk.testing import FakeClock
from plugin_sdk.worker.wire import LogLine


def kept(logs):
    return logs.tail("p", 10_000)


def test_short_lines_are_kept_up_to_their_number():
    logs = PluginLogs()
    take = logs.sink("p")
    for number in range(KEPT_LINES + 10):
        take([LogLine(0.0, "info", str(number))], 0)
    assert [line.message for line in kept(logs)] == [str(number) for number in range(10, KEPT_LINES + 10)]


@pytest.mark.parametrize("character", ["x", "\N{PILE OF POO}"])
def test_long_lines_are_kept_up_to_their_bytes_of_memory(character):
    logs = PluginLogs()
    take = logs.sink("p")
    for _ in range(500):
        take([LogLine(0.0, "info", character * MAX_MESSAGE)], 0)
    take([LogLine(0.0, "info", "the last")], 0)
    assert sum(sys.getsizeof(line.message) for line in kept(logs)) <= KEPT_BYTES
    assert len(kept(logs)) > 20
    assert kept(logs)[-1].message == "the last"


def test_no_field_of_a_line_is_kept_longer_than_it_may_be():
    logs = PluginLogs()
    logs.sink("p")([LogLine(0.0, "x" * 2**20, "y" * 2**20, "z" * 2**20)], 0)
    (line,) = kept(logs)
    assert (line.level, len(line.message), len(line.delivery)) == ("warning", MAX_MESSAGE, MAX_DELIVERY)


def test_nothing_is_kept_of_a_plugin_that_is_gone_or_never_was():
    logs = PluginLogs()
    logs.sink("p")([LogLine(0.0, "info", "m")], 0)
    logs.forget("p")
    assert kept(logs) == []
    logs.forget("nobody")


@pytest.fixture
async def audit(tmp_path):
    database = await Database.open(tmp_path / "busbar.db")
    yield Audit(database, FakeClock())
    await database.close()


async def recorded(audit, **given):
    entry = {"actor": "a", "action": "b", "target": "c", "detail": {}, "outcome": "done", **given}
    await audit.record(**entry)
    return (await audit.page(0, 1))[0][0]


@pytest.mark.parametrize("field", ["actor", "action", "target", "outcome"])
async def test_no_text_of_an_entry_is_longer_than_it_may_be(audit, field):
    found = getattr(await recorded(audit, **{field: "x" * 2**21}), field)
    assert (len(found), found[-1]) == (MAX_TEXT, "\u2026")


async def test_long_texts_inside_of_a_detail_are_shortened_and_the_rest_of_it_stays(audit):
    found = await recorded(audit, detail={"permission": "n" * 2**21, "k" * 2**21: [("v" * 2**21, 1)], "count": 3})
    assert len(found.detail["permission"]) == MAX_TEXT
    assert found.detail["count"] == 3
    assert found.detail["k" * (MAX_TEXT - 1) + "\u2026"] == [["v" * (MAX_TEXT - 1) + "\u2026", 1]]


@pytest.mark.parametrize("character", ["x", "\u00e9", "\N{PILE OF POO}", '"', "\\"])
async def test_a_detail_of_many_texts_is_kept_as_its_beginning(audit, character):
    found = await recorded(audit, detail={str(number): character * 400 for number in range(2000)})
    assert found.detail.keys() == {"shortened"}
    assert found.detail["shortened"].startswith('{"0":')
    rows = await audit._database.read("SELECT length(CAST(detail AS BLOB)) FROM audit")
    assert rows[0][0] <= MAX_DETAIL


async def test_a_text_that_no_text_may_hold_is_written_down_escaped(audit):
    found = await recorded(audit, target="\udcff", actor="\udcff", detail={"name": "\udcff", "\ud800": 1})
    assert found.detail == {"name": "\\udcff", "\\ud800": 1}
    assert (found.target, found.actor) == ("\\udcff", "\\udcff")


def test_the_sentence_of_an_error_is_of_bounded_length_whatever_it_quotes():
    error = BusbarError("\x1b" * 2**21, errors=["y" * 2**21])
    assert len(error.message) <= 4 * MAX_SENTENCE
    assert len(error.errors[0]) == MAX_SENTENCE


def test_a_short_text_stays_as_it_is():
    assert shortened("x" * MAX_NAME) == "x" * MAX_NAME
    assert shortened("x" * (MAX_NAME + 1)) == "x" * (MAX_NAME - 1) + "\u2026"
