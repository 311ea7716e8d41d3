"""What one hosted plugin is delivered: a consumer for each subscription, and some for each replay that runs.

A consumer that cannot go on, because of a mistake of the host's or a damaged row, is this plugin's trouble: its state
says so, and the consumer is made anew from what is durable, after a while that grows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from host.errors import BusbarError
from host.registry.records import PluginRecord
from host.routing.admission import Target
from host.routing.consumer import Consumer
from host.routing.event_log import EventLog
from host.routing.guard import Guard
from host.routing.replay_store import ReplayRecord, ReplayState, ReplayStore
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.subscriptions import BoundSubscription, bind
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.clock import Clock
from plugin_sdk.errors import DescriptionError
from plugin_sdk.filters import compile_filters
from plugin_sdk.resilience import RetryPolicy

AGAIN: Final = RetryPolicy(attempts=2**31, first=1.0, longest=60.0, jitter=0.2)
"""Waits before a consumer that failed is made anew."""
FORGIVEN_SECONDS: Final = 600.0
"""A consumer that went on for so long has its next failure counted as the first."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """A subscription that is not delivered now. Times are seconds since the epoch."""

    reason: str
    since: float
    again_at: float
    failures: int


@dataclass(frozen=True, slots=True)
class DeliveryParts:
    """What consumers are made of; made once, in the composition root. Bounds of dead letters are for one plugin."""

    log: EventLog
    replays: ReplayStore
    router: Router
    settlements: Settlements
    clock: Clock
    rng: random.Random
    max_dead_letters: int
    max_letter_bytes: int = 128 * 2**20


class Deliveries:
    """Follows the log for one plugin.

    Args:
        plugin: Its id.
        parts: What consumers are made of.
        guard: Stands around every call.
        target: The plugin's runtime.
        timeout: Seconds a hook may take where its subscription names none.
        note_first: As for a `Consumer`.
        changed: Called whenever a subscription broke, or is delivered again.
    """

    def __init__(
        self,
        plugin: str,
        parts: DeliveryParts,
        *,
        guard: Guard,
        target: Target,
        timeout: float,
        note_first: bool,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._plugin = plugin
        self._parts = parts
        self._guard = guard
        self._target = target
        self._timeout = timeout
        self._note_first = note_first
        self._bound: tuple[BoundSubscription, ...] = ()
        self._replays: dict[int, list[Consumer]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._changed = changed
        self._mending: set[asyncio.Task[None]] = set()
        self._failures: dict[str, Broken] = {}
        self._followed: PluginRecord | None = None
        self._changing = asyncio.Lock()
        self.consumers: tuple[Consumer, ...] = ()
        self.broken: dict[str, Broken] = {}
        """The subscriptions, and replays of them, that are not delivered now, by id."""

    def pump(self) -> None:
        """The runtime runs again: deliver what waits."""
        for consumer in (*self.consumers, *(one for serving in self._replays.values() for one in serving)):
            consumer.pump()

    async def start(self, record: PluginRecord, *, keep_others: bool = False) -> None:
        """Take up every cursor, and every replay that has not ended.

        Cursors of subscriptions that the release does not have are dropped, unless `keep_others` is set.
        """
        async with self._changing:
            await self._follow(record)
        if not keep_others:
            await self.drop_others()
        for replay in await self._parts.replays.running(self._plugin):
            try:
                await self.replay(replay)
            except DescriptionError as error:
                # Its filters were taken by another host, or altered: it ends, and the plugin runs.
                _log.error("replay_not_resumed", replay=replay.id, plugin=self._plugin, reason=str(error))
                await self._parts.replays.end(replay.id, ReplayState.CANCELLED)

    async def drop_others(self) -> None:
        """Drop the cursors of an earlier release's subscriptions: one that nobody moves would hold the log for ever."""
        await self._parts.log.retire(self._plugin, {consumer.key for consumer in self.consumers})

    async def stop(self, grace: float) -> None:
        """Take nothing more, and let what is in flight end within `grace` seconds."""
        self._stopped = True
        async with self._changing:
            self._followed = None
            await self._stop_all(grace)

    async def _stop_all(self, grace: float) -> None:
        await self._mend_no_more()
        replayed = [consumer for consumers in self._replays.values() for consumer in consumers]
        self._replays.clear()
        async with asyncio.TaskGroup() as group:
            for consumer in (*self.consumers, *replayed):
                group.create_task(consumer.stop(grace))
        if self._ending:
            await asyncio.wait(tuple(self._ending))

    async def change_policies(self, record: PluginRecord, grace: float) -> None:
        """Go on under other policies; the plugin itself runs on."""
        async with self._changing:
            await self._mend_no_more(replays=False)
            async with asyncio.TaskGroup() as group:
                for consumer in self.consumers:
                    group.create_task(consumer.stop(grace))
            await self._follow(record)

    async def pass_over(self, give_up: Callable[[], Awaitable[None]]) -> None:
        """Follow from where `give_up` moves the cursors to; what is in flight is cancelled, and replays end."""
        async with self._changing:
            followed = self._followed
            if followed is not None:
                await self._stop_all(0)
            try:
                await give_up()
            finally:
                if followed is not None:
                    await self._follow(followed)

    async def replay(self, replay: ReplayRecord) -> None:
        """Deliver a replay, from where it stands."""
        also = compile_filters(replay.filters)
        consumers = [
            self._consumer(one.replayed(replay.id, also), replay)
            for one in self._bound
            if one.name != SCHEDULES and replay.subscription in {None, one.name}
        ]
        self._replays[replay.id] = consumers
        for consumer in consumers:
            await consumer.start()
        if not consumers:
            await self._parts.replays.end(replay.id, ReplayState.DONE)

    async def stop_replay(self, replay: int) -> None:
        """Deliver no more of a replay; what is in flight is cancelled."""
        async with asyncio.TaskGroup() as group:
            for consumer in self._replays.pop(replay, ()):
                group.create_task(consumer.stop(0))

    @property
    def lag(self) -> int:
        """Events of the log that the slowest subscription has not settled."""
        return max((consumer.lag for consumer in self.consumers), default=0)

    # -- inside

    async def _follow(self, record: PluginRecord) -> None:
        self._followed = record
        try:
            self._bound = bind(record.id, record.description, self._timeout, record.policies)
        except DescriptionError as error:
            # A newer release may have values that an override of the older one does not go with.
            _log.warning("policies_not_in_force", plugin=record.id, reason=str(error))
            self._bound = bind(record.id, record.description, self._timeout)
        self.consumers = tuple(self._consumer(one) for one in self._bound)
        for consumer in self.consumers:
            await consumer.start()

    def _consumer(self, subscription: BoundSubscription, replay: ReplayRecord | None = None) -> Consumer:
        parts = self._parts
        ended: Callable[[], None] = lambda: None  # noqa: E731 - a subscription has no end
        if replay is not None:
            ended = lambda: self._ended(replay.id, subscription.id)  # noqa: E731 - bound to this consumer
        consumer = Consumer(
            subscription,
            log=parts.log,
            router=parts.router,
            settlements=parts.settlements,
            guard=self._guard,
            target=self._target,
            clock=parts.clock,
            rng=parts.rng,
            note_first=self._note_first,
            max_dead_letters=parts.max_dead_letters,
            max_letter_bytes=parts.max_letter_bytes,
            stretch=None if replay is None else (replay.first, replay.last),
            ended=ended,
            failed=lambda error: self._consumer_failed(consumer, replay, error),
        )
        return consumer

    # -- consumers that failed

    def _consumer_failed(self, consumer: Consumer, replay: ReplayRecord | None, error: Exception) -> None:
        if self._stopped:
            return
        now = self._parts.clock.now().timestamp()
        before = self._failures.get(consumer.key)
        failures = 1 if before is None or now - before.since > FORGIVEN_SECONDS else before.failures + 1
        wait = AGAIN.delay(failures, rng=self._parts.rng)
        reason = error.message if isinstance(error, BusbarError) else f"{type(error).__name__}: {error}"
        self._failures[consumer.key] = self.broken[consumer.key] = Broken(reason, now, now + wait, failures)
        mending = asyncio.create_task(self._mend(consumer, replay, wait), name=f"mend {consumer.key}")
        self._mending.add(mending)
        mending.add_done_callback(self._mending.discard)
        self._changed()

    async def _mend(self, failed: Consumer, replay: ReplayRecord | None, wait: float) -> None:
        """Put a fresh consumer in the place of one that failed, unless it has lost its place meanwhile."""
        await failed.stop(0)
        await asyncio.sleep(wait)
        fresh = self._consumer(failed.subscription, replay)
        if replay is None:
            if failed not in self.consumers:
                return
            self.consumers = tuple(fresh if one is failed else one for one in self.consumers)
        else:
            running = self._replays.get(replay.id, [])
            if failed not in running:
                return
            running[running.index(failed)] = fresh
        try:
            await fresh.start()
        except Exception as error:  # noqa: BLE001 - logged there, and tried again after a longer while
            fresh.fail(error)
            return
        self.broken.pop(fresh.key, None)
        _log.info("consumer_mended", subscription=fresh.key)
        self._changed()

    async def _mend_no_more(self, *, replays: bool = True) -> None:
        """Give up what would put fresh consumers in the place of others: these are about to be stopped."""
        mending = [one for one in self._mending if replays or "#" not in one.get_name()]
        for one in mending:
            one.cancel()
        if mending:
            await asyncio.wait(mending)
        for subscription in [one for one in self.broken if replays or "#" not in one]:
            del self.broken[subscription]

    def _ended(self, replay: int, subscription: str) -> None:
        """One of a replay's consumers has delivered everything; with the last of them the replay is done."""
        consumers = self._replays.get(replay)
        if consumers is None:
            return
        ending = asyncio.create_task(self._end(replay, subscription, consumers), name=f"end replay {replay}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, replay: int, subscription: str, consumers: list[Consumer]) -> None:
        for consumer in [one for one in consumers if one.key == subscription]:
            await consumer.stop(0)  # writes its cursor
            consumers.remove(consumer)
        if consumers or self._replays.pop(replay, None) is None:
            return
        try:
            await self._parts.replays.end(replay, ReplayState.DONE)
        except BusbarError as error:
            # Its cursor stands at its end: the next start finds nothing left to deliver, and ends it then.
            _log.warning("replay_not_ended", replay=replay, plugin=self._plugin, error=error.message)
