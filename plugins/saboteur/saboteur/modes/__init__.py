"""The ways to misbehave: each public coroutine function of a file here is a mode. Most do not return.

A file holds the modes of one kind; a mode whose name is a word of Python ends in an underscore.
"""

from collections.abc import Awaitable, Callable
from types import ModuleType

from plugin_sdk import Context
from saboteur.modes import callers, disk, floods, hooks, machine, network, no_json, requests, resources, values, wire

_ENDS, _ASKS = (hooks, resources, machine, disk), (requests, callers, network, floods)
KINDS: tuple[ModuleType, ...] = (*_ENDS, *_ASKS, wire, values, no_json)

MODES: dict[str, Callable[[Context], Awaitable[None]]] = {
    name.rstrip("_"): function
    for kind in KINDS
    for name, function in vars(kind).items()
    if not name.startswith("_") and getattr(function, "__module__", "") == kind.__name__
}
