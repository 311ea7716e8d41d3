"""What is changed in a release after it was verified does not run: real plugins, forked, cold and inline."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from host.runtime.errors import HookFailedError, ReleaseModifiedError, StartFailedError
from host.runtime.examiner import WorkerExaminer
from host.runtime.inline import InlineRuntime
from host.runtime.process import WorkerRuntime
from plugin_sdk.calls import ServiceCall
from plugin_sdk.worker.digests import hash_files, pack

CODE = '''
import sys
from plugin_sdk import Plugin, service
from acme_demo import who

class Demo(Plugin):
    @service
    async def who(self):
        """Whose code runs."""
        return [who.WHO, getattr(sys, "planted", "")]

    @service
    async def later(self):
        """What was not imported before."""
        from acme_demo import later
        return later.WHO

    @service
    async def optional(self):
        """Get along without it."""
        try:
            from acme_demo import later
        except ImportError:
            later = None
        return [later is None, getattr(sys, "planted", "")]

    @service
    async def data(self):
        """Package data."""
        from importlib.resources import files
        return (files("acme_demo") / "words.txt").read_text()

    @service
    async def fail(self):
        """Fail in a line that can be seen."""
        raise LookupError("here")

    @service
    async def clash(self):
        """A dependency that has the name of something of the SDK's."""
        import sys
        import attr
        return [attr.WHO, "pluggy" in sys.modules]
'''
FILES = {
    "acme_demo/__init__.py": CODE,
    "acme_demo/who.py": "WHO = 'signed'\n",
    "acme_demo/later.py": "WHO = 'signed'\n",
    "acme_demo/words.txt": "signed",
}
PLANTED = "import sys\nWHO = sys.planted = 'planted'\n"
KINDS = ("forked", "cold", "inline")


def write(folder, files):
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified(launch):
    """The launch with what is on the disk now, as a host would launch what it has just verified."""
    folders = (launch.folder, *launch.dependencies)
    return replace(launch, digests=pack({str(folder): hash_files(contents(folder)) for folder in folders}))


@pytest.fixture
def release(tmp_path):
    write(tmp_path / "verified", FILES)
    return tmp_path / "verified"


@pytest.fixture
def demo(launch, release):
    return replace(launch(), plugin="acme-demo", folder=release, entry_point="acme_demo:Demo", config={})


@pytest.fixture
def told():
    return []


@pytest.fixture
async def start(host, workshop, told):
    """Starts runtimes of a kind."""
    running = []
    workshop = replace(workshop, modified=told.append)

    async def run(launch, kind="forked"):
        if kind == "inline":
            one = InlineRuntime(launch, host, lambda *_: None)
        else:
            cold_start = "the test says so" if kind == "cold" else ""
            one = WorkerRuntime(replace(launch, cold_start=cold_start), host, workshop, lambda *_: None)
        await one.start()
        running.append(one)
        assert one.snapshot().started == kind
        return one

    yield run
    for one in running:
        await one.stop(2.0, 2.0)


def ask(runtime, method, **arguments):
    return runtime.call(ServiceCall(method, arguments))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_release_that_nobody_changed_runs(start, demo, kind):
    one = await start(verified(demo), kind)
    assert await ask(one, "who") == ["signed", ""]
    assert await ask(one, "later") == "signed"
    assert await ask(one, "data") == "signed"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_changed_between_the_check_and_the_start_keeps_it_from_starting(
    start, demo, release, told, kind, monkeypatch
):
    monkeypatch.setattr(sys, "planted", "", raising=False)
    launch = verified(demo)
    write(release, {"acme_demo/who.py": PLANTED})
    with pytest.raises(ReleaseModifiedError, match="acme_demo/who.py was altered") as failed:
        await start(launch, kind)
    assert failed.value.word == "release_modified"
    assert not failed.value.retryable
    assert not failed.value.traceback
    assert told == ([] if kind == "inline" else ["acme-demo"])
    assert not sys.planted


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_changed_while_it_runs_is_not_imported_later(start, demo, release, told, kind, monkeypatch):
    monkeypatch.setattr(sys, "planted", "", raising=False)
    one = await start(verified(demo), kind)
    write(release, {"acme_demo/later.py": PLANTED, "acme_demo/words.txt": "planted"})
    for method, file in (("later", "later.py"), ("data", "words.txt")):
        with pytest.raises(HookFailedError, match=f"acme_demo/{file} was altered") as failed:
            await ask(one, method)
        assert failed.value.type == "ReleaseModifiedError"
    assert await ask(one, "optional") == [True, ""]
    assert told == ([] if kind == "inline" else ["acme-demo"])  # once, however often


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plugin_that_gets_along_without_an_altered_module_does_not_start_either(start, demo, release, kind):
    write(
        release,
        {"acme_demo/who.py": "try:\n    from acme_demo import later\nexcept ImportError:\n    pass\nWHO = 'signed'\n"},
    )
    launch = verified(demo)
    write(release, {"acme_demo/later.py": PLANTED})
    with pytest.raises(ReleaseModifiedError, match="later.py"):
        await start(launch, kind)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_added_does_not_exist(start, demo, release, kind):
    launch = verified(demo)
    write(
        release,
        {
            "acme_demo/who/__init__.py": PLANTED,
            "acme_demo/later.so": b"\x7fELF planted",
            "acme_demo.so": b"\x7fELF planted",
            "pluggy.py": PLANTED,
        },
    )
    one = await start(launch, kind)
    assert await ask(one, "who") == ["signed", ""]
    assert await ask(one, "later") == "signed"


@pytest.mark.parametrize("kind", KINDS)
async def test_source_that_an_author_works_on_is_imported_as_it_is(start, demo, release, kind):
    one = await start(demo, kind)
    write(release, {"acme_demo/later.py": "WHO = 'changed'\n"})
    assert await ask(one, "later") == "changed"


async def test_a_release_is_examined_as_it_was_verified(workshop, demo, release):
    launch = verified(demo)
    examiner = WorkerExaminer(workshop, lambda _plugin: lambda *_: None)
    assert {one.name for one in (await examiner.describe(launch)).services} >= {"who", "later"}
    write(release, {"acme_demo/who.py": PLANTED})
    with pytest.raises(ReleaseModifiedError):
        await examiner.describe(launch)


async def test_a_failure_is_shown_with_its_line(start, demo):
    one = await start(verified(demo))
    with pytest.raises(HookFailedError) as failed:
        await ask(one, "fail")
    assert 'raise LookupError("here")' in failed.value.traceback
    assert f'{demo.folder}/acme_demo/__init__.py"' in failed.value.traceback


# -- dependencies


async def test_what_is_changed_in_a_dependency_is_not_imported(start, demo, release, tmp_path):
    write(tmp_path / "greeter", {"greeter.py": "WHO = 'signed'\n"})
    write(release, {"acme_demo/who.py": "from greeter import WHO\n"})
    launch = verified(replace(demo, dependencies=(tmp_path / "greeter",)))
    assert await ask(await start(launch), "who") == ["signed", ""]
    write(tmp_path / "greeter", {"greeter.py": PLANTED})
    with pytest.raises(ReleaseModifiedError, match=r"greeter\.py"):
        await start(launch)


async def test_in_a_cold_worker_the_sdk_imports_nothing_that_was_planted_before_its_own(start, demo, tmp_path):
    write(tmp_path / "others", {"attr/__init__.py": (package := "WHO = 'signed'\n")})
    launch = verified(replace(demo, dependencies=(tmp_path / "others",)))
    for name in ("pluggy", "msgspec", "pydantic", "packaging"):
        write(tmp_path / "others", {f"{name}/__init__.py": "raise SystemExit('planted')\n"})
    one = await start(launch, "cold")
    assert await ask(one, "clash") == ["signed", True]
    write(tmp_path / "others", {"attr/__init__.py": package + PLANTED})
    with pytest.raises(HookFailedError, match="was altered"):
        await ask(await start(launch, "cold"), "clash")


# -- compiled code

COMPILED = """
from plugin_sdk import Plugin, service

class Demo(Plugin):
    @service
    async def absolute(self, number):
        '''The C library's abs, called through cffi.'''
        import cffi
        ffi = cffi.FFI()
        ffi.cdef("int abs(int);")
        return ffi.dlopen(None).abs(number)

    @service
    async def answer(self):
        '''What the extension module answers.'''
        from acme_demo import native
        return [native.answer(), native.__file__, native.__spec__.origin]

    @service
    async def again(self):
        '''Forget the module and import it again.'''
        import sys
        from acme_demo import native
        del sys.modules["acme_demo.native"]
        import importlib
        return importlib.import_module("acme_demo.native").answer()

    @service
    async def mapped(self):
        '''The files that are mapped, and how many are open.'''
        import os
        with open("/proc/self/maps") as maps:
            return [sorted({line.split(maxsplit=5)[-1].strip() for line in maps}), len(os.listdir("/proc/self/fd"))]

    @service
    async def fill(self):
        '''Leave no room in the data folder.'''
        with open("full", "wb") as file:
            file.write(bytes(300_000))
"""
NATIVE = """
#include <Python.h>
int middle(void);
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(middle()); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", 0, 0, methods};
PyMODINIT_FUNC PyInit_native(void) { return PyModule_Create(&module); }
"""
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def compile_c(target, source, *options):
    target.parent.mkdir(parents=True, exist_ok=True)
    text = target.with_suffix(".c")
    text.write_text(source)
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["cc", "-shared", "-fPIC", include, str(text), "-o", str(target), *options], check=True)
    text.unlink()


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """An extension module with its libraries beside it, as tools that repair wheels leave them."""
    if shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there is no C compiler, or Python's headers are not installed")
    folder = tmp_path_factory.mktemp("built")
    libraries = folder / "acme_demo.libs"
    deep, middle = libraries / "libdeep-1a2b.so.1", libraries / "libmiddle-3c4d.so.1"
    compile_c(deep, "int deep(void) { return 42; }", f"-Wl,-soname,{deep.name}")
    compile_c(
        middle,
        "int deep(void); int middle(void) { return deep(); }",
        *(f"-Wl,-soname,{middle.name}", f"-L{libraries}", f"-l:{deep.name}", "-Wl,-rpath,$ORIGIN"),
    )
    compile_c(
        folder / f"acme_demo/native{SUFFIX}",
        NATIVE,
        *(f"-L{libraries}", f"-l:{middle.name}", "-Wl,-rpath,$ORIGIN/../acme_demo.libs"),
        f"-Wl,-rpath-link,{libraries}",
    )
    return folder


@pytest.fixture
def compiled(demo, release, built):
    write(release, {"acme_demo/__init__.py": COMPILED})
    shutil.copytree(built, release, dirs_exist_ok=True)
    return demo


async def test_an_extension_module_and_its_libraries_are_loaded_from_copies_alone(start, compiled, release):
    one = await start(verified(compiled))
    path = str(release / f"acme_demo/native{SUFFIX}")
    before = (await ask(one, "mapped"))[1]
    assert await ask(one, "answer") == [42, path, path]
    assert await ask(one, "again") == 42
    mapped, opened = await ask(one, "mapped")
    assert not [name for name in mapped if name.startswith(str(release))]
    assert len([name for name in mapped if name.endswith("(deleted)")]) == 3
    assert opened == before


@pytest.mark.parametrize("kind", ["cold", "inline"])
async def test_it_is_the_same_in_other_runtimes(start, compiled, kind):
    one = await start(verified(compiled), kind)
    assert (await ask(one, "answer"))[0] == 42


@pytest.mark.parametrize(
    "path", [f"acme_demo/native{SUFFIX}", "acme_demo.libs/libmiddle-3c4d.so.1", "acme_demo.libs/libdeep-1a2b.so.1"]
)
@pytest.mark.parametrize("kind", ["forked", "cold"])
async def test_compiled_code_that_was_swapped_is_not_loaded(start, compiled, release, told, path, kind):
    one = await start(verified(compiled), kind)
    (release / path).unlink()
    code = "int middle(void) { return 13; } int deep(void) { return 13; } void PyInit_native(void) { middle(); }"
    compile_c(release / path, code)
    with pytest.raises(HookFailedError, match=f"{path} was altered"):
        await ask(one, "answer")
    assert told == ["acme-demo"]


async def test_a_library_that_was_not_hashed_does_not_exist(start, compiled, release):
    path = release / "acme_demo.libs/libdeep-1a2b.so.1"
    content = path.read_bytes()
    path.unlink()
    launch = verified(compiled)
    path.write_bytes(content)
    with pytest.raises(HookFailedError, match="libdeep-1a2b.so.1: cannot open shared object file"):
        await ask(await start(launch), "answer")


async def test_a_plugin_whose_folder_is_full_can_import_what_is_compiled(start, compiled, release, workshop):
    sandbox = workshop.sandbox
    one = await start(verified(compiled))
    await ask(one, "fill")
    await one.stop(1.0, 1.0)
    sandbox.policy = replace(sandbox.policy, data=200_000)
    again = await start(verified(compiled))
    if again.snapshot().sandbox["files"] != "enforced":
        pytest.skip("this kernel has no Landlock")
    assert (await ask(again, "answer"))[0] == 42
    (release / f"acme_demo/native{SUFFIX}").write_bytes(b"\x7fELF planted")
    with pytest.raises(HookFailedError, match="was altered"):
        await ask(await start(replace(compiled, digests=again._launch.digests)), "answer")


async def test_a_real_library_of_the_world_is_imported_and_used(start, compiled, tmp_path):
    folders = []
    for name in ("cffi", "pycparser"):
        folders.append(tmp_path / "dependencies" / name)
        for file in importlib.metadata.files(name):
            if ".." not in file.parts and "__pycache__" not in file.parts:
                write(folders[-1], {str(file): Path(file.locate()).read_bytes()})
    one = await start(verified(replace(compiled, dependencies=tuple(folders))))
    assert await ask(one, "absolute", number=-3) == 3
    assert not [name for name in (await ask(one, "mapped"))[0] if "/dependencies/" in name]


async def test_what_is_no_library_fails_as_it_would_anywhere(start, compiled, release):
    write(release, {f"acme_demo/native{SUFFIX}": b""})
    with pytest.raises(HookFailedError, match="file too short"):
        await ask(await start(verified(compiled)), "answer")
    write(release, {f"acme_demo/native{SUFFIX}": b"\x7fELF\x02\x01 and nothing more"})
    with pytest.raises(HookFailedError, match="ImportError"):
        await ask(await start(verified(compiled)), "answer")


async def test_the_sentence_of_a_start_that_fails_says_what_to_do(start, demo, release):
    launch = verified(demo)
    write(release, {"acme_demo/who.py": PLANTED})
    with pytest.raises(StartFailedError) as failed:
        await start(launch)
    assert failed.value.message == (
        "acme-demo could not be loaded: the release on disk is not what was signed: acme_demo/who.py was altered; "
        "install it again"
    )
