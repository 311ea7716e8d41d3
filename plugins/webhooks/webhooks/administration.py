"""What the routes do: endpoints made, changed, rotated and looked at; messages tested, seen and recovered."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from plugin_sdk import Context, InvalidEventError, Request, new_event
from plugin_sdk.clock import Clock
from plugin_sdk.events import new_id
from webhooks.backlog import Backlogs, Done, FullError
from webhooks.endpoints import Directory, Endpoint, new_endpoint_id, not_found
from webhooks.errors import ApiError
from webhooks.keys import first_keys, rotated, shown
from webhooks.messages import Attempt, Message, instant, new_message
from webhooks.pump import Pump, judge
from webhooks.requests import Create, Recover, Rotate, SendTest, Update, parsed
from webhooks.routes import Routes
from webhooks.sending import BusyError, Sender
from webhooks.url_guard import checked_url

PAGE: Final = 50
LONGEST_PAGE: Final = 100
RECOVERED_AT_ONCE: Final = 100
RECOVER_WITHIN: Final = 14 * 86_400.0
"""Seconds back from now that messages can be recovered from."""

Answer = tuple[int, Any]


class Administration:
    """The handlers, and the table that leads to them."""

    def __init__(
        self, context: Context, directory: Directory, backlogs: Backlogs, pump: Pump, sender: Sender, clock: Clock
    ) -> None:
        self._context = context
        self._directory = directory
        self._backlogs = backlogs
        self._pump = pump
        self._sender = sender
        self._clock = clock

    def routes(self) -> Routes:
        """The table."""
        routes = Routes()
        routes.add("GET", "/endpoints", self.list)
        routes.add("POST", "/endpoints", self.create)
        routes.add("GET", "/endpoints/{}", self.get)
        routes.add("PATCH", "/endpoints/{}", self.update)
        routes.add("DELETE", "/endpoints/{}", self.delete)
        routes.add("POST", "/endpoints/{}/enable", self.enable)
        routes.add("POST", "/endpoints/{}/disable", self.disable)
        routes.add("GET", "/endpoints/{}/secret", self.secret)
        routes.add("POST", "/endpoints/{}/secret/rotate", self.rotate)
        routes.add("GET", "/endpoints/{}/attempts", self.attempts)
        routes.add("GET", "/endpoints/{}/stats", self.stats)
        routes.add("POST", "/endpoints/{}/test", self.test)
        routes.add("POST", "/endpoints/{}/recover", self.recover)
        return routes

    # -- endpoints

    async def list(self, request: Request) -> Answer:
        """A page of endpoints, in the order in which they were made; `next` is the `after` of the next page."""
        limit, after = _limit(request), request.query.get("after", "")
        found = [one for one in self._directory if one.id > after][: limit + 1]
        more = found[limit - 1].id if len(found) > limit else None
        return 200, {"data": [one.shown() for one in found[:limit]], "next": more}

    async def create(self, request: Request) -> Answer:
        """A new endpoint, with its secret."""
        wanted = parsed(Create, request.body)
        now = self._now()
        endpoint = Endpoint(
            id=new_endpoint_id(),
            url=self._checked(wanted.url),
            keys=first_keys(wanted.secret),
            created=now,
            updated=now,
            description=wanted.description,
            types=wanted.types,
            filters=wanted.filters,
            enabled=wanted.enabled,
            rate=wanted.rate_per_second,
            headers=wanted.headers,
            format=wanted.format,
            disabled_because="" if wanted.enabled else "by hand",
        )
        await self._directory.add(endpoint, bound=self._context.config.endpoints)
        return 201, {**endpoint.shown(), **shown(endpoint.keys, now)}

    async def get(self, _request: Request, endpoint_id: str) -> Answer:
        """One endpoint."""
        return 200, self._endpoint(endpoint_id).shown()

    async def update(self, request: Request, endpoint_id: str) -> Answer:
        """Change what the body names."""
        self._endpoint(endpoint_id)
        wanted = parsed(Update, request.body).model_dump(exclude_unset=True)
        if "url" in wanted:
            wanted["url"] = self._checked(wanted["url"])
        if "rate_per_second" in wanted:
            wanted["rate"] = wanted.pop("rate_per_second")
        if "enabled" in wanted:
            wanted |= _switched(enabled=wanted["enabled"])
        changed = await self._directory.change(endpoint_id, **wanted, updated=self._now())
        self._pump.wake()
        return 200, changed.shown()

    async def delete(self, _request: Request, endpoint_id: str) -> Answer:
        """Forget an endpoint and all its messages."""
        await self._directory.remove(endpoint_id)
        self._pump.forget(endpoint_id)
        await self._backlogs.drop(endpoint_id)
        return 204, None

    async def enable(self, _request: Request, endpoint_id: str) -> Answer:
        """Send again; what waits is sent as it is due."""
        changed = await self._directory.change(endpoint_id, **_switched(enabled=True), updated=self._now())
        self._pump.lane(endpoint_id).breaker.close("enabled by hand")
        self._pump.wake()
        return 200, changed.shown()

    async def disable(self, _request: Request, endpoint_id: str) -> Answer:
        """Send nothing more; what waits stays, and new events pass by."""
        changed = await self._directory.change(endpoint_id, **_switched(enabled=False), updated=self._now())
        return 200, changed.shown()

    async def secret(self, _request: Request, endpoint_id: str) -> Answer:
        """What a receiver verifies with."""
        return 200, shown(self._endpoint(endpoint_id).keys, self._now())

    async def rotate(self, request: Request, endpoint_id: str) -> Answer:
        """A new key; the old one goes on to sign beside it for a while."""
        wanted = parsed(Rotate, request.body)
        if wanted.secret is not None and wanted.kind is not None:
            raise ApiError(400, "body_invalid", "give a secret or a kind: a secret says of which kind it is")
        now = self._now()
        keys = rotated(
            self._endpoint(endpoint_id).keys,
            secret=wanted.secret,
            kind=wanted.kind,
            overlap=wanted.old_key_valid_seconds,
            now=now,
        )
        await self._directory.change(endpoint_id, keys=keys, updated=now)
        return 200, shown(keys, now)

    # -- messages

    async def attempts(self, request: Request, endpoint_id: str) -> Answer:
        """The latest attempts, the youngest first, of messages that wait and of those that are kept."""
        self._endpoint(endpoint_id)
        limit = _limit(request)
        backlog = self._backlogs.of(endpoint_id)
        found: list[dict[str, Any]] = []
        for entry in reversed(backlog.done[-limit:]):
            found += _attempts(await self._backlogs.read_done(endpoint_id, entry), entry.outcome)
        for message in [name for name, waiting in backlog.waiting.items() if waiting.tried][:LONGEST_PAGE]:
            found += _attempts(await self._backlogs.read(endpoint_id, message), "pending")
        found.sort(key=lambda one: one["at"], reverse=True)
        return 200, {"data": found[:limit]}

    async def stats(self, _request: Request, endpoint_id: str) -> Answer:
        """How an endpoint is doing."""
        endpoint = self._endpoint(endpoint_id)
        backlog, lane = self._backlogs.of(endpoint_id), self._pump.lane(endpoint_id)
        breaker = lane.breaker.snapshot()
        outcomes = [entry.outcome for entry in backlog.done]
        due = [one.due for one in backlog.waiting.values()]
        return 200, {
            "pending": len(backlog.waiting),
            "inFlight": lane.in_flight,
            "nextAttemptAt": instant(min(due) / 1000 if due else None),
            "kept": {"delivered": outcomes.count("delivered"), "failed": outcomes.count("failed")},
            "attemptsSinceStart": lane.counts,
            "breaker": {"state": breaker.state.value, "reason": breaker.reason},
            "failingSince": instant(endpoint.failing_since),
        }

    async def test(self, request: Request, endpoint_id: str) -> Answer:
        """Send one test event now, once, and say what came of it; a disabled endpoint is tested, too."""
        endpoint = self._endpoint(endpoint_id)
        wanted = parsed(SendTest, request.body)
        try:
            event = new_event(wanted.type, source="/plugins/webhooks/test", data=wanted.data, id=new_id())
        except InvalidEventError as error:
            raise ApiError(400, error.code, str(error)) from None
        lane = self._pump.lane(endpoint_id)
        permit = lane.breaker.try_acquire()
        if permit is None:
            raise ApiError(409, "endpoint_breaker_open", f"it has just failed: {lane.breaker.reason}; enable it anew")
        attempt: Attempt | None = None
        try:
            if not lane.allowed(endpoint, self._clock.monotonic):
                raise ApiError(429, "rate_exceeded", f"the endpoint takes {endpoint.rate:g} requests a second")
            attempt = await self._sender.attempt(endpoint, new_message(event, endpoint_id, self._now()))
        except BusyError as error:
            raise ApiError(503, "busy", f"nothing was sent, try again later: {error}") from None
        finally:
            if attempt is None:
                lane.breaker.ignore(permit)
        judge(lane, permit, attempt)
        return 200, _shown(attempt)

    async def recover(self, request: Request, endpoint_id: str) -> Answer:
        """Send failed messages once more, from their first attempt on: those since an instant, or one."""
        self._endpoint(endpoint_id)
        wanted = parsed(Recover, request.body)
        if (wanted.since is None) == (wanted.message is None):
            raise ApiError(400, "body_invalid", "give 'since', an instant such as 2026-01-31T00:00:00Z, or 'message'")
        failed = [one for one in self._backlogs.of(endpoint_id).done if one.outcome == "failed"]
        if wanted.since is not None:
            since = self._recoverable(wanted.since.timestamp())
            failed = [one for one in failed if one.when >= since * 1000]
        else:
            failed = [one for one in failed if one.message == wanted.message]
            if not failed:
                raise ApiError(404, "message_not_found", "no such message has failed here, or it is not kept any more")
        for entry in failed[:RECOVERED_AT_ONCE]:
            await self._revive(endpoint_id, entry)
        self._pump.wake()
        return 202, {"recovered": len(failed[:RECOVERED_AT_ONCE]), "more": len(failed) > RECOVERED_AT_ONCE}

    async def _revive(self, endpoint_id: str, entry: Done) -> None:
        message = await self._backlogs.read_done(endpoint_id, entry)
        if message is None:
            return  # given up for want of room since it was looked up
        try:
            await self._backlogs.revive(message, entry, self._now())
        except FullError as error:
            raise ApiError(409, "no_room", f"{error}: wait until some are sent, or delete an endpoint") from None

    def _recoverable(self, since: float) -> float:
        if since < self._now() - RECOVER_WITHIN:
            raise ApiError(400, "since_too_old", f"messages are recovered from {RECOVER_WITHIN / 86_400:g} days back")
        return since

    def _endpoint(self, endpoint_id: str) -> Endpoint:
        found = self._directory.find(endpoint_id)
        if found is None:
            raise not_found(endpoint_id)
        return found

    def _checked(self, url: str) -> str:
        config = self._context.config
        return checked_url(url, allow_private=config.allow_private, ports=config.allowed_ports)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _switched(*, enabled: bool) -> dict[str, Any]:
    if enabled:
        return {"enabled": True, "disabled_because": "", "failing_since": None}
    return {"enabled": False, "disabled_because": "by hand"}


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(PAGE))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= LONGEST_PAGE:
        raise ApiError(400, "limit_invalid", f"limit must be 1 to {LONGEST_PAGE}")
    return int(text)


def _attempts(message: Message | None, state: str) -> list[dict[str, Any]]:
    if message is None:
        return []
    return [
        {"messageId": message.id, "eventType": message.type, "state": state, **_shown(attempt)}
        for attempt in message.attempts
    ]


def _shown(attempt: Attempt) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(attempt)
    del found["retry_after"]
    return {**found, "at": instant(attempt.at)}
