"""What the core makes of frames on a real database: merged, refused in part, on a full disk, on a damaged page."""

import itertools
import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_frames import begin, content, cursor, frame, letter, line, operation, retried, row, settled, write

from host.storage.connection import connect
from host.storage.database import Database
from host.storage.log_writer.core import Core
from host.storage.log_writer.frames import Done, answers_of

LIFE = b"this host"


@pytest.fixture
async def path(tmp_path):
    path = tmp_path / "busbar.db"
    await (await Database.open(path)).close()
    return path


@pytest.fixture
def connection(path):
    with closing(connect(path)) as opened:
        yield opened


@pytest.fixture
def core(connection):
    return Core(connection, LIFE)


def ids(connection):
    return [tuple(one) for one in connection.execute("SELECT sequence, id FROM events ORDER BY sequence")]


def test_rows_have_rising_sequences_over_all_frames_of_a_transaction(core, connection):
    first, second = write(core, frame(1, row("a"), row("b")), frame(2, row("c")))
    assert (first.first, second.first) == (1, 3)
    assert ids(connection) == [(1, "a"), (2, "b"), (3, "c")]


def test_a_row_that_the_log_has_is_answered_with_its_place_and_another_one_is_a_conflict(core):
    write(core, frame(1, row("a"), row("b")))
    (answer,) = write(core, frame(2, row("b"), row("c"), row("a", more=1), row("c")))
    assert answer.twins == [(0, 2, True), (2, 1, False), (3, 4, True)]


def test_one_row_that_is_refused_costs_no_neighbour_anything(core, connection):
    answers = write(
        core,
        frame(1, row("a"), row(b"no text"), row("b")),
        frame(2, row("c"), settled=[settled(line(1)), settled(["p"] * 9)], operations=[cursor(), operation("?", 0)]),
    )
    assert [index for index, _ in answers[0].refused] == [1]
    assert [isinstance(one, Done) for one in answers[1].settled] == [True, False]
    assert [isinstance(one, Done) for one in answers[1].operations] == [True, False]
    assert ids(connection) == [(1, "a"), (3, "b"), (4, "c")]
    assert core.notes


def test_what_plugins_have_in_the_log_is_counted_with_what_is_appended_and_not_with_what_is_refused(core, connection):
    own = row("a", source="/plugins/p")
    (answer,) = write(core, frame(1, own, own, row(b"no", source="/plugins/p"), row("b")))
    assert answer.shares == {"p": len(own[4]) + 2 * 4 + 400}
    assert dict(connection.execute("SELECT plugin, bytes FROM log_shares").fetchall()) == answer.shares


def test_a_full_disk_refuses_everything_and_the_sequences_are_given_again(core, connection):
    write(core, frame(1, row("a")))
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    answers = write(core, frame(2, row("b"), settled=[settled(line(1))]), frame(3, row("large", text="x" * 100_000)))
    assert ["full" in one.failed for one in answers] == [True, True]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert write(core, frame(4, row("c")))[0].first == 2
    assert ids(connection) == [(1, "a"), (2, "c")]


def test_a_damaged_page_refuses_what_touches_it_and_nothing_else(path):
    """Given a damaged page under the attempt log, then events and cursors are written, and lines are refused."""
    with closing(connect(path)) as before:
        write(Core(before, LIFE), frame(1, settled=[settled(*(line(n) for n in range(1, 200)))], operations=[cursor()]))
        before.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = before.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deliveries'").fetchone()
        (size,) = before.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    with closing(connect(path)) as connection:
        core = Core(connection, LIFE)
        own = row("a", source="/plugins/p")
        answers = write(
            core,
            frame(2, own, settled=[settled(line(1)), settled(cursors={"p/s": 7})]),
            frame(3, own, row("b"), operations=[cursor()]),
        )
        assert [isinstance(one, Done) for one in answers[0].settled] == [False, True]
        assert answers[1].operations == [Done(7)]
        assert answers[1].twins == [(0, 1, True)]
        assert ids(connection) == [(1, "a"), (3, "b")]
        assert [tuple(one) for one in connection.execute("SELECT * FROM log_shares")] == [("p", len(own[4]) + 408)]
        assert answers_of(core.last_answers()) == answers


def test_a_core_that_is_started_anew_has_the_answers_of_the_last_transaction_for_the_same_host_alone(core, connection):
    answers = write(core, frame(7, row("a"), row("a")), frame(8, settled=[settled(letters=[letter(1)])]))
    assert answers[1].settled == [Done({"p": len(b"{}") + len("why") + len('[{"attempt": 9}]')})]
    assert answers_of(Core(connection, LIFE).last_answers()) == answers
    assert answers_of(Core(connection, b"another").last_answers()) == []


def test_what_is_rolled_back_leaves_the_answers_of_the_transaction_before(core, connection):
    answers = write(core, frame(1, row("a")))
    connection.execute("PRAGMA max_page_count = 1")
    write(core, frame(2, row("large", text="x" * 100_000)))
    assert answers_of(Core(connection, LIFE).last_answers()) == answers


def test_a_cursor_that_was_rolled_back_still_knows_what_is_above_it(core, connection):
    """Given something settled above a cursor, when passing it is rolled back, then passing it again removes it."""
    write(core, frame(1, settled=[settled(ahead={"p/s": [3]})], operations=[cursor()]))
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    (failed,) = write(core, frame(2, row("x", text="x" * 100_000), settled=[settled(cursors={"p/s": 3})]))
    assert failed.failed
    write(core, frame(3, settled=[settled(cursors={"p/s": 3})]))
    assert connection.execute("SELECT count(*) FROM settled_ahead").fetchone()[0] == 0


PLACES = st.integers(1, 6)
ROWS = st.builds(
    lambda number, more, owner: row(f"e{number}", source=owner, **({"more": more} if more else {})),
    PLACES,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from(["/tests", "/plugins/p"]),
)
REFUSED = st.just(row(b"no text"))
SETTLED = st.one_of(
    st.builds(lambda at: settled(line(at), cursors={"p/s": at}), PLACES),
    st.builds(lambda at: settled(ahead={"p/s": [at]}), PLACES),
    st.builds(lambda at: settled(line(at, "retried"), retried=[retried(at)]), PLACES),
    st.builds(lambda at: settled(line(at), decided=[("p/s", at)]), PLACES),
    st.builds(lambda at, noted: settled(line(at), letters=[letter(at, noted=noted)]), PLACES, st.booleans()),
    st.just(settled(["p"] * 9)),
)
OPERATIONS = st.one_of(
    st.builds(lambda at: cursor(start=at), PLACES), st.builds(begin, PLACES), st.just(operation("?", 0))
)
FRAMES = st.lists(
    st.tuples(
        st.lists(st.one_of(ROWS, ROWS, ROWS, REFUSED), max_size=5),
        st.lists(SETTLED, max_size=2),
        st.lists(OPERATIONS, max_size=2),
    ),
    min_size=1,
    max_size=8,
)
_numbers = itertools.count()


def only(kind, one, index):
    """A frame with one of the items of another alone, so that nothing is merged and nothing has a neighbour."""
    rows, outcomes, operations = one
    items = {"rows": (), "settled": (), "operations": ()}
    items[kind] = [{"rows": rows, "settled": outcomes, "operations": operations}[kind][index]]
    return frame(0, *items["rows"], settled=items["settled"], operations=items["operations"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES, st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_however_frames_are_merged_and_refused_in_part_the_database_is_as_if_each_item_had_come_alone(
    path, found, together
):
    """A law, with each item in a frame of its own as the model: but for sequences, nothing tells them apart."""
    merged, model = (sqlite3.connect(":memory:", isolation_level=None) for _ in range(2))
    with closing(merged), closing(model):
        for database in (merged, model):
            with closing(sqlite3.connect(path)) as empty:
                empty.backup(database)
            database.row_factory = sqlite3.Row
        core, single = Core(merged, LIFE), Core(model, LIFE)
        left, groups = list(enumerate(found, 1)), iter(together)
        while left:
            size = next(groups)
            batch, left = left[:size], left[size:]
            answers = write(core, *(frame(n, *one[0], settled=one[1], operations=one[2]) for n, one in batch))
            assert [one.number for one in answers] == [n for n, _ in batch]
            assert not any(one.failed for one in answers)
            for (_, one), answer in zip(batch, answers, strict=True):
                assert len(answer.settled) == len(one[1])
                assert len(answer.operations) == len(one[2])
        for one in found:
            for kind, items in zip(("rows", "settled", "operations"), one, strict=True):
                for index in range(len(items)):
                    write(single, only(kind, one, index))
        assert as_known(merged) == as_known(model)


def as_known(connection):
    """All that was written, without the time of events, and with events by their order alone."""
    found = content(connection)
    ordered = connection.execute("SELECT source, id, body FROM events ORDER BY sequence").fetchall()
    return {**found, "events": [tuple(one) for one in ordered]}
