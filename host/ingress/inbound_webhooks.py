"""Inbound webhooks: requests from outside services, verified for a plugin and appended to the log before the answer.

Whatever is wrong with a request, its sender hears the same: an attacker must not learn whether an endpoint exists,
which scheme it has, or how near he was. The log and the metrics have the reason.
"""

from __future__ import annotations

import base64
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily

from host.ingress.errors import WebhookBusyError, WebhookRefusedError
from host.routing.bus import Bus
from host.routing.callee import Callee
from host.routing.caller_guard import party
from host.routing.event_log import Appended
from host.runtime.errors import HookFailedError
from plugin_sdk.calls import Request, Response
from plugin_sdk.clock import Clock
from plugin_sdk.errors import HostError, InvalidEventError, PluginError, Verdict
from plugin_sdk.events import SPEC_VERSION, Event, is_media_type
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.strict_json import StrictJsonError, loads
from plugin_sdk.webhooks import WebhookRefused, verify
from plugin_sdk.webhooks.endpoint import MESSAGE_ID, OWN, Webhook, extension_of

UNKNOWN_RATE: Final = 100.0
"""Requests a second to endpoints that are not there, all together."""
MAX_BUCKETS: Final = 1024
_SIGNED_BY: Final = {
    "standard-webhooks": ("webhook-id", "webhook-timestamp", "webhook-signature"),
    "stripe": ("stripe-signature",),
    "github": ("x-hub-signature-256", "x-github-delivery"),
}
"""Headers that a request may have only once: of two, one could be what was signed and the other what is read."""
_HIDDEN: Final = "whsec_" + "A" * 43

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came: header names in lower case, with every value of a header that was repeated."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, list[str]]
    body: bytes
    remote: str

    @property
    def single(self) -> dict[str, str]:
        """The headers, the first value of each."""
        return {name: values[0] for name, values in self.headers.items()}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook that a plugin may have, and its secrets, by the names that the webhook has for them."""

    webhook: Webhook
    secrets: Mapping[str, str]


class InboundWebhooks:
    """Takes webhooks in.

    Args:
        find: Answers the endpoint of a plugin by its name, or None.
        bus: Where the events go.
        hosted: Answers a plugin as it is hosted now, or None: for those that verify themselves.
        clock: For the age of signatures, and for rates.
    """

    def __init__(
        self,
        find: Callable[[str, str], Endpoint | None],
        bus: Bus,
        hosted: Callable[[str], Callee | None],
        clock: Clock,
    ) -> None:
        self._find = find
        self._bus = bus
        self._hosted = hosted
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Requests by plugin and outcome: `accepted`, `duplicate`, or why it was refused."""

    async def receive(self, plugin: str, name: str, received: Received) -> Appended | Response:
        """Verify a request and append its event; durable when this returns.

        A plugin that verifies itself may have an answer of its own.

        Raises:
            WebhookRefusedError: it is not taken; why is only in the log.
            WebhookBusyError: more requests come than are looked at.
            RoutingError: the log does not take it, as in `Bus.publish`.
        """
        endpoint = self._find(plugin, name)
        self._limit(plugin, None if endpoint is None else endpoint.webhook)
        if endpoint is None:
            self._verify_nothing(received)
            raise self._refuse("-", name, "unknown")
        webhook = endpoint.webhook
        if webhook.addresses and not _from(received.remote, webhook.addresses):
            raise self._refuse(plugin, name, "address")
        if webhook.scheme == OWN:
            return await self._ask_plugin(plugin, webhook, received)
        if received.method != "POST":
            raise self._refuse(plugin, name, "method")
        signed_by = _SIGNED_BY.get(webhook.scheme, (webhook.header, *filter(None, (webhook.id_header,))))
        if any(len(received.headers.get(header, ())) > 1 for header in signed_by):
            raise self._refuse(plugin, name, "repeated_header")
        secrets = [value for secret in webhook.secrets if (value := endpoint.secrets.get(secret))]
        if not secrets:
            raise self._refuse(plugin, name, "no_secret_set")
        try:
            verified = verify(
                webhook.scheme,
                received.single,
                received.body,
                secrets,
                now=self._clock.now().timestamp(),
                tolerance=webhook.tolerance,
                header=webhook.header,
                id_header=webhook.id_header,
            )
        except WebhookRefused as error:
            raise self._refuse(plugin, name, str(error.reason)) from None
        except PluginError as error:
            raise self._refuse(plugin, name, f"unusable_secret: {error}") from None
        return await self._append(plugin, webhook, verified.id, received)

    async def _ask_plugin(self, plugin: str, webhook: Webhook, received: Received) -> Appended | Response:
        hosted = self._hosted(plugin)
        if hosted is None or not hosted.running:
            raise WebhookBusyError("this webhook is not looked at now: try again later", retry_after=30.0)
        request = Request(
            received.method, f"/hooks/{webhook.name}", dict(received.query), received.single, received.body
        )
        try:
            answer = await hosted.serve(request, "handle_request", caller=party(received.remote))
        except (HookFailedError, HostError, Verdict) as error:
            raise self._refuse(plugin, webhook.name, f"plugin_failed: {type(error).__name__}: {error}") from None
        if not isinstance(answer, Response) or not 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's own numbers
            raise self._refuse(plugin, webhook.name, "plugin_refused")
        message = {name.lower(): value for name, value in answer.headers.items()}.get(MESSAGE_ID)
        if message:
            await self._append(plugin, webhook, message, received)
        return answer

    async def _append(self, plugin: str, webhook: Webhook, message: str, received: Received) -> Appended:
        try:
            event = _event(plugin, webhook, message, received)
        except InvalidEventError as error:
            raise self._refuse(plugin, webhook.name, f"no_event: {error}") from None
        appended = await self._bus.publish_for(plugin, event)
        self.outcomes[plugin, "duplicate" if appended.duplicate else "accepted"] += 1
        return appended

    def metrics(self) -> Iterator[Metric]:
        """Requests, by plugin and by what became of them."""
        found = CounterMetricFamily(
            "busbar_inbound_webhooks", "Inbound webhooks, by what became of them.", labels=("plugin", "outcome")
        )
        for (plugin, outcome), count in sorted(self.outcomes.items()):
            found.add_metric((plugin, outcome), count)
        yield found

    def _limit(self, plugin: str, webhook: Webhook | None) -> None:
        """Refuse what comes faster than it is looked at, before any signature is computed."""
        key = (plugin, webhook.name) if webhook else ("", "")
        rate = webhook.rate if webhook else UNKNOWN_RATE
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[key] = TokenBucket(rate, max(1.0, rate), self._clock.monotonic)
            while len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        if not bucket.take():
            self.outcomes[key[0] or "-", "rate"] += 1
            raise WebhookBusyError("too many requests come: slow down", retry_after=1.0)

    @staticmethod
    def _verify_nothing(received: Received) -> None:
        """Take the time that a wrong signature takes."""
        headers = {**received.single, "x-signature": "0" * 64}
        try:
            verify("hmac-sha256", headers, received.body, [_HIDDEN], now=0.0)
        except WebhookRefused:
            return

    def _refuse(self, plugin: str, name: str, reason: str) -> WebhookRefusedError:
        self.outcomes[plugin, reason.partition(":")[0]] += 1
        _log.warning("webhook_refused", plugin=plugin, webhook=name[:64], reason=reason)
        return WebhookRefusedError()


def _from(remote: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(network) for network in networks)


def _fits(value: str | None) -> bool:
    """Whether a header is there, and an event can carry it."""
    return bool(value) and str(value).isascii() and str(value).isprintable()


def _event(plugin: str, webhook: Webhook, message: str, received: Received) -> Event:
    """The event that a message is. It has no time: a sender that tries again must make the same event.

    A body that is no strict JSON is bytes: its sender is authentic and would only send it again.
    """
    headers = received.single
    found: dict[str, Any] = {
        **{extension_of(name): headers[name] for name in webhook.headers if _fits(headers.get(name))},
        "specversion": SPEC_VERSION,
        "id": message,
        "source": f"/hooks/{plugin}/{webhook.name}",
        "type": f"webhook.{plugin}.{webhook.name}",
    }
    if not received.body:
        return Event.from_attributes(found)
    try:
        found |= {"data": loads(received.body), "datacontenttype": "application/json"}
    except StrictJsonError:  # a form, a file: what it is, its sender says
        content_type = headers.get("content-type", "")
        found["data_base64"] = base64.b64encode(received.body).decode()
        found["datacontenttype"] = content_type if is_media_type(content_type) else None
    return Event.from_attributes(found)
