"""Small plugin projects, written to disk as an author would."""

from __future__ import annotations

from pathlib import Path

PROJECT = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "{id}"
version = "{version}"
description = "{title}."

[project.entry-points."busbar.plugins"]
{id} = "{module}:{entry}"
"""


def write_project(
    folder: Path,
    id_: str,
    code: str,
    *,
    manifest: str = "",
    requires: str = "[]",
    entry: str = "",
    version: str = "1.0.0",
) -> Path:
    """A plugin project in a new folder below `folder`; `manifest` has the tables after `[plugin]`."""
    module = id_.replace("-", "_")
    title = id_.replace("-", " ").capitalize()
    project = folder / f"{id_}-{version}"
    (project / module).mkdir(parents=True)
    (project / module / "__init__.py").write_text(code)
    (project / module / "plugin.toml").write_text(
        f'[plugin]\nid = "{id_}"\ntitle = "{title}"\nrequires = {requires}\n\n{manifest}'
    )
    entry = entry or "".join(part.capitalize() for part in id_.split("-"))
    (project / "pyproject.toml").write_text(
        PROJECT.format(id=id_, module=module, entry=entry, version=version, title=title)
    )
    return project
