"""What a caller gives a service: held against signature and annotations before the method runs."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field

from plugin_sdk import ArgumentsError, Context, HostError, Plugin, service
from plugin_sdk.testing import PluginHarness

if TYPE_CHECKING:
    from nowhere import Absent


class Order(BaseModel):
    item: str
    count: Annotated[int, Field(ge=1)] = 1


class Opaque:
    """A class of the author's own that pydantic knows nothing of."""


class Shop(Plugin):
    ran = 0

    @service
    async def typed(self, item: str, count: int = 1, note: str | None = None) -> list:
        Shop.ran += 1
        return [item, count, note]

    @service
    async def modelled(self, order: Order, at: datetime, context: Context) -> list:
        return [type(order).__name__, order.count, at.year, context.plugin]

    @service
    async def untyped(self, item, **more) -> list:
        return [item, more]

    @service
    async def unknown(self, one: "Absent", two: Opaque, three: int) -> list:
        return [one, two, three]

    @service
    async def inside(self, item: str) -> Any:
        raise TypeError(f"of the method's own, for {item}")

    @service
    async def judged(self, item: str) -> None:
        raise ArgumentsError(f"there is no {item}")

    @service
    async def further(self, context: Context) -> Any:
        return await context.call("depot.fetch", wrong=1)

    @service
    def plain(self, *, item: str) -> str:
        return item


async def call(method, **arguments):
    async with PluginHarness(Shop) as plugin:
        return await plugin.call(method, **arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "sentence"),
    [
        ("typed", {}, "missing a required argument: 'item'"),
        ("typed", {"itme": "tea"}, "missing a required argument: 'item'"),
        ("typed", {"item": "tea", "more": 1}, "unexpected keyword argument 'more'"),
        ("typed", {"item": 5}, "item: Input should be a valid string"),
        ("typed", {"item": None}, "item: Input should be a valid string"),
        ("typed", {"item": "tea", "count": "many"}, "count: Input should be a valid integer"),
        ("typed", {"item": "tea", "count": 1.5}, "count: Input should be a valid integer"),
        ("typed", {"item": [], "count": {}}, "item: Input should be a valid string; count: Input should be a valid"),
        ("modelled", {"order": {}, "at": "2026-01-01T00:00:00Z"}, "order.item: Field required"),
        ("modelled", {"order": {"item": "tea", "count": 0}, "at": 0}, "order.count: Input should be greater than"),
        ("modelled", {"order": {"item": "tea"}, "at": "soon"}, "at: Input should be a valid datetime"),
        ("unknown", {"one": 1, "two": 2, "three": "x"}, "three: Input should be a valid integer"),
        ("plain", {"item": 5}, "item: Input should be a valid string"),
    ],
)
async def test_what_does_not_fit_is_the_callers_mistake_and_the_method_does_not_run(method, arguments, sentence):
    Shop.ran = 0
    with pytest.raises(ArgumentsError) as refused:
        await call(method, **arguments)
    assert refused.value.word == "arguments_invalid"
    assert str(refused.value).startswith(f"plugin.{method}: ")
    assert sentence in str(refused.value)
    assert Shop.ran == 0


@pytest.mark.parametrize(
    ("method", "arguments", "answer"),
    [
        ("typed", {"item": "tea"}, ["tea", 1, None]),
        ("typed", {"item": "tea", "count": 2, "note": "hot"}, ["tea", 2, "hot"]),
        ("modelled", {"order": {"item": "a", "count": 3}, "at": "2026-01-01T00:00:00Z"}, ["Order", 3, 2026, "plugin"]),
        ("modelled", {"order": {"item": "a"}, "at": 0, "context": 1}, ["Order", 1, 1970, "plugin"]),
        ("untyped", {"item": 5, "self_": 1}, [5, {"self_": 1}]),
        ("unknown", {"one": 1, "two": 2, "three": 3}, [1, 2, 3]),
        ("plain", {"item": "tea"}, "tea"),
    ],
)
async def test_what_fits_comes_in_the_types_that_the_method_says(method, arguments, answer):
    assert await call(method, **arguments) == answer


async def test_what_goes_wrong_inside_the_method_is_its_own():
    with pytest.raises(TypeError, match="of the method's own"):
        await call("inside", item="tea")
    with pytest.raises(HostError) as failed:
        await call("further")
    assert not isinstance(failed.value, ArgumentsError)


async def test_a_method_can_say_itself_that_its_caller_is_wrong():
    with pytest.raises(ArgumentsError, match="there is no tea"):
        await call("judged", item="tea")


async def test_of_many_wrong_arguments_the_first_are_told_and_the_rest_counted():
    class Many(Plugin):
        @service
        async def add(self, numbers: list[int]) -> int:
            return sum(numbers)

    async with PluginHarness(Many) as plugin:
        with pytest.raises(ArgumentsError) as refused:
            await plugin.call("add", numbers=["x" * 1000] * 500)
    assert str(refused.value).endswith("; and 490 more")
    assert len(str(refused.value)) < 2000
