"""The host itself over HTTP: probes, health, metrics, audit trail, OpenAPI."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from host.api.endpoint import TRACE, Answer, Call, Endpoint, PageQuery, View, authenticate
from host.api.envelope import success, written
from host.api.errors import UnauthenticatedError
from host.api.openapi import document, page
from host.identity.access import Role, Tokens
from host.observe.audit import Audit
from host.observe.health import Check
from host.observe.metrics import CONTENT_TYPE, Metrics

PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class AuditView(View):
    """One entry of the audit trail."""

    at: str
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    outcome: str


class System:
    """The handlers.

    Args:
        tokens: For what is shown only to those who have one.
        metrics: What `/metrics` shows.
        audit: What `/api/v1/audit` shows.
        checks: Looks at the host's parts.
        ready: Whether the host takes work.
        public_metrics: Whether `/metrics` needs no token.
        version: Of the host.
    """

    def __init__(
        self,
        *,
        tokens: Tokens,
        metrics: Metrics,
        audit: Audit,
        checks: Callable[[], Awaitable[Sequence[Check]]],
        ready: Callable[[], bool],
        public_metrics: bool,
        version: str,
    ) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._audit = audit
        self._checks = checks
        self._ready = ready
        self._public_metrics = public_metrics
        self._version = version
        self._started = time.monotonic()
        self._table: tuple[Endpoint, ...] = ()
        self._document = b""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        metrics_role = None if self._public_metrics else Role.VIEWER
        return (
            Endpoint("GET", "/livez", "live", "Whether the host's loop turns.", None, raw=self.live, quiet=True),
            Endpoint(
                "GET",
                "/readyz",
                "ready",
                "Whether the host takes work; 503 where not.",
                None,
                raw=self.ready,
                also=(503,),
                quiet=True,
            ),
            Endpoint(
                "GET",
                "/health",
                "health",
                "How the host is; details for those with a token.",
                None,
                raw=self.health,
                also=(503,),
                quiet=True,
            ),
            Endpoint(
                "GET",
                "/api/v1/system/health",
                "systemHealth",
                "How each part of the host is.",
                Role.VIEWER,
                self.system_health,
            ),
            Endpoint(
                "GET",
                "/metrics",
                "metrics",
                "Prometheus metrics.",
                metrics_role,
                raw=self.metrics,
                quiet=True,
                produces="text/plain",
            ),
            Endpoint(
                "GET",
                "/api/v1/audit",
                "listAudit",
                "Who did what, the newest first.",
                Role.ADMIN,
                self.audit,
                query=PageQuery,
                response=AuditView,
                many=True,
            ),
            Endpoint(
                "GET",
                "/api/openapi.json",
                "openapi",
                "This API as OpenAPI 3.1.",
                None,
                raw=self.openapi,
                produces="application/json",
            ),
            Endpoint("GET", "/api/docs", "docs", "This API as a page.", None, raw=self.docs, produces="text/html"),
        )

    def describe(self, table: tuple[Endpoint, ...]) -> None:
        """Show this table in the OpenAPI document and on the page."""
        self._table = table
        self._document = msgspec.json.encode(document(table, self._version))

    async def live(self, request: web.BaseRequest) -> web.StreamResponse:
        """The loop turns, or this would not answer."""
        return success({"status": "pass"}, request[TRACE])

    async def ready(self, request: web.BaseRequest) -> web.StreamResponse:
        """The database answers, and the host is not stopping."""
        checks = await self._checks()
        fit = self._ready() and all(check.status != "fail" for check in checks)
        return success({"status": "pass" if fit else "fail"}, request[TRACE], status=200 if fit else 503)

    async def health(self, request: web.BaseRequest) -> web.StreamResponse:
        """Status, uptime; and the checks, for those with a token."""
        report = await self._report()
        try:
            authenticate(request, self._tokens, Role.VIEWER)
        except UnauthenticatedError:
            report = {name: report[name] for name in ("status", "uptime")}
        status = 503 if report["status"] == "fail" else 200
        return success(report, request[TRACE], status=status)

    async def system_health(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """The checks."""
        return Answer(await self._report())

    async def metrics(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - as above
        """The metrics, in Prometheus's text format."""
        response = web.Response(body=self._metrics.render())
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def audit(self, call: Call) -> Answer:
        """A page of the trail."""
        query: PageQuery = call.query
        entries, total = await self._audit.page(query.offset, query.limit)
        views = [
            AuditView(
                at=written(one.at),
                actor=one.actor,
                action=one.action,
                target=one.target,
                detail=one.detail,
                outcome=one.outcome,
            )
            for one in entries
        ]
        return Answer.paged(views, query, total)

    async def openapi(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - as above
        """The document."""
        return web.Response(body=self._document, content_type="application/json")

    async def docs(self, request: web.BaseRequest) -> web.StreamResponse:  # noqa: ARG002 - as above
        """The page."""
        return web.Response(
            text=page(self._table, self._version),
            content_type="text/html",
            headers={"Content-Security-Policy": PAGE_POLICY},
        )

    async def _report(self) -> dict[str, Any]:
        checks = await self._checks()
        worst = "fail" if any(one.status == "fail" for one in checks) else "pass"
        if worst == "pass" and any(one.status == "warn" for one in checks):
            worst = "warn"
        return {
            "status": worst,
            "version": self._version,
            "uptime": round(time.monotonic() - self._started, 1),
            "checks": {
                one.name: {"status": one.status, "output": one.output, "responseTime": one.response_ms}
                for one in checks
            },
        }
