"""What every wheel is held to, a plugin's own and those that it depends on: structure, names, RECORD, metadata, tags.

Nothing is written and nothing is imported. The order of the checks is cheap and structural first: an archive
is inflated only when its structure can be read in one way.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from typing import Final

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name
from packaging.version import InvalidVersion, Version

from host.supply.errors import WheelRefusedError
from host.supply.wheel.filename import parse_filename, parse_tags
from host.supply.wheel.names import check_contents, decode_names
from host.supply.wheel.record import check_record
from host.supply.wheel.structure import inflate, read_structure

MAX_METADATA: Final = 2 * 2**20
"""Bytes of METADATA, most of which is what people read on a package index."""
MAX_SMALL: Final = 64 * 1024
"""Bytes of any other file of the .dist-info folder that is parsed."""
MAX_REQUIREMENT: Final = 4096
"""Characters of one requirement; longer numbers than that, Python does not even convert."""
_IMPORTABLE: Final = tuple(sorted((".py", *importlib.machinery.EXTENSION_SUFFIXES), key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class WheelContents:
    """A wheel that broke no rule that holds for all. `files` are its contents by path, RECORD among them."""

    name: str
    version: Version
    tags: frozenset[Tag]
    dist_info: str
    requires: tuple[Requirement, ...]
    files: dict[str, bytes]

    @property
    def record_name(self) -> str:
        """Where its RECORD is."""
        return f"{self.dist_info}/RECORD"


def read_contents(
    wheel: bytes, filename: str, *, data: AbstractSet[str] = frozenset(), whole_metadata: bool = True
) -> WheelContents:
    """Read a wheel strictly.

    Args:
        wheel: Its bytes.
        filename: Its name, which its metadata must repeat.
        data: The kinds of files that its .data folder may hold.
        whole_metadata: Refuse METADATA in which anything is invalid; else only name, version, Python and
            requirements must be right. Much that is published has a field too many.

    Raises:
        WheelRefusedError: the archive or its metadata breaks a rule.
    """
    try:
        name, version, _, tags = parse_filename(filename)
    except InvalidWheelFilename as error:
        raise WheelRefusedError("name_version_mismatch", f"the file name is no wheel's: {error}") from None
    entries = read_structure(wheel)
    names = decode_names(entries)
    dist_info = _dist_info(names, name, version)
    check_contents(names, dist_info, data)
    files = {path: inflate(wheel, entry) for path, entry in zip(names, entries, strict=True) if not entry.folder}
    record_name = f"{dist_info}/RECORD"
    if record_name not in files:
        raise WheelRefusedError("record_missing", "the wheel has no RECORD")
    check_record(files[record_name], record_name, files)
    _check_wheel(_part(files, dist_info, "WHEEL", MAX_SMALL), tags)
    requires = _requires(_part(files, dist_info, "METADATA", MAX_METADATA), name, version, whole=whole_metadata)
    supported = set(sys_tags())
    if not any(tag in supported for tag in tags):
        raise WheelRefusedError("platform_tag", f"{filename} is not for this Python and machine")
    return WheelContents(name, version, tags, dist_info, requires, files)


def applies(requirement: Requirement, extra: str = "") -> bool:
    """Whether a requirement holds on this Python and machine, for a distribution that was asked for with `extra`.

    Raises:
        WheelRefusedError: `wheel_metadata_invalid` where its marker compares what cannot be compared.
    """
    try:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    except (ValueError, RecursionError) as error:
        raise WheelRefusedError("metadata_invalid", f"the marker of {requirement} says nothing: {error}") from None


def importable(paths: Iterable[str]) -> frozenset[str]:
    """What these files let a program import, each as the outermost name that only they can fill.

    A package with an `__init__` is one name; in a folder without one, which several distributions may share, every
    module is a name of its own. Two sets of files collide where a name of one equals, or lies within, a name of
    the other.
    """
    modules: set[tuple[str, ...]] = set()
    for path in paths:
        *folders, last = path.split("/")
        suffix = next((one for one in _IMPORTABLE if last.endswith(one)), "")
        module = (*folders, last.removesuffix(suffix))
        if suffix and all(part.isidentifier() for part in module):
            modules.add(module)
    packages = {module[:-1] for module in modules if module[-1] == "__init__"}
    found = set()
    for module in modules:
        outermost = next((module[:at] for at in range(1, len(module)) if module[:at] in packages), module)
        found.add(".".join(outermost))
    return frozenset(found)


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


def _part(files: dict[str, bytes], dist_info: str, name: str, limit: int) -> bytes:
    """A file of the .dist-info folder that must be there, and that no parser has to be afraid of."""
    content = files.get(f"{dist_info}/{name}")
    if content is None:
        raise WheelRefusedError("dist_info", f"the wheel has no {name} file")
    if len(content) > limit:
        raise WheelRefusedError("size_limit", f"{name} has {len(content)} bytes; {limit} are allowed")
    return content


def _check_wheel(content: bytes, tags: frozenset[Tag]) -> None:
    fields = BytesParser(policy=compat32).parsebytes(content)
    version = str(fields.get("Wheel-Version", ""))
    if version.partition(".")[0] != "1":
        raise WheelRefusedError("wheel_version", f"Wheel-Version {version[:20]} is not read here")
    lines = fields.get_all("Tag") or []
    try:
        # Each line brings one tag at least, so more lines than tags are another set, or say something twice.
        fits = len(lines) <= len(tags) and {tag for text in lines for tag in parse_tags(str(text).strip())} == tags
    except ValueError:
        fits = False
    if not fits:
        raise WheelRefusedError("tag_mismatch", "the tags in WHEEL are not those of the file name")


def _requires(content: bytes, name: str, version: Version, *, whole: bool) -> tuple[Requirement, ...]:
    """The requirements in METADATA, once it is seen to be this wheel's, and for this Python."""
    here = ".".join(map(str, sys.version_info[:3]))
    try:
        content.decode("utf-8")
        metadata = Metadata.from_email(content, validate=whole)
        stated, python, requires = (metadata.name, metadata.version), metadata.requires_python, metadata.requires_dist
        runs = python is None or python.contains(here, prereleases=True)
        if any(len(str(requirement)) > MAX_REQUIREMENT for requirement in requires or ()):
            raise ValueError(f"a requirement has more than {MAX_REQUIREMENT} characters")
    except UnicodeDecodeError:
        raise WheelRefusedError("metadata_encoding", "METADATA is not UTF-8") from None
    except (ValueError, RecursionError, ExceptionGroup) as error:
        # A number of thousands of digits raises int's own ValueError, and a marker of as many brackets the other.
        parts = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        raise WheelRefusedError("metadata_invalid", f"METADATA is invalid: {'; '.join(map(str, parts))}") from None
    if canonicalize_name(stated[0]) != name or stated[1] != version:
        raise WheelRefusedError("name_version_mismatch", f"METADATA says {stated[0]} {stated[1]}")
    if not runs:
        raise WheelRefusedError("requires_python", f"{name} {version} needs Python {python}, this is {here}")
    return tuple(requires or ())
