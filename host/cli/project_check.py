"""What `busbar plugin test` asks of a project: do its tests pass, and does the code keep within plugin.toml?"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from host.dev_host import Source
from host.errors import BusbarError, ErrorKind
from host.runtime.examiner import WorkerExaminer
from host.runtime.fork_server import ForkServer
from host.runtime.installed_dependencies import copy_dependencies
from host.runtime.runtime import Launch
from host.runtime.sandbox import AUTHORS_OWN, Sandbox
from host.runtime.sdk_path import build_sdk_path
from host.runtime.workshop import Workshop
from host.supply.errors import ReleaseRefusedError
from plugin_sdk.description import Description
from plugin_sdk.worker.wire import LogLine

PLUGIN: Final = "plugin_sdk.testing"
"""The SDK's pytest plugin."""
_NO_TESTS: Final = 5
"""pytest's exit code where it has collected none."""


class FailedTestsError(BusbarError):
    """The project's tests did not all pass, or could not be run."""

    code = "plugin_tests_failed"
    kind = ErrorKind.INVALID


def run_tests(project: Path, source: Source, arguments: Sequence[str], *, quiet: bool) -> None:
    """Run the project's tests with pytest, in its folder; what pytest prints goes to standard output.

    Args:
        project: The project's folder.
        source: The same, as it was read: its package is what the tests import.
        arguments: More arguments for pytest.
        quiet: Leave standard output alone: what pytest prints goes to standard error.

    Raises:
        FailedTestsError: one failed, there was none, or there is no pytest here.
    """
    if importlib.util.find_spec("pytest") is None:
        raise FailedTestsError("pytest is not installed beside busbar: pip install pytest", code="pytest_missing")
    path = os.pathsep.join(filter(None, (str(source.folder.resolve()), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        stdout=sys.stderr if quiet else None,
        check=False,
    )
    if done.returncode == _NO_TESTS:
        raise FailedTestsError("no tests were run: a release without a test is a guess", code="plugin_no_tests")
    if done.returncode:
        raise FailedTestsError("the tests did not pass: what pytest printed says which")


async def check_manifest(project: Path, source: Source) -> Description:
    """Ask the code what it does, in a throw-away worker as a host does at install; what it answered.

    What the project depends on is taken as it is installed here.

    Raises:
        ReleaseRefusedError: `release_manifest_exceeded`: the code does more than plugin.toml allows.
        StartFailedError: it could not be loaded, with the author's traceback, or a dependency is not installed.
    """
    description = await _described(project, source)
    beyond = source.manifest.check(description)
    if beyond:
        raise ReleaseRefusedError("manifest_exceeded", "the code does more than plugin.toml allows", errors=beyond)
    return description


async def _described(project: Path, source: Source) -> Description:
    with tempfile.TemporaryDirectory(prefix="busbar-test-") as name:
        folder = Path(name)
        sdk_path = await asyncio.to_thread(build_sdk_path, folder)
        dependencies = await asyncio.to_thread(copy_dependencies, project, folder / "dependencies" / "installed")
        fork_server = ForkServer(sdk_path)
        limits = source.manifest.runtime
        launch = Launch(
            plugin=source.manifest.plugin.id,
            folder=source.folder.resolve(),
            entry_point=source.entry_point,
            config={},
            secrets={},
            isolation="process",
            memory=limits.memory,
            concurrency=limits.concurrency,
            timeout=limits.timeout,
            data_folder=folder / "data",
            dependencies=dependencies,
        )
        try:
            workshop = Workshop(fork_server, await asyncio.to_thread(Sandbox, AUTHORS_OWN, sdk_path))
            return await WorkerExaminer(workshop, _unheard).describe(launch)
        finally:
            await fork_server.stop()


def _unheard(_plugin: str) -> Callable[[list[LogLine], int], None]:
    """What it logs while it is looked at is in nobody's way."""
    return lambda _lines, _dropped: None
