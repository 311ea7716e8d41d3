"""Plugins over HTTP: list, change what is wanted, configure, call."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from host.administration.administration import Administration
from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View, validated
from host.api.envelope import rfc3339, written
from host.identity.access import Role
from host.lifecycle.reconciler import Reconciler
from host.port.services import Services
from host.registry.records import PluginRecord, UpgradeOutcome
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from plugin_sdk.manifest import Permissions

BASE: Final = "/api/v1/plugins"
ONE: Final = BASE + "/{id}"


class PluginList(PageQuery):
    """Query of the list."""

    state: PluginState | None = None
    q: Annotated[str | None, Field(max_length=200, description="Part of an id or title.")] = None


class Wait(View):
    """Whether to answer only once the change is reconciled."""

    wait: bool = True


class Uninstall(View):
    """Query of an uninstall."""

    purge: bool = False


class PermissionsView(View):
    """Permissions of a manifest, or grants."""

    subscribe: list[str] = []
    publish: list[str] = []
    call: list[str] = []
    network: list[str] = []
    secrets: list[str] = []
    webhooks: list[str] = []
    routes: bool = False


class UpgradeView(View):
    """How the last upgrade or rollback of a plugin went; until `probationUntil` the host goes back by itself."""

    state: UpgradeOutcome
    from_version: str
    to_version: str
    reason: str
    at: str
    missing_grants: list[str]
    probation_until: str | None


class PluginView(View):
    """A plugin as the API shows it. Times are RFC 3339."""

    id: str
    title: str
    version: str
    publisher: str
    release: Annotated[str, Field(description="SHA-256 of the wheel.")]
    index: Annotated[
        str | None, Field(description="The index that the plugin is bound to; null where it was uploaded.")
    ]
    enabled: bool
    state: PluginState
    since: str
    cause: str
    evidence: str
    next_action: str
    next_action_at: str | None
    permissions: PermissionsView
    grants: PermissionsView
    missing_grants: list[str]
    subscriptions: list[str]
    schedules: list[str]
    services: list[str]
    previous_version: str | None
    upgrade: UpgradeView | None
    installed_at: str
    changed_at: str


class Plugins:
    """The handlers."""

    def __init__(
        self,
        *,
        administration: Administration,
        registry: Registry,
        reconciler: Reconciler,
        services: Services,
    ) -> None:
        self._administration = administration
        self._registry = registry
        self._reconciler = reconciler
        self._services = services

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        viewer, operator, admin = Role.VIEWER, Role.OPERATOR, Role.ADMIN
        return (
            Endpoint(
                "GET",
                BASE,
                "listPlugins",
                "List the installed plugins.",
                viewer,
                self.list,
                query=PluginList,
                response=PluginView,
                many=True,
            ),
            Endpoint("GET", ONE, "showPlugin", "Show one plugin.", viewer, self.show, response=PluginView),
            Endpoint(
                "DELETE",
                ONE,
                "uninstallPlugin",
                "Uninstall a plugin.",
                admin,
                self.uninstall,
                query=Uninstall,
            ),
            Endpoint(
                "POST",
                ONE + "/enable",
                "enablePlugin",
                "Have it run.",
                operator,
                self.enable,
                query=Wait,
                response=PluginView,
                also=(202,),
            ),
            Endpoint(
                "POST",
                ONE + "/disable",
                "disablePlugin",
                "Have it stop; its events wait.",
                operator,
                self.disable,
                query=Wait,
                response=PluginView,
                also=(202,),
            ),
            Endpoint(
                "POST",
                ONE + "/restart",
                "restartPlugin",
                "Stop and start it.",
                operator,
                self.restart,
                query=Wait,
                response=PluginView,
                also=(202,),
            ),
            Endpoint(
                "GET",
                ONE + "/config",
                "showConfig",
                "Show its config; secrets are masked.",
                viewer,
                self.config,
            ),
            Endpoint(
                "PUT",
                ONE + "/config",
                "replaceConfig",
                "Replace its config.",
                admin,
                self.configure,
                request=dict,
            ),
            Endpoint(
                "GET",
                ONE + "/config/schema",
                "showConfigSchema",
                "Show the JSON Schema of its config.",
                viewer,
                self.schema,
            ),
            Endpoint(
                "GET",
                ONE + "/grants",
                "showGrants",
                "Show what it is allowed.",
                viewer,
                self.grants,
                response=PermissionsView,
            ),
            Endpoint(
                "PUT",
                ONE + "/grants",
                "replaceGrants",
                "Say what it is allowed.",
                admin,
                self.grant,
                request=PermissionsView,
                response=PermissionsView,
            ),
            Endpoint(
                "POST",
                ONE + "/call/{method}",
                "callService",
                "Call one of its services.",
                operator,
                self.call,
                request=dict,
            ),
        )

    # -- what there is

    async def list(self, call: Call) -> Answer:
        """The installed plugins, by id."""
        query: PluginList = call.query
        wanted = (query.q or "").lower()
        found = [
            view
            for view in map(self._view, self._registry.all())
            if (wanted in view.id or wanted in view.title.lower()) and query.state in {None, view.state}
        ]
        return Answer.paged(found[query.offset : query.offset + query.limit], query, len(found))

    async def show(self, call: Call) -> Answer:
        """One plugin."""
        return Answer(self._view(self._registry.get(call.path("id"))))

    # -- desired state

    async def uninstall(self, call: Call) -> Answer:
        """Stop it and forget it."""
        plugin = call.path("id")
        await self._administration.uninstall(plugin, purge=call.query.purge, actor=call.actor)
        return Answer({"id": plugin}, message=f"{plugin} uninstalled")

    async def enable(self, call: Call) -> Answer:
        """Have it run."""
        await self._administration.enable(call.path("id"), actor=call.actor, wait=call.query.wait)
        return self._changed(call)

    async def disable(self, call: Call) -> Answer:
        """Have it stop."""
        await self._administration.disable(call.path("id"), actor=call.actor, wait=call.query.wait)
        return self._changed(call)

    async def restart(self, call: Call) -> Answer:
        """Stop and start it."""
        await self._administration.restart(call.path("id"), actor=call.actor, wait=call.query.wait)
        return self._changed(call)

    async def grants(self, call: Call) -> Answer:
        """What it is allowed."""
        return Answer(_permissions(self._registry.get(call.path("id")).granted))

    async def grant(self, call: Call) -> Answer:
        """Say what it is allowed."""
        self._registry.get(call.path("id"))
        granted = validated(Permissions, call.body.model_dump(), "grants_invalid", "these are no permissions")
        record = await self._administration.grant(call.path("id"), granted, actor=call.actor)
        return Answer(_permissions(record.granted))

    # -- config and services

    async def config(self, call: Call) -> Answer:
        """Its config, secrets masked."""
        return Answer(self._administration.shown_config(call.path("id")))

    async def configure(self, call: Call) -> Answer:
        """Replace its config."""
        found = await self._administration.configure(call.path("id"), call.body, actor=call.actor)
        return Answer(found.shown, message=found.told)

    async def schema(self, call: Call) -> Answer:
        """The JSON Schema of its config."""
        return Answer(self._administration.config_schema(call.path("id")))

    async def call(self, call: Call) -> Answer:
        """Call a service."""
        found = await self._services.call(call.path("id"), call.path("method"), call.body, actor=call.actor)
        return Answer(found)

    # -- inside

    def _changed(self, call: Call) -> Answer:
        view = self._view(self._registry.get(call.path("id")))
        return Answer(view, status=200 if call.query.wait else 202, message=f"{view.id} is {view.state.value}")

    def _view(self, record: PluginRecord) -> PluginView:
        return plugin_view(record, self._reconciler.status(record.id))


def plugin_view(record: PluginRecord, status: PluginStatus) -> PluginView:
    """A plugin as the API shows it."""
    last = record.last_upgrade
    upgrade = None
    if last is not None:
        upgrade = UpgradeView(
            state=last.outcome,
            from_version=last.from_version,
            to_version=last.to_version,
            reason=last.reason,
            at=written(last.at),
            missing_grants=list(record.candidate_missing_grants),
            probation_until=rfc3339(record.probation_until),
        )
    return PluginView(
        id=record.id,
        title=record.title,
        version=record.version,
        publisher=record.publisher,
        release=record.sha256,
        index=None if record.origin is None else record.origin.index,
        enabled=record.enabled,
        state=status.state,
        since=written(status.since),
        cause=status.cause,
        evidence=status.evidence,
        next_action=status.next_action,
        next_action_at=rfc3339(status.next_action_at),
        permissions=_permissions(record.requested),
        grants=_permissions(record.granted),
        missing_grants=list(record.missing_grants),
        subscriptions=[one.name for one in record.description.subscriptions],
        schedules=[one.name for one in record.description.schedules],
        services=[one.name for one in record.description.services],
        previous_version=None if record.previous is None else record.previous.version,
        upgrade=upgrade,
        installed_at=written(record.installed_at),
        changed_at=written(record.changed_at),
    )


def _permissions(found: Permissions) -> PermissionsView:
    return PermissionsView.model_validate(found.model_dump(mode="json"))
