"""Hooks that hand values to the host which no reader of JSON could hold."""

from contextlib import suppress
from typing import Any

from plugin_sdk import Context
from plugin_sdk.errors import HostError, InvalidEventError

_KEPT: tuple[Any, ...] = (float("nan"), {"n": float("inf")}, "\ud800", {"\udcff": 1}, [10**5000], {"a": object()})
_FAULTS: tuple[bytes, ...] = (
    rb'"data":"\ud800"',
    rb'"data":{"\udc00":1}',
    b'"data":1e400',
    b'"data":NaN',
    b'"data":{"a":1,"a":2}',
    b'"data":' + b"9" * 5000,
    b'"data":' + b"[" * 1000 + b"]" * 1000,
    b'"data":"\xff"',
    b'"hops":99999999999999999999',
)


async def nonsense(context: Context) -> None:
    """Emit, keep and send on what is no JSON; each is refused here, before the host sees it."""
    for value in _KEPT:
        for attempt in (
            lambda value=value: context.emit("saboteur.flood", data=value),
            lambda value=value: context.kv.set("nonsense", value),
            lambda value=value: context.call("saboteur.handled", {"value": value}),
        ):
            with suppress(InvalidEventError, HostError):
                await attempt()
                raise AssertionError(f"{value!r} was taken")


async def malformed(context: Context) -> None:
    """Have the host append events that are no strict JSON, past the SDK's own checks."""
    start = b'{"specversion":"1.0","id":"malformed","source":"/plugins/saboteur","type":"saboteur.flood",'
    for fault in _FAULTS:
        with suppress(InvalidEventError, HostError):
            await context._session.host.emit(start + fault + b"}")  # noqa: SLF001 - an attacker asks nobody
            raise AssertionError(f"{fault[:50]!r} was taken")
