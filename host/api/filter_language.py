"""Filters in requests: one filter object or a list of them, in the dialects of `plugin_sdk.filters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

FilterField = Annotated[
    dict[str, Any] | list[dict[str, Any]] | None,
    Field(
        description="A filter or a list of them, all of which must hold: an object with one of the dialects "
        "exact, prefix, suffix, all, any, not and pattern."
    ),
]


def as_filters(given: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """What a request gave, as the list of filters that it means; nothing given holds for every event."""
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return (given,)
    return tuple(given)
