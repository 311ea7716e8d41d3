import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, model_validator

from plugin_sdk import (
    Context,
    Delivery,
    Description,
    Event,
    Health,
    HostError,
    Plugin,
    Request,
    Schedule,
    Service,
    Subscription,
    Webhook,
    hookimpl,
    new_event,
)
from plugin_sdk.calls import ConfigCall, EventCall, HealthCall, HookCall, ServiceCall, StopCall
from plugin_sdk.context import Session
from plugin_sdk.errors import DescriptionError
from plugin_sdk.loading import HOOKS, LoadedPlugin
from plugin_sdk.testing import MemoryHost


def module(**hooks: Any) -> ModuleType:
    """A plugin that is a module: functions marked as hooks, and whatever else stands in it."""
    made = ModuleType("orders_module")
    vars(made).update(hooks)
    return made


def session(config: Any = None, secrets: dict[str, str] | None = None) -> Session:
    return Session(plugin="orders", host=MemoryHost({}), config=config, secrets=secrets)


def delivery_of(event_type: str) -> EventCall:
    return EventCall(new_event(event_type, source="/s"), Delivery("d", "order", 1, 1))


# From an entry point to a plugin

SOURCE = """
from plugin_sdk import Health, Plugin, hookimpl

@hookimpl
async def check_health():
    return Health("warn", "the module")

class Orders(Plugin):
    class Inner(Plugin):
        async def check_health(self):
            return Health("warn", "the inner class")

    async def check_health(self):
        return Health("warn", "the class")

made = Orders()
"""


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with several plugins in it, another one for each test."""
    name = f"orders_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("", "the module"),
        (":Orders", "the class"),
        (":made", "the class"),
        (":Orders.Inner", "the inner class"),
    ],
)
async def test_an_entry_point_names_a_module_a_class_or_an_instance(orders: str, attribute: str, reason: str) -> None:
    plugin = LoadedPlugin.load("orders", orders + attribute)
    assert plugin.id == "orders"
    assert await plugin.run(HealthCall(), session()) == Health("warn", reason)


@pytest.mark.parametrize(("attribute", "missing"), [(":Order", "Order"), (":Orders.Outer", "Outer")])
def test_an_entry_point_that_names_nothing_is_refused(orders: str, attribute: str, missing: str) -> None:
    with pytest.raises(DescriptionError) as refused:
        LoadedPlugin.load("orders", orders + attribute)
    assert refused.value.code == "plugin_description_invalid"
    assert str(refused.value) == f"entry point '{orders}{attribute}': there is no '{missing}' in '{orders}'"


def test_what_the_plugins_code_raises_while_it_is_imported_comes_out(orders: str, tmp_path: Path) -> None:
    (tmp_path / f"{orders}.py").write_text("raise SystemExit('no database')")
    with pytest.raises(SystemExit, match="no database"):
        LoadedPlugin.load("orders", orders)


# What pluggy's contract refuses


def hook(name: str, arguments: str = "") -> Callable[..., Any]:
    """A function of that name with those arguments, marked as a hook."""
    made: dict[str, Any] = {}
    exec(f"async def {name}({arguments}): ...", made)  # noqa: S102 - a hook of any name and arguments
    return hookimpl(made[name])


ALL_HOOKS = f"hooks are {', '.join(HOOKS)}"

UNKNOWN: list[tuple[str, str, str]] = [
    (
        "on_evnt",
        "event",
        "'orders_module.on_evnt' is marked as a hook, but there is no hook 'on_evnt': did you mean 'on_event'?",
    ),
    (
        "frobnicate",
        "",
        f"'orders_module.frobnicate' is marked as a hook, but there is no hook 'frobnicate': {ALL_HOOKS}",
    ),
    (
        "on_event",
        "event, ctx",
        "'orders_module.on_event' names the argument 'ctx', but the hook 'on_event' has event, context",
    ),
    (
        "describe",
        "context",
        "'orders_module.describe' names the argument 'context', but the hook 'describe' has no arguments",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_a_hook_that_the_contract_does_not_have_is_refused_with_the_nearest_right_one(
    name: str, arguments: str, sentence: str
) -> None:
    with pytest.raises(DescriptionError) as refused:
        LoadedPlugin("orders", module(**{name: hook(name, arguments)}))
    assert str(refused.value) == sentence


def test_a_wrong_argument_of_a_method_is_refused_under_the_name_of_its_class() -> None:
    class Orders(Plugin):
        async def start(self, ctx: Context) -> None: ...  # type: ignore[override]  # the mistake itself

    with pytest.raises(DescriptionError, match="'Orders.start' names the argument 'ctx', but the hook .* has context"):
        LoadedPlugin("orders", Orders)


@pytest.mark.parametrize("target", [module(), module(start=lambda: None), object], ids=["empty", "unmarked", "class"])
def test_what_has_no_hook_is_no_plugin(target: object) -> None:
    with pytest.raises(DescriptionError) as refused:
        LoadedPlugin("orders", target)
    assert str(refused.value) == (
        "'orders' implements no hook: derive from plugin_sdk.Plugin or mark functions with @hookimpl"
    )


# What a plugin describes


def describes(described: Any, **hooks: Any) -> LoadedPlugin:
    @hookimpl
    def describe() -> Any:
        return described

    return LoadedPlugin("orders", module(describe=describe, **hooks))


def test_a_module_without_describe_describes_nothing() -> None:
    assert LoadedPlugin("orders", module(start=hook("start"))).describe() == Description()


@pytest.mark.parametrize(("answer", "kind"), [({"routes": True}, "dict"), ("orders", "str"), (None, "NoneType")])
def test_an_answer_that_is_no_description_is_refused(answer: Any, kind: str) -> None:
    with pytest.raises(DescriptionError, match="describe.. must return a Description, not ") as refused:
        describes(answer).describe()
    assert str(refused.value).endswith(f"not {kind}")


NEEDS: list[tuple[str, Description]] = [
    ("on_event", Description(subscriptions=(Subscription(name="order", types=("a",)),))),
    ("on_schedule", Description(schedules=(Schedule(name="tick", every=60),))),
    ("call", Description(services=(Service(name="count"),))),
    ("handle_request", Description(routes=True)),
    ("handle_request", Description(webhooks=(Webhook(name="own", scheme="plugin"),))),
]


@pytest.mark.parametrize(("needed", "described"), NEEDS)
def test_what_is_described_needs_its_hook(needed: str, described: Description) -> None:
    with pytest.raises(DescriptionError) as refused:
        describes(described).describe()
    assert str(refused.value) == f"the description needs the hook '{needed}', which is not implemented"
    assert describes(described, **{needed: hook(needed)}).describe() == described


# Config


class Settings(BaseModel):
    limit: int = Field(default=5, ge=1)
    password: SecretStr = SecretStr("none")
    tags: list[int] = []


def configured(model: Any = Settings, **hooks: Any) -> LoadedPlugin:
    return LoadedPlugin("orders", module(Config=model, stop=hook("stop"), **hooks))


def test_the_config_model_of_a_module_is_described_by_its_json_schema_beside_all_else() -> None:
    described = Description(
        subscriptions=(Subscription(name="order", types=("a",)),),
        schedules=(Schedule(name="tick", every=60),),
        services=(Service(name="count"),),
        routes=True,
        webhooks=(Webhook(name="stripe", scheme="stripe", secrets=("key",)),),
    )
    hooks = {name: hook(name) for name in ("on_event", "on_schedule", "call", "handle_request")}
    found = describes(described, Config=Settings, **hooks).describe()
    assert found.config_schema == Settings.model_json_schema()
    assert Description(**{name: getattr(found, name) for name in described.__struct_fields__[:-1]}) == described


def test_a_schema_that_the_plugin_describes_itself_is_kept() -> None:
    described = Description(config_schema={"type": "object", "title": "by hand"})
    assert describes(described, Config=Settings).describe() == described


def test_config_becomes_an_instance_of_the_plugins_model() -> None:
    parsed = configured().parse_config({"limit": 7, "password": "hunter2"})
    assert (parsed.limit, parsed.password.get_secret_value()) == (7, "hunter2")
    assert configured().parse_config({}) == Settings()


def test_config_without_a_model_is_handed_on_as_it_is() -> None:
    assert LoadedPlugin("orders", module(stop=hook("stop"))).parse_config({"any": ["thing"]}) == {"any": ["thing"]}


def test_wrong_config_is_refused_with_a_line_for_each_field_and_without_its_values() -> None:
    with pytest.raises(HostError) as refused:
        configured().parse_config({"limit": 0, "password": ["hunter2"], "tags": [1, "x"]})
    assert refused.value.word == "config_invalid"
    assert str(refused.value) == (
        "limit: Input should be greater than or equal to 1; password: Input should be a valid string; "
        "tags.1: Input should be a valid integer, unable to parse string as an integer"
    )


def test_what_a_validator_of_the_whole_model_says_is_the_sentence() -> None:
    class Both(BaseModel):
        user: str | None = None
        password: str | None = None

        @model_validator(mode="after")
        def both(self) -> "Both":
            if (self.user is None) != (self.password is None):
                raise ValueError("set user and password together")
            return self

    with pytest.raises(HostError) as refused:
        configured(Both).parse_config({"user": "ada"})
    assert str(refused.value) == "set user and password together"


@pytest.mark.parametrize("model", [dict, Settings(), {"limit": 5}], ids=["class", "instance", "dict"])
def test_a_config_that_is_no_model_class_is_refused(model: Any) -> None:
    with pytest.raises(DescriptionError, match="Config must be a pydantic model class"):
        configured(model)


def test_a_config_of_a_plugin_class_that_is_no_model_class_is_refused() -> None:
    class Orders(Plugin):
        Config = dict  # type: ignore[assignment]  # the mistake itself

    with pytest.raises(DescriptionError, match="Config must be a pydantic model class"):
        LoadedPlugin("orders", Orders)


async def test_new_config_is_in_place_before_the_hook_runs() -> None:
    seen: list[Any] = []

    @hookimpl
    async def config_changed(config: Settings, context: Context) -> None:
        seen.append((config, context.config, context.secrets["key"]))

    now = session(config=Settings(), secrets={"key": "old"})
    await configured(config_changed=config_changed).run(ConfigCall({"limit": 9}, {"key": "new"}), now)
    assert seen == [(Settings(limit=9), Settings(limit=9), "new")]


async def test_new_config_is_in_place_without_a_hook_for_it() -> None:
    now = session(config=Settings())
    await configured().run(ConfigCall({"limit": 9}), now)
    assert now.config == Settings(limit=9)


async def test_wrong_config_leaves_the_old_one_in_place_and_runs_no_hook() -> None:
    @hookimpl
    async def config_changed() -> None:
        raise AssertionError("the hook ran")

    now = session(config=Settings(limit=7), secrets={"key": "old"})
    with pytest.raises(HostError, match="limit"):
        await configured(config_changed=config_changed).run(ConfigCall({"limit": 0}, {"key": "new"}), now)
    assert (now.config, now.secrets["key"]) == (Settings(limit=7), "old")


# Calls


async def test_a_hook_takes_the_arguments_that_it_names_in_any_order() -> None:
    @hookimpl
    async def on_event(context: Context, event: Event) -> Any:
        return event.type, context.plugin, context.delivery

    @hookimpl
    async def call(arguments: dict[str, Any]) -> Any:
        return arguments

    plugin = LoadedPlugin("orders", module(on_event=on_event, call=call, check_health=hook("check_health")))
    delivered = delivery_of("order.placed")
    assert await plugin.run(delivered, session()) == ("order.placed", "orders", delivered.delivery)
    assert await plugin.run(ServiceCall("count", {"of": "orders"}), session()) == {"of": "orders"}


async def test_a_plain_hook_runs_in_a_thread_and_a_coroutine_on_the_loop() -> None:
    @hookimpl
    def on_event(event: Event) -> Any:
        return event.type, threading.current_thread() is threading.main_thread()

    @hookimpl
    def stop(context: Context) -> Any:
        return context.plugin, threading.current_thread() is threading.main_thread()

    @hookimpl
    async def check_health() -> Any:
        return threading.current_thread() is threading.main_thread()

    plugin = LoadedPlugin("orders", module(on_event=on_event, stop=stop, check_health=check_health))
    assert await plugin.run(delivery_of("a"), session()) == ("a", False)
    assert await plugin.run(StopCall(), session()) == ("orders", False)
    assert await plugin.run(HealthCall(), session()) is True


CALLS: list[HookCall] = [delivery_of("a"), ServiceCall("m", {}), Request("GET", "/"), HealthCall(), StopCall()]


@pytest.mark.parametrize("call", CALLS, ids=[type(call).__name__ for call in CALLS])
async def test_a_hook_that_the_plugin_does_not_implement_comes_to_nothing(call: HookCall) -> None:
    plugin = LoadedPlugin("orders", module(start=hook("start")))
    assert plugin.implements == {"start"}
    assert await plugin.run(call, session()) is None


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_whatever_a_hook_raises_comes_out(*, asynchronous: bool) -> None:
    @hookimpl
    async def waits() -> None:
        raise LookupError("no such order")

    @hookimpl
    def plain() -> None:
        raise LookupError("no such order")

    plugin = LoadedPlugin("orders", module(on_event=waits if asynchronous else plain))
    with pytest.raises(LookupError, match="no such order"):
        await plugin.run(delivery_of("a"), session())


async def test_start_runs_the_hook_with_the_session() -> None:
    seen: list[str] = []

    @hookimpl
    async def start(context: Context) -> None:
        seen.append(context.secrets["key"])

    await LoadedPlugin("orders", module(start=start)).start(session(secrets={"key": "value"}))
    assert seen == ["value"]
