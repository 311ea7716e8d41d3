"""The parts that every host is made of, the daemon and the author's small one alike, built in the same way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from host.lifecycle.deliveries import DeliveryParts
from host.lifecycle.dependencies import Dependencies
from host.lifecycle.hosted_plugin import Parts
from host.observe.audit import Audit
from host.observe.background_parts import BackgroundParts
from host.observe.logging import PluginLogs
from host.port.key_values import KeyValues
from host.port.plugin_port import PluginPort
from host.port.services import Services
from host.registry.records import PluginRecord
from host.resolver import Resolver
from host.routing.bus import Bus
from host.routing.guard import Guard
from host.routing.replay_store import ReplayStore
from host.routing.router import Router
from host.routing.settlements import Settlements
from host.routing.sqlite_log import SQLiteLog
from host.runtime.cpu_watch import CpuWatch
from host.runtime.data_watch import DataWatch
from host.runtime.fork_server import ForkServer
from host.runtime.inline import InlineRuntime
from host.runtime.loop_watch import LoopWatch
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch, Runtime
from host.runtime.sandbox import Sandbox, SandboxPolicy, ways_for
from host.runtime.sdk_path import build_sdk_path
from host.runtime.supervisor import SupervisionLimits
from host.runtime.workshop import Egress, WorkerLimits, Workshop
from host.scheduling.overlaps import ConsumerCancels
from host.scheduling.scheduler import Scheduler
from host.storage.database import Database
from plugin_sdk.clock import Clock
from plugin_sdk.context import HostPort
from plugin_sdk.resilience import BreakerPolicy


class HostLife:
    """How the parts of one host are ended, in the opposite order of their beginning.

    Args:
        stack: Ends them.
        parts: Runs those that have a loop of their own.
        drain: Seconds that a part has for what it does before its end.
    """

    def __init__(self, stack: contextlib.AsyncExitStack, parts: BackgroundParts, drain: float) -> None:
        self.stack = stack
        self.parts = parts
        self._drain = drain

    def background(
        self,
        run: Callable[[], Awaitable[None]],
        name: str,
        *,
        before_cancel: Callable[[], Awaitable[None]] | None = None,
        ends: bool = False,
        again: bool = True,
    ) -> asyncio.Task[None]:
        """Run a part's own loop until the host stops; `ends` and `again` as in `BackgroundParts.start`."""
        task = self.parts.start(name, run, ends=ends, again=again)

        async def end() -> None:
            if before_cancel is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._drain):
                        await before_cancel()
            task.cancel()
            await asyncio.wait((task,))

        self.stack.push_async_callback(end)
        return task


@dataclass(frozen=True, slots=True)
class EventPath:
    """The path of an event from the log to the consumers."""

    log: SQLiteLog
    settlements: Settlements
    router: Router
    scheduler: Scheduler
    replays: ReplayStore


async def event_path(
    life: HostLife,
    log: SQLiteLog,
    database: Database,
    clock: Clock,
    settlements: Settlements | None = None,
) -> EventPath:
    """Everything between the log and the consumers; its loops run from here on."""
    settlements = settlements or Settlements(log)
    life.background(settlements.run, "settlements", before_cancel=settlements.flushed)
    router = Router(log)
    scheduler = Scheduler(database, log, clock, cancels=ConsumerCancels(router))
    life.stack.callback(scheduler.close)
    life.background(scheduler.run, "scheduler", before_cancel=scheduler.looked)
    return EventPath(log, settlements, router, scheduler, ReplayStore(database, clock))


async def make_workshop(
    life: HostLife,
    state: Path,
    policy: SandboxPolicy,
    *,
    limits: WorkerLimits,
    egress: Egress,
    modified: Callable[[str], None] = lambda _plugin: None,
    open_ways: bool = True,
) -> Workshop:
    """What workers are made with; the fork server is started by the first of them.

    With `open_ways`, ways through closed folders are opened for workers that are users of their own.
    """
    sdk_path = await asyncio.to_thread(build_sdk_path, state)
    ways = await asyncio.to_thread(ways_for, policy, sdk_path) if open_ways else ()
    fork_server = ForkServer(sdk_path, ways)
    life.stack.push_async_callback(fork_server.stop)
    data_watch, cpu_watch = DataWatch(), CpuWatch()
    life.background(data_watch.run, "data watch")
    life.background(cpu_watch.run, "processor watch")
    sandbox = await asyncio.to_thread(Sandbox, policy, sdk_path, ways)
    return Workshop(
        fork_server, sandbox, limits, data_watch=data_watch, cpu_watch=cpu_watch, egress=egress, modified=modified
    )


@dataclass(frozen=True, slots=True)
class Lent:
    """What a host lends its plugins, beside the path of events and what their workers are made with.

    Attributes:
        bus: The way into the log.
        key_values: Their keys and values.
        audit: Where their refusals go.
        logs: Where their log lines go.
        data: The folder with their data folders.
        services: Calls those of each other; None where a plugin runs alone.
        dependencies: Knows what they require of each other; None where a plugin runs alone.
        resolver: Resolves names for those in the host's own process.
        breaker: How their breakers open.
        supervision: How they are watched and started again.
        max_dead_letters: Dead letters of one plugin.
        max_letter_bytes: What these may take.
        rng: For jitter.
    """

    bus: Bus
    key_values: KeyValues
    audit: Audit
    logs: PluginLogs
    data: Path
    services: Services | None
    dependencies: Dependencies | None
    resolver: Resolver | None
    breaker: BreakerPolicy
    supervision: SupervisionLimits
    max_dead_letters: int
    max_letter_bytes: int
    rng: random.Random = field(default_factory=random.Random)


def hosted_parts(path: EventPath, workshop: Workshop, lent: Lent, clock: Clock, *, inline: bool = False) -> Parts:
    """What every hosted plugin is built from; with `inline`, each runs in the host's own process."""
    loop_watch = LoopWatch()

    def make_runtime(launch: Launch, port: HostPort) -> Runtime:
        if inline or launch.isolation == "inline":
            return InlineRuntime(launch, port, lent.logs.sink(launch.plugin), loop_watch, lent.resolver)
        return WorkerRuntime(launch, port, workshop, lent.logs.sink(launch.plugin))

    def make_port(record: PluginRecord, guard: Guard) -> PluginPort:
        return PluginPort(
            record.id,
            granted=record.granted,
            bus=lent.bus,
            key_values=lent.key_values,
            guard=guard,
            audit=lent.audit,
            services=lent.services,
        )

    return Parts(
        deliveries=DeliveryParts(
            log=path.log,
            replays=path.replays,
            router=path.router,
            settlements=path.settlements,
            clock=clock,
            rng=lent.rng,
            max_dead_letters=lent.max_dead_letters,
            max_letter_bytes=lent.max_letter_bytes,
        ),
        bus=lent.bus,
        scheduler=path.scheduler,
        dependencies=lent.dependencies,
        make_runtime=make_runtime,
        make_port=make_port,
        data=lent.data,
        logs=lent.logs,
        clock=clock,
        rng=lent.rng,
        breaker=lent.breaker,
        supervision=lent.supervision,
    )
