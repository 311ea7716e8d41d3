"""Building a plugin project into a wheel with whatever build backend its author chose (PEP 517)."""

from __future__ import annotations

import io
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import build
import build.env

from host.errors import BusbarError, ErrorKind

REPRODUCIBLE_EPOCH: Final = "315532800"
"""1980-01-01, the earliest time a ZIP can hold: the same source gives the same wheel."""


class BuildError(BusbarError):
    """The project could not be built."""

    code = "plugin_build_failed"
    kind = ErrorKind.INVALID


def build_wheel(project: Path, out: Path) -> Path:
    """Build the project in `project` and put its wheel into `out`; answers the wheel's path.

    The backend runs in this environment where it is installed here, else in an isolated one that pip fills
    from the configured package index.

    Raises:
        BuildError: there is no project there, or its backend failed; the sentence carries its output.
    """
    if not (project / "pyproject.toml").is_file():
        raise BuildError(f"{project} has no pyproject.toml: name the folder of a plugin project")
    os.environ.setdefault("SOURCE_DATE_EPOCH", REPRODUCIBLE_EPOCH)
    out.mkdir(parents=True, exist_ok=True)
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            return Path(_built(project, out, said))
    except build.BuildException as error:
        raise BuildError(f"{project} is no project that can be built: {error}") from None
    except build.BuildBackendException as error:
        raise BuildError(f"the build backend of {project} failed: {error}", errors=_tail(said)) from None
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{project / 'pyproject.toml'} is no TOML: {error}") from None


def _built(project: Path, out: Path, said: io.StringIO) -> str:
    def run(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        import subprocess  # noqa: PLC0415 - the backend's hooks run in a process of their own

        done = subprocess.run(
            cmd,
            cwd=cwd,
            env={**os.environ, **(extra_environ or {})},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said.write(done.stdout)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, cmd, done.stdout)

    here = build.ProjectBuilder(project, runner=run)
    if not here.check_dependencies("wheel"):
        return str(here.build("wheel", out))
    with build.env.DefaultIsolatedEnv() as environment:
        isolated = build.ProjectBuilder.from_isolated_env(environment, project, runner=run)
        environment.install(isolated.build_system_requires)
        environment.install(isolated.get_requires_for_build("wheel"))
        return str(isolated.build("wheel", out))


def _tail(said: io.StringIO, lines: int = 20) -> tuple[str, ...]:
    return tuple(said.getvalue().splitlines()[-lines:])
