"""What may be asked for by name: `acme-demo`, `acme-demo==1.2`, `acme-demo>=1,<2`; a name and versions, and no more."""

from __future__ import annotations

from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from host.supply.index.errors import RequirementRefusedError
from plugin_sdk.manifest import PLUGIN_ID

MAX_REQUIREMENT: Final = 500
MAX_ID: Final = 64


def parse_requirement(text: str) -> Requirement:
    """The requirement, its name normalised: a plugin's id.

    Raises:
        RequirementRefusedError: it is none, or says more than a name and versions.
    """
    shown = ascii(text)[:120]
    if len(text) > MAX_REQUIREMENT:
        raise RequirementRefusedError(f"a requirement has at most {MAX_REQUIREMENT} characters")
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise RequirementRefusedError(
            f"{shown} is no requirement: write a plugin's id, and versions such as ==1.2 or >=1,<2"
        ) from None
    if requirement.url is not None:
        raise RequirementRefusedError(f"{shown} names an address: a plugin comes from an index, or as a file")
    if requirement.extras:
        raise RequirementRefusedError(f"{shown} names extras: a plugin has none, leave out [...]")
    if requirement.marker is not None:
        raise RequirementRefusedError(f"{shown} has a condition: leave out what is after ';'")
    requirement.name = str(canonicalize_name(requirement.name))
    if not PLUGIN_ID.fullmatch(requirement.name) or len(requirement.name) > MAX_ID:
        raise RequirementRefusedError(f"{shown} names no plugin: an id has words of letters and digits, joined by '-'")
    return requirement


def pinned(versions: SpecifierSet) -> bool:
    """Whether the versions are one version: `==1.2` or `===1.2`, and not `==1.*`."""
    return any(one.operator == "===" or (one.operator == "==" and not one.version.endswith(".*")) for one in versions)
