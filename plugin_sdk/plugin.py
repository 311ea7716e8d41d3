"""The `Plugin` base class: decorated methods collected into the pluggy hooks of `hookspecs`.

Decorators only leave a mark on the method; `Plugin` reads the marks once, when it is made, so that a
subclass can override a handler and an instance carries no hidden global state.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar, Unpack

from pydantic import BaseModel

from plugin_sdk.arguments import ServiceMethod
from plugin_sdk.context import Context, Firing, Health, Request, Response, joined
from plugin_sdk.delivery import PolicyOptions
from plugin_sdk.description import Description, Service, Subscription
from plugin_sdk.errors import ArgumentsError, DeadLetter, DescriptionError
from plugin_sdk.events import Event
from plugin_sdk.hookspecs import hookimpl
from plugin_sdk.schedule import Schedule, ScheduleOptions, fields_of
from plugin_sdk.threads import HookThreads, Threads
from plugin_sdk.webhooks.endpoint import OWN, Webhook

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "busbar_handles"
_LIFE: Final = ("describe", "start", "stop", "handle_request", "check_health", "config_changed")
"""Hooks that a subclass overrides by their own name."""


def on_event(
    *types: str, name: str | None = None, filters: Sequence[dict[str, Any]] = (), **policy: Unpack[PolicyOptions]
) -> Callable[[F], F]:
    """Deliver events of these types (`*` stands for any characters) to the method.

    The method takes any of `event` and `context`. `filters` narrow the events down as `Subscription` says; the other
    arguments are those of `DeliveryPolicy`. `name` defaults to the method's and is what the cursor belongs to:
    renaming it starts a new subscription.
    """
    for given in types:
        if not isinstance(given, str):
            raise DescriptionError("on_event takes the types of events: write @on_event('order.placed')")

    def mark(method: F) -> F:
        _takes(method, {"event", "context"})
        return _marked(
            method, Subscription(name=name or method.__name__, types=types, filters=tuple(filters), **policy)
        )

    return mark


def cron(rule: str, *, timezone: str = "UTC", **options: Unpack[ScheduleOptions]) -> Callable[[F], F]:
    """Call the method by a cron rule (five or six fields, Debian semantics) in a time zone.

    The method takes any of `firing` and `context`. The options are the policies of `Schedule`: what becomes of missed
    instants (`misfire`, `misfire_limit`, `grace`) and of firings that would overlap (`overlap`, `max_running`),
    `jitter`, `start`, `end` and `max_runtime`; spans are seconds or timedeltas. `name` defaults to the method's.
    """
    if not isinstance(rule, str):
        raise DescriptionError("cron takes a rule: write @cron('0 8 * * mon')")
    return _scheduled({"cron": rule, "timezone": timezone}, options)


def every(interval: float | timedelta, **options: Unpack[ScheduleOptions]) -> Callable[[F], F]:
    """Call the method every `interval` seconds (at least 1); otherwise as `cron`."""
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else float(interval)
    return _scheduled({"every": seconds}, options)


def at(instant: datetime | str, **options: Unpack[ScheduleOptions]) -> Callable[[F], F]:
    """Call the method once, at an instant (aware datetime or RFC 3339); otherwise as `cron`."""
    return _scheduled({"at": instant if isinstance(instant, str) else instant.isoformat()}, options)


def _scheduled(rule: dict[str, Any], options: ScheduleOptions) -> Callable[[F], F]:
    name, fields = options.get("name"), fields_of(options)

    def mark(method: F) -> F:
        _takes(method, {"firing", "context"})
        return _marked(method, Schedule(name=name or method.__name__, **rule, **fields))

    return mark


def service(method: F) -> F:
    """Let others call the method as `plugin.method`; arguments and answer are JSON values.

    The method takes the caller's arguments by name and, if it names it, `context`. What does not fit its signature and
    annotations is refused before the method runs (`arguments_invalid`); what fits comes in the annotated types.
    """
    summary = (inspect.getdoc(method) or "").partition("\n")[0]
    return _marked(method, Service(name=method.__name__, summary=summary))


class Plugin:
    """Base class of a plugin: decorate methods, override `start`, `stop`, `check_health` and the like.

    Set `Config` to a pydantic model to have the plugin's config validated and handed over as its instance;
    `SecretStr` fields are kept encrypted and never shown. `webhooks` lists what outside services may send. `routes`
    says whether `handle_request` serves routes; None for yes where it is overridden and no webhook asks for it.
    """

    Config: ClassVar[type[BaseModel] | None] = None
    webhooks: ClassVar[tuple[Webhook, ...]] = ()
    routes: ClassVar[bool | None] = None

    def __init__(self) -> None:
        self._handlers: dict[str, _Handler] = {}
        self._firings: dict[str, _Handler] = {}
        self._services: dict[str, ServiceMethod] = {}
        self.busbar_threads = Threads()
        subscriptions: list[Subscription] = []
        schedules: list[Schedule] = []
        services: list[Service] = []
        for method, mark in self._marks():
            if isinstance(mark, Subscription):
                subscriptions.append(mark)
                self._handlers[mark.name] = _Handler(method, self.busbar_threads.deliveries)
            elif isinstance(mark, Schedule):
                schedules.append(mark)
                self._firings[mark.name] = _Handler(method, self.busbar_threads.deliveries)
            else:
                services.append(mark)
                self._services[mark.name] = ServiceMethod(method)
        self._description = Description(
            subscriptions=tuple(subscriptions),
            schedules=tuple(schedules),
            services=tuple(services),
            routes=self._serves_routes() if self.routes is None else self.routes,
            webhooks=tuple(self.webhooks),
            config_schema=_schema(self.Config),
        )

    def _serves_routes(self) -> bool:
        overridden = type(self).handle_request is not Plugin.handle_request
        return overridden and not any(one.scheme == OWN for one in self.webhooks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let an overridden life-cycle method be the hook it overrides, without a decorator of its own."""
        super().__init_subclass__(**kwargs)
        for name in _LIFE:
            override = getattr(cls, name)  # its own, or that of a mixin
            if override is not getattr(Plugin, name):
                hookimpl(override)

    @hookimpl
    def describe(self) -> Description:
        """What the decorators of this class say."""
        return self._description

    @hookimpl
    async def start(self, context: Context) -> None:
        """Override to get ready; an exception keeps the plugin from starting."""

    @hookimpl
    async def stop(self, context: Context) -> None:
        """Override to let go of what `start` took."""

    @hookimpl
    async def on_event(self, event: Event, context: Context) -> None:
        """Hand a delivery to the method whose subscription it belongs to."""
        delivery = context.delivery
        handler = None if delivery is None else self._handlers.get(delivery.subscription)
        if handler is None:
            raise DeadLetter(f"no handler for this subscription; there are {joined(self._handlers)}")
        await handler.handle({"event": event, "context": context})

    @hookimpl
    async def on_schedule(self, firing: Firing, context: Context) -> None:
        """Hand a firing to the method whose schedule it belongs to."""
        handler = self._firings.get(firing.schedule)
        if handler is None:
            raise DeadLetter(f"no schedule '{firing.schedule}'; there are {joined(self._firings)}")
        await handler.handle({"firing": firing, "context": context})

    @hookimpl
    async def call(self, method: str, arguments: dict[str, Any], context: Context) -> Any:
        """Hand a call to the service method of that name."""
        handler = self._services.get(method)
        if handler is None:
            raise ArgumentsError(f"Method {method} not found on plugin {context.plugin}", "method_not_found")
        fitted = handler.fitted(f"{context.plugin}.{method}", arguments)
        if handler.takes_context:
            fitted["context"] = context
        if handler.awaits:
            return await handler.function(**fitted)
        return await self.busbar_threads.calls.run(handler.function, **fitted)

    @hookimpl
    async def handle_request(self, request: Request, context: Context) -> Response:  # noqa: ARG002 - the hook's own
        """Override to serve HTTP under the plugin's own routes."""
        return Response(404, {"content-type": "text/plain"}, b"this plugin serves no routes\n")

    @hookimpl
    async def check_health(self, context: Context) -> Health:  # noqa: ARG002 - the hook's own
        """Override to say how the plugin is."""
        return Health()

    @hookimpl
    async def config_changed(self, config: Any, context: Context) -> None:
        """Override to take new config at once; `context.config` has changed already."""

    def _marks(self) -> Iterator[tuple[Callable[..., Any], Subscription | Schedule | Service]]:
        """The bound methods with a mark, in the order in which the classes define them, base first."""
        names: dict[str, None] = {}
        for cls in reversed(type(self).__mro__):
            names.update(dict.fromkeys(cls.__dict__))
        for name in names:
            mark = getattr(getattr(type(self), name, None), _MARK, None)
            if mark is not None:
                yield getattr(self, name), mark


class _Handler:
    """A decorated method with what is known of it beforehand: which arguments it names, and whether it awaits."""

    __slots__ = ("_awaits", "_method", "_takes", "_threads")

    def __init__(self, method: Callable[..., Any], threads: HookThreads) -> None:
        self._method = method
        self._threads = threads
        self._takes: tuple[str, ...] = method.busbar_takes  # type: ignore[attr-defined]  # set by `_takes`
        self._awaits = inspect.iscoroutinefunction(method)

    def handle(self, offered: dict[str, Any]) -> Awaitable[None]:
        """Call the method with those of the offered arguments that it names; a plain function runs in a thread."""
        if len(self._takes) != len(offered):
            offered = {name: offered[name] for name in self._takes}
        if self._awaits:
            found: Awaitable[None] = self._method(**offered)
            return found
        return self._threads.run(self._method, **offered)


def _schema(model: object) -> dict[str, Any] | None:
    if model is None:
        return None
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise DescriptionError("Config must be a pydantic model class")
    return model.model_json_schema()


def _takes(method: Callable[..., Any], offered: set[str]) -> None:
    """Refuse a handler whose arguments the host has nothing for, and remember those it names."""
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    strange = [name for name in names if name not in offered]
    if strange:
        raise DescriptionError(
            f"'{method.__qualname__}' takes {joined(strange)}, but the host hands it only "
            f"{joined(sorted(offered))}: rename or remove it"
        )
    method.busbar_takes = tuple(names)  # type: ignore[attr-defined]  # a mark of ours on their function


def _marked(method: F, mark: Subscription | Schedule | Service) -> F:
    if hasattr(method, _MARK):
        raise DescriptionError(
            f"'{method.__qualname__}' has two decorators: one method is for one thing, so write a second that calls it"
        )
    setattr(method, _MARK, mark)
    return method
