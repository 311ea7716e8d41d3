"""Verified imports: what runs is what was hashed, and to the rest of Python it is an ordinary import."""

import contextlib
import errno
import importlib
import importlib.resources
import importlib.util
import inspect
import linecache
import os
import pickle
import pkgutil
import py_compile
import re
import shutil
import sys
import traceback
import zipfile

import pytest

from plugin_sdk.worker.digests import hash_files, pack, unpack
from plugin_sdk.worker.verified_imports import ReleaseModifiedError, VerifiedImports

FILES = {
    "acme/__init__.py": "WHO = 'signed'\nfrom acme import native\n",
    "acme/native.py": "WHO = 'source'\n\n\nclass Point:\n    def __init__(self, x):\n        self.x = x\n",
    "acme/broken.py": "def fail():\n    raise LookupError('here')\n",
    "acme/syntax.py": "def (:\n",
    "acme/later.py": "WHO = 'signed'\n",
    "acme/data/words.txt": "one\ntwo\n",
    "acme/data/deep/more.bin": "\0",
    "space_of_acme/part/__init__.py": "WHO = 'part'\n",
    "single.py": "WHO = 'single'\n",
}
PLANTED = "WHO = 'planted'\nimport sys\nsys.planted = True\n"


class Release:
    """A folder whose files were hashed, with its imports taken over."""

    def __init__(self, folder):
        self.folder = folder
        for path, text in FILES.items():
            self.write(path, text)
        self.told = []

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    @contextlib.contextmanager
    def imported(self):
        contents = {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }
        imports = VerifiedImports(unpack(pack({str(self.folder): hash_files(contents)})))
        imports.told = self.told.append
        imports.install()
        sys.path.insert(0, str(self.folder))
        try:
            yield imports
        finally:
            sys.path.remove(str(self.folder))
            imports.remove()
            for name in [name for name in sys.modules if name.partition(".")[0] in {"acme", "space_of_acme", "single"}]:
                del sys.modules[name]


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "planted", False, raising=False)
    (tmp_path / "release").mkdir()
    return Release(tmp_path / "release")


@pytest.fixture
def imports(release):
    with release.imported() as found:
        yield found


# -- what runs


def compiled(release, where):
    source = release.folder.parent / "planted.py"
    source.write_text(PLANTED)
    py_compile.compile(
        source, cfile=release.folder / where, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def beside(release, path):
    """A real extension module, by another name: importing it would at least try to load it."""
    import _cffi_backend

    shutil.copyfile(_cffi_backend.__file__, release.folder / path)


PLANTS = [
    ("bytecode", lambda r: compiled(r, f"acme/__pycache__/native.{sys.implementation.cache_tag}.pyc")),
    ("bytecode beside the source", lambda r: compiled(r, "acme/native.pyc")),
    ("an extension module", lambda r: beside(r, "acme/native.so")),
    ("a package", lambda r: r.write("acme/native/__init__.py", PLANTED)),
    ("a file in the package of the standard library's name", lambda r: r.write("acme/colorsys.py", PLANTED)),
]


@pytest.mark.parametrize(("case", "plant"), PLANTS, ids=[case for case, _ in PLANTS])
def test_what_is_planted_beside_a_file_does_not_exist(release, imports, case, plant):
    plant(release)
    import acme.native

    assert acme.native.WHO == "source"
    assert not sys.planted
    assert not imports.modified


@pytest.mark.parametrize("path", ["added.py", "acme/added.py", "added/__init__.py", "space_of_acme/added.py"])
def test_a_file_that_was_not_hashed_does_not_exist(release, imports, path):
    release.write(path, PLANTED)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert not sys.planted


def test_a_module_outside_of_the_folder_is_imported_as_ever(release, imports):
    import colorsys

    assert importlib.util.find_spec("colorsys").loader.__class__.__name__ == "SourceFileLoader"
    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


CHANGES = [
    ("changed", lambda path: path.write_text(PLANTED), "was altered"),
    ("cut short", lambda path: path.write_text("WHO"), "was altered"),
    ("removed", lambda path: path.unlink(), "cannot be read"),
    ("a folder now", lambda path: (path.unlink(), path.mkdir()), "no plain file"),
    ("a pipe now", lambda path: (path.unlink(), os.mkfifo(path)), "no plain file"),
    ("a link to something else", lambda path: (path.unlink(), path.symlink_to(__file__)), "was altered"),
    ("a link to nothing", lambda path: (path.unlink(), path.symlink_to("nothing")), "cannot be read"),
]


@pytest.mark.parametrize(("case", "change", "sentence"), CHANGES, ids=[case for case, *_ in CHANGES])
def test_a_file_that_is_not_what_was_hashed_is_refused_when_it_is_imported(release, imports, case, change, sentence):
    import acme

    change(release.folder / "acme/later.py")
    with pytest.raises(ReleaseModifiedError, match=sentence) as refused:
        import acme.later
    assert refused.value.code == "release_modified"
    assert "acme/later.py" in str(refused.value)
    assert release.told == [imports.modified] == [str(refused.value)]
    assert not sys.planted
    assert acme.WHO == "signed"


def test_it_is_remembered_although_the_plugin_gets_along_without_the_file(release, imports):
    release.write("single.py", PLANTED)
    try:
        import single
    except ImportError:
        single = None
    assert single is None
    assert "single.py was altered" in imports.modified


def test_no_descriptors_left_says_nothing_about_the_file(release, imports):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            import single  # noqa: F401 - to import it is the test
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not imports.modified


@pytest.mark.parametrize(
    "number", [errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE], ids=errno.errorcode.get
)
def test_nothing_that_the_machine_refuses_says_anything_about_the_file(release, imports, monkeypatch, number):
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("single.py"):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            import single
    assert not imports.modified
    import single

    assert single.WHO == "single"


def test_a_path_that_leads_into_the_folder_by_another_way_is_held_to_the_same(release, imports):
    alias = release.folder.parent / "alias"
    alias.symlink_to(release.folder)
    release.write("acme/added.py", PLANTED)
    release.write("zipped/added.py", PLANTED)
    for entry in (alias / "acme", release.folder / "acme/../zipped"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(entry)])
            with pytest.raises(ModuleNotFoundError):
                import added  # noqa: F401 - to import it is the test
    assert not sys.planted


def test_an_archive_in_the_folder_is_none(release, imports):
    with zipfile.ZipFile(release.folder / "added.zip", "w") as archive:
        archive.writestr("added.py", PLANTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(release.folder / "added.zip")])
        with pytest.raises(ModuleNotFoundError):
            import added  # noqa: F401 - to import it is the test


def test_once_they_are_removed_the_folder_is_a_folder_again(release):
    with release.imported():
        import acme.native
    release.write("single.py", "WHO = 'changed'\n")
    sys.path.insert(0, str(release.folder))
    try:
        single = importlib.import_module("single")
        assert single.WHO == "changed"
    finally:
        sys.path.remove(str(release.folder))
        del sys.modules["single"]
    assert acme.native.WHO == "source"


# -- to the rest of Python


def test_a_module_says_where_it_is(release, imports):
    import acme.native

    assert acme.native.__file__ == str(release.folder / "acme/native.py")
    assert list(acme.__path__) == [str(release.folder / "acme")]
    assert acme.native.__package__ == "acme"
    assert not list(release.folder.rglob("*.pyc"))


def test_namespace_packages_may_span_verified_folders_and_others(release, imports, tmp_path):
    other = tmp_path / "other/space_of_acme"
    other.mkdir(parents=True)
    (other / "elsewhere.py").write_text("WHO = 'elsewhere'\n")
    sys.path.append(str(other.parent))
    try:
        import space_of_acme.elsewhere
        import space_of_acme.part
    finally:
        sys.path.remove(str(other.parent))
    assert space_of_acme.part.WHO == "part"
    assert space_of_acme.elsewhere.WHO == "elsewhere"
    assert space_of_acme.__file__ is None


def test_package_data_is_verified_whichever_way_it_is_read(release, imports):
    import acme

    words = importlib.resources.files("acme") / "data" / "words.txt"
    assert words.read_text() == "one\ntwo\n"
    assert words.read_bytes() == pkgutil.get_data("acme", "data/words.txt") == b"one\ntwo\n"
    with words.open() as text, words.open("rb") as binary:
        assert (text.readline(), binary.readline()) == ("one\n", b"one\n")
    with importlib.resources.as_file(words) as path:
        assert path.read_text() == "one\ntwo\n"
    release.write("acme/data/words.txt", "three\n")
    for read in (words.read_bytes, words.open, lambda: pkgutil.get_data("acme", "data/words.txt")):
        with pytest.raises(ReleaseModifiedError):
            read()
    assert acme.__spec__.loader.get_data(__file__).startswith(b'"""Verified imports')


def test_package_data_that_was_not_hashed_does_not_exist(release, imports):
    release.write("acme/data/added.txt", "planted")
    data = importlib.resources.files("acme") / "data"
    assert sorted(one.name for one in data.iterdir()) == ["deep", "words.txt"]
    assert (data / "deep").is_dir()
    assert not (data / "deep").is_file()
    assert not (data / "added.txt").is_file()
    assert not (data / "nothing").is_dir()
    with pytest.raises(FileNotFoundError):
        (data / "added.txt").read_bytes()
    with pytest.raises(FileNotFoundError):
        pkgutil.get_data("acme", "data/added.txt")
    with pytest.raises(ValueError, match="read only"):
        (data / "words.txt").open("w")


def test_a_resource_is_a_path_too(release, imports):
    import acme  # noqa: F401 - to import it is the test

    words = importlib.resources.files("acme") / "data/words.txt"
    assert os.fspath(words) == str(words) == str(release.folder / "acme/data/words.txt")


def test_modules_are_listed_as_they_were_hashed(release, imports):
    release.write("acme/added.py", PLANTED)
    found = {name: is_package for _, name, is_package in pkgutil.iter_modules([str(release.folder)])}
    assert found == {"acme": True, "single": False}
    within = {name for _, name, _ in pkgutil.iter_modules([str(release.folder / "acme")], "acme.")}
    assert within == {"acme.native", "acme.broken", "acme.syntax", "acme.later"}


def test_tracebacks_and_inspect_show_the_source(release, imports):
    import acme.broken
    import acme.native

    linecache.clearcache()
    try:
        acme.broken.fail()
    except LookupError as error:
        shown = "".join(traceback.format_exception(error))
    assert f'{release.folder}/acme/broken.py", line 2, in fail\n    raise LookupError' in shown
    assert inspect.getsource(acme.native.Point).startswith("class Point:")
    assert acme.native.__loader__.get_source("acme.native") == FILES["acme/native.py"]


def test_a_mistake_in_the_source_is_shown_where_it_is(release, imports):
    with pytest.raises(SyntaxError) as raised:
        import acme.syntax  # noqa: F401 - to import it is the test
    assert raised.value.filename == str(release.folder / "acme/syntax.py")
    assert raised.value.lineno == 1


def test_instances_are_pickled(release, imports):
    from acme.native import Point

    assert pickle.loads(pickle.dumps(Point(3))).x == 3  # noqa: S301 - pickled a moment ago


def test_a_module_is_reloaded_from_verified_bytes(release, imports):
    single = importlib.import_module("single")
    assert importlib.reload(single).WHO == "single"
    release.write("single.py", PLANTED)
    with pytest.raises(ReleaseModifiedError):
        importlib.reload(single)
    assert single.WHO == "single"


def test_a_source_that_names_its_encoding_is_read_in_it(release):
    (release.folder / "single.py").write_bytes("# coding: latin-1\nWHO = 'gr\xfc\xdfe'\n".encode("latin-1"))
    with release.imported():
        single = importlib.import_module("single")
        assert single.WHO == "gr\xfc\xdfe"
