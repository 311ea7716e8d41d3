"""The values of one field in a pattern: literals and operators, compiled to one test for each kind of JSON value.

Source: Amazon EventBridge User Guide, "Comparison operators for use in event patterns". Where that leaves a choice:

* Numbers compare as IEEE 754 doubles, so 300 is 300.0, and a number beyond the doubles is infinite. Booleans are no
  numbers: `true` is not 1.
* `equals-ignore-case` compares by Unicode's case folding.
* `anything-but` holds for every value but those it names, of whatever kind: a number is anything but `"x"`, `null` is
  anything but `{"prefix": "x"}`. A field that is not there has no value and does not match.
* `cidr` takes an address with a prefix length, /32 and /128 included, whose host bits do not matter; it compares IPv4
  with IPv4 and IPv6 with IPv6.
* `numeric` takes one bound or a lower and an upper one, in either order; a range that holds no number is refused.
* An empty `prefix` or `suffix` fits every string; under `anything-but` it is refused, for it would fit none.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from types import NoneType
from typing import Any, Final

from plugin_sdk.filters import predicates
from plugin_sdk.filters.explanations import double, shown
from plugin_sdk.filters.positions import Position, kind_of, nearest
from plugin_sdk.filters.predicates import Builder, Predicate
from plugin_sdk.filters.type_globs import Globs, glob, union

MAX_STARS: Final = 16
KINDS: Final = (str, int, float, bool, NoneType)
"""The kinds of JSON value that a field can end in, as Python types. A test is found by the exact type of a value, which
keeps `True` and `1` apart, and lets whatever is no JSON value fit nothing."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One value of a field.

    `entries` say, for a kind of JSON value, what builds the test and with which argument: arguments of one builder
    are tested together, so that a hundred exact strings are one look into a set. `miss` is the end of the sentence
    "x is 5, which …". `absence` says that the field may be missing.
    """

    miss: str
    entries: tuple[tuple[type, Builder, Any], ...] = ()
    glob: str | None = None
    absence: bool = False


@dataclass(frozen=True, slots=True)
class Values:
    """All values of one field: `tests` by the exact type of what an event has there, of which any may hold."""

    tests: Mapping[type, Predicate]
    absence: bool
    globs: Globs
    misses: tuple[str, ...]


def parse_values(value: Any, position: Position) -> Values:
    """Compile the array of values of one field.

    Raises:
        FilterError: it is no array or an empty one, or one of its values is not allowed.
    """
    found = [_parse(item, place) for place, item in position.items(value, "values")]
    return Values(
        tests=_compiled(found),
        absence=any(one.absence for one in found),
        globs=union(None if one.glob is None else (one.glob,) for one in found),
        misses=tuple(one.miss for one in found),
    )


def _parse(value: Any, position: Position) -> Operator:
    position.count()
    if not isinstance(value, Mapping):
        return _literal(value, position)
    place, name, argument = position.only_entry(value, "the operator")
    parse = OPERATORS.get(name)
    if parse is None:
        place.refuse(f"there is no such operator. {nearest(name, OPERATORS)}")
    return parse(argument, place)


def _compiled(operators: Iterable[Operator]) -> dict[type, Predicate]:
    together: dict[tuple[type, Builder], list[Any]] = {}
    for one in operators:
        for kind, builder, argument in one.entries:
            together.setdefault((kind, builder), []).append(argument)
    tests: dict[type, list[Predicate]] = {}
    for (kind, builder), arguments in together.items():
        tests.setdefault(kind, []).append(builder(arguments))
    return {kind: predicates.any_of(found) for kind, found in tests.items()}


# Operators: what a pattern says, checked. `prefix` and its like take a list of texts under `anything-but`.


def _literal(value: Any, position: Position) -> Operator:
    if isinstance(value, str):
        text = position.text(value, "a string", may_be_empty=True)
        return Operator(f"is not {shown(text)}", ((str, predicates.equal, text),), glob(text))
    if value is None or isinstance(value, bool):
        return Operator(f"is not {shown(value)}", ((type(value), predicates.equal, value),))
    if not isinstance(value, (int, float)):
        position.refuse(f"must be a string, a number, true, false, null or an operator, not {kind_of(value)}")
    number = _number(value, position)
    entries = tuple((kind, predicates.same_number, number) for kind in (int, float))
    return Operator(f"is not {shown(number)}", entries)


def _number(value: Any, position: Position) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        position.refuse(f"must be a number, not {kind_of(value)}")
    number = double(value)
    if not math.isfinite(number):
        position.refuse("must be a finite number in the range of IEEE 754 doubles, at most 1.8e308")
    return number


def _same_text(argument: Any, position: Position, *, may_be_empty: bool) -> Operator:
    text = position.text(argument, "the text", may_be_empty=may_be_empty)
    return Operator(f"is not {shown(text)} in any case", ((str, predicates.equal_folded, text.casefold()),))


def _prefix(argument: Any, position: Position, *, may_be_empty: bool) -> Operator:
    text = position.text(argument, "the text", may_be_empty=may_be_empty)
    return Operator(f"does not start with {shown(text)}", ((str, predicates.starting, text),), glob(text, ""))


def _suffix(argument: Any, position: Position, *, may_be_empty: bool) -> Operator:
    text = position.text(argument, "the text", may_be_empty=may_be_empty)
    return Operator(f"does not end with {shown(text)}", ((str, predicates.ending, text),), glob("", text))


def _wildcard(argument: Any, position: Position, *, may_be_empty: bool) -> Operator:
    pieces = _pieces(position.text(argument, "the text", may_be_empty=may_be_empty), position)
    return Operator(f"does not fit the wildcard {shown(argument)}", ((str, predicates.fitting, pieces),), glob(*pieces))


def _pieces(text: str, position: Position) -> tuple[str, ...]:
    """The literal texts between the stars, without their escapes."""
    pieces: list[list[str]] = [[]]
    characters = iter(text)
    after_star = False
    for character in characters:
        if character == "*":
            if after_star:
                position.refuse("must not have two stars in a row: one stands for any characters")
            pieces.append([])
        elif character == "\\":
            escaped = next(characters, "")
            if escaped not in {"*", "\\"}:
                position.refuse("has a backslash that escapes nothing: write \\* for a star, \\\\ for a backslash")
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(character)
        after_star = character == "*"
    if len(pieces) - 1 > MAX_STARS:
        position.refuse(f"must have at most {MAX_STARS} stars, not {len(pieces) - 1}")
    return tuple(map("".join, pieces))


def _either_case(in_this_case: Callable[..., Operator], folded: Builder, verb: str) -> Callable[..., Operator]:
    """`prefix` or `suffix` with a text, or with an object that says to ignore case."""

    def parse(argument: Any, position: Position) -> Operator:
        if not isinstance(argument, Mapping):
            return in_this_case(argument, position, may_be_empty=True)
        place, name, text = position.only_entry(argument, "'equals-ignore-case'")
        if name != "equals-ignore-case":
            place.refuse("there is no such operator here. There is: equals-ignore-case")
        text = place.text(text, "the text", may_be_empty=True)
        return Operator(f"does not {verb} with {shown(text)} in any case", ((str, folded, text.casefold()),))

    return parse


def _anything_but(argument: Any, position: Position) -> Operator:
    if isinstance(argument, Mapping):
        place, name, texts = position.only_entry(argument, "the operator")
        parse = _EXCEPTED.get(name)
        if parse is None:
            place.refuse(f"there is no such operator under anything-but. {nearest(name, _EXCEPTED)}")
        listed = place.items(texts, "strings") if isinstance(texts, (list, tuple)) else [(place, texts)]
        excepted = [_counted(parse(text, item, may_be_empty=False), item) for item, text in listed]
    elif isinstance(argument, (list, tuple)):
        excepted = [_counted(_literal(item, place), place) for place, item in position.items(argument, "values")]
    else:
        excepted = [_literal(argument, position)]
    tests = _compiled(excepted)
    entries = tuple(
        (kind, predicates.any_of, predicates.negated(tests[kind])) if kind in tests else (kind, predicates.given, None)
        for kind in KINDS
    )
    return Operator("is ruled out by anything-but", entries)


def _counted(one: Operator, position: Position) -> Operator:
    position.count()
    return one


def _numeric(argument: Any, position: Position) -> Operator:
    parts = argument if isinstance(argument, (list, tuple)) else ()
    if len(parts) not in {2, 4}:
        position.refuse('must be an array of one or two comparisons, each with its number, such as [">", 0, "<=", 5]')
    bounds: list[tuple[str, float]] = []
    for at in range(0, len(parts), 2):
        sign = parts[at]
        if not isinstance(sign, str) or sign not in _COMPARISONS:
            position.item(at).refuse(f"must be one of the comparisons {', '.join(_COMPARISONS)}, not {kind_of(sign)}")
        bounds.append((sign, _number(parts[at + 1], position.item(at + 1))))
    if len(bounds) > 1:
        _check_range(bounds, position)
    wanted = " and ".join(f"{sign} {shown(number)}" for sign, number in bounds)
    test = predicates.within([(_COMPARISONS[sign], number) for sign, number in bounds])
    return Operator(f"is no number {wanted}", ((int, predicates.any_of, test), (float, predicates.any_of, test)))


def _check_range(bounds: list[tuple[str, float]], position: Position) -> None:
    lower = [(number, sign) for sign, number in bounds if sign.startswith(">")]
    upper = [(number, sign) for sign, number in bounds if sign.startswith("<")]
    if len(lower) != 1 or len(upper) != 1:
        position.refuse("two comparisons must be a lower bound (> or >=) and an upper one (< or <=)")
    ((low, above), (high, below)) = lower[0], upper[0]
    if low > high or (low == high and (above, below) != (">=", "<=")):
        position.refuse(
            f"no number is {above} {shown(low)} and {below} {shown(high)}: the lower bound must be below the upper"
        )


def _cidr(argument: Any, position: Position) -> Operator:
    text = position.text(argument, "the network")
    address, slash, bits = text.partition("/")
    try:
        if not slash or not bits.isascii() or not bits.isdigit() or "%" in address:
            raise ValueError(text)
        network = ip_network(f"{address}/{int(bits)}", strict=False)
    except ValueError:
        position.refuse("must be a network with its prefix length, such as '10.0.0.0/8' or '2001:db8::/32'")
    return Operator(f"is no address in {network}", ((str, predicates.inside, network),))


def _exists(argument: Any, position: Position) -> Operator:
    if not isinstance(argument, bool):
        position.refuse(f"must be true or false, not {kind_of(argument)}")
    if argument:
        return Operator("is missing", tuple((kind, predicates.given, None) for kind in KINDS))
    return Operator("is not missing", absence=True)


_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_EXCEPTED: Final[dict[str, Callable[..., Operator]]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "wildcard": _wildcard,
    "equals-ignore-case": _same_text,
}
OPERATORS: Final[dict[str, Callable[[Any, Position], Operator]]] = {
    "prefix": _either_case(_prefix, predicates.starting_folded, "start"),
    "suffix": _either_case(_suffix, predicates.ending_folded, "end"),
    "equals-ignore-case": lambda argument, position: _same_text(argument, position, may_be_empty=True),
    "anything-but": _anything_but,
    "numeric": _numeric,
    "cidr": _cidr,
    "exists": _exists,
    "wildcard": lambda argument, position: _wildcard(argument, position, may_be_empty=True),
}
"""By the name that stands in a pattern."""
