"""A machine that is short of something, as the plugin makes it for itself."""

import importlib
import os

from plugin_sdk import Context


async def starve_import(context: Context) -> None:
    """Import a module of its own with no descriptor left, and again with some; says what came of either."""
    held: list[int] = []
    met: list[str] = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        met.append(_imported())
    finally:
        for descriptor in held:
            os.close(descriptor)
    met.append(_imported())
    raise RuntimeError("; ".join(met))


def _imported() -> str:
    try:
        return str(importlib.import_module("saboteur.late").SAID)
    except (ImportError, OSError) as error:
        return f"{type(error).__name__}: {error}"
