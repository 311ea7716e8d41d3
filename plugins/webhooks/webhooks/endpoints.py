"""Where events go: endpoints as they are kept, which events they take, and the directory of all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

from plugin_sdk import Event
from plugin_sdk.context import KeyValueStore
from plugin_sdk.description import type_pattern
from plugin_sdk.events import new_id
from plugin_sdk.filters import CompiledFilters, compile_filters
from webhooks.errors import ApiError
from webhooks.keys import Keys
from webhooks.messages import OWN, Format, instant

PREFIX: Final = "endpoint/"
_PAGE: Final = 1000


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. Times are in seconds since the epoch, `rate` in requests a second.

    `failing_since` is its first failure without a success since; `disabled_because` says why it is not enabled.
    """

    id: str
    url: str
    keys: Keys
    created: float
    updated: float
    description: str = ""
    types: tuple[str, ...] = ("*",)
    filters: tuple[dict[str, Any], ...] = ()
    enabled: bool = True
    rate: float | None = None
    headers: dict[str, str] = {}
    format: Format = "cloudevents"
    failing_since: float | None = None
    disabled_because: str = ""

    def shown(self) -> dict[str, Any]:
        """The endpoint as the API shows it, without its keys."""
        return {
            "id": self.id,
            "url": self.url,
            "description": self.description,
            "types": self.types,
            "filters": self.filters,
            "enabled": self.enabled,
            "ratePerSecond": self.rate,
            "headers": self.headers,
            "format": self.format,
            "createdAt": instant(self.created),
            "updatedAt": instant(self.updated),
            "failingSince": instant(self.failing_since),
            "disabledBecause": self.disabled_because,
        }


def new_endpoint_id() -> str:
    """A fresh id; later ones sort after earlier ones."""
    return "ep_" + new_id().replace("-", "")


class Taker:
    """Which events an endpoint takes: one of its types, and all of its filters."""

    __slots__ = ("_filters", "_own", "_types")

    def __init__(self, endpoint: Endpoint) -> None:
        self._types = re.compile("|".join(f"(?:{type_pattern(glob)})" for glob in endpoint.types), re.DOTALL)
        self._filters: CompiledFilters = compile_filters(endpoint.filters)
        # An endpoint for "*" that fails must not be sent the news of its own failing.
        self._own = any(glob.startswith(OWN) for glob in endpoint.types)

    def takes(self, event: Event) -> bool:
        """Whether the endpoint gets this event."""
        if not self._types.fullmatch(event.type) or (event.type.startswith(OWN) and not self._own):
            return False
        return self._filters.matches(event)


class Directory:
    """All endpoints, in memory and in the kv. Every change is durable before it is seen."""

    def __init__(self, kv: KeyValueStore) -> None:
        self._kv = kv
        self._endpoints: dict[str, tuple[Endpoint, Taker]] = {}
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Read what is kept."""
        async for key in keys_under(self._kv, PREFIX):
            self._put(msgspec.convert(await self._kv.get(key), Endpoint))

    def __iter__(self) -> Iterator[Endpoint]:
        """The endpoints, the oldest first."""
        return (self._endpoints[name][0] for name in sorted(self._endpoints))

    def __len__(self) -> int:
        return len(self._endpoints)

    def find(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint with this id."""
        found = self._endpoints.get(endpoint_id)
        return None if found is None else found[0]

    def taking(self, event: Event) -> list[Endpoint]:
        """The enabled endpoints that get an event."""
        return [one for one, taker in self._endpoints.values() if one.enabled and taker.takes(event)]

    async def add(self, endpoint: Endpoint, *, bound: int) -> None:
        """Keep a new endpoint.

        Raises:
            ApiError: there are `bound` endpoints already.
        """
        async with self._turn:
            if len(self._endpoints) >= bound:
                raise ApiError(409, "too_many_endpoints", f"there are {bound} endpoints already: delete one first")
            await self._keep(endpoint)

    async def change(self, endpoint_id: str, **changes: Any) -> Endpoint:
        """Change an endpoint.

        Raises:
            ApiError: there is none with this id.
        """
        async with self._turn:
            endpoint = self.find(endpoint_id)
            if endpoint is None:
                raise not_found(endpoint_id)
            changed = msgspec.structs.replace(endpoint, **changes)
            await self._keep(changed)
            return changed

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint; errors as `change`."""
        async with self._turn:
            if not await self._kv.delete(PREFIX + endpoint_id):
                raise not_found(endpoint_id)
            del self._endpoints[endpoint_id]

    async def _keep(self, endpoint: Endpoint) -> None:
        taker = Taker(endpoint)  # refuses bad filters before anything is written
        await self._kv.set(PREFIX + endpoint.id, endpoint)
        self._endpoints[endpoint.id] = (endpoint, taker)

    def _put(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.id] = (endpoint, Taker(endpoint))


def not_found(endpoint_id: str) -> ApiError:
    """There is no such endpoint."""
    return ApiError(404, "endpoint_not_found", f"there is no endpoint '{endpoint_id[:64]}'")


async def keys_under(kv: KeyValueStore, prefix: str) -> AsyncIterator[str]:
    """All keys with a prefix, in order, page by page."""
    after = ""
    while page := await kv.keys(prefix, after=after, limit=_PAGE):
        for key in page:
            yield key
        after = page[-1]
