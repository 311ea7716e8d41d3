"""How many bytes of bodies are received at once: in all, and apart for those who have no token."""

import pytest

from host.api.bodies import FREE, Bodies, BodiesBusyError

LIMIT = 1_000_000


@pytest.fixture
def bodies():
    return Bodies(known=LIMIT, strangers=LIMIT // 2)


@pytest.mark.parametrize("known", [True, False])
def test_small_bodies_are_not_counted(bodies, known):
    for _ in range(100):
        with bodies.receiving(known=known) as body:
            body.grown(FREE)
            assert body.counted == 0


def test_what_is_received_is_counted_as_it_grows_and_given_back_in_the_end(bodies):
    for _ in range(10):
        with bodies.receiving(known=True) as body:
            for size in range(0, LIMIT, 10_000):
                body.grown(size)
            assert body.counted == LIMIT - 10_000 - FREE


def test_bodies_share_a_bound_and_the_one_that_goes_beyond_it_is_refused_with_the_time_to_come_back(bodies):
    with bodies.receiving(known=True) as first, bodies.receiving(known=True) as second:
        first.grown(LIMIT - 1000)
        second.grown(FREE + 1000)
        with pytest.raises(BodiesBusyError) as refused:
            second.grown(3 * FREE)
        assert (refused.value.word, refused.value.kind.value, refused.value.retry_after) == ("bodies_busy", 503, 1.0)
    with bodies.receiving(known=True) as body:
        body.grown(LIMIT)


def test_a_body_that_breaks_off_gives_back_what_it_had(bodies):
    breaks_off = bodies.receiving(known=True)
    breaks_off.__enter__().grown(LIMIT)
    assert not breaks_off.__exit__(ConnectionError, ConnectionError(), None)  # it is raised on
    with bodies.receiving(known=True) as body:
        body.grown(LIMIT)


def test_strangers_use_up_their_own_part_and_no_more(bodies):
    with bodies.receiving(known=False) as stranger:
        stranger.grown(LIMIT // 2)
        with pytest.raises(BodiesBusyError):
            stranger.grown(LIMIT // 2 + 2 * FREE)
        with bodies.receiving(known=True) as body:
            body.grown(LIMIT)
