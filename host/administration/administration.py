"""What an administrator can do to plugins: the verbs of the API, each a change of the registry and its audit.

Everything here changes desired state and, where asked, waits until the reconciler has made it real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from host.administration.errors import (
    ApprovalNeededError,
    ConfigRefusedError,
    GrantsRefusedError,
    PluginStartFailedError,
)
from host.lifecycle.applied import config_of
from host.lifecycle.errors import PluginNotStoppedError
from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.purges import Purges
from host.lifecycle.reconciler import Reconciler
from host.observe.audit import Audit
from host.observe.logging import PluginLogs
from host.port.errors import PluginNotRunningError
from host.port.services import not_running
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.registry.states import STEADY, PluginState, PluginStatus
from host.routing.event_log import EventLog
from host.routing.replay_store import ReplayStore
from host.scheduling.scheduler import Scheduler
from host.supply.installer import Installer, Release
from plugin_sdk.errors import HostError
from plugin_sdk.manifest import Permissions

MASK: Final = "********"
"""Stands for a secret that is set; sent back unchanged, it leaves the secret as it is."""
WAIT_SECONDS: Final = 90.0
"""How long a request waits for the reconciler before it answers with what is."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """The config as anyone may see it, and whether the plugin has it: a sentence."""

    shown: dict[str, Any]
    told: str


class Administration:
    """Install, enable, configure, call and remove plugins, on behalf of a named actor."""

    def __init__(
        self,
        *,
        registry: Registry,
        reconciler: Reconciler,
        installer: Installer,
        log: EventLog,
        replays: ReplayStore,
        scheduler: Scheduler,
        purges: Purges,
        logs: PluginLogs,
        audit: Audit,
        validate_config: Callable[[Release, dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._installer = installer
        self._log = log
        self._replays = replays
        self._scheduler = scheduler
        self._purges = purges
        self._logs = logs
        self._audit = audit
        self._validate_config = validate_config

    async def uninstall(self, plugin: str, *, purge: bool, actor: str) -> None:
        """Stop and forget a plugin and its place in the log; `purge` drops all that is kept of it, its files too.

        Raises:
            PluginNotFoundError: it is not installed, and nothing is left of it that could be purged.
            PluginLeavingError: somebody else uninstalls it already.
            PluginNotStoppedError: it is forgotten, and stopped as soon as it can be; what it leaves in the log goes
                when the host starts the next time.
            PurgeUnfinishedError: its data is in nobody's reach any more, but could not be removed altogether.
        """
        with self._registry.leaving(plugin):
            await self._registry.remove(plugin, purge=purge)
            await self.wait_until_caught_up(plugin)
            if not self._reconciler.gone(plugin):
                status = self._reconciler.status(plugin)
                raise PluginNotStoppedError(
                    f"{plugin} is uninstalled, but could not be stopped altogether: {status.evidence or status.cause}; "
                    "it is tried again, and what it has in the log goes when the host starts the next time"
                )
            await self._scheduler.forget(plugin)
            await self._replays.cancel_all(plugin)
            if purge:
                await self._log.forget(plugin)
                self._logs.forget(plugin)
            else:
                await self._log.retire(plugin, ())  # a cursor that nobody moves would hold the log for ever
            await self._done("plugin.uninstall", plugin, actor, {"purge": purge})
            if purge:
                await self._purges.clear(plugin)
                await self._purges.sweep()

    # -- desired state

    async def enable(self, plugin: str, *, actor: str, wait: bool = True) -> PluginStatus:
        """Have the plugin run.

        Raises:
            ApprovalNeededError: its release asks for more than is granted.
            PluginStartFailedError: it was started and failed.
        """
        record = self._registry.get(plugin)
        if record.missing_grants:
            raise ApprovalNeededError(
                f"{plugin} asks for permissions that are not granted: grant them with "
                f"PUT /api/v1/plugins/{plugin}/grants",
                errors=record.missing_grants,
            )
        if not record.enabled:
            await self._registry.change(plugin, enabled=True)
            await self._done("plugin.enable", plugin, actor)
        return await self._outcome(plugin, wait=wait)

    async def disable(self, plugin: str, *, actor: str, wait: bool = True) -> PluginStatus:
        """Have the plugin stop; its events wait for it in the log."""
        if self._registry.get(plugin).enabled:
            await self._registry.change(plugin, enabled=False)
            await self._done("plugin.disable", plugin, actor)
        if wait:
            await self.wait_until_steady(plugin)
        return self._reconciler.status(plugin)

    async def restart(self, plugin: str, *, actor: str, wait: bool = True) -> PluginStatus:
        """Stop and start the plugin; a failed one gets a new chance.

        Raises:
            PluginNotRunningError: it is not enabled.
            PluginStartFailedError: it was started and failed.
        """
        record = self._registry.get(plugin)
        if not record.enabled:
            raise PluginNotRunningError(f"{plugin} is disabled: enable it instead", code="plugin_disabled")
        await self._registry.change(plugin, generation=record.generation + 1)
        await self._done("plugin.restart", plugin, actor)
        return await self._outcome(plugin, wait=wait)

    async def set_breaker(self, plugin: str, wanted: str, *, actor: str) -> None:
        """Override the breaker; `closed` and `auto` leave it to itself afterwards."""
        record = self._registry.get(plugin)
        standing = "auto" if wanted == "closed" else wanted
        if standing != record.breaker:
            await self._registry.change(plugin, breaker=standing)
            await self.wait_until_caught_up(plugin)
        hosted = self._reconciler.hosted(plugin)
        if wanted == "closed" and hosted is not None:
            hosted.apply_breaker("closed")
        await self._done("plugin.breaker", plugin, actor, {"state": wanted})

    async def grant(self, plugin: str, granted: Permissions, *, actor: str) -> PluginRecord:
        """Say what the plugin is allowed; a running plugin is started anew with it.

        Raises:
            GrantsRefusedError: something is granted that the release does not ask for.
        """
        record = self._registry.get(plugin)
        asked = record.requested
        if record.candidate is not None:
            asked = asked.together(record.candidate.permissions)
        beyond = granted.beyond(asked)
        if beyond:
            raise GrantsRefusedError(
                f"{plugin} does not ask for everything that is granted here: leave the rest out",
                errors=beyond,
            )
        record = await self._registry.change(plugin, granted=granted)
        await self._done("plugin.grant", plugin, actor, {"granted": granted.model_dump()})
        await self.wait_until_steady(plugin, upgraded=True)
        return record

    # -- config

    def shown_config(self, plugin: str) -> dict[str, Any]:
        """The config as anyone may see it: secrets only as whether they are set."""
        record = self._registry.get(plugin)
        return {**record.config, **dict.fromkeys(record.secrets, MASK)}

    def config_schema(self, plugin: str) -> dict[str, Any]:
        """The JSON Schema of the config, the manifest's secrets among its properties."""
        record = self._registry.get(plugin)
        schema = dict(record.description.config_schema or {"type": "object", "properties": {}})
        secrets = {
            name: {"type": "string", "format": "password", "writeOnly": True} for name in record.requested.secrets
        }
        return {**schema, "properties": {**schema.get("properties", {}), **secrets}}

    async def configure(self, plugin: str, config: dict[str, Any], *, actor: str) -> Configured:
        """Replace the config, validated by the plugin's own model; the running plugin gets it at once.

        One that does not take it is started anew with it.

        Raises:
            ConfigRefusedError: the model refuses it, with a sentence for each field.
        """
        record = self._registry.get(plugin)
        names = set(record.requested.secrets) | record.secret_fields
        given = {name: value for name, value in config.items() if name in names}
        wrong = [name for name, value in given.items() if value is not None and not isinstance(value, str)]
        if wrong:
            raise ConfigRefusedError(f"secrets are strings: {', '.join(wrong)}")
        secrets = dict(record.secrets)
        for name, value in given.items():
            if value is None:
                secrets.pop(name, None)
            elif value != MASK:
                secrets[name] = value
        plain = {name: value for name, value in config.items() if name not in names}
        wanted = replace(record, config=plain, secrets=secrets)
        release = await self._installer.verify_installed(record.sha256)
        try:
            await self._validate_config(release, wanted.effective_config)
        except HostError as error:
            raise ConfigRefusedError(
                f"the config does not fit {plugin}'s model: {error}", errors=str(error).split("; ")
            ) from None
        record = await self._registry.change(
            plugin, config=plain, secrets=secrets, config_revision=record.config_revision + 1
        )
        await self._done("plugin.configure", plugin, actor, {"fields": sorted(config)})
        await self.wait_until_steady(plugin)
        await self.wait_until_caught_up(plugin)  # one that was just starting gets it once it runs
        return Configured(self.shown_config(plugin), self._told_of_config(plugin))

    def _told_of_config(self, plugin: str) -> str:
        record, hosted = self._registry.get(plugin), self._reconciler.hosted(plugin)
        if hosted is not None and hosted.running:
            if hosted.applied.config == config_of(record):
                return "the config is in force"
            return "the config is kept, but the plugin has not taken it yet"
        status = self._reconciler.status(plugin)
        why = f": {status.cause}" if status.cause else ""
        return f"the config is kept; the plugin gets it when it starts, and is {status.state.value}{why}"

    # -- the plugins as they are

    def running(self, plugin: str) -> HostedPlugin:
        """The plugin as it runs.

        Raises:
            PluginNotFoundError: it is not installed.
            PluginNotRunningError: it does not run now.
        """
        self._registry.get(plugin)
        hosted = self._reconciler.hosted(plugin)
        if hosted is None or not hosted.running:
            raise not_running(plugin, self._reconciler.status(plugin))
        return hosted

    def hosted(self, plugin: str) -> HostedPlugin:
        """The plugin as it is hosted, running or not.

        Raises:
            PluginNotFoundError: it is not installed.
            PluginNotRunningError: it is not hosted now: disabled, or not approved.
        """
        self._registry.get(plugin)
        hosted = self._reconciler.hosted(plugin)
        if hosted is None:
            state = self._reconciler.status(plugin).state.value
            raise PluginNotRunningError(f"{plugin} is {state}, so it has no breaker now: enable it first")
        return hosted

    # -- inside

    async def _outcome(self, plugin: str, *, wait: bool) -> PluginStatus:
        if wait:
            await self.wait_until_steady(plugin)
        status = self._reconciler.status(plugin)
        if wait and status.state is PluginState.FAILED:
            raise PluginStartFailedError(
                f"{plugin} could not be started: {status.cause}",
                errors=(status.evidence,) if status.evidence else (),
            )
        return status

    async def wait_until_steady(self, plugin: str, *, upgraded: bool = False) -> None:
        """Wait until what was changed is brought to the plugin and its state stands for a while, or the limit is up.

        With `upgraded`, a release that is on its way to take over is waited for, too.
        """
        with self._reconciler.watch(plugin) as changed:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._reconciler.caught_up(plugin)
                    while not self._steady(plugin, upgraded=upgraded):
                        changed.clear()
                        await changed.wait()
            except TimeoutError:
                _log.warning("plugin_not_steady", plugin=plugin, seconds=WAIT_SECONDS)

    def _steady(self, plugin: str, *, upgraded: bool) -> bool:
        if upgraded and self._reconciler.upgrading(plugin):
            return False
        return self._reconciler.status(plugin).state in STEADY

    async def wait_until_caught_up(self, plugin: str) -> None:
        """Wait until what was changed is brought to the plugin, or the limit is up."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._reconciler.caught_up(plugin)
        except TimeoutError:
            _log.warning("plugin_not_caught_up", plugin=plugin, seconds=WAIT_SECONDS)

    async def _done(self, action: str, target: str, actor: str, detail: dict[str, Any] | None = None) -> None:
        await self._audit.record(actor=actor, action=action, target=target, detail=detail or {}, outcome="done")
