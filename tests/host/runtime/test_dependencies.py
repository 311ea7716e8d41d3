"""Plugins with dependencies of their own, installed from a folder of wheels, in real workers.

The wheels are those of distributions that are installed here: what they do in a worker is what they do.
"""

import hashlib
from dataclasses import replace

import dependency_wheels as wheels
import pytest
import supply_wheels

from host.runtime.errors import StartFailedError
from host.runtime.examiner import WorkerExaminer
from host.runtime.inline import InlineRuntime
from host.runtime.process import WorkerRuntime
from host.runtime.sdk_path import distributions, provided
from host.supply.dependencies.dependencies import check_dependencies, take_dependencies
from host.supply.dependencies.fetch import DependencySources
from host.supply.release_store import WHEEL, ReleaseStore
from plugin_sdk.calls import ServiceCall

PURE = """
import sys
from plugin_sdk import Plugin, service

class Demo(Plugin):
    @service
    async def hello(self):
        '''What the dependency says, and where it is found.'''
        import greeter
        return [greeter.HELLO, sys.path.index(greeter.__path__[0].removesuffix("/greeter"))]

    @service
    async def shared(self):
        '''Two distributions in one folder.'''
        import space.one, space.two
        return [space.one.NAME, space.two.NAME]

    @service
    async def version(self):
        '''What the dependency's metadata says.'''
        from importlib.metadata import version
        return version("greeter")

    @service
    async def write(self):
        '''Try to change it.'''
        import greeter
        open(greeter.__file__, "a")
"""

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
    async def where(self):
        '''Which file the compiled module is.'''
        import _cffi_backend
        return _cffi_backend.__file__
"""

CLASHING = """
import packaging
from plugin_sdk import Plugin, on_event, service

class Demo(Plugin):
    @service
    async def version(self):
        '''Which packaging, and which one the SDK sees.'''
        import plugin_sdk.manifest
        return [packaging.__version__, plugin_sdk.manifest.Requirement.__module__, packaging.OLD]

    @on_event("demo.*")
    async def act(self, event, context):
        await context.emit("demo.done")
"""


class Installed:
    """Installs plugins with what they depend on, and starts them."""

    def __init__(self, root, launch, host, workshop):
        self.store = ReleaseStore(root / "state")
        self.store.open(())
        self.wheelhouse = root / "wheelhouse"
        self.wheelhouse.mkdir()
        self._template, self._host, self._workshop = launch(), host, workshop
        self.provided = distributions()
        self._running = []

    async def install(self, code, *dependencies):
        for one in dependencies:
            one.put_into(self.wheelhouse)
        lock = wheels.lock(*dependencies)
        content = wheels.plugin_wheel(lock, requires=[one.name for one in dependencies], code=code)
        read = wheels.plugin(lock, requires=[one.name for one in dependencies], code=code, provided=provided())
        signed = hashlib.sha256(lock).hexdigest()
        staging = self.store.new_staging()
        (staging / WHEEL).write_bytes(content)
        await take_dependencies(read, signed, staging, DependencySources((self.wheelhouse,)), self.provided)
        self.store.unpack(staging, read, supply_wheels.NAME, b"")
        release = self.store.keep(staging, hashlib.sha256(content).hexdigest())
        found = check_dependencies(read, signed, release, self.provided)
        return replace(
            self._template,
            plugin="acme-demo",
            folder=release.tree,
            entry_point=read.entry_point,
            dependencies=found.folders(release.folder),
            cold_start=found.cold_start,
        )

    async def start(self, launch):
        one = WorkerRuntime(launch, self._host, self._workshop, lambda *_: None)
        await one.start()
        self._running.append(one)
        return one

    async def run(self, code, *dependencies):
        return await self.start(await self.install(code, *dependencies))

    async def stop(self):
        for one in self._running:
            await one.stop(2.0, 2.0)


@pytest.fixture
async def installed(tmp_path, launch, host, workshop):
    found = Installed(tmp_path, launch, host, workshop)
    yield found
    await found.stop()


async def test_a_plugin_imports_what_its_lock_brings_and_its_worker_is_forked(installed):
    one = await installed.run(PURE, wheels.dependency())
    assert await one.call(ServiceCall("hello", {})) == ["hello", 1]  # right behind the plugin's own folder
    assert await one.call(ServiceCall("version", {})) == "1.0"
    assert (one.snapshot().started, one.snapshot().cold_start) == ("forked", "")


async def test_two_dependencies_may_share_a_folder_without_a_module_of_its_own(installed):
    two = [
        wheels.dependency(f"space-{name}", files={f"space/{name}/__init__.py": f"NAME = '{name}'\n".encode()})
        for name in ("one", "two")
    ]
    one = await installed.run(PURE, *two)
    assert await one.call(ServiceCall("shared", {})) == ["one", "two"]


async def test_no_worker_can_change_what_it_imports(installed):
    one = await installed.run(PURE, wheels.dependency())
    if one.snapshot().sandbox["files"] != "enforced":
        pytest.skip("this kernel has no Landlock, and the tests may run as root")
    with pytest.raises(Exception, match="PermissionError"):
        await one.call(ServiceCall("write", {}))


async def test_a_plugin_calls_into_a_compiled_dependency_from_within_its_sandbox(installed):
    one = await installed.run(COMPILED, wheels.repacked("cffi"), wheels.repacked("pycparser"))
    assert await one.call(ServiceCall("absolute", {"number": -3})) == 3
    where = await one.call(ServiceCall("where", {}))
    assert where.startswith(str(installed.store.releases))
    assert one.snapshot().started == "forked"


def older(path, content):
    """The source of `packaging`, as if of another version."""
    if path == "packaging/__init__.py":
        return content + b"\n__version__ = '26.9'\nOLD = True\n"
    return content


async def test_a_plugin_with_another_version_of_something_of_the_sdks_starts_cold_and_both_use_it(installed):
    one = await installed.run(CLASHING, wheels.repacked("packaging", "26.9", edit=older))
    seen = one.snapshot()
    assert seen.started == "cold"
    assert seen.cold_start == f"it brings packaging 26.9 instead of {provided()['packaging']}"
    assert await one.call(ServiceCall("version", {})) == ["26.9", "packaging.requirements", True]


async def test_its_neighbours_stay_with_the_sdks_own(installed):
    await installed.run(CLASHING, wheels.repacked("packaging", "26.9", edit=older))
    other = await installed.run(PURE, wheels.dependency())
    assert other.snapshot().started == "forked"


async def test_a_lock_with_what_workers_have_anyway_costs_no_cold_start(installed):
    launch = await installed.install(CLASHING.replace("packaging.OLD", "None"), wheels.repacked("packaging"))
    assert launch.dependencies == ()
    one = await installed.start(launch)
    assert one.snapshot().started == "forked"
    assert (await one.call(ServiceCall("version", {})))[0] == provided()["packaging"]


async def test_a_plugin_is_examined_with_its_dependencies(installed, workshop):
    code = CLASHING.replace("import packaging\n", "import greeter, packaging\nassert packaging.OLD\n")
    launch = await installed.install(code, wheels.dependency(), wheels.repacked("packaging", "26.9", edit=older))
    description = await WorkerExaminer(workshop, lambda _plugin: lambda *_: None).describe(launch)
    assert [one.types for one in description.subscriptions] == [("demo.*",)]


async def test_an_inline_plugin_with_dependencies_does_not_start(installed, host):
    launch = await installed.install(PURE, wheels.dependency())
    with pytest.raises(StartFailedError, match='isolation = "process"') as failed:
        await InlineRuntime(launch, host, lambda *_: None).start()
    assert not failed.value.retryable
