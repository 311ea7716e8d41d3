"""What is scanned beside the plugin itself: the distributions that its release brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ScannedDistribution:
    """One dependency of a release.

    Attributes:
        name: Its normalised name.
        version: Its version (PEP 440).
        sha256: The hash of its wheel, lower-case hex.
        license: What its METADATA says of its licence: an SPDX expression or a text; None where it says nothing.
        folder: Its unpacked tree.
    """

    name: str
    version: str
    sha256: str
    license: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A folder of code; `label` stands before the paths of its files in findings."""

    folder: Path
    label: str = ""

    def __post_init__(self) -> None:
        # Checks run in folders of their own, where a relative path would mean another.
        object.__setattr__(self, "folder", self.folder.absolute())

    def shown(self, path: str) -> str:
        """How a path of this tree is called in a finding."""
        return f"{self.label}/{path}" if self.label else path
