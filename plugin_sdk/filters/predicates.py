"""The predicates of single JSON values that operators come to, each built from all arguments of its operator at once.

They run for every event that reaches a subscription, so each is as flat as it can be; and each takes time linear in
the value, whatever the pattern says. A value is always of the kind that the predicate is for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from plugin_sdk.filters.explanations import double

Predicate = Callable[[Any], bool]
Builder = Callable[[list[Any]], Predicate]

_LONGEST_ADDRESS: Final = 45
"""Characters of an IPv6 address with an IPv4 one in it: the longest there is without a zone."""


def any_of(tests: list[Predicate]) -> Predicate:
    """What holds where one of the tests does."""
    if len(tests) == 1:
        return tests[0]
    several = tuple(tests)

    def test(value: Any) -> bool:
        for one in several:  # noqa: SIM110 - any() would make a generator for every value
            if one(value):
                return True
        return False

    return test


def negated(excepted: Predicate) -> Predicate:
    """What holds where `excepted` does not."""
    return lambda value: not excepted(value)


def given(_arguments: list[Any]) -> Predicate:
    """What holds for whatever value there is."""
    return lambda _value: True


def equal(values: list[Any]) -> Predicate:
    """What holds for one of the values."""
    return frozenset(values).__contains__


def same_number(numbers: list[float]) -> Predicate:
    """What holds for a number that is one of them, as doubles."""
    wanted = frozenset(numbers)
    return lambda value: double(value) in wanted


def equal_folded(texts: list[str]) -> Predicate:
    """What holds for one of the case-folded texts, in any case."""
    wanted = frozenset(texts)
    return lambda value: value.casefold() in wanted


def starting(texts: list[str]) -> Predicate:
    """What holds for a string that starts with one of the texts."""
    return operator.methodcaller("startswith", tuple(texts))


def ending(texts: list[str]) -> Predicate:
    """What holds for a string that ends with one of the texts."""
    return operator.methodcaller("endswith", tuple(texts))


def starting_folded(texts: list[str]) -> Predicate:
    """What holds for a string that starts with one of the case-folded texts, in any case."""
    wanted = tuple(texts)
    return lambda value: value.casefold().startswith(wanted)


def ending_folded(texts: list[str]) -> Predicate:
    """What holds for a string that ends with one of the case-folded texts, in any case."""
    wanted = tuple(texts)
    return lambda value: value.casefold().endswith(wanted)


def fitting(wildcards: list[tuple[str, ...]]) -> Predicate:
    """What holds for a string that fits one of the wildcards, each as the literal pieces between its stars."""
    return any_of([_fits(pieces) for pieces in wildcards])


def _fits(pieces: tuple[str, ...]) -> Predicate:
    """What finds the pieces of a wildcard one after the other, in time linear in the text.

    Each piece is taken where it comes first, for good, as the atomic groups of `type_pattern` do: a later place
    could only leave less for those behind it. `str.find` needs no going back inside a piece, either.
    """
    if len(pieces) == 1:
        return equal([pieces[0]])
    first, *middle, last = pieces
    shortest = len(first) + len(last)

    def test(value: str) -> bool:
        if len(value) < shortest or not value.startswith(first) or not value.endswith(last):
            return False
        at, end = len(first), len(value) - len(last)
        for piece in middle:
            at = value.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return test


def within(bounds: list[tuple[Callable[[float, float], bool], float]]) -> Predicate:
    """What holds for a number within one or two bounds, each a comparison and what it compares with."""
    (first, low), (second, high) = bounds[0], bounds[-1]

    def test(value: float) -> bool:
        number = double(value)
        return first(number, low) and second(number, high)

    return test


def inside(networks: list[IPv4Network | IPv6Network]) -> Predicate:
    """What holds for a string that is an address in one of the networks."""

    def test(value: str) -> bool:
        address = _address(value)
        return address is not None and any(address in network for network in networks)

    return test


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if len(text) > _LONGEST_ADDRESS or "%" in text:
        return None
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
