"""What a caller gives a service method, checked before the method runs: what does not fit is the caller's mistake.

Without this, a wrong argument would come out of the middle of the method as any failure of the callee's does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from plugin_sdk.errors import ArgumentsError

MAX_SENTENCES: Final = 10
"""What is said of wrong arguments; there can be as many sentences as a list has items."""
_GROUPS: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


class ServiceMethod:
    """A service method with what its signature says: which arguments it takes, and of which types.

    An annotation that pydantic has no schema for, or that cannot be resolved when the plugin runs (imported for type
    checkers alone), is not held against a caller.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.function = method
        self.awaits = inspect.iscoroutinefunction(method)
        self._signature = inspect.signature(method)
        self.takes_context = "context" in self._signature.parameters

    def fitted(self, service: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in the types that the method says; a `context` among them is the host's to give, and left out.

        Raises:
            ArgumentsError: the method does not take these.
        """
        found = dict(arguments)
        try:
            if self.takes_context:
                self._signature.bind(**{**found, "context": None})
                found.pop("context", None)
            else:
                self._signature.bind(**found)
        except TypeError as error:
            raise ArgumentsError(f"{service}: {error}") from None
        wrong: list[str] = []
        for name in [one for one in found if one in self._types]:
            try:
                found[name] = self._types[name].validate_python(found[name])
            except ValidationError as error:
                wrong += told(error, name)
        if wrong:
            more = f"; and {len(wrong) - MAX_SENTENCES} more" if len(wrong) > MAX_SENTENCES else ""
            raise ArgumentsError(f"{service}: {'; '.join(wrong[:MAX_SENTENCES])}{more}")
        return found

    @cached_property
    def _types(self) -> dict[str, TypeAdapter[Any]]:
        """What checks each argument; made at the first call, for it costs more than most plugins' imports."""
        found = {}
        for name, parameter in self._signature.parameters.items():
            if name == "context" or parameter.kind in _GROUPS or parameter.annotation is inspect.Parameter.empty:
                continue
            annotation = self._resolved(name, parameter.annotation)
            if annotation is None:
                continue
            try:
                found[name] = TypeAdapter(annotation)
            except PydanticUserError:
                continue  # an annotation of the author's own, for readers and type checkers
        return found

    def _resolved(self, name: str, annotation: Any) -> Any:
        """The type that an annotation stands for, each by itself: one that cannot be resolved spoils no other."""
        scope = getattr(inspect.unwrap(self.function), "__globals__", {})
        alone: Any = SimpleNamespace(__annotations__={name: annotation})
        try:
            return get_type_hints(alone, scope, include_extras=True)[name]
        except (NameError, AttributeError, TypeError, SyntaxError):
            return None


def told(error: ValidationError, *where: str) -> list[str]:
    """A sentence for each thing that pydantic says is wrong, none of which quotes what was given."""
    return [
        ": ".join(filter(None, (".".join(map(str, (*where, *item["loc"]))), item["msg"].removeprefix("Value error, "))))
        for item in error.errors(include_url=False, include_input=False)
    ]
