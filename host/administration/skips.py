"""Giving up what the log keeps for one plugin, so that a plugin which nobody mends soon stops nobody else."""

from __future__ import annotations

import structlog

from host.lifecycle.reconciler import Reconciler
from host.observe.audit import Audit
from host.registry.registry import Registry
from host.routing.bus import Bus
from host.routing.event_log import EventLog, Held, HeldPlace
from host.routing.log_budget import LogBudget
from host.routing.plugin_shares import PluginShares
from host.routing.replay_store import ReplayStore

_log = structlog.get_logger(__name__)


class Skips:
    """Looks at what plugins did not have yet, and gives it up."""

    def __init__(
        self,
        *,
        registry: Registry,
        reconciler: Reconciler,
        log: EventLog,
        replays: ReplayStore,
        bus: Bus,
        budget: LogBudget,
        shares: PluginShares,
        audit: Audit,
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._log = log
        self._replays = replays
        self._bus = bus
        self._budget = budget
        self._shares = shares
        self._audit = audit

    async def forecast(self, plugin: str) -> Held:
        """What would be given up.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        self._registry.get(plugin)
        return await self._log.held(plugin)

    async def skip(self, plugin: str, *, actor: str) -> Held:
        """Give up what a plugin did not have yet, in whatever state it is; what that was.

        Its subscriptions go on with what is published from now on. Deliveries in flight are cancelled, those that wait
        to be tried again are dropped, and its replays end. Dead letters stay, and so do those that were revived.

        Raises:
            PluginNotFoundError: it is not installed.
        """
        held = await self.forecast(plugin)
        skipped: tuple[HeldPlace, ...] = ()

        async def give_up() -> None:
            nonlocal skipped
            await self._replays.cancel_all(plugin)
            skipped = await self._log.skip(plugin)

        hosted = self._reconciler.hosted(plugin)
        if hosted is None:
            await give_up()
        else:
            await hosted.deliveries.pass_over(give_up)
        self._shares.look_again()
        self._budget.look()
        held = Held(held.events, held.bytes, skipped)
        await self._tell(plugin, held, actor)
        return held

    async def _tell(self, plugin: str, held: Held, actor: str) -> None:
        """Write down what was given up, where its readers look."""
        lost = {one.subscription: one.places + one.retries for one in held.subscriptions if one.places or one.retries}
        detail = {"events": held.events, "bytes": held.bytes, "subscriptions": lost}
        await self._audit.record(actor=actor, action="plugin.skip", target=plugin, detail=detail, outcome="done")
        for subscription, places in lost.items():
            _log.error("events_skipped", subscription=subscription, places=places)
            data = {"subscription": subscription, "places": places}
            await self._bus.announce("subscription.skipped", subject=subscription, data=data)
