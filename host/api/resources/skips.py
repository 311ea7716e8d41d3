"""Giving up what a plugin did not have yet, over HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from host.administration.skips import Skips
from host.api.endpoint import Answer, Call, Endpoint, View
from host.identity.access import Role
from host.routing.event_log import Held


class SkipChoice(View):
    """With `dryRun`, only say what would be given up."""

    dry_run: bool = False


class SkippedSubscription(View):
    """What one subscription, or a replay of it, did not have."""

    subscription: str
    places: Annotated[int, Field(description="Places of the log, whether it would have taken the events or not.")]
    retries: Annotated[int, Field(description="Deliveries that waited to be tried again.")]


class SkippedView(View):
    """What was given up: the events of the log from the oldest on that the plugin did not have, and their bytes."""

    plugin: str
    dry_run: bool
    events: int
    bytes: int
    subscriptions: list[SkippedSubscription]


class PluginSkips:
    """The handler."""

    def __init__(self, skips: Skips) -> None:
        self._skips = skips

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "POST",
                "/api/v1/plugins/{id}/skip",
                "skipEvents",
                "Give up the events that it did not have yet, so that the log may let go of them.",
                Role.OPERATOR,
                self.skip,
                request=SkipChoice,
                response=SkippedView,
            ),
        )

    async def skip(self, call: Call) -> Answer:
        """Give them up, or say how many they are."""
        body: SkipChoice = call.body
        plugin = call.path("id")
        held = await (self._skips.forecast(plugin) if body.dry_run else self._skips.skip(plugin, actor=call.actor))
        return Answer(_view(plugin, held, dry_run=body.dry_run))


def _view(plugin: str, held: Held, *, dry_run: bool) -> SkippedView:
    return SkippedView(
        plugin=plugin,
        dry_run=dry_run,
        events=held.events,
        bytes=held.bytes,
        subscriptions=[
            SkippedSubscription(subscription=one.subscription, places=one.places, retries=one.retries)
            for one in held.subscriptions
        ],
    )
