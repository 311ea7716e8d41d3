"""Package data for `importlib.resources`: verified bytes, listed by the host's table and not by the disk."""

# ruff: noqa: PTH118, PTH119 - the import system and the linker speak of paths as text

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from importlib.resources.abc import Traversable, TraversableResources
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugin_sdk.worker.verified_imports import VerifiedImports


class VerifiedReader(TraversableResources):
    """The data of one package."""

    def __init__(self, imports: VerifiedImports, folder: str) -> None:
        self._imports = imports
        self._folder = folder

    def files(self) -> VerifiedResource:
        """The package's folder."""
        return VerifiedResource(self._imports, self._folder)


class VerifiedResource(Traversable):
    """A file or a folder of a package.

    As a path (`os.fspath`) it is where it lies on the disk; what is read from there is not verified.
    """

    def __init__(self, imports: VerifiedImports, path: str) -> None:
        self._imports = imports
        self._path = path

    @property
    def name(self) -> str:
        """Its own name, without its folder's."""
        return os.path.basename(self._path)

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self._imports.has(self._path)

    def is_dir(self) -> bool:
        """Whether there is such a folder."""
        return next(self._imports.entries(self._path), None) is not None

    def iterdir(self) -> Iterator[VerifiedResource]:
        """What is in the folder."""
        for name in self._imports.entries(self._path):
            yield self / name

    def joinpath(self, *descendants: str | os.PathLike[str]) -> VerifiedResource:
        """What is below it; it need not be there."""
        return VerifiedResource(self._imports, os.path.normpath(os.path.join(self._path, *descendants)))

    def __truediv__(self, child: str | os.PathLike[str]) -> VerifiedResource:
        return self.joinpath(child)

    def read_bytes(self) -> bytes:
        """The content of the file; errors as of `VerifiedImports.read`."""
        return self._imports.read(self._path)

    def read_text(self, encoding: str | None = None) -> str:
        """The content of the file as text, by default in UTF-8; errors as of `VerifiedImports.read`."""
        return self.read_bytes().decode(encoding or "utf-8")

    def open(
        self, mode: str = "r", encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> IO[Any]:
        """The file, opened for reading; errors as of `VerifiedImports.read`."""
        if mode not in {"r", "rt", "rb"}:
            raise ValueError(f"package data is read only, not opened with mode {mode!r}")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, encoding, errors, newline)

    def __fspath__(self) -> str:
        return self._path

    def __str__(self) -> str:
        return self._path
