"""Deliveries of a plugin over HTTP: what was tried, and the policy of each subscription."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import Field

from host.administration.policies import EffectivePolicy, Policies
from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View
from host.api.envelope import written
from host.identity.access import Role
from host.registry.registry import Registry
from host.routing.event_log import DeliveryQuery, DeliveryRecord, EventLog, Outcome
from host.routing.subscriptions import replay_of

BASE: Final = "/api/v1/plugins/{id}"
SUBSCRIPTIONS: Final = BASE + "/subscriptions"


class DeliveryList(PageQuery):
    """Which attempts: `event` is the id of an event, `subscription` the name of a subscription."""

    outcome: Outcome | None = None
    event: Annotated[str | None, Field(max_length=2000)] = None
    subscription: Annotated[str | None, Field(max_length=100)] = None


class DeliveryView(View):
    """One attempt of one delivery; `replay` is the replay that it belongs to."""

    delivery: str
    subscription: str
    sequence: int
    event_id: str
    attempt: int
    outcome: Outcome
    started_at: str
    duration_ms: float
    error: str
    replay: int | None


class PolicyFields(View):
    """Fields of a delivery policy; what is left out stays as the plugin has it. Times are in seconds."""

    attempts: int | None = None
    growth: Literal["exponential", "linear"] | None = None
    first_retry: float | None = None
    longest_retry: float | None = None
    retry_delays: list[float] | None = None
    jitter: float | None = None
    longest_asked: float | None = None
    timeout: float | None = None
    max_age: float | None = None
    in_flight: int | None = None
    rate: float | None = None
    priority: int | None = None
    order: Literal["none", "by-key", "strict"] | None = None
    at_failure: Literal["block", "set-aside"] | None = None
    dead_letters: Literal["keep", "discard"] | None = None
    behind: Literal["hold", "skip"] | None = None


class SubscriptionView(View):
    """A subscription with the policy it is delivered under, and which of its fields an administrator has set."""

    name: str
    types: list[str]
    filters: list[dict[str, Any]]
    policy: PolicyFields
    overridden: list[str]


class PluginDeliveries:
    """The handlers."""

    def __init__(self, registry: Registry, policies: Policies, log: EventLog) -> None:
        self._registry = registry
        self._policies = policies
        self._log = log

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE + "/deliveries",
                "listDeliveries",
                "List what was tried, the newest first.",
                Role.VIEWER,
                self.deliveries,
                query=DeliveryList,
                response=DeliveryView,
                many=True,
            ),
            Endpoint(
                "GET",
                SUBSCRIPTIONS,
                "listSubscriptions",
                "List its subscriptions and their delivery policies.",
                Role.VIEWER,
                self.list,
                response=SubscriptionView,
                many=True,
            ),
            Endpoint(
                "GET",
                SUBSCRIPTIONS + "/{name}",
                "showSubscription",
                "Show one subscription.",
                Role.VIEWER,
                self.show,
                response=SubscriptionView,
            ),
            Endpoint(
                "PUT",
                SUBSCRIPTIONS + "/{name}",
                "overridePolicy",
                "Override fields of its delivery policy; those left out are the plugin's own again.",
                Role.ADMIN,
                self.override,
                request=PolicyFields,
                response=SubscriptionView,
            ),
        )

    async def deliveries(self, call: Call) -> Answer:
        """The attempt log."""
        record = self._registry.get(call.path("id"))
        query: DeliveryList = call.query
        subscription = None if query.subscription is None else f"{record.id}/{query.subscription}"
        found, total = await self._log.deliveries(
            record.id, DeliveryQuery(query.outcome, query.event, subscription), query.offset, query.limit
        )
        return Answer.paged([_delivery(one) for one in found], query, total)

    async def list(self, call: Call) -> Answer:
        """The subscriptions."""
        return Answer([_view(one) for one in self._policies.all(call.path("id"))])

    async def show(self, call: Call) -> Answer:
        """One of them."""
        return Answer(_view(self._policies.get(call.path("id"), call.path("name"))))

    async def override(self, call: Call) -> Answer:
        """Set the fields that are given."""
        fields: dict[str, Any] = call.body.model_dump(exclude_none=True)
        found = await self._policies.override(call.path("id"), call.path("name"), fields, actor=call.actor)
        return Answer(_view(found), message="in force for every delivery that begins now")


def _view(one: EffectivePolicy) -> SubscriptionView:
    return SubscriptionView(
        name=one.name,
        types=list(one.types),
        filters=[dict(found) for found in one.filters],
        policy=PolicyFields.model_validate(msgspec.to_builtins(one.policy)),
        overridden=sorted(PolicyFields.model_fields[name].alias or name for name in one.overridden),
    )


def _delivery(one: DeliveryRecord) -> DeliveryView:
    return DeliveryView(
        delivery=f"{one.subscription}/{one.sequence}",
        subscription=one.subscription,
        sequence=one.sequence,
        event_id=one.event_id,
        attempt=one.attempt,
        outcome=one.outcome,
        started_at=written(one.started_at),
        duration_ms=round(one.duration * 1000, 3),
        error=one.error,
        replay=replay_of(one.subscription),
    )
