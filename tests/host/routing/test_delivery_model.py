"""Delivery against a reference model: whatever happens in whatever order, no event is lost, none is invented.

The machine appends, lets the plugin fail, pauses and resumes it, replays, prunes, stops and crashes; the model
beside it is a set of events and a rule or two. A crash is a database that is closed with what was in flight undone.
"""

import asyncio
import os
import tempfile
from collections import Counter
from pathlib import Path

from delivery_rig import Rig, event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host.routing.event_log import LetterQuery
from host.routing.filters import Filter
from host.routing.replay_store import ReplayState, ReplayStore
from host.routing.sqlite_log import SQLiteLog
from host.routing.subscriptions import BoundSubscription
from host.storage.database import Database
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.errors import DeadLetter, Drop, Retry
from plugin_sdk.filters import compile_filters
from plugin_sdk.testing import FakeClock

VERDICTS = ["fine", "fail", "fail always", "retry", "drop", "dead letter"]


class Delivery(RuleBasedStateMachine):
    """The machine."""

    @initialize(order=st.sampled_from(["none", "by-key", "strict"]), at_failure=st.sampled_from(["block", "set-aside"]))
    def begin(self, order, at_failure):
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.policy = DeliveryPolicy(
            attempts=3, first_retry=10.0, longest_retry=10.0, jitter=0.0, order=order, at_failure=at_failure
        )
        self.verdicts: dict[str, str] = {}
        self.keys: dict[str, str | None] = {}
        self.given_up: set[str] = set()
        self.tried: Counter[str] = Counter()
        self.handled: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()
        self.order_of_success: list[str] = []
        self.appended: list[str] = []
        self.crashed = False
        self.paused = False
        self.run(self._open())

    def run(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    async def _open(self):
        self.database = await Database.open(Path(self.folder.name) / "busbar.db", clock=self.clock)
        self.rig = Rig(self.database, await SQLiteLog.open(self.database, self.clock), self.clock)
        self.rig.plugin.answer = self._answer
        if self.paused:
            self.rig.plugin.stop()
        self.writing = asyncio.create_task(self.rig.settlements.run())
        subscription = BoundSubscription("p", "s", Filter(("a.*",)), self.policy, 10.0)
        self.consumer = await self.rig.consume(subscription)
        self.replays = ReplayStore(self.database, self.clock)
        for replay in await self.replays.running("p"):
            await self._deliver_replay(subscription, replay)
        await self.rig.quiet()

    async def _deliver_replay(self, subscription, replay):
        ended = asyncio.Event()
        consumer = await self.rig.consume(
            subscription.replayed(replay.id, compile_filters(replay.filters)),
            stretch=(replay.first, replay.last),
            ended=ended.set,
        )

        async def finish():
            await ended.wait()
            await consumer.stop(0)
            self.rig.consumers.remove(consumer)
            await self.replays.end(replay.id, ReplayState.DONE)

        self.finishing = getattr(self, "finishing", [])
        self.finishing.append(asyncio.create_task(finish()))

    async def _answer(self, call):
        id_, replay = call.event.id, call.delivery.replay
        verdict = self.verdicts[id_]
        self.tried[id_] += 1
        await asyncio.sleep(0)
        if verdict == "fail always" or (verdict == "fail" and call.delivery.attempt == 1):
            raise RuntimeError("it fails")
        if verdict == "retry" and call.delivery.attempt == 1:
            raise Retry(after=5)
        if verdict == "dead letter":
            raise DeadLetter("it cannot")
        (self.replayed if replay else self.handled)[id_] += 1
        if not replay:
            self.order_of_success.append(id_)
        if verdict == "drop":
            raise Drop("it will not")

    async def _close(self, *, crash):
        for task in getattr(self, "finishing", []):
            task.cancel()
        self.finishing = []
        if crash:
            # What was not written is gone with the process: outcomes are thrown away, nothing is flushed.
            self.writing.cancel()
            await asyncio.wait((self.writing,))
            self.rig.settlements._waiting.clear()
            self.rig.settlements._idle.set()
            self.rig.settlements._settlers.clear()
        for consumer in self.rig.consumers:
            await consumer.stop(0 if crash else 1)
        if not crash:
            await self.rig.settlements.flushed()
            self.writing.cancel()
            await asyncio.wait((self.writing,))
        await self.database.close()

    # -- what happens

    @rule(verdict=st.sampled_from(VERDICTS), key=st.sampled_from(["x", "y", None]), fits=st.booleans())
    def append(self, verdict, key, fits):
        id_ = str(len(self.verdicts))
        self.verdicts[id_] = verdict
        self.keys[id_] = key
        if verdict in {"fail always", "dead letter"}:
            self.given_up.add(id_)
        extensions = {"partitionkey": key} if key else {}
        self.run(self.rig.publish(event(id_, "a.b" if fits else "b.a", extensions=extensions)))
        if fits:
            self.appended.append(id_)

    @rule(count=st.integers(2, 12))
    def append_many(self, count):
        first = len(self.verdicts)
        ids = [str(first + number) for number in range(count)]
        self.verdicts |= dict.fromkeys(ids, "fine")
        self.appended += ids
        self.run(self.rig.publish(*(event(id_) for id_ in ids)))

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0]))
    def time_passes(self, seconds):
        self.run(self.rig.advance(seconds))

    @rule()
    def deliver(self):
        self.run(self.rig.quiet())

    @precondition(lambda self: not self.paused)
    @rule()
    def pause(self):
        self.paused = True
        self.rig.plugin.stop()

    @precondition(lambda self: self.paused)
    @rule()
    def resume(self):
        self.paused = False
        self.rig.plugin.start()

    @rule()
    def restart(self):
        self.run(self._close(crash=False))
        self.run(self._open())

    @rule()
    def crash(self):
        self.crashed = True
        self.run(self._close(crash=True))
        self.run(self._open())

    @rule()
    def prune(self):
        self.run(self.rig.log.prune(self.clock.now().timestamp() + 1, 0))

    @rule()
    def retry_dead_letters(self):
        async def retry():
            found, _ = await self.rig.log.dead_letters(LetterQuery(), 0, 200)
            for letter in found:
                self.verdicts[letter.event_id] = "fine"
            _, waiting = await self.rig.log.revive([letter.id for letter in found])
            self.consumer.retries_added(waiting["p/s"])

        self.run(retry())

    @precondition(lambda self: self.verdicts)
    @rule(data=st.data())
    def replay(self, data):
        head = self.rig.log.head()
        first = data.draw(st.integers(1, head))

        async def begin():
            replay = await self.replays.add("p", None, (first, head), (None, None), (), actor="test")
            await self._deliver_replay(self.consumer.subscription, replay)

        self.run(begin())

    # -- what holds

    @invariant()
    def nothing_is_invented(self):
        if hasattr(self, "appended"):
            assert set(self.handled) <= set(self.appended)
            assert set(self.tried) <= set(self.appended)

    @invariant()
    def nothing_is_delivered_twice_without_a_crash(self):
        if hasattr(self, "appended") and not self.crashed:
            assert all(count == 1 for count in self.handled.values())

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            self.rig.plugin.start()
            self.paused = False

            async def settle():
                for _ in range(200):
                    await self.rig.advance(10.0)
                    if not any(one.lag or one.waiting_retries for one in self.rig.consumers):
                        return

            self.run(settle())
            self.run(self._check_end())
            self.run(self._close(crash=False))
        finally:
            self.loop.close()
            self.folder.cleanup()

    async def _check_end(self):
        """In the end every event is handled, or kept as a dead letter, in the order that was asked for."""
        found, _ = await self.rig.log.dead_letters(LetterQuery(), 0, 1000)
        dead = {letter.event_id for letter in found}
        assert set(self.appended) <= set(self.handled) | dead
        assert not {id_ for id_ in dead if self.verdicts[id_] == "fine"}
        assert self.consumer.lag == 0
        assert self.consumer.waiting_retries == 0
        if self.policy.order == "none" or self.policy.at_failure != "block":
            return
        for lane in {self.lane(id_) for id_ in self.appended} - {None}:
            wanted = [id_ for id_ in self.appended if self.lane(id_) == lane and id_ not in self.given_up]
            handled = [id_ for id_ in dict.fromkeys(self.order_of_success) if id_ in wanted]
            assert handled == wanted

    def lane(self, id_):
        return "all" if self.policy.order == "strict" else self.keys.get(id_)


Delivery.TestCase.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "12")),
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestDelivery = Delivery.TestCase
