"""Reading a plugin's wheel: from bytes whose signature holds to its files, manifest, entry point and lock.

Nothing is written and nothing is imported. What every wheel is held to is `wheel_contents`.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from host.supply.dependencies.lock import LOCK, DependencyLock, read_lock
from host.supply.errors import PluginRefusedError, WheelRefusedError
from host.supply.wheel.contents import MAX_SMALL, WheelContents, applies, read_contents
from plugin_sdk.errors import ManifestError
from plugin_sdk.manifest import Manifest

GROUP: Final = "busbar.plugins"
OWN: Final = frozenset({"host", "plugin_sdk", "busbar_host"})
"""Top-level modules that no plugin may bring: they are the host's own."""
_ENTRY: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)(:(?P<attr>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*))?")


@dataclass(frozen=True, slots=True)
class ReadWheel:
    """A wheel that broke no rule. `files` are its contents by path, RECORD among them.

    `requires` are the distributions that it asks for here, `lock` is what it brings them from, if it has one.
    """

    name: str
    version: str
    manifest: Manifest
    entry_point: str
    files: dict[str, bytes]
    record_name: str
    requires: tuple[Requirement, ...] = ()
    lock: DependencyLock | None = None

    @property
    def record(self) -> bytes:
        """Its RECORD."""
        return self.files[self.record_name]

    @property
    def record_sha256(self) -> str:
        """The hash of its RECORD, which the signed statement repeats."""
        return hashlib.sha256(self.record).hexdigest()


def read_wheel(wheel: bytes, filename: str, provided: dict[str, str]) -> ReadWheel:
    """Read a plugin's wheel strictly. `provided` are the distributions that every worker has, with their versions.

    Raises:
        WheelRefusedError: the archive or its metadata breaks a rule.
        ReleaseRefusedError: its lock cannot be read, or selects nothing for this Python and machine.
        PluginRefusedError: the manifest is wrong, or does not fit the wheel.
    """
    contents = read_contents(wheel, filename)
    name, files = contents.name, contents.files
    taken = OWN | {name.replace("-", "_") for name in provided}
    modules = _top_level(files, contents.dist_info, taken)
    entry_point, module = _entry_point(files.get(f"{contents.dist_info}/entry_points.txt"), name, modules)
    manifest = _manifest(files, module, name)
    locked = files.get(f"{module}/{LOCK}")
    lock = None if locked is None else read_lock(locked)
    return ReadWheel(
        name=name,
        version=str(contents.version),
        manifest=manifest,
        entry_point=entry_point,
        files=files,
        record_name=contents.record_name,
        requires=_requires(contents, module, lock, provided),
        lock=lock,
    )


def _requires(
    contents: WheelContents, module: str, lock: DependencyLock | None, provided: dict[str, str]
) -> tuple[Requirement, ...]:
    """What the plugin asks for here; each must be in its lock, or be something that workers have."""
    have = provided if lock is None else {**provided, **{one.name: one.version for one in lock.wheels}}
    asked = tuple(requirement for requirement in contents.requires if applies(requirement))
    for requirement in asked:
        found = have.get(canonicalize_name(requirement.name))
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            workers = ", ".join(f"{name} {version}" for name, version in provided.items())
            raise WheelRefusedError(
                "dependency_unavailable",
                f"the plugin needs {requirement}, which "
                + (f"its lock does not bring; workers have {workers}" if lock else f"workers do not have ({workers})")
                + f": lock its dependencies with 'uv export --format pylock.toml --no-emit-project --no-dev "
                f"-o {module}/{LOCK}' and build it again",
            )
    return asked


def _top_level(files: dict[str, bytes], dist_info: str, taken: AbstractSet[str]) -> set[str]:
    modules: set[str] = set()
    for path in files:
        first, slash, _ = path.partition("/")
        if first == dist_info:
            continue
        module = first if slash else first.partition(".")[0]
        if module in sys.stdlib_module_names:
            raise WheelRefusedError("shadows_stdlib", f"{path} would stand before Python's own {module}")
        if module in taken:
            raise WheelRefusedError("module_collision", f"{path} would stand before the host's own {module}")
        modules.add(module)
    return modules


def _entry_point(content: bytes | None, name: str, modules: set[str]) -> tuple[str, str]:
    """The plugin's entry point and the top-level module that it is in."""
    if content is None:
        raise PluginRefusedError(f"the wheel has no entry point in the group '{GROUP}'", code="plugin_no_entry_point")
    if len(content) > MAX_SMALL:
        raise WheelRefusedError("size_limit", f"entry_points.txt has {len(content)} bytes; {MAX_SMALL} are allowed")
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
    try:
        parser.read_string(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise WheelRefusedError("metadata_encoding", "entry_points.txt is not UTF-8") from None
    except configparser.Error as error:
        raise WheelRefusedError("entry_point_name", f"entry_points.txt is malformed: {error}") from None
    for group in parser.sections():
        for entry in parser[group]:
            if "/" in entry or "\\" in entry or entry.startswith(".") or not entry.isprintable():
                raise WheelRefusedError("entry_point_name", f"{entry!a} is no name for an entry point")
        if group in {"console_scripts", "gui_scripts"} and len(parser[group]):
            raise WheelRefusedError("scripts_not_allowed", "a plugin installs no scripts")
    if GROUP not in parser or len(parser[GROUP]) != 1:
        raise PluginRefusedError(
            f"a plugin has exactly one entry point in the group '{GROUP}'", code="plugin_no_entry_point"
        )
    ((entry, value),) = parser[GROUP].items()
    match = _ENTRY.fullmatch(value.strip())
    if match is None:
        raise WheelRefusedError("entry_point_name", f"{value!a} names no module and attribute")
    if canonicalize_name(entry) != name or entry != name:
        raise PluginRefusedError(
            f"the entry point is named '{entry}', and must be named '{name}' as the plugin",
            code="plugin_id_mismatch",
        )
    module = match["module"].partition(".")[0]
    if module not in modules:
        raise WheelRefusedError("entry_point_name", f"the entry point is in {module}, which the wheel does not bring")
    return value.strip(), module


def _manifest(files: dict[str, bytes], module: str, name: str) -> Manifest:
    content = files.get(f"{module}/plugin.toml")
    if content is None:
        raise PluginRefusedError(
            f"there is no {module}/plugin.toml: put the manifest into the import package",
            code="manifest_missing",
        )
    try:
        manifest = Manifest.parse(content)
    except ManifestError as error:
        raise PluginRefusedError(str(error), errors=error.problems, code=error.code) from None
    if manifest.plugin.id != name:
        raise PluginRefusedError(
            f"plugin.toml names the plugin '{manifest.plugin.id}', the wheel '{name}': they must be equal",
            code="plugin_id_mismatch",
        )
    return manifest
