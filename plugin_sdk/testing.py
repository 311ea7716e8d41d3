"""The author's test kit: a plugin in the test's own process, against a host that is only memory.

async with PluginHarness(Milestones) as plugin:
    delivery = await plugin.deliver("milestone.completed", data={...})
    assert delivery.outcome == "delivered"
    assert plugin.emitted[0].type == "notification.requested"

It is a pytest plugin, too: `pytest -p plugin_sdk.testing` runs tests that are coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import msgspec

from plugin_sdk.calls import (
    ConfigCall,
    Delivery,
    EventCall,
    Firing,
    FiringCall,
    HealthCall,
    Request,
    Response,
    ServiceCall,
    StopCall,
)
from plugin_sdk.context import Health, Session
from plugin_sdk.errors import DeadLetter, DescriptionError, Drop, HostError, Retry
from plugin_sdk.events import Event, new_event
from plugin_sdk.loading import LoadedPlugin


class FakeClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = now
        self._monotonic = 1000.0

    def monotonic(self) -> float:
        """Seconds of the forward-only clock."""
        return self._monotonic

    def now(self) -> datetime:
        """The time on the wall."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def step(self, seconds: float) -> None:
        """Set the clock on the wall forward or back; no time passes."""
        self._now += timedelta(seconds=seconds)


class MemoryHost:
    """The host as a plugin reaches it, in memory."""

    def __init__(self, kv: dict[str, bytes], services: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.kv = kv
        self.services = services or {}
        self.emitted: list[Event] = []
        self.extended: list[str] = []

    async def emit(self, event: bytes) -> int:
        """Keep an event, unless it was emitted already under the same id."""
        parsed = Event.from_json(event)
        for known in self.emitted:
            if (parsed.source, parsed.id) == (known.source, known.id):
                if (parsed.type, parsed.subject, parsed.data) != (known.type, known.subject, known.data):
                    raise HostError(f"another event has the id {parsed.id} already", "event_conflict")
                return len(self.emitted)
        self.emitted.append(parsed)
        return len(self.emitted)

    async def kv_get(self, key: str) -> bytes | None:
        """The value under a key."""
        return self.kv.get(key)

    async def kv_set(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self.kv[key] = value

    async def kv_delete(self, key: str) -> bool:
        """Forget a key."""
        return self.kv.pop(key, None) is not None

    async def kv_list(self, prefix: str, after: str, limit: int) -> list[str]:
        """Keys with a prefix, in order."""
        return [key for key in sorted(self.kv) if key.startswith(prefix) and key > after][:limit]

    async def extend(self, delivery_id: str) -> None:
        """Note that a delivery asked for more time."""
        self.extended.append(delivery_id)

    async def call(
        self,
        service: str,
        arguments: bytes,
        timeout: float,  # noqa: ASYNC109 - as the host's
        chain: list[str],  # noqa: ARG002 - a stand-in calls nobody further
        traceparent: str,  # noqa: ARG002 - as above
    ) -> bytes:
        """Call a stand-in for another plugin's service; what it raises comes out as a host's refusal."""
        stand_in = self.services.get(service)
        if stand_in is None:
            raise HostError(f"Plugin {service.partition('.')[0]} not found", "plugin_not_found")
        try:
            async with asyncio.timeout(timeout):
                found = stand_in(**msgspec.json.decode(arguments))
                return msgspec.json.encode(await found if inspect.isawaitable(found) else found)
        except TimeoutError:
            raise HostError(f"{service} did not answer within {timeout:g} s", "hook_timeout") from None
        except HostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a service raises is a failed call
            raise HostError(f"{service} failed: {type(error).__name__}: {error}", "plugin_call_failed") from None


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a delivery: `delivered`, `retried`, `dropped`, `dead-lettered` or `failed`, and why."""

    outcome: str
    reason: str = ""
    after: float | None = None


class PluginHarness:
    """Runs one plugin. Use it as `async with`: entering starts the plugin, leaving stops it.

    Args:
        plugin: The plugin's class, or a module of hook functions.
        config: Its config, checked by its model.
        secrets: Its secrets.
        kv: Keys and values it starts with; pass one harness's `kv` to the next to test a restart.
        services: Stand-ins for services of other plugins, `plugin.method` to a function of its arguments.
    """

    def __init__(
        self,
        plugin: object,
        *,
        config: dict[str, Any] | None = None,
        secrets: dict[str, str] | None = None,
        kv: dict[str, bytes] | None = None,
        services: Mapping[str, Callable[..., Any]] | None = None,
        name: str = "plugin",
    ) -> None:
        self._plugin = LoadedPlugin(name, plugin)
        self._host = MemoryHost({} if kv is None else kv, services)
        self._session = Session(plugin=name, host=self._host, secrets=secrets)
        self._session.config = self._plugin.parse_config(config or {})
        self.description = self._plugin.describe()
        self._secrets = secrets or {}
        self._number = 0

    async def __aenter__(self) -> Self:
        await self._plugin.start(self._session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._plugin.run(StopCall(), self._session)

    @property
    def emitted(self) -> list[Event]:
        """The events that the plugin has emitted."""
        return self._host.emitted

    @property
    def kv(self) -> dict[str, bytes]:
        """The plugin's keys and values, as JSON bytes."""
        return self._host.kv

    def value(self, key: str) -> Any:
        """The value under a key of the plugin, decoded."""
        return msgspec.json.decode(self._host.kv[key])

    async def deliver(
        self,
        type: str,  # noqa: A002 - the attribute's name in the specification
        *,
        data: Any = None,
        subject: str | None = None,
        source: str = "/tests",
        id: str | None = None,  # noqa: A002 - the attribute's name in the specification
        attempt: int = 1,
        extensions: dict[str, str | int | bool] | None = None,
    ) -> Delivered:
        """Publish an event and deliver it to every subscription that takes its type; the worst that came of it.

        Raises:
            DescriptionError: no subscription takes it, so the test tests nothing.
        """
        event = new_event(
            type, source=source, subject=subject, data=data, id=id or str(uuid.uuid4()), extensions=extensions
        )
        takers = [one.name for one in self.description.subscriptions if any(_takes(glob, type) for glob in one.types)]
        if not takers:
            raise DescriptionError(f"no subscription takes '{type}'")
        results = [await self._deliver(event, name, attempt) for name in takers]
        return next((one for one in results if one.outcome != "delivered"), results[0])

    async def fire(self, schedule: str, *, due: datetime | None = None) -> Delivered:
        """Let one firing of a schedule come due."""
        text = (due or datetime.now(UTC)).isoformat()
        self._number += 1
        firing = Firing(schedule, text, f"{schedule}/{text}")
        delivery = Delivery(firing.id, "@schedules", 1, self._number)
        return await self._outcome(FiringCall(firing, delivery))

    async def call(self, method: str, **arguments: Any) -> Any:
        """Call a service; its answer, after the trip through JSON that a real call makes."""
        found = await self._plugin.run(ServiceCall(method, arguments), self._session)
        return msgspec.json.decode(msgspec.json.encode(found))

    async def request(self, request: Request) -> Response:
        """Send HTTP to the plugin's routes."""
        found: Response = await self._plugin.run(request, self._session)
        return found

    async def check_health(self) -> Health:
        """Ask the plugin how it is."""
        found = await self._plugin.run(HealthCall(), self._session)
        return found if isinstance(found, Health) else Health()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Hand over new config."""
        await self._plugin.run(ConfigCall(config, self._secrets), self._session)

    async def _deliver(self, event: Event, subscription: str, attempt: int) -> Delivered:
        self._number += 1
        correlation = str(event.extensions.get("correlationid", ""))
        delivery = Delivery(
            f"{subscription}/{event.id}", subscription, attempt, self._number, "", event.id, correlation, event.hops
        )
        return await self._outcome(EventCall(event, delivery))

    async def _outcome(self, call: EventCall | FiringCall) -> Delivered:
        try:
            await self._plugin.run(call, self._session)
        except Retry as verdict:
            return Delivered("retried", verdict.reason, verdict.after)
        except Drop as verdict:
            return Delivered("dropped", verdict.reason)
        except DeadLetter as verdict:
            return Delivered("dead-lettered", verdict.reason)
        except HostError as error:
            return Delivered("failed", str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what the host would count as a failure
            return Delivered("failed", f"{type(error).__name__}: {error}")
        return Delivered("delivered")


def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run a test that is a coroutine, on a loop of its own, where no other pytest plugin has taken it (pytest's hook).

    Fixtures that are coroutines need such another plugin, as pytest-asyncio.
    """
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: value for name, value in pyfuncitem.funcargs.items() if name in names}))
    return True


def _takes(glob: str, event_type: str) -> bool:
    head, star, tail = glob.partition("*")
    if not star:
        return glob == event_type
    if "*" not in tail:
        return event_type.startswith(head) and event_type.endswith(tail) and len(event_type) >= len(head + tail)
    at = event_type.find(tail.partition("*")[0], len(head))
    return event_type.startswith(head) and at >= 0 and _takes(tail, event_type[at:])
