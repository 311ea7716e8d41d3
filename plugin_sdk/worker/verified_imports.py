"""Imports from a plugin's folders run the bytes that the host hashed: read once, compared, compiled from memory.

Python's own importer looks into a folder, takes an extension module or bytecode before the source, and reads the file
after anyone who checked it. Here the host's table of digests takes the place of the folder's listing: what is not in
the table does not exist, what is in it is read once and must hash to its digest, and no bytecode is read or written.
Everything outside of these folders is imported as ever.

A cold worker imports this module before it may see any library, so the standard library is all that it needs.
"""

# ruff: noqa: PTH100, PTH118, PTH120, PTH123 - the import system and the linker speak of paths as text

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from plugin_sdk.worker.digests import FolderDigests, unpack
from plugin_sdk.worker.file_errors import is_of_the_file
from plugin_sdk.worker.shared_objects import SharedObjects

if TYPE_CHECKING:  # loaded when a plugin asks for it: most never do
    from plugin_sdk.worker.verified_resources import VerifiedReader

_LOADED: Final = SharedObjects()


class ReleaseModifiedError(ImportError):
    """A file of the release is not what the host hashed; its code has not run."""

    code: ClassVar[str] = "release_modified"


class VerifiedImports:
    """The folders from which only verified bytes are imported, from `install` until `remove`.

    Args:
        folders: What is in them.

    Attributes:
        modified: What the first file that was not as it should be is told of by, or nothing.
        told: Called with the same for every such file, in the thread that imports it.
    """

    def __init__(self, folders: Sequence[FolderDigests]) -> None:
        self.modified = ""
        self.told: Callable[[str], None] = lambda _sentence: None
        self._folders = tuple((os.path.abspath(one.folder), os.path.realpath(one.folder), one) for one in folders)

    def install(self) -> None:
        """Take over all imports from the folders; what was cached of them is forgotten."""
        sys.path_hooks.insert(0, self._finder)
        self._forget()

    def remove(self) -> None:
        """Leave imports to Python again."""
        sys.path_hooks.remove(self._finder)
        self._forget()

    def has(self, path: str) -> bool:
        """Whether there is such a file in the folders."""
        place = self._place(path)
        return place is not None and place[0].find(place[1]) is not None

    def covers(self, path: str) -> bool:
        """Whether a path is in one of the folders, there or not."""
        return self._place(path) is not None

    def entries(self, path: str) -> Iterator[str]:
        """What is directly in a folder."""
        place = self._place(path)
        if place is not None:
            digests, below = place
            yield from (name for name, _ in digests.entries(f"{below}/" if below else ""))

    def read(self, path: str) -> bytes:
        """The content of a file, which is what was hashed.

        Raises:
            ReleaseModifiedError: it is not, or is not there any more.
            OSError: the machine refuses to read it, which says nothing of the file.
            FileNotFoundError: there is no such file in the folders.
        """
        with open(self.open(path), "rb", buffering=0) as file:
            content = file.read()
        self.check(path, hashlib.sha256(content).digest())
        return content

    def open(self, path: str) -> int:
        """A descriptor of a file, whose bytes are to be checked; errors as of `read`."""
        shown, _ = self._row(path)
        try:
            # Not blocking: a pipe in its place holds nobody up.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if not is_of_the_file(error):
                raise  # it says nothing of the file: too few descriptors, no memory, a disk that fails
            raise self._refused(shown, f"cannot be read ({error.strerror})", path) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._refused(shown, "is no plain file any more", path)
        return descriptor

    def check(self, path: str, digest: bytes) -> None:
        """Refuse what was read from a file where it hashes to something else; errors as of `read`."""
        shown, wanted = self._row(path)
        if digest != wanted:
            raise self._refused(shown, "was altered", path)

    def linked(self, path: str) -> AbstractContextManager[str]:
        """The name under which the linker finds the verified bytes of an extension module; errors as of `read`."""
        return _LOADED.copy_of(path, self)

    # -- inside

    def _finder(self, entry: str) -> VerifiedFinder:
        """The hook in `sys.path_hooks`."""
        place = self._place(entry)
        if place is None:
            raise ImportError(f"{entry} is not in a folder that is verified")
        digests, below = place
        return VerifiedFinder(self, digests, os.path.join(digests.folder, below), f"{below}/" if below else "")

    def _place(self, path: str) -> tuple[FolderDigests, str] | None:
        """The folder that a path is in, and the path in it: by its name, or else by where its links lead."""
        wanted = os.path.abspath(path)
        for folder, _, digests in self._folders:
            if wanted == folder or wanted.startswith(f"{folder}/"):
                return digests, wanted[len(folder) + 1 :]
        real = os.path.realpath(wanted)
        for _, folder, digests in self._folders:
            if real == folder or real.startswith(f"{folder}/"):
                return digests, real[len(folder) + 1 :]
        return None

    def _row(self, path: str) -> tuple[str, bytes]:
        """How a file is told of, and what it must hash to."""
        place = self._place(path)
        digest = None if place is None else place[0].find(place[1])
        if place is None or digest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return place[1], digest

    def _refused(self, shown: str, why: str, path: str) -> ReleaseModifiedError:
        sentence = f"the release on disk is not what was signed: {shown} {why}; install it again"
        self.modified = self.modified or sentence
        self.told(sentence)
        return ReleaseModifiedError(sentence, path=path)

    def _forget(self) -> None:
        folders = tuple(f"{folder}/" for folder, _, _ in self._folders)
        for entry in [entry for entry in sys.path_importer_cache if f"{entry}/".startswith(folders)]:
            del sys.path_importer_cache[entry]


class VerifiedFinder:
    """Finds modules in one folder by the table; in the order that Python has, without bytecode."""

    def __init__(self, imports: VerifiedImports, digests: FolderDigests, folder: str, below: str) -> None:
        self._imports = imports
        self._digests = digests
        self._folder = folder
        self._below = below

    def find_spec(self, fullname: str, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Called by the import system."""
        name = fullname.rpartition(".")[2]
        stem = self._below + name
        if not self._digests.has_any(stem):
            return None
        for middle in ("/__init__", ""):
            for suffix, loader in _LOADERS:
                if self._digests.find(f"{stem}{middle}{suffix}") is not None:
                    path = os.path.join(self._folder, f"{name}{middle}{suffix}")
                    return self._spec(fullname, path, loader, package=bool(middle))
        if not self._digests.has_any(f"{stem}/"):
            return None
        portion = ModuleSpec(fullname, None, is_package=True)  # one folder of a namespace package
        portion.submodule_search_locations = [os.path.join(self._folder, name)]
        return portion

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Called by `pkgutil.iter_modules`."""
        for name, is_folder in self._digests.entries(self._below):
            if is_folder:
                stem = f"{self._below}{name}/__init__"
                if any(self._digests.find(f"{stem}{suffix}") is not None for suffix, _ in _LOADERS):
                    yield prefix + name, True
                continue
            module = next((name.removesuffix(suffix) for suffix, _ in _LOADERS if name.endswith(suffix)), "__init__")
            if module != "__init__":
                yield prefix + module, False

    def invalidate_caches(self) -> None:
        """Called by `importlib.invalidate_caches`: nothing here changes."""

    def _spec(self, fullname: str, path: str, loader: _MakeLoader, *, package: bool) -> ModuleSpec:
        spec = ModuleSpec(fullname, loader(fullname, path, self._imports), origin=path, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(path)]
        return spec


class VerifiedSource(SourceFileLoader):
    """Runs the source that was hashed."""

    def __init__(self, fullname: str, path: str, imports: VerifiedImports) -> None:
        super().__init__(fullname, path)
        self._imports = imports

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source; bytecode is not looked for."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self._imports.read(path), path)
        return code

    def get_data(self, path: str) -> bytes:
        """A file's content, verified where it is in the plugin's folders."""
        return self._imports.read(path) if self._imports.covers(path) else super().get_data(path)

    def get_resource_reader(  # type: ignore[override]  # typeshed has the one class, the import system a protocol
        self,
        name: str | None = None,  # noqa: ARG002 - as above
    ) -> VerifiedReader:
        """What `importlib.resources` reads from."""
        return _reader(self._imports, self.path)


class VerifiedExtension(ExtensionFileLoader):
    """Loads the extension module that was hashed: from a copy that nobody else can open by a name."""

    def __init__(self, fullname: str, path: str, imports: VerifiedImports) -> None:
        super().__init__(fullname, path)
        self._imports = imports

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Have the linker load the verified bytes."""
        with self._imports.linked(self.path) as copy:
            module = super().create_module(ModuleSpec(spec.name, self, origin=copy))
        module.__file__ = self.path
        return module

    def get_data(self, path: str) -> bytes:
        """A file's content, verified where it is in the plugin's folders."""
        return self._imports.read(path) if self._imports.covers(path) else super().get_data(path)

    def get_resource_reader(  # type: ignore[override]  # typeshed has the one class, the import system a protocol
        self,
        name: str | None = None,  # noqa: ARG002 - as above
    ) -> VerifiedReader:
        """What `importlib.resources` reads from."""
        return _reader(self._imports, self.path)


class _MakeLoader(Protocol):
    def __call__(self, fullname: str, path: str, imports: VerifiedImports, /) -> VerifiedSource | VerifiedExtension: ...


_LOADERS: Final[tuple[tuple[str, _MakeLoader], ...]] = (
    *((suffix, VerifiedExtension) for suffix in EXTENSION_SUFFIXES),
    *((suffix, VerifiedSource) for suffix in SOURCE_SUFFIXES),
)


def install(descriptor: int) -> VerifiedImports | None:
    """Take over the imports that the packed digests in an open file are of, and close it; None where it is empty."""
    with open(descriptor, "rb") as file:
        packed = file.read()
    if not packed:
        return None
    imports = VerifiedImports(unpack(packed))
    imports.install()
    return imports


def _reader(imports: VerifiedImports, path: str) -> VerifiedReader:
    from plugin_sdk.worker.verified_resources import VerifiedReader  # noqa: PLC0415 - as said above

    return VerifiedReader(imports, os.path.dirname(path))
