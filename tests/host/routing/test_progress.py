from hypothesis import given
from hypothesis import strategies as st

from host.routing.progress import Progress


def test_cursor_moves_when_the_oldest_outstanding_event_is_settled():
    progress = Progress(0)
    for sequence in (1, 2, 3):
        progress.take(sequence)
    progress.settle(2)
    assert progress.position == 0
    progress.settle(1)
    assert progress.position == 2
    progress.settle(3)
    assert progress.position == 3


def test_events_settled_above_the_cursor_are_reported_once():
    progress = Progress(10)
    for sequence in (11, 12, 13):
        progress.take(sequence)
    progress.settle(13)
    assert progress.checkpoint() == (10, (13,))
    assert progress.checkpoint() == (10, ())


def test_an_event_settled_before_a_restart_is_not_taken_again():
    progress = Progress(10, ahead=(12,))
    assert progress.take(11)
    assert not progress.take(12)
    progress.settle(11)
    assert progress.position == 12


def test_skipped_events_move_the_cursor_when_nothing_is_outstanding():
    progress = Progress(0)
    progress.read = 7
    assert progress.position == 7


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=120),
    st.integers(0, 50),
)
def test_a_crash_at_any_point_loses_nothing_and_repeats_only_what_was_outstanding(steps, start):
    """Given any interleaving of takes, settles and checkpoints, then a restart from the last checkpoint
    redelivers exactly the events taken and not settled by then, and everything not yet read."""
    progress = Progress(start)
    following = start + 1
    settled: set[int] = set()
    durable_position, durable_ahead = start, set()
    for takes, choice in steps:
        if takes or not progress.outstanding:
            progress.take(following)
            following += 1
        else:
            waiting = sorted(set(range(start + 1, following)) - settled)
            chosen = waiting[choice % len(waiting)]
            progress.settle(chosen)
            settled.add(chosen)
        position, fresh = progress.checkpoint()
        durable_position = position
        durable_ahead = {s for s in durable_ahead | set(fresh) if s > position}
        after_restart = Progress(durable_position, durable_ahead)
        again = {s for s in range(durable_position + 1, following) if after_restart.take(s)}
        assert again == set(range(start + 1, following)) - settled
