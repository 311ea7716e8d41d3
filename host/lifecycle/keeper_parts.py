"""What every keeper works with, made once, where the host is put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from host.lifecycle.hosted_plugin import HostedPlugin
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.supply.installer import Release
from plugin_sdk.clock import Clock


@dataclass(frozen=True, slots=True)
class KeeperParts:
    """What every keeper works with; made once.

    Attributes:
        registry: What is wanted.
        verify: Verifies the release of a record with today's trust, and says so where it is refused.
        host: Makes the plugin of a record and its release; it is not started by that.
        forget: Removes the files of a release that no record names any more.
        clear: Takes away the data of a plugin that was purged under this id, if any is left.
        grace: Seconds that deliveries in flight have to end in when a plugin is stopped.
        probation: Seconds after an upgrade in which the host goes back by itself.
        clock: For what is said of states, and the end of a probation.
    """

    registry: Registry
    verify: Callable[[PluginRecord], Awaitable[Release]]
    host: Callable[[PluginRecord, Release, Callable[[], None]], HostedPlugin]
    forget: Callable[[str], Awaitable[None]]
    clear: Callable[[str], Awaitable[None]]
    grace: float
    probation: float
    clock: Clock
