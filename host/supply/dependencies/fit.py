"""Do a plugin, its dependencies and the SDK fit into one worker? Pure: what each brings and asks for in, a verdict out.

A worker imports from the plugin's own folders first and from the SDK's folder then. Where a lock brings another
version of something that the SDK's folder has (a *clash*), the lock's version wins for the whole worker, and the SDK
in that worker runs on it; so it must be one that the SDK, and all else that stays, allows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from host.supply.dependencies.wheel import Distribution
from host.supply.errors import PluginRefusedError, ReleaseRefusedError, WheelRefusedError
from host.supply.wheel.contents import applies, importable
from host.supply.wheel.reader import OWN, ReadWheel


@dataclass(frozen=True, slots=True)
class DependencySet:
    """Dependencies that fit. `used` are those that workers have not got in the same version already.

    `clashes` says which of them replace something of the SDK's: not empty means that the worker starts cold.
    """

    used: tuple[Distribution, ...]
    clashes: tuple[str, ...]


def fit_together(
    plugin: ReadWheel, dependencies: Sequence[Distribution], provided: Sequence[Distribution]
) -> DependencySet:
    """Decide which dependencies a worker of this plugin imports, and whether all fit.

    Args:
        plugin: The plugin's wheel.
        dependencies: All that its lock brings.
        provided: What every worker has: the SDK, and what it needs.

    Raises:
        ReleaseRefusedError: `release_dependency_conflict`: a version that something does not allow.
        WheelRefusedError: `wheel_module_collision`: two would bring the same module.
        PluginRefusedError: an inline plugin, which has the host's own path, brings dependencies.
    """
    workers_have = {one.name: one for one in provided}
    used = tuple(
        one for one in dependencies if one.name not in workers_have or workers_have[one.name].version != one.version
    )
    if used and plugin.manifest.runtime.isolation == "inline":
        raise PluginRefusedError(
            f"an inline plugin shares the host's libraries, and this one brings {used[0].name} {used[0].version}: set "
            'isolation = "process" in plugin.toml',
            code="plugin_inline_dependencies",
        )
    replaced = {one.name for one in used if one.name in workers_have}
    kept = tuple(one for one in provided if one.name not in replaced)
    _check_modules(plugin, used, provided)
    _check_versions(plugin, used, kept)
    clashes = tuple(
        f"{one.name} {one.version} instead of {workers_have[one.name].version}" for one in used if one.name in replaced
    )
    return DependencySet(used, clashes)


def _check_modules(plugin: ReadWheel, used: Iterable[Distribution], provided: Iterable[Distribution]) -> None:
    """Every module has one owner; only another version of the same distribution may take the place of the SDK's."""
    owners = _Owners()
    for module in OWN:
        owners.add(module, "the host")
    for one in provided:
        for module in one.modules:
            owners.add(module, one.name)
    for module in importable(plugin.files):
        owners.add(module, "the plugin")
    for dependency in used:
        for module in dependency.modules:
            owners.add(module, dependency.name)


class _Owners:
    """Who brings which module, and who brings something within which folder."""

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}
        self._within: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, module: str, owner: str) -> None:
        """Note an owner.

        Raises:
            WheelRefusedError: another one brings it already, or something within it or around it.
        """
        parts = module.split(".")
        around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        others = {self._modules[name] for name in (*around, module) if name in self._modules} | self._within[module]
        others.discard(owner)
        if others:
            raise WheelRefusedError(
                "module_collision",
                f"{owner} and {min(others)} both bring the module {module}: only one can be imported",
            )
        self._modules[module] = owner
        for name in around:
            self._within[name].add(owner)


def _check_versions(plugin: ReadWheel, used: Iterable[Distribution], kept: Iterable[Distribution]) -> None:
    """Walk from what the plugin and the SDK ask for to what those ask for, extras included."""
    brought = {one.name: one for one in used}
    here: dict[str, Distribution] = {one.name: one for one in kept}
    here.update(brought)
    waiting: list[tuple[str, Requirement, bool]] = [(plugin.name, one, False) for one in plugin.requires]
    seen: set[tuple[str, str]] = set()

    def ask(name: str, extra: str) -> None:
        if (name, extra) not in seen:
            seen.add((name, extra))
            hosts = name not in brought and not extra
            waiting.extend((name, one, hosts) for one in here[name].requires if applies(one, extra))

    for name in here:
        ask(name, "")
    while waiting:
        asking, requirement, hosts = waiting.pop()
        name = canonicalize_name(requirement.name)
        if hosts and name not in brought:
            continue  # the host's own installation, which is not this plugin's to answer for
        found = here.get(name)
        if found is None or not requirement.specifier.contains(found.version, prereleases=True):
            raise ReleaseRefusedError(
                "dependency_conflict",
                f"{asking} needs {requirement}, and "
                + (f"the worker would have {name} {found.version}" if found else "nothing brings it")
                + ": lock again with what workers have as constraints: "
                + ", ".join(f"{one.name}=={one.version}" for one in kept),
            )
        for extra in requirement.extras:
            ask(name, extra)
