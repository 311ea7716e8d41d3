from typing import Any

import pytest
from heard import Heard, context
from pydantic import BaseModel

from plugin_sdk import (
    Context,
    Description,
    Health,
    HostError,
    Plugin,
    Request,
    Response,
    Webhook,
    service,
)
from plugin_sdk.loading import LoadedPlugin
from plugin_sdk.testing import PluginHarness

# Services


class Calculator(Plugin):
    @service
    async def add(self, left: int, right: int = 1) -> int:
        return left + right

    @service
    async def whoami(self, context: Context) -> str:
        return context.plugin

    async def hidden(self) -> None: ...


async def test_a_service_takes_its_callers_arguments_by_name() -> None:
    async with PluginHarness(Calculator) as plugin:
        assert await plugin.call("add", left=2, right=3) == 5
        assert await plugin.call("add", left=2) == 3


async def test_a_service_that_names_context_gets_the_hosts_and_never_the_callers() -> None:
    async with PluginHarness(Calculator, name="calculator") as plugin:
        assert await plugin.call("whoami") == "calculator"
        assert await plugin.call("whoami", context={"plugin": "someone-else"}) == "calculator"


@pytest.mark.parametrize("method", ["subtract", "hidden", "describe", "__init__", ""])
async def test_only_services_can_be_called(method: str) -> None:
    with pytest.raises(HostError, match=f"Method {method} not found on plugin orders") as refused:
        await Calculator().call(method, {}, context())
    assert refused.value.word == "method_not_found"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "missing a required argument: 'left'"),
        ({"left": 1, "up": 2}, "got an unexpected keyword argument 'up'"),
        ({"left": 1, "self": 2}, "got an unexpected keyword argument 'self'"),
        ({"left": 1, "context": 2}, "got an unexpected keyword argument 'context'"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_by_name(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HostError) as refused:
        await Calculator().call("add", arguments, context())
    assert refused.value.word == "arguments_invalid"
    assert str(refused.value) == f"orders.add: {sentence}"


async def test_a_type_error_of_the_services_own_is_not_taken_for_wrong_arguments() -> None:
    class Sums(Plugin):
        @service
        async def add(self, left, right=1):
            return left + right

    async with PluginHarness(Sums) as plugin:
        with pytest.raises(TypeError, match="unsupported operand"):
            await plugin.call("add", left=1, right="one")


# The plugin's life


async def test_the_methods_of_its_life_are_hooks_by_their_name_alone() -> None:
    class Settings(BaseModel):
        greeting: str = "hello"

    class Whole(Heard):
        Config = Settings

        async def start(self, context: Context) -> None:
            self.note("start", context.config.greeting)

        async def config_changed(self, config: Settings) -> None:
            self.note("config", config.greeting)

        async def check_health(self) -> Health:
            return Health("warn", "tired")

        async def handle_request(self, request: Request) -> Response:
            return Response(200, {}, request.path.encode())

        def stop(self) -> None:
            self.note("stop")

    whole = Whole()
    async with PluginHarness(whole) as plugin:
        await plugin.reconfigure({"greeting": "hi"})
        assert await plugin.check_health() == Health("warn", "tired")
        assert (await plugin.request(Request("GET", "/orders"))).body == b"/orders"
    assert whole.heard == [(True, "start", "hello"), (True, "config", "hi"), (False, "stop")]


async def test_the_life_of_a_base_class_is_that_of_its_subclass() -> None:
    class Base(Heard):
        async def start(self) -> None:
            self.note("base")

    class Inherits(Base): ...

    class Extends(Base):
        async def start(self) -> None:
            await super().start()
            self.note("extends")

    for made, heard in ((Inherits(), ["base"]), (Extends(), ["base", "extends"])):
        async with PluginHarness(made):
            assert [what for _, what in made.heard] == heard


async def test_the_life_of_a_mixin_is_that_of_its_plugin() -> None:
    class Connects:
        connected = False

        async def start(self, context: Context) -> None:
            self.connected = True

    class Orders(Connects, Plugin): ...

    orders = Orders()
    async with PluginHarness(orders):
        assert orders.connected


def test_a_plugin_that_overrides_describe_says_what_it_returns() -> None:
    class Hooked(Plugin):
        def describe(self) -> Description:
            return Description(webhooks=(Webhook(name="stripe", scheme="stripe", secrets=("key",)),))

    class Answers(Hooked):
        async def handle_request(self) -> Response:
            return Response()

    assert [one.name for one in LoadedPlugin("hooked", Answers).describe().webhooks] == ["stripe"]


async def test_a_plugin_that_overrides_nothing_is_well_and_serves_no_routes() -> None:
    class Quiet(Plugin): ...

    async with PluginHarness(Quiet) as plugin:
        assert await plugin.check_health() == Health("pass")
        answer = await plugin.request(Request("GET", "/"))
    assert (answer.status, answer.body) == (404, b"this plugin serves no routes\n")
    assert plugin.description == Description()


def test_routes_are_described_where_requests_are_handled() -> None:
    class Serves(Plugin):
        async def handle_request(self) -> Response:
            return Response()

    class Inherits(Serves): ...

    assert Serves().describe().routes
    assert Inherits().describe().routes


def test_the_config_model_is_described_by_its_json_schema() -> None:
    class Settings(BaseModel):
        greeting: str = "hello"

    class Greets(Plugin):
        Config = Settings

    schema = Greets().describe().config_schema
    assert schema is not None
    assert schema["properties"]["greeting"] == {"default": "hello", "title": "Greeting", "type": "string"}
