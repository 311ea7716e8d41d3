"""`busbar plugin test`: what a project's tests say, and what its code does beyond plugin.toml."""

import pytest

from host.cli.new_project import write_project
from host.cli.project_check import FailedTestsError, check_manifest, run_tests
from host.dev_host import Source
from host.runtime.errors import StartFailedError
from host.supply.errors import ReleaseRefusedError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the SDK's own suffices
    write_project(tmp_path / "demo", "demo", "Demo")
    return tmp_path / "demo"


def change(project, path, old, new):
    text = (project / path).read_text()
    assert old in text
    (project / path).write_text(text.replace(old, new))


def test_a_failing_test_is_shown_and_failed(project, capfd):
    change(project, "demo/__init__.py", "{context.config.greeting}, ", "Hi, ")
    with pytest.raises(FailedTestsError) as failed:
        run_tests(project, Source.read(project), ["-k", "greeted"], quiet=True)
    assert failed.value.word == "plugin_tests_failed"
    said = capfd.readouterr()
    assert said.out == ""  # it is for JSON alone
    assert "Hi, Ada!" in said.err
    assert "1 failed, 2 deselected" in said.err


def test_a_project_without_tests_is_not_tested(project):
    with pytest.raises(FailedTestsError) as failed:
        run_tests(project, Source.read(project), ["-q", "-k", "nothing"], quiet=True)
    assert failed.value.word == "plugin_no_tests"


def test_tests_in_a_source_folder_find_the_package(project):
    (project / "src").mkdir()
    (project / "demo").rename(project / "src" / "demo")
    run_tests(project, Source.read(project), ["-q", "-k", "subject"], quiet=True)


async def test_code_that_does_more_than_the_manifest_allows_is_found_before_a_host_finds_it(project):
    description = await check_manifest(project, Source.read(project))
    assert [one.name for one in description.subscriptions] == ["greet"]
    change(project, "demo/plugin.toml", 'subscribe = ["demo.came"]', 'subscribe = ["demo.left"]')
    with pytest.raises(ReleaseRefusedError) as refused:
        await check_manifest(project, Source.read(project))
    assert refused.value.word == "release_manifest_exceeded"
    assert refused.value.errors == (
        "subscription 'greet' takes 'demo.came', which permissions.subscribe does not cover",
    )


async def test_code_that_a_worker_cannot_load_is_shown_with_its_traceback(project):
    change(project, "demo/__init__.py", "from datetime", "import subprocess; subprocess.run(['true'])\nfrom datetime")
    with pytest.raises(StartFailedError) as failed:
        await check_manifest(project, Source.read(project))
    assert "subprocess.run(['true'])" in failed.value.traceback


async def test_what_the_project_depends_on_is_there_as_it_is_installed_here(project):
    change(project, "pyproject.toml", "[project.entry", 'dependencies = ["cronsim>=2", "pydantic"]\n\n[project.entry')
    change(project, "demo/__init__.py", "from datetime", "from cronsim import CronSim\nfrom datetime")
    assert (await check_manifest(project, Source.read(project))).services


async def test_a_dependency_that_is_not_installed_is_named(project):
    change(project, "pyproject.toml", "[project.entry", 'dependencies = ["no-such-thing>=2"]\n\n[project.entry')
    with pytest.raises(StartFailedError, match="no-such-thing>=2, which is not installed here: pip install"):
        await check_manifest(project, Source.read(project))
