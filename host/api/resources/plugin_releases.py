"""Releases of plugins over HTTP: install, upgrade, go back."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from host.administration.installation import Installation, InstallOptions
from host.api.endpoint import PARTS, Answer, Call, Endpoint, View
from host.api.resources.plugin_upload import chunks, receive
from host.api.resources.plugins import BASE, ONE, PluginView, Wait, plugin_view
from host.identity.access import Role
from host.lifecycle.reconciler import Reconciler
from host.registry.records import PluginRecord, UpgradeOutcome
from host.registry.registry import Registry
from host.supply.installer import Override, ReceivedRelease

CYCLONEDX: Final = "application/vnd.cyclonedx+json"
VIEWER: Final = Role.VIEWER


class Upgrade(View):
    """Query of an upgrade."""

    wait: bool = True
    allow_downgrade: Annotated[bool, Field(description="Take an older version or sequence.")] = False
    allow_publisher_change: Annotated[bool, Field(description="Take it from another publisher.")] = False
    grant: Annotated[bool, Field(description="Grant what the release asks for beyond what is granted.")] = False

    @property
    def overrides(self) -> frozenset[Override]:
        """The rules that are set aside."""
        wanted = {Override.DOWNGRADE: self.allow_downgrade, Override.PUBLISHER: self.allow_publisher_change}
        return frozenset(rule for rule, allowed in wanted.items() if allowed)


class Install(Upgrade):
    """Query of an install."""

    enable: bool = False


class Required(View):
    """Which release, to be had from an index: `name`, `name==1.2`, `name>=1,<2`."""

    requirement: Annotated[str, Field(min_length=1, max_length=500)]


class RequiredUpgrade(View):
    """Which release to upgrade to; the newest where nothing is said."""

    requirement: Annotated[str | None, Field(min_length=1, max_length=500)] = None


class PluginReleases:
    """The handlers.

    Args:
        installation: Takes releases in.
        registry: Where they are recorded.
        reconciler: For how the plugins are.
        spool: Folder for wheels while they are received.
        max_wheel: Bytes that a wheel may have.
    """

    def __init__(
        self,
        *,
        installation: Installation,
        registry: Registry,
        reconciler: Reconciler,
        spool: Path,
        max_wheel: int,
    ) -> None:
        self._installation = installation
        self._registry = registry
        self._reconciler = reconciler
        self._spool = spool
        self._max_wheel = max_wheel

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                BASE,
                "installPlugin",
                "Install a signed release, uploaded or from an index.",
                Role.ADMIN,
                self.install,
                query=Install,
                request=Required,
                response=PluginView,
                status=201,
                form=("wheel", "attestations"),
            ),
            Endpoint(
                "POST",
                ONE + "/upgrade",
                "upgradePlugin",
                "Have a signed release take over from the one that is installed.",
                Role.ADMIN,
                self.upgrade,
                query=Upgrade,
                request=RequiredUpgrade,
                response=PluginView,
                also=(202,),
                form=("wheel", "attestations"),
            ),
            Endpoint(
                "POST",
                ONE + "/rollback",
                "rollBackPlugin",
                "Have the release before this one take over again.",
                Role.ADMIN,
                self.roll_back,
                query=Wait,
                response=PluginView,
                also=(202,),
            ),
            Endpoint("GET", ONE + "/scan", "showScan", "Show what the scan of its release found.", VIEWER, self.scan),
            Endpoint(
                "GET",
                ONE + "/bill-of-materials",
                "showBillOfMaterials",
                "Its release's bill of materials, as CycloneDX.",
                VIEWER,
                raw=self.bill,
                produces=CYCLONEDX,
            ),
        )

    async def install(self, call: Call) -> Answer:
        """Receive a release, or fetch it, and take it in."""
        query: Install = call.query
        options = self._options(query, None, enable=query.enable)
        if call.body is None:
            record = await self._received(call, options)
        else:
            record = await self._installation.install_required(call.body.requirement, options, actor=call.actor)
        view = self._view(record)
        return Answer(view, message=_sentence(record, view), headers={"Location": f"{BASE}/{view.id}"})

    async def upgrade(self, call: Call) -> Answer:
        """Receive a release of an installed plugin, or fetch it."""
        plugin = self._registry.get(call.path("id")).id
        options = self._options(call.query, plugin, enable=False)
        if call.body is None:
            record = await self._received(call, options)
        else:
            wanted = call.body.requirement or plugin
            record = await self._installation.install_required(wanted, options, actor=call.actor)
        return self._changed(record, wait=call.query.wait)

    async def roll_back(self, call: Call) -> Answer:
        """Go back."""
        record = await self._installation.roll_back(call.path("id"), actor=call.actor, wait=call.query.wait)
        return self._changed(record, wait=call.query.wait)

    async def scan(self, call: Call) -> Answer:
        """The report as it was written when the release was taken in."""
        return Answer(await self._installation.scan_report(call.path("id")))

    async def bill(self, request: web.BaseRequest) -> web.StreamResponse:
        """The document alone, for the tools that read it."""
        found = await self._installation.bill_of_materials(request[PARTS]["id"])
        return web.Response(body=found, content_type=CYCLONEDX)

    async def _received(self, call: Call, options: InstallOptions) -> PluginRecord:
        with NamedTemporaryFile(dir=self._spool, prefix="upload-") as spooled:
            filename, attestations = await receive(call.request, spooled, self._max_wheel)
            received = ReceivedRelease(chunks(spooled), filename, attestations)
            return await self._installation.install(received, options, actor=call.actor)

    @staticmethod
    def _options(query: Upgrade, only: str | None, *, enable: bool) -> InstallOptions:
        return InstallOptions(enable=enable, wait=query.wait, only=only, overrides=query.overrides, grant=query.grant)

    def _changed(self, record: PluginRecord, *, wait: bool) -> Answer:
        view = self._view(record)
        return Answer(view, status=200 if wait else 202, message=_sentence(record, view))

    def _view(self, record: PluginRecord) -> PluginView:
        return plugin_view(record, self._reconciler.status(record.id))


def _sentence(record: PluginRecord, view: PluginView) -> str:
    last = record.last_upgrade
    if last is not None and last.outcome is UpgradeOutcome.WAITING:
        return (
            f"{view.id} {last.to_version} waits for approval, {view.version} runs on: {last.reason}; "
            f"grant them with PUT /api/v1/plugins/{view.id}/grants"
        )
    return f"{view.id} {view.version} installed: {view.state.value}"
