"""The durable queue: nothing is lost or doubled, wherever a worker is killed."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhooks.backlog import QUOTA, Backlogs, FullError
from webhooks.messages import new_message

from plugin_sdk import HostError, new_event
from plugin_sdk.context import KeyValueStore
from plugin_sdk.testing import MemoryHost

ENDPOINT = "ep_1"


class KilledError(BaseException):
    """The worker ends here."""


class Mortal(MemoryHost):
    """A host whose worker is killed before its next write once `writes` have been made."""

    def __init__(self, kv, writes=10**9):
        super().__init__(kv)
        self.writes = writes

    async def kv_set(self, key, value):
        self._write()
        await super().kv_set(key, value)

    async def kv_delete(self, key):
        self._write()
        return await super().kv_delete(key)

    def _write(self):
        self.writes -= 1
        if self.writes < 0:
            raise KilledError


class Small(MemoryHost):
    """A host that keeps so many keys and no more."""

    def __init__(self, room):
        super().__init__({})
        self.room = room

    async def kv_set(self, key, value):
        if key not in self.kv and len(self.kv) >= self.room:
            raise HostError("the quota is used up", QUOTA)
        await super().kv_set(key, value)


def message(number, now=1.0, endpoint=ENDPOINT):
    return new_message(new_event("order.placed", source="/shop", id=str(number)), endpoint, now)


async def loaded(host, endpoints=(ENDPOINT,)):
    backlogs = Backlogs(KeyValueStore(host))
    await backlogs.load(endpoints)
    return backlogs


def state(backlogs):
    """What waits until when, and what is done."""
    backlog = backlogs.of(ENDPOINT)
    return dict(backlog.waiting), list(backlog.done)


async def act(backlogs, action, number, now):
    """One step of one message's life, where it is at that point of it."""
    wanted = message(number, now)
    backlog = backlogs.of(ENDPOINT)
    if action == "add":
        await backlogs.add(wanted, bound=100)
        return
    if action == "revive":
        for entry in [one for one in backlog.done if one.message == wanted.id and one.outcome == "failed"]:
            await backlogs.revive(await backlogs.read_done(ENDPOINT, entry), entry, now)
        return
    found = await backlogs.read(ENDPOINT, wanted.id)
    if found is None:
        return
    if action == "postpone":
        await backlogs.postpone(wanted)
    else:
        await backlogs.finish(found, action, now, kept=3)


ACTIONS = st.tuples(st.sampled_from(["add", "postpone", "delivered", "failed", "revive"]), st.integers(0, 3))


@settings(max_examples=200)
@given(st.lists(ACTIONS, max_size=25), st.integers(0, 40))
def test_a_worker_killed_at_any_write_leaves_the_state_before_or_after_the_step(actions, writes):
    async def scenario():
        kv = {}
        host = Mortal(kv, writes)
        backlogs = await loaded(host)
        before = after = state(backlogs)
        with contextlib.suppress(KilledError):
            for step, (action, number) in enumerate(actions):
                before = state(backlogs)
                intact = dict(kv)
                await act(backlogs, action, number, 10.0 + step)
                after = before = state(backlogs)
            host.writes = 10**9
            assert state(await loaded(host)) == after
            return
        host.writes = 10**9
        whole = MemoryHost(intact)
        redone = await loaded(whole)
        await act(redone, action, number, 10.0 + step)
        revived = await loaded(host)
        found, expected = state(revived), (before, state(redone))
        names = [set(one[0]) | {entry.message for entry in one[1]} for one in (found, *expected)]
        # Trimming may be cut short: then more is kept than has to be, and nothing else.
        assert names[0] >= names[1] & names[2]
        assert found[0] in (expected[0][0], expected[1][0])
        assert len(found[0]) + len(found[1]) == len(kv)

    asyncio.run(scenario())


@settings(max_examples=50)
@given(st.lists(ACTIONS, max_size=40))
def test_a_restart_changes_nothing(actions):
    async def scenario():
        host = MemoryHost({})
        backlogs = await loaded(host)
        for step, (action, number) in enumerate(actions):
            await act(backlogs, action, number, 10.0 + step)
            assert state(await loaded(host)) == state(backlogs)

    asyncio.run(scenario())


async def test_messages_are_taken_in_the_order_in_which_they_are_due_and_once():
    backlogs = await loaded(MemoryHost({}))
    for number, now in ((1, 3.0), (2, 1.0), (3, 2.0)):
        await backlogs.add(message(number, now), bound=10)
    backlog = backlogs.of(ENDPOINT)
    taken = []
    while backlog.first() is not None:
        taken.append(backlog.take())
    assert taken == [message(number).id for number in (2, 3, 1)]
    backlog.retake(taken[0], 5000)
    assert backlog.first() == 5000


async def test_a_message_of_an_endpoint_that_is_full_is_refused_and_a_known_one_is_not():
    backlogs = await loaded(MemoryHost({}))
    assert await backlogs.add(message(1), bound=1)
    assert not await backlogs.add(message(1), bound=1)
    with pytest.raises(FullError, match="1 messages wait for ep_1"):
        await backlogs.add(message(2), bound=1)


async def test_no_more_messages_that_are_done_are_kept_than_asked_for_the_youngest():
    host = MemoryHost({})
    backlogs = await loaded(host)
    for number in range(6):
        await backlogs.add(message(number), bound=10)
        await backlogs.finish(message(number), "delivered", float(number), kept=4)
    assert [entry.when for entry in backlogs.of(ENDPOINT).done] == [2000, 3000, 4000, 5000]
    assert len(host.kv) == 4


async def test_a_delivered_message_keeps_no_event_and_a_failed_one_does():
    backlogs = await loaded(MemoryHost({}))
    for number, fate in ((1, "delivered"), (2, "failed")):
        await backlogs.add(message(number), bound=10)
        await backlogs.finish(message(number), fate, float(number), kept=4)
    found = [await backlogs.read_done(ENDPOINT, entry) for entry in backlogs.of(ENDPOINT).done]
    assert [one.event is None for one in found] == [True, False]


async def test_where_the_quota_is_used_up_the_oldest_messages_that_are_done_go_first():
    backlogs = await loaded(Small(4), (ENDPOINT, "ep_2"))
    for endpoint, when in (("ep_2", 1.0), (ENDPOINT, 2.0), (ENDPOINT, 3.0)):
        one = message(when, endpoint=endpoint)
        await backlogs.add(one, bound=10)
        await backlogs.finish(one, "failed", when, kept=10)
    await backlogs.add(message(10), bound=10)
    await backlogs.add(message(11), bound=10)
    assert backlogs.of("ep_2").done == []
    assert len(backlogs.of(ENDPOINT).done) == 2


async def test_where_only_waiting_messages_use_the_quota_up_a_new_one_is_refused():
    backlogs = await loaded(Small(2))
    await backlogs.add(message(1), bound=10)
    await backlogs.add(message(2), bound=10)
    with pytest.raises(FullError, match="quota"):
        await backlogs.add(message(3), bound=10)
    assert not backlogs.of(ENDPOINT).knows(message(3).id)


async def test_a_failed_message_that_cannot_be_revived_stays_failed():
    host = Mortal({})
    backlogs = await loaded(host)
    await backlogs.add(message(1), bound=10)
    await backlogs.finish(message(1), "failed", 1.0, kept=4)
    (entry,) = backlogs.of(ENDPOINT).done
    found = await backlogs.read_done(ENDPOINT, entry)
    host.writes = 0
    with pytest.raises(KilledError):
        await backlogs.revive(found, entry, 2.0)
    assert state(backlogs) == ({}, [entry])


async def test_messages_of_endpoints_that_are_gone_are_removed():
    host = MemoryHost({})
    backlogs = await loaded(host, (ENDPOINT, "ep_2"))
    for endpoint in (ENDPOINT, "ep_2"):
        await backlogs.add(message(1, endpoint=endpoint), bound=10)
        await backlogs.add(message(2, endpoint=endpoint), bound=10)
        await backlogs.finish(message(2, endpoint=endpoint), "failed", 1.0, kept=10)
    await backlogs.drop("ep_2")
    assert {key.split("/")[1] for key in host.kv} == {ENDPOINT}
    await loaded(host, ())
    assert host.kv == {}


async def test_what_becomes_of_a_message_whose_endpoint_was_deleted_meanwhile_is_not_kept():
    host = MemoryHost({})
    backlogs = await loaded(host)
    await backlogs.add(message(1), bound=10)
    await backlogs.drop(ENDPOINT)
    await backlogs.finish(message(1), "delivered", 1.0, kept=4)
    await backlogs.postpone(message(1))
    assert host.kv == {}
