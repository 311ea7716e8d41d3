"""One plugin behind one pluggy manager: validated against the specs, and called hook by hook.

Both runtimes use this: the worker in its own process, the inline runtime in the host's.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final

import pluggy
from pydantic import BaseModel, ValidationError

from plugin_sdk import hookspecs
from plugin_sdk.arguments import told
from plugin_sdk.calls import (
    ConfigCall,
    EventCall,
    FiringCall,
    HealthCall,
    HookCall,
    Request,
    ServiceCall,
    StopCall,
)
from plugin_sdk.context import Context, Session
from plugin_sdk.description import Description
from plugin_sdk.errors import DescriptionError, HostError
from plugin_sdk.filters import CompiledFilters, compile_filters
from plugin_sdk.plugin import Plugin
from plugin_sdk.threads import Threads
from plugin_sdk.webhooks.endpoint import OWN

HOOKS: Final = tuple(name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec"))


class LoadedPlugin:
    """A plugin's object registered with a manager of its own.

    Raises:
        DescriptionError: the object implements a hook that does not exist, or names an argument that a
            hook does not have; the sentence names the nearest right one.
    """

    def __init__(self, plugin_id: str, target: object) -> None:
        self.id = plugin_id
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        instance = target() if inspect.isclass(target) else target
        self._threads = instance.busbar_threads if isinstance(instance, Plugin) else Threads()
        self._config_model = _config_model(instance)
        self._filters: dict[str, CompiledFilters] = {}
        try:
            self.manager.register(instance, name=plugin_id)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise DescriptionError(_explained(instance, error)) from None
        self.implements = frozenset(name for name in HOOKS if getattr(self.manager.hook, name).get_hookimpls())
        if not self.implements:
            raise DescriptionError(
                f"'{plugin_id}' implements no hook: derive from plugin_sdk.Plugin or mark functions with @hookimpl"
            )
        self._plain = frozenset(
            name
            for name in self.implements
            for implementation in getattr(self.manager.hook, name).get_hookimpls()
            if not inspect.iscoroutinefunction(implementation.function)
        )
        self._callers = {name: _caller(getattr(self.manager.hook, name)) for name in self.implements}
        self._entries: dict[type, Callable[[Any, Session], Awaitable[Any]]] = {
            EventCall: self._on_event,
            FiringCall: self._on_schedule,
            ServiceCall: self._call,
            Request: self._handle_request,
            HealthCall: self._check_health,
            ConfigCall: self._config_changed,
            StopCall: self._stop,
        }

    @classmethod
    def load(cls, plugin_id: str, entry_point: str) -> LoadedPlugin:
        """Import `module:attribute` (or a module) and register it.

        Raises:
            DescriptionError: the entry point names nothing, or as the constructor.
            BaseException: whatever the plugin's own code raises while it is imported.
        """
        module_name, _, attribute = entry_point.partition(":")
        target: object = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            if not hasattr(target, part):
                raise DescriptionError(f"entry point '{entry_point}': there is no '{part}' in '{module_name}'")
            target = getattr(target, part)
        return cls(plugin_id, target)

    def describe(self) -> Description:
        """What the plugin's code does.

        Raises:
            DescriptionError: `describe` returned something else, or described a hook that is not there.
        """
        if "describe" not in self.implements:
            return Description()
        found = self.manager.hook.describe()
        if not isinstance(found, Description):
            raise DescriptionError(f"describe() must return a Description, not {type(found).__name__}")
        for hook, described in (
            ("on_event", found.subscriptions),
            ("on_schedule", found.schedules),
            ("call", found.services),
            ("handle_request", found.routes or any(one.scheme == OWN for one in found.webhooks)),
        ):
            if described and hook not in self.implements:
                raise DescriptionError(f"the description needs the hook '{hook}', which is not implemented")
        if self._config_model is not None and found.config_schema is None:
            return Description(
                subscriptions=found.subscriptions,
                schedules=found.schedules,
                services=found.services,
                routes=found.routes,
                webhooks=found.webhooks,
                config_schema=self._config_model.model_json_schema(),
            )
        return found

    def parse_config(self, config: dict[str, Any]) -> Any:
        """The config as an instance of the plugin's model; the dict itself where it has none.

        Raises:
            HostError: `config_invalid`, with one line for each field that is wrong.
        """
        if self._config_model is None:
            return config
        try:
            return self._config_model.model_validate(config)
        except ValidationError as error:
            raise HostError("; ".join(told(error)), "config_invalid") from None

    def run(self, call: HookCall, session: Session) -> Awaitable[Any]:
        """Enter the hook that `call` is for and answer what it returns; whatever it raises comes out."""
        return self._entries[type(call)](call, session)

    async def start(self, session: Session) -> None:
        """Run the plugin's `start` hook."""
        await self._enter("start", context=Context(session))

    # One entry for each kind of call; deliveries come first because they come most.

    def _on_event(self, call: EventCall, session: Session) -> Awaitable[Any]:
        if call.delivery.unfiltered and not self._matches(call):
            return _nothing()
        return self._enter("on_event", event=call.event, context=Context(session, call.delivery))

    def _matches(self, call: EventCall) -> bool:
        """Whether the filters of the subscription match, where the event is too large for the host to look."""
        name = call.delivery.subscription
        compiled = self._filters.get(name)
        if compiled is None:
            filters = [one.filters for one in self.describe().subscriptions if one.name == name]
            compiled = self._filters[name] = compile_filters(filters[0] if filters else ())
        return compiled.matches(call.event)

    def _on_schedule(self, call: FiringCall, session: Session) -> Awaitable[Any]:
        return self._enter("on_schedule", firing=call.firing, context=Context(session, call.delivery))

    def _call(self, call: ServiceCall, session: Session) -> Awaitable[Any]:
        return self._enter("call", method=call.method, arguments=call.arguments, context=Context(session, call=call))

    def _handle_request(self, call: Request, session: Session) -> Awaitable[Any]:
        return self._enter("handle_request", request=call, context=Context(session))

    def _check_health(self, _call: HealthCall, session: Session) -> Awaitable[Any]:
        return self._enter("check_health", context=Context(session))

    async def _config_changed(self, call: ConfigCall, session: Session) -> Any:
        session.reconfigure(self.parse_config(call.config), call.secrets)
        return await self._enter("config_changed", config=session.config, context=Context(session))

    async def _stop(self, _call: StopCall, session: Session) -> Any:
        try:
            return await self._enter("stop", context=Context(session))
        finally:
            await session.close()

    def _enter(self, hook: str, **arguments: Any) -> Awaitable[Any]:
        """What awaits the hook's end; a hook that is no coroutine function runs in a thread."""
        caller = self._callers.get(hook)
        if caller is None:
            return _nothing()
        if hook in self._plain:
            return self._threads.of(hook).run(caller, **arguments)
        found: Awaitable[Any] = caller(**arguments)
        return found


def _caller(hook: pluggy.HookCaller) -> Callable[..., Any]:
    """What calls a hook: its one implementation itself, where that is all there is to pluggy's own call.

    pluggy has checked the implementation's arguments when it was registered; with one plain implementation,
    what its call adds is the search for wrappers and further results.
    """
    (first, *others) = hook.get_hookimpls()
    if others or first.wrapper or first.hookwrapper:
        return hook
    function, takes = first.function, first.argnames
    offered = len(hook.spec.argnames if hook.spec is not None else ())
    if len(takes) == offered:
        return function

    def call(**arguments: Any) -> Any:
        return function(**{name: arguments[name] for name in takes})

    return call


async def _nothing() -> None:
    """What a hook that the plugin does not implement comes to."""


def _config_model(instance: object) -> type[BaseModel] | None:
    model = getattr(instance, "Config", None)
    if model is None:
        return None
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise DescriptionError("Config must be a pydantic model class")
    return model


def _explained(instance: object, error: pluggy.PluginValidationError) -> str:
    """Pluggy's refusal as one sentence that names the nearest hook or argument."""
    where = instance.__name__ if isinstance(instance, ModuleType) else type(instance).__name__
    for name in dir(instance):
        function = inspect.unwrap(getattr(instance, name)) if callable(getattr(instance, name)) else None
        if function is None or not hasattr(function, f"{hookspecs.PROJECT}_impl"):
            continue
        if name not in HOOKS:
            near = difflib.get_close_matches(name, HOOKS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"hooks are {', '.join(HOOKS)}"
            return f"'{where}.{name}' is marked as a hook, but there is no hook '{name}': {hint}"
        known = list(inspect.signature(getattr(hookspecs, name)).parameters)
        for argument in inspect.signature(function).parameters:
            if argument != "self" and argument not in known:
                takes = ", ".join(known) or "no arguments"
                return f"'{where}.{name}' names the argument '{argument}', but the hook '{name}' has {takes}"
    return str(error)
