"""The start of a worker in an interpreter of its own: confined first, and only then told where the plugin is."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from plugin_sdk.worker.sandbox.confinement import DIGESTS, Confinement, confine, refusal
from plugin_sdk.worker.verified_imports import install


def start(given: dict[str, Any]) -> NoReturn:
    """Confine this process as `given` says, then serve a plugin with its own folders ahead of the SDK's."""
    try:
        sys.dont_write_bytecode = True
        sys.pycache_prefix = "/nonexistent"
        confinement = Confinement(**given["confinement"])
        parts = confine(confinement, given["id"])
        imports = install(DIGESTS)
        for name in [name for name in sys.modules if name.partition(".")[0] == "plugin_sdk"]:
            del sys.modules[name]  # the bare package that brought this module: from here on, the real one
        sys.path[:0] = given["ahead"]
        from plugin_sdk.worker.main import run  # noqa: PLC0415 - what it imports may be the plugin's own

        run(parts, refusal=refusal(confinement, parts), imports=imports)
    except BaseException as error:  # noqa: BLE001 - the last stop before the process ends
        os.write(2, f"worker: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)  # EX_SOFTWARE
