"""Replays: events of the log delivered to one plugin again, beside its live cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from host.administration.errors import NothingToReplayError, SubscriptionNotFoundError
from host.lifecycle.reconciler import Reconciler
from host.observe.audit import Audit
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.routing.event_log import EventLog
from host.routing.replay_store import ReplayRecord, ReplayState, ReplayStore
from host.routing.subscriptions import bind
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.clock import Clock
from plugin_sdk.filters import compile_filters

MAX_COUNTED: Final = 100_000
"""Events that are read to foretell a replay."""
READ_EVENTS: Final = 512
SAMPLE: Final = 20
"""Events that a forecast names."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a replay would deliver: matches counted among `looked_at` events, in all unless `complete` is false."""

    first: int
    last: int
    looked_at: int
    matching: int
    complete: bool
    sample: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be delivered again. Instants are seconds since the epoch; None for open ends."""

    plugin: str
    subscription: str | None
    since: float | None
    until: float | None
    filters: Sequence[Mapping[str, Any]]


class Replays:
    """Foretells, starts and cancels replays.

    Args:
        store: Where they are kept.
        log: Whose events they deliver.
        registry: Knows the plugins and their subscriptions.
        reconciler: Knows which plugins are hosted now.
        audit: Where every change is written down.
        clock: For open ends.
    """

    def __init__(
        self,
        store: ReplayStore,
        log: EventLog,
        registry: Registry,
        reconciler: Reconciler,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._store = store
        self._log = log
        self._registry = registry
        self._reconciler = reconciler
        self._audit = audit
        self._clock = clock

    async def forecast(self, wanted: Wanted) -> Forecast:
        """What a replay would deliver, without starting it; errors as in `start`."""
        record = self._registry.get(wanted.plugin)
        also = compile_filters(wanted.filters)
        first, last = await self._stretch(record, wanted)
        subscriptions = [
            one.replayed(0, also)
            for one in bind(record.id, record.description, 1.0)
            if one.name != SCHEDULES and wanted.subscription in {None, one.name}
        ]
        looked_at, matching = 0, 0
        sample: list[str] = []
        after = first - 1
        while looked_at < MAX_COUNTED:
            batch = [one for one in await self._log.read(after, READ_EVENTS) if one.sequence <= last]
            if not batch:
                break
            after = batch[-1].sequence
            looked_at += len(batch)
            for stored in batch:
                if any(one.takes(stored) for one in subscriptions):
                    matching += 1
                    if len(sample) < SAMPLE:
                        sample.append(stored.event.id)
        return Forecast(first, last, looked_at, matching, after >= last or not batch, tuple(sample))

    async def start(self, wanted: Wanted, *, actor: str) -> ReplayRecord:
        """Start a replay; the plugin gets it as soon as it runs.

        Raises:
            PluginNotFoundError: it is not installed.
            SubscriptionNotFoundError: it has no subscription of that name.
            NothingToReplayError: the log has no event of that time.
            FilterError: a filter is malformed.
            TooManyReplaysError: as many of the plugin run already as may.
        """
        record = self._registry.get(wanted.plugin)
        compile_filters(wanted.filters)
        stretch = await self._stretch(record, wanted)
        replay = await self._store.add(
            wanted.plugin,
            wanted.subscription,
            stretch,
            (wanted.since, wanted.until),
            wanted.filters,
            actor=actor,
        )
        await self._note("replay.begin", replay, actor)
        hosted = self._reconciler.hosted(wanted.plugin)
        if hosted is not None:
            await hosted.deliveries.replay(replay)
        return replay

    async def cancel(self, replay: int, *, actor: str) -> ReplayRecord:
        """End a replay before its time; what is in flight is cancelled, and one that has ended stays as it is.

        Raises:
            ReplayNotFoundError: there is none of that id.
        """
        record = await self._store.get(replay)
        if record.state is ReplayState.RUNNING:
            hosted = self._reconciler.hosted(record.plugin)
            if hosted is not None:
                await hosted.deliveries.stop_replay(replay)
            await self._store.end(replay, ReplayState.CANCELLED)
            await self._note("replay.cancel", record, actor)
        return await self._store.get(replay)

    async def get(self, replay: int) -> ReplayRecord:
        """One replay; errors as in `cancel`."""
        return await self._store.get(replay)

    async def all(self, plugin: str | None, offset: int, limit: int) -> tuple[list[ReplayRecord], int]:
        """A page of replays, the newest first, and how many there are."""
        return await self._store.all(plugin, offset, limit)

    async def _stretch(self, record: PluginRecord, wanted: Wanted) -> tuple[int, int]:
        names = [one.name for one in record.description.subscriptions]
        if wanted.subscription is not None and wanted.subscription not in names:
            raise SubscriptionNotFoundError(record.id, wanted.subscription, names)
        until = self._clock.now().timestamp() if wanted.until is None else wanted.until
        found = await self._store.stretch(wanted.since or 0.0, until)
        if found is None:
            raise NothingToReplayError("the log has no event of that time: look with GET /api/v1/events?since=&until=")
        return found

    async def _note(self, action: str, replay: ReplayRecord, actor: str) -> None:
        detail = {"plugin": replay.plugin, "first": replay.first, "last": replay.last}
        await self._audit.record(actor=actor, action=action, target=str(replay.id), detail=detail, outcome="done")
