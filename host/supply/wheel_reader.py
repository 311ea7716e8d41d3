"""Reading a plugin's wheel: from bytes whose signature holds to its files, metadata, manifest and entry point.

Nothing is written and nothing is imported. The order of the checks is cheap and structural first: an archive
is inflated only when its structure can be read in one way.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from typing import Final

from packaging.metadata import InvalidMetadata, Metadata
from packaging.tags import parse_tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from host.supply.errors import PluginRefusedError, WheelRefusedError
from host.supply.wheel_names import check_contents, decode_names
from host.supply.wheel_record import check_record
from host.supply.wheel_structure import inflate, read_structure
from plugin_sdk.errors import ManifestError
from plugin_sdk.manifest import Manifest

GROUP: Final = "busbar.plugins"
OWN: Final = frozenset({"host", "plugin_sdk", "busbar_host"})
"""Top-level modules that no plugin may bring: they are the host's own."""
_ENTRY: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)(:(?P<attr>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*))?")


@dataclass(frozen=True, slots=True)
class ReadWheel:
    """A wheel that broke no rule. `files` are its contents by path, RECORD among them."""

    name: str
    version: str
    manifest: Manifest
    entry_point: str
    files: dict[str, bytes]
    record_sha256: str


def read_wheel(wheel: bytes, filename: str, provided: dict[str, str]) -> ReadWheel:
    """Read a wheel strictly. `provided` are the distributions that every worker has, with their versions.

    Raises:
        WheelRefusedError: the archive or its metadata breaks a rule.
        PluginRefusedError: the manifest is wrong, or does not fit the wheel.
    """
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise WheelRefusedError("name_version_mismatch", f"the file name is no wheel's: {error}") from None
    entries = read_structure(wheel)
    names = decode_names(entries)
    dist_info = _dist_info(names, name, version)
    _check_data_folders(names)
    files = {path: inflate(wheel, entry) for path, entry in zip(names, entries, strict=True) if not entry.folder}
    check_contents(files, dist_info)
    record_name = f"{dist_info}/RECORD"
    if record_name not in files:
        raise WheelRefusedError("record_missing", "the wheel has no RECORD")
    check_record(files[record_name], record_name, files)
    _check_wheel(files.get(f"{dist_info}/WHEEL"), {str(tag) for tag in tags})
    _check_metadata(files.get(f"{dist_info}/METADATA"), name, version, provided)
    supported = set(sys_tags())
    if not any(tag in supported for tag in tags):
        raise WheelRefusedError("platform_tag", f"{filename} is not for this Python and machine")
    taken = OWN | {name.replace("-", "_") for name in provided}
    modules = _top_level(files, dist_info, taken)
    entry_point, module = _entry_point(files.get(f"{dist_info}/entry_points.txt"), name, modules)
    manifest = _manifest(files, module, name)
    return ReadWheel(
        name=name,
        version=str(version),
        manifest=manifest,
        entry_point=entry_point,
        files=files,
        record_sha256=hashlib.sha256(files[record_name]).hexdigest(),
    )


def _dist_info(names: tuple[str, ...], name: str, version: Version) -> str:
    found = {path.partition("/")[0] for path in names if path.partition("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise WheelRefusedError("dist_info", f"the wheel has {len(found)} .dist-info folders, not one")
    (folder,) = found
    own_name, _, own_version = folder.removesuffix(".dist-info").partition("-")
    try:
        same = canonicalize_name(own_name) == name and Version(own_version) == version
    except InvalidVersion:
        same = False
    if not same:
        raise WheelRefusedError("dist_info", f"{folder} does not fit the file name")
    return folder


def _check_data_folders(names: tuple[str, ...]) -> None:
    for path in names:
        if path.partition("/")[0].endswith(".data"):
            raise WheelRefusedError("data_dir", f"{path}: a plugin needs no .data folder")


def _check_wheel(content: bytes | None, tags: set[str]) -> None:
    if content is None:
        raise WheelRefusedError("dist_info", "the wheel has no WHEEL file")
    fields = BytesParser(policy=compat32).parsebytes(content)
    if str(fields.get("Wheel-Version", "")).partition(".")[0] != "1":
        raise WheelRefusedError("wheel_version", f"Wheel-Version {fields.get('Wheel-Version')} is not read here")
    stated: set[str] = set()
    for text in fields.get_all("Tag") or []:
        stated |= {str(tag) for tag in parse_tag(str(text).strip())}
    if stated != tags:
        raise WheelRefusedError("tag_mismatch", "the tags in WHEEL are not those of the file name")


def _check_metadata(content: bytes | None, name: str, version: Version, provided: dict[str, str]) -> None:
    if content is None:
        raise WheelRefusedError("dist_info", "the wheel has no METADATA")
    try:
        content.decode("utf-8")
        metadata = Metadata.from_email(content, validate=True)
    except UnicodeDecodeError:
        raise WheelRefusedError("metadata_encoding", "METADATA is not UTF-8") from None
    except (InvalidMetadata, ExceptionGroup) as error:
        parts = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        raise WheelRefusedError("metadata_invalid", f"METADATA is invalid: {'; '.join(map(str, parts))}") from None
    if canonicalize_name(metadata.name) != name or metadata.version != version:
        raise WheelRefusedError("name_version_mismatch", f"METADATA says {metadata.name} {metadata.version}")
    here = ".".join(map(str, sys.version_info[:3]))
    if metadata.requires_python is not None and not metadata.requires_python.contains(here, prereleases=True):
        raise WheelRefusedError(
            "requires_python", f"the plugin needs Python {metadata.requires_python}, this is {here}"
        )
    for requirement in metadata.requires_dist or []:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = provided.get(canonicalize_name(requirement.name))
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            raise WheelRefusedError(
                "dependency_unavailable",
                f"the plugin needs {requirement}; workers have {', '.join(f'{n} {v}' for n, v in provided.items())}",
            )


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
