"""A worker that keeps a processor to itself goes last, and comes back when it takes less again."""

import asyncio
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.runtime import cpu_watch
from host.runtime.cpu_watch import GREEDY_SECONDS, LAST, MODEST_SECONDS, CpuWatch, Place, may_raise

STARVED = object()


def looked(place, shares, step=0.05):
    """The places that a worker has after each of these shares of a processor, taken for `step` seconds each.

    It is ready to compute whenever it takes any, or where the share is said to be all that it gets.
    """
    used = now = 0.0
    place.look(used, lambda: False, now)
    found = []
    for share in shares:
        ready = share is STARVED or share > 0
        used, now = used + (0.0 if share is STARVED else share) * step, now + step
        place.look(used, lambda ready=ready: ready, now)
        found.append(place.last)
    return found


def test_who_takes_a_whole_processor_goes_last_within_a_third_of_a_second():
    found = looked(Place(GREEDY_SECONDS, comes_back=True), [1.0] * 20)
    assert found.index(True) * 0.05 <= GREEDY_SECONDS + 0.05
    assert all(found[found.index(True) :])


def test_who_takes_half_of_one_stays_where_it_is():
    assert not any(looked(Place(GREEDY_SECONDS, comes_back=True), [0.5] * 100))


def test_a_short_computation_is_no_greed():
    assert not any(looked(Place(GREEDY_SECONDS, comes_back=True), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 20))


def test_who_takes_less_again_comes_back_after_a_while_and_not_at_the_first_rest():
    found = looked(Place(GREEDY_SECONDS, comes_back=True), [1.0] * 20 + [0.0] * 60)
    back = found.index(False, 20)
    assert (back - 20) * 0.05 + 0.5 >= MODEST_SECONDS
    assert not any(found[back:])


def test_who_goes_last_and_gets_nothing_for_that_does_not_come_back_while_it_wants_more():
    assert all(looked(Place(GREEDY_SECONDS, comes_back=True), [1.0] * 20 + [STARVED] * 200)[20:])


def test_who_waits_because_others_are_greedy_stays_where_it_is():
    assert not any(looked(Place(GREEDY_SECONDS, comes_back=True), [STARVED] * 100))


def test_where_no_place_is_given_back_it_stays_last():
    assert all(looked(Place(GREEDY_SECONDS, comes_back=False), [1.0] * 20 + [0.0] * 200)[20:])


@given(st.lists(st.floats(0.0, 0.5), max_size=80))
def test_nobody_goes_last_who_never_takes_more_than_half(shares):
    assert not any(looked(Place(GREEDY_SECONDS, comes_back=True), shares))


@pytest.fixture
def spinner():
    """A process that computes for ever, in a session of its own as workers are."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def busy_machine(monkeypatch):
    """Where many compute, one that spins gets little; here that is enough."""
    monkeypatch.setattr(cpu_watch, "GREEDY_SHARE", 0.05)


@pytest.mark.usefixtures("busy_machine")
async def test_a_real_process_that_spins_is_put_last_and_one_that_sleeps_is_not(spinner):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeper:
        watch = CpuWatch()
        forget = [watch.add("spinner", spinner), watch.add("sleeper", sleeper.pid)]
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            while os.getpriority(os.PRIO_PROCESS, spinner) != LAST:
                await asyncio.sleep(0.02)
        assert os.getpriority(os.PRIO_PROCESS, sleeper.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        for one in forget:
            one()
        task.cancel()
        await asyncio.wait((task,))
        sleeper.kill()


@pytest.mark.usefixtures("busy_machine")
async def test_who_has_ended_is_no_trouble(spinner):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    watch = CpuWatch()
    watch.add("ended", ended.pid)
    watch.add("spinner", spinner)
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(30):
        while os.getpriority(os.PRIO_PROCESS, spinner) != LAST:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait((task,))


def test_whether_a_place_can_be_given_back_is_known_before_one_is_taken():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, LAST)
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, 0)
            given_back = True
        except PermissionError:
            given_back = False
        process.kill()
    assert may_raise() == given_back


@pytest.mark.usefixtures("busy_machine")
async def test_who_has_no_session_of_its_own_yet_takes_nobody_else_with_it(spinner):
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as young:
        watch, before = CpuWatch(), os.getpriority(os.PRIO_PROCESS, 0)
        watch.add("young", young.pid)
        watch.add("spinner", spinner)
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            while os.getpriority(os.PRIO_PROCESS, spinner) != LAST:
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait((task,))
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, young.pid)] == [before, before]
        young.kill()
