import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.port.errors import KeyValueRefusedError
from host.port.key_values import MAX_LIST, KeyValues
from host.storage.key_value_store import KeyValueStore
from plugin_sdk.context import MAX_KEY_BYTES, MAX_VALUE_BYTES

QUOTA = 200


@pytest.fixture
async def store(tmp_path):
    one = await KeyValueStore.open(tmp_path / "key-values.db")
    yield one
    await one.close()


@pytest.fixture
def values(store):
    return KeyValues(store)


@pytest.fixture
async def small(tmp_path):
    one = await KeyValueStore.open(tmp_path / "small.db", quota=QUOTA)
    yield KeyValues(one)
    await one.close()


async def test_what_is_set_is_got_back_and_another_plugin_does_not_see_it(values):
    await values.set("p", "key", b"\x00\xff")
    assert await values.get("p", "key") == b"\x00\xff"
    assert await values.get("q", "key") is None
    assert await values.get("p", "Key") is None
    assert await values.keys("q", "", "", 10) == []


async def test_a_deleted_key_is_gone_and_deleting_says_whether_there_was_one(values):
    await values.set("p", "key", b"")
    assert await values.delete("p", "key")
    assert not await values.delete("p", "key")
    assert not await values.delete("q", "key")
    assert await values.get("p", "key") is None


@pytest.mark.parametrize(
    ("key", "size", "refused"),
    [
        ("", 1, True),
        ("k", 0, False),
        ("k" * MAX_KEY_BYTES, 1, False),
        ("k" * (MAX_KEY_BYTES + 1), 1, True),
        ("é" * (MAX_KEY_BYTES // 2 + 1), 1, True),
        ("k", MAX_VALUE_BYTES, False),
        ("k", MAX_VALUE_BYTES + 1, True),
    ],
)
async def test_keys_and_values_have_bounds_in_bytes(values, key, size, refused):
    if refused:
        with pytest.raises(KeyValueRefusedError) as found:
            await values.set("p", key, b"x" * size)
        assert found.value.word == "kv_too_large"
    else:
        await values.set("p", key, b"x" * size)
    assert await values.get("p", key) == (None if refused else b"x" * size)


async def test_a_plugin_keeps_no_more_than_its_quota_and_the_others_have_theirs(small):
    await small.set("p", "a", b"x" * (QUOTA - 1))
    with pytest.raises(KeyValueRefusedError) as refused:
        await small.set("p", "b", b"")
    assert refused.value.word == "kv_quota_exceeded"
    assert f"{QUOTA + 1} bytes of {QUOTA}" in refused.value.message
    await small.set("q", "b", b"x" * (QUOTA - 1))


async def test_a_value_that_is_replaced_counts_once_and_a_refused_one_leaves_the_old(small):
    await small.set("p", "a", b"x" * 150)
    await small.set("p", "a", b"y" * (QUOTA - 1))
    with pytest.raises(KeyValueRefusedError):
        await small.set("p", "a", b"z" * QUOTA)
    assert await small.get("p", "a") == b"y" * (QUOTA - 1)


async def test_keys_come_in_order_with_their_prefix_a_page_at_a_time(values):
    for key in ("b", "a:2", "a:1", "a:10", "A:1", "a", "ä"):
        await values.set("p", key, b"")
    assert await values.keys("p", "a:", "", 10) == ["a:1", "a:10", "a:2"]
    assert await values.keys("p", "a:", "a:1", 1) == ["a:10"]
    assert await values.keys("p", "a:", "a:2", 10) == []
    assert await values.keys("p", "", "", 10) == sorted(["b", "a:2", "a:1", "a:10", "A:1", "a", "ä"])


@pytest.mark.parametrize(("limit", "found"), [(-1, 0), (0, 0), (1, 1), (MAX_LIST, MAX_LIST), (10**9, MAX_LIST)])
async def test_a_page_has_a_bound_whatever_is_asked_for(values, limit, found):
    for begin in range(0, MAX_LIST + 50, 50):
        await asyncio.gather(*(values.set("p", f"{begin + number:05}", b"") for number in range(50)))
    assert len(await values.keys("p", "", "", limit)) == found


@pytest.mark.parametrize("prefix", ["%", "_", "*", "[a]", "'", '"', "?", "\ud7ff", "\U0010ffff", "a\U0010ffff", "\0"])
async def test_a_prefix_is_text_and_no_pattern(values, prefix):
    await values.set("p", "plain", b"")
    await values.set("p", prefix + "1", b"")
    assert await values.keys("p", prefix, "", 10) == [prefix + "1"]


async def test_purging_a_plugin_gives_its_quota_back_and_spares_the_others(small):
    for plugin in ("p", "pp"):
        await small.set(plugin, "a", b"x" * (QUOTA - 1))
    await small.purge("p")
    assert await small.get("p", "a") is None
    assert await small.get("pp", "a") is not None
    await small.set("p", "b", b"x" * (QUOTA - 1))


keys = st.sampled_from(["a", "ab", "é", "a:1"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(keys, st.none() | st.integers(0, 120)), max_size=25))
async def test_the_quota_is_counted_as_if_all_were_added_up_anew(small, steps):
    """Given any setting and deleting, then a value is refused exactly where all keys and values together would have
    more bytes than the quota."""
    await small.purge("p")
    model = {}
    for key, size in steps:
        if size is None:
            assert await small.delete("p", key) == (model.pop(key, None) is not None)
            continue
        wanted = {**model, key: b"x" * size}
        if sum(len(name.encode()) + len(value) for name, value in wanted.items()) > QUOTA:
            with pytest.raises(KeyValueRefusedError):
                await small.set("p", key, b"x" * size)
        else:
            await small.set("p", key, b"x" * size)
            model = wanted
    assert {key: await small.get("p", key) for key in await small.keys("p", "", "", 99)} == model


texts = st.text(st.sampled_from(["\0", "a", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]), max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(texts.filter(bool), max_size=12), texts, texts)
async def test_a_page_has_the_keys_that_begin_so_as_if_each_were_looked_at(store, kept, prefix, after):
    """Given any keys, then listing finds those with the prefix, in the order of their code points."""
    await store.purge("p")
    for key in kept:
        await store.set("p", key, b"")
    expected = sorted(key for key in kept if key.startswith(prefix) and key > after)
    assert await store.keys("p", prefix, after, 99) == expected
