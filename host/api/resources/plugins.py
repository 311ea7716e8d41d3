"""Plugins over HTTP: install, look, change what is wanted, configure, call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Final, Literal

from aiohttp import BodyPartReader
from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View
from host.api.envelope import rfc3339, written
from host.api.errors import BadRequestError, BodyTooLargeError, UnsupportedMediaError
from host.control.access import Role
from host.control.administration import Administration
from host.control.hosted_plugin import HostedPlugin
from host.control.reconciler import Reconciler
from host.control.registry import PluginRecord, Registry
from host.control.services import Services
from host.control.states import PluginState
from host.observe.logging import PluginLogs
from plugin_sdk.manifest import Permissions

BASE: Final = "/api/v1/plugins"
ONE: Final = BASE + "/{id}"
MAX_ATTESTATIONS: Final = 4 * 2**20
CHUNK: Final = 256 * 1024


class PluginList(PageQuery):
    """Query of the list."""

    state: PluginState | None = None
    q: Annotated[str | None, Field(max_length=200, description="Part of an id or title.")] = None


class Install(View):
    """Query of an install."""

    enable: bool = False
    wait: bool = True


class Wait(View):
    """Whether to answer only once the change is reconciled."""

    wait: bool = True


class Uninstall(View):
    """Query of an uninstall."""

    purge: bool = False


class Override(View):
    """What an operator wants of a breaker."""

    state: Literal["closed", "open", "disabled", "auto"]


class LogLines(View):
    """Query of the plugin's log."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class PermissionsView(View):
    """Permissions of a manifest, or grants."""

    subscribe: list[str] = []
    publish: list[str] = []
    call: list[str] = []
    network: list[str] = []
    secrets: list[str] = []
    webhooks: list[str] = []
    routes: bool = False


class PluginView(View):
    """A plugin as the API shows it. Times are RFC 3339."""

    id: str
    title: str
    version: str
    publisher: str
    release: Annotated[str, Field(description="SHA-256 of the wheel.")]
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
    installed_at: str
    changed_at: str


class BreakerView(View):
    """A breaker as the API shows it."""

    state: str
    since: str
    reason: str
    override: str
    consecutive_failures: int
    failure_rate: float | None
    slow_call_rate: float | None
    calls: int
    rejected: int
    next_attempt_at: str | None


class CheckView(View):
    """One thing that was looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str


class WorkerView(View):
    """The plugin's worker process; pid and memory are null where there is none.

    `started` is `forked`, `cold` or `inline`; `sandbox` says of each part `enforced`, `off` or `unavailable: why`.
    """

    isolation: str
    started: str
    pid: int | None
    rss_bytes: int | None
    started_at: str | None
    in_flight: int
    sandbox: dict[str, str]


class HealthView(View):
    """How a plugin is."""

    state: PluginState
    since: str
    cause: str
    evidence: str
    next_action: str
    next_action_at: str | None
    checks: list[CheckView]
    breaker: BreakerView | None
    worker: WorkerView | None
    lag: int
    restarts: int
    last_error: str
    last_stack: str


class LogLineView(View):
    """One line that the plugin logged or printed."""

    at: str
    level: str
    message: str


class Plugins:
    """The handlers.

    Args:
        spool: Folder for wheels while they are received.
        max_wheel: Bytes that a wheel may have.
    """

    def __init__(
        self,
        *,
        administration: Administration,
        registry: Registry,
        reconciler: Reconciler,
        services: Services,
        logs: PluginLogs,
        spool: Path,
        max_wheel: int,
    ) -> None:
        self._administration = administration
        self._registry = registry
        self._reconciler = reconciler
        self._services = services
        self._logs = logs
        self._spool = spool
        self._max_wheel = max_wheel

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
            Endpoint(
                "POST",
                BASE,
                "installPlugin",
                "Install a signed release.",
                admin,
                self.install,
                query=Install,
                response=PluginView,
                status=201,
                form=("wheel", "attestations"),
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
                "GET",
                ONE + "/health",
                "showPluginHealth",
                "Show how it is.",
                viewer,
                self.health,
                response=HealthView,
            ),
            Endpoint(
                "GET",
                ONE + "/breaker",
                "showBreaker",
                "Show its breaker.",
                viewer,
                self.breaker,
                response=BreakerView,
            ),
            Endpoint(
                "POST",
                ONE + "/breaker",
                "overrideBreaker",
                "Override its breaker.",
                operator,
                self.override,
                request=Override,
                response=BreakerView,
            ),
            Endpoint(
                "GET",
                ONE + "/logs",
                "showLogs",
                "Show what it logged.",
                viewer,
                self.logs,
                query=LogLines,
                response=LogLineView,
                many=True,
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

    async def health(self, call: Call) -> Answer:
        """State, checks, breaker, worker, lag, restarts, last error."""
        record = self._registry.get(call.path("id"))
        return Answer(_health(self._view(record), record, self._reconciler.hosted(record.id)))

    async def logs(self, call: Call) -> Answer:
        """The last lines, the oldest first."""
        record = self._registry.get(call.path("id"))
        lines = self._logs.tail(record.id, call.query.limit)
        return Answer([LogLineView(at=written(line.at), level=line.level, message=line.message) for line in lines])

    # -- desired state

    async def install(self, call: Call) -> Answer:
        """Receive the two parts of a release, then let the administration take them in."""
        if call.request.content_type != "multipart/form-data":
            raise UnsupportedMediaError("send multipart/form-data with the parts 'wheel' and 'attestations'")
        with NamedTemporaryFile(dir=self._spool, prefix="upload-") as spooled:
            filename, attestations = await self._receive(call, spooled)
            record = await self._administration.install(
                _chunks(spooled),
                filename,
                attestations,
                enable=call.query.enable,
                actor=call.actor,
                wait=call.query.wait,
            )
        view = self._view(self._registry.get(record.id))
        return Answer(
            view,
            message=f"{view.id} {view.version} installed: {view.state.value}",
            headers={"Location": f"{BASE}/{view.id}"},
        )

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
        granted = Permissions.model_validate(call.body.model_dump())
        record = await self._administration.grant(call.path("id"), granted, actor=call.actor)
        return Answer(_permissions(record.granted))

    async def breaker(self, call: Call) -> Answer:
        """Its breaker."""
        record = self._registry.get(call.path("id"))
        return Answer(_breaker(record, self._administration.hosted(record.id)))

    async def override(self, call: Call) -> Answer:
        """Override its breaker, or release it."""
        plugin = call.path("id")
        await self._administration.set_breaker(plugin, call.body.state, actor=call.actor)
        return Answer(_breaker(self._registry.get(plugin), self._administration.hosted(plugin)))

    # -- config and services

    async def config(self, call: Call) -> Answer:
        """Its config, secrets masked."""
        return Answer(self._administration.shown_config(call.path("id")))

    async def configure(self, call: Call) -> Answer:
        """Replace its config."""
        found = await self._administration.configure(call.path("id"), call.body, actor=call.actor)
        return Answer(found, message="the config is in force")

    async def schema(self, call: Call) -> Answer:
        """The JSON Schema of its config."""
        return Answer(self._administration.config_schema(call.path("id")))

    async def call(self, call: Call) -> Answer:
        """Call a service."""
        found = await self._services.call(call.path("id"), call.path("method"), call.body)
        return Answer(found)

    # -- inside

    def _changed(self, call: Call) -> Answer:
        view = self._view(self._registry.get(call.path("id")))
        return Answer(view, status=200 if call.query.wait else 202, message=f"{view.id} is {view.state.value}")

    def _view(self, record: PluginRecord) -> PluginView:
        status = self._reconciler.status(record.id)
        return PluginView(
            id=record.id,
            title=record.title,
            version=record.version,
            publisher=record.publisher,
            release=record.sha256,
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
            installed_at=written(record.installed_at),
            changed_at=written(record.changed_at),
        )

    async def _receive(self, call: Call, spooled: IO[bytes]) -> tuple[str, bytes]:
        """Spool the wheel and keep the attestations: either may come first."""
        filename: str | None = None
        attestations: bytes | None = None
        try:
            async for part in await call.request.multipart():
                if isinstance(part, BodyPartReader) and part.name == "wheel" and filename is None:
                    filename = part.filename or ""
                    await _spool(part, spooled, self._max_wheel)
                elif isinstance(part, BodyPartReader) and part.name == "attestations" and attestations is None:
                    attestations = await _small(part)
                else:
                    raise BadRequestError(
                        "the form has the parts 'wheel' and 'attestations', once each", code="form_invalid"
                    )
        except ValueError as error:
            raise BadRequestError(f"the form is malformed: {error}", code="form_invalid") from None
        if not filename:
            raise BadRequestError("the form has no part 'wheel' with a file name", code="form_invalid")
        return filename, attestations or b""


async def _spool(part: BodyPartReader, file: IO[bytes], limit: int) -> None:
    size = 0
    while chunk := await part.read_chunk(CHUNK):
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"a wheel has at most {limit} bytes", code="release_size_limit")
        await asyncio.to_thread(file.write, chunk)
    await asyncio.to_thread(file.seek, 0)


async def _small(part: BodyPartReader) -> bytes:
    content = bytearray()
    while chunk := await part.read_chunk(CHUNK):
        content += chunk
        if len(content) > MAX_ATTESTATIONS:
            raise BodyTooLargeError(f"attestations have at most {MAX_ATTESTATIONS} bytes", code="release_size_limit")
    return bytes(content)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


def _permissions(found: Permissions) -> PermissionsView:
    return PermissionsView.model_validate(found.model_dump(mode="json"))


def _health(view: PluginView, record: PluginRecord, hosted: HostedPlugin | None) -> HealthView:
    common = {
        name: getattr(view, name) for name in ("state", "since", "cause", "evidence", "next_action", "next_action_at")
    }
    if hosted is None:
        return HealthView(
            **common, checks=[], breaker=None, worker=None, lag=0, restarts=0, last_error="", last_stack=""
        )
    supervisor = hosted.supervisor
    seen = supervisor.snapshot()
    worker = None
    if seen is not None:
        worker = WorkerView(
            isolation=seen.isolation,
            started=seen.started,
            pid=seen.pid,
            rss_bytes=seen.rss_bytes,
            started_at=written(supervisor.status.since) if supervisor.running else None,
            in_flight=seen.in_flight,
            sandbox=dict(seen.sandbox),
        )
    breaker = _breaker(record, hosted)
    checks = [
        CheckView(name="runtime", status="pass" if supervisor.running else "fail", output=supervisor.status.cause),
        CheckView(
            name="breaker",
            status="pass" if breaker.state in {"closed", "disabled"} else "warn",
            output=breaker.reason,
        ),
        CheckView(name="plugin", status=hosted.health.status, output=hosted.health.reason),
    ]
    return HealthView(
        **common,
        checks=checks,
        breaker=breaker,
        worker=worker,
        lag=hosted.deliveries.lag,
        restarts=supervisor.restarts,
        last_error=supervisor.last_error,
        last_stack=supervisor.last_stack,
    )


def _breaker(record: PluginRecord, hosted: HostedPlugin) -> BreakerView:
    seen = hosted.guard.breaker.snapshot()
    return BreakerView(
        state=seen.state.value,
        since=written(seen.since),
        reason=seen.reason,
        override=record.breaker,
        consecutive_failures=seen.consecutive_failures,
        failure_rate=seen.failure_rate,
        slow_call_rate=seen.slow_call_rate,
        calls=seen.calls,
        rejected=seen.rejected,
        next_attempt_at=rfc3339(seen.next_attempt_at),
    )
