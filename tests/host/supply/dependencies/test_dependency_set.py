"""A plugin, its dependencies and the SDK in one worker: what fits together, what clashes, and what is refused."""

import dependency_wheels as wheels
import pytest
from dependency_wheels import distribution
from hypothesis import given
from hypothesis import strategies as st

from host.errors import BusbarError
from host.supply.dependencies.fit import fit_together
from host.supply.wheel.contents import importable

SDK = distribution("busbar-host", "0.1", ["pydantic>=2.11", "pluggy>=1.6"], ["_none"])
PYDANTIC = distribution("pydantic", "2.12.0", ["pydantic-core==2.41"])
CORE = distribution("pydantic-core", "2.41")
PLUGGY = distribution("pluggy", "1.6.0")
PROVIDED = (SDK, PYDANTIC, CORE, PLUGGY)
PLUGIN = wheels.plugin(None)


def refused(dependencies, plugin=PLUGIN):
    with pytest.raises(BusbarError) as error:
        fit_together(plugin, dependencies, PROVIDED)
    return error.value


def test_what_workers_have_in_the_same_version_is_not_used():
    found = fit_together(PLUGIN, [PYDANTIC, distribution("greeter")], PROVIDED)
    assert [one.name for one in found.used] == ["greeter"]
    assert found.clashes == ()


def test_another_version_of_something_of_the_sdks_clashes_and_is_used():
    found = fit_together(PLUGIN, [distribution("pluggy", "1.7.0")], PROVIDED)
    assert [one.version for one in found.used] == ["1.7.0"]
    assert found.clashes == ("pluggy 1.7.0 instead of 1.6.0",)


@pytest.mark.parametrize(
    ("dependencies", "why"),
    [
        ([distribution("pluggy", "1.5")], "busbar-host needs pluggy>=1.6, and the worker would have pluggy 1.5"),
        ([distribution("pydantic-core", "2.42")], "pydantic needs pydantic-core==2.41"),
        ([distribution("pydantic", "2.13", ["pydantic-core==2.42"])], "the worker would have pydantic-core 2.41"),
        ([distribution("greeter", requires=["pydantic<2"])], "greeter needs pydantic<2"),
        ([distribution("greeter", requires=["polite"])], "greeter needs polite, and nothing brings it"),
        ([distribution("greeter", requires=["polite>=2"]), distribution("polite")], "would have polite 1.0"),
        (
            [distribution("greeter", requires=["polite[loud]"]), distribution("polite", requires=["x; extra=='loud'"])],
            "polite needs x",
        ),
    ],
    ids=[
        "older than the SDK needs",
        "than what the SDK has needs",
        "needs more than the SDK has",
        "too new",
        "not locked",
        "locked too old",
        "an extra of a dependency",
    ],
)
def test_a_version_that_something_does_not_allow_is_refused(dependencies, why):
    error = refused(dependencies)
    assert error.word == "release_dependency_conflict"
    assert why in error.message
    assert "pluggy==1.6.0" in error.message or "pluggy 1.5" in error.message


def test_an_extra_that_nobody_asks_for_needs_nothing():
    polite = distribution("polite", requires=["x; extra=='loud'"])
    assert fit_together(PLUGIN, [polite], PROVIDED).used == (polite,)


def test_the_plugins_own_requirements_count_with_their_extras():
    polite = wheels.dependency("polite", requires=["x; extra=='loud'"])
    plugin = wheels.plugin(wheels.lock(polite), requires=["polite[loud]"])
    error = refused([distribution("polite", requires=["x; extra=='loud'"])], plugin)
    assert "polite needs x" in error.message


def test_an_extra_of_what_workers_have_is_the_plugins_to_bring():
    fast = distribution("pluggy", "1.6.0", ["rocket>=1; extra=='fast'"])
    plugin = wheels.plugin(None, requires=["pluggy[fast]"])
    with pytest.raises(BusbarError, match="pluggy needs rocket") as refused:
        fit_together(plugin, [], (fast,))
    assert refused.value.word == "release_dependency_conflict"
    assert fit_together(plugin, [distribution("rocket")], (fast,)).used


def test_what_is_wrong_with_the_hosts_own_installation_is_not_the_plugins_to_answer_for():
    broken = (*PROVIDED, distribution("old", requires=["pluggy>=9"]))
    assert fit_together(PLUGIN, [distribution("greeter")], broken).used


@pytest.mark.parametrize(
    "dependencies",
    [
        [distribution("greeter", modules=["plugin_sdk"])],
        [distribution("greeter", modules=["host.more"])],
        [distribution("pydantic-pro", modules=["pydantic"])],
        [distribution("pluggy", "1.7", modules=["pluggy", "pydantic_core"])],
        [distribution("greeter", modules=["acme_demo"])],
        [distribution("acme-demo", modules=["acme_demo.more"])],
        [distribution("one", modules=["tests"]), distribution("two", modules=["tests"])],
        [distribution("one", modules=["space"]), distribution("two", modules=["space.two"])],
        [distribution("one", modules=["space.two"]), distribution("two", modules=["space"])],
    ],
    ids=[
        "the SDK itself",
        "the host",
        "the SDK's under another name",
        "more than its own of the SDK's",
        "the plugin",
        "within the plugin",
        "each other",
        "around another",
        "within another",
    ],
)
def test_two_that_bring_one_module_are_refused(dependencies):
    assert refused(dependencies).word == "wheel_module_collision"


def test_a_folder_that_several_share_is_no_collision():
    two = [distribution("one", modules=["space.one"]), distribution("two", modules=["space.two", "space.deep.three"])]
    assert fit_together(PLUGIN, two, PROVIDED).used == tuple(two)


def test_an_inline_plugin_brings_no_dependencies():
    inline = wheels.plugin(None, manifest='[runtime]\nisolation = "inline"\n')
    assert refused([distribution("greeter")], inline).word == "plugin_inline_dependencies"
    assert fit_together(inline, [PYDANTIC], PROVIDED).used == ()


_name = st.sampled_from(["a", "b", "c"])
_paths = st.lists(st.lists(_name, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4)


@given(one=_paths, two=_paths, packages=st.lists(st.lists(_name, min_size=1, max_size=2).map("/".join), max_size=3))
def test_two_fit_exactly_if_no_module_of_one_can_hide_one_of_the_other(one, two, packages):
    """The law behind the collisions: Python finds a regular package, or a module, in the first folder that has it."""
    sets = [
        {f"{path}.py" for path in paths} | {f"{package}/__init__.py" for package in packages if number == 0}
        for number, paths in enumerate((one, two))
    ]
    modules = [importable(paths) for paths in sets]
    hides = any(
        mine == theirs or mine.startswith(f"{theirs}.") or theirs.startswith(f"{mine}.")
        for mine in modules[0]
        for theirs in modules[1]
    )
    dependencies = [distribution(name, modules=sorted(found)) for name, found in zip("xy", modules, strict=True)]
    try:
        fit_together(PLUGIN, dependencies, ())
    except BusbarError:
        assert hides
    else:
        assert not hides
