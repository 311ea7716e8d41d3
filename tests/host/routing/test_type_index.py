import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.routing import type_index
from host.routing.filters import Filter
from host.routing.type_index import TypeIndex, most_selective

# Few words, so that patterns and types meet often.
words = st.sampled_from(["a", "b", "ab"])
types = st.lists(words, min_size=1, max_size=3).map(".".join)
globs = st.lists(words | st.sampled_from(["*", "a*", "*b"]), min_size=1, max_size=3).map(".".join) | st.just("*")
patterns = st.lists(globs, min_size=1, max_size=3)
changes = st.lists(st.tuples(st.booleans(), st.integers(0, 7), patterns), max_size=40)


def prefixed(globs, type_):
    """The index's own promise by a naive scan: a pattern is known only up to its first star."""
    return any(type_.startswith(glob.partition("*")[0]) if "*" in glob else type_ == glob for glob in globs)


@given(changes, st.lists(types, min_size=1, max_size=10))
def test_everyone_whose_pattern_fits_is_found_after_any_adding_and_removing(steps, asked):
    index, naive = TypeIndex(), {}
    for adds, item, wanted in steps:
        index.remove(item)
        naive.pop(item, None)
        if adds:
            index.add(item, wanted)
            naive[item] = wanted
        assert len(index) == len(naive)
        for type_ in asked:  # between the changes, so that what is remembered must be forgotten
            found = index.candidates(type_)
            assert len(found) == len(set(found))
            assert set(found) == {item for item, wanted in naive.items() if prefixed(wanted, type_)}
            assert set(found) >= {item for item, wanted in naive.items() if Filter(tuple(wanted)).takes_type(type_)}


@given(changes)
def test_an_index_from_which_all_are_removed_keeps_nothing(steps):
    index = TypeIndex()
    for _, item, wanted in steps:
        index.remove(item)
        index.add(item, wanted)
        index.candidates("a.b")
    for item in range(8):
        index.remove(item)
    assert index.candidates("a.b") == ()
    assert len(index) == 0
    assert not any((index._exact, index._prefixed, index._lengths, index._globs))


def test_one_whose_patterns_begin_alike_is_removed_like_any_other():
    index = TypeIndex()
    index.add("x", ["order.*.created", "order.*.deleted"])
    index.remove("x")
    assert index.candidates("order.1.created") == ()


def test_removing_what_is_not_there_changes_nothing():
    index = TypeIndex()
    index.add("x", ["a.*"])
    index.remove("y")
    assert index.candidates("a.b") == ("x",)


def test_an_event_costs_what_it_matches_and_not_what_is_installed():
    index = TypeIndex()
    for number in range(500):
        index.add(number, [f"plugin{number}.*", f"exact.{number}"])
    assert index.candidates("plugin7.started") == (7,)
    assert index.candidates("exact.8") == (8,)
    assert index.candidates("other") == ()


def test_the_memory_of_types_is_bounded(monkeypatch):
    monkeypatch.setattr(type_index, "MAX_KNOWN_TYPES", 10)
    index = TypeIndex()
    index.add("x", ["a.*"])
    for number in range(100):
        assert index.candidates(f"a.{number}") == ("x",)
        assert len(index._known) <= 10


def test_a_long_type_is_found_and_not_remembered():
    index = TypeIndex()
    index.add("x", ["a.*"])
    assert index.candidates("a." + "b" * 2**20) == ("x",)
    assert index._known == {}


@pytest.mark.parametrize(
    ("choices", "best"),
    [
        ([["*"], ["a.b"]], ["a.b"]),
        ([["a.*"], ["a.b.*"]], ["a.b.*"]),
        ([["a.b", "*"], ["a.*"]], ["a.*"]),
        ([None, ["a.*"], None], ["a.*"]),
        ([["*.long.suffix"], ["a*"]], ["a*"]),
        ([["a.b", "c.d"], ["a.*"]], ["a.b", "c.d"]),
        ([[], ["a.b"]], []),
    ],
)
def test_of_several_lists_the_one_that_narrows_down_the_most_is_indexed(choices, best):
    assert most_selective(*choices) == best
