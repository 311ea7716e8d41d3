"""One plugin behind one pluggy manager: validated against the specs, and called hook by hook.

Both runtimes use this: the worker in its own process, the inline runtime in the host's.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
from types import ModuleType
from typing import Any, Final

import pluggy
from pydantic import BaseModel, ValidationError

from plugin_sdk import hookspecs
from plugin_sdk.calls import (
    ConfigCall,
    EventCall,
    FiringCall,
    HealthCall,
    HookCall,
    Request,
    ServiceCall,
)
from plugin_sdk.context import Context, Session
from plugin_sdk.description import Description
from plugin_sdk.errors import DescriptionError, HostError
from plugin_sdk.events import Event

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
        self._config_model = _config_model(instance)
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
            ("handle_request", found.routes or found.webhooks),
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
            lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            raise HostError("; ".join(lines), "config_invalid") from None

    async def run(self, call: HookCall, session: Session) -> Any:
        """Enter the hook that `call` is for and answer what it returns; whatever it raises comes out."""
        match call:
            case EventCall(body, delivery):
                # The host checked it when it took it into the log.
                event = Event.trusted(body)
                return await self._enter("on_event", event=event, context=Context(session, delivery))
            case FiringCall(firing, delivery):
                return await self._enter("on_schedule", firing=firing, context=Context(session, delivery))
            case ServiceCall(method, arguments):
                return await self._enter("call", method=method, arguments=arguments, context=Context(session))
            case Request():
                return await self._enter("handle_request", request=call, context=Context(session))
            case HealthCall():
                return await self._enter("check_health", context=Context(session))
            case ConfigCall(config, secrets):
                session.reconfigure(self.parse_config(config), secrets)
                return await self._enter("config_changed", config=session.config, context=Context(session))
            case _:
                return await self._enter("stop", context=Context(session))

    async def start(self, session: Session) -> None:
        """Run the plugin's `start` hook."""
        await self._enter("start", context=Context(session))

    async def _enter(self, hook: str, **arguments: Any) -> Any:
        caller = getattr(self.manager.hook, hook)
        if hook in self._plain:
            return await asyncio.to_thread(caller, **arguments)
        found = caller(**arguments)
        return await found if found is not None else None


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
