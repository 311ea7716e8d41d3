"""What someone changes on the disk while the host runs: releases, and the files that say who is trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
import watchfiles

from host.errors import BusbarError
from host.lifecycle.reconciler import Reconciler
from host.registry.registry import Registry
from host.supply.trust.drop_ins import load_drop_ins
from host.supply.trust.store import TrustStore

AGAIN_SECONDS: Final = 5.0
"""Wait before a folder that cannot be watched is tried again."""

_log = structlog.get_logger(__name__)


async def watch_releases(releases: Path, registry: Registry, reconciler: Reconciler) -> None:
    """Have a plugin's release verified anew as soon as something in its folder changes; for ever."""

    async def changed(paths: set[Path]) -> None:
        touched = {path.relative_to(releases).parts[0] for path in paths if path != releases}
        plugins = [record.id for record in registry.all() if touched & record.releases]
        reconciler.recheck(plugins)

    await _watch(releases, changed)


async def watch_publishers(folder: Path, trust: TrustStore) -> None:
    """Take what the files of a folder say whenever one of them is saved; for ever."""

    async def changed(_paths: set[Path]) -> None:
        try:
            taken = await load_drop_ins(trust, folder)
        except BusbarError as error:
            _log.error("publishers_not_loaded", code=error.word, reason=error.message)
        else:
            _log.info("publishers_loaded", taken=taken)

    await _watch(folder, changed)


async def _watch(folder: Path, changed: Callable[[set[Path]], Awaitable[None]]) -> None:
    while True:
        try:
            async for changes in watchfiles.awatch(folder, debounce=200, step=50, ignore_permission_denied=True):
                await changed({Path(path) for _, path in changes})
        except (OSError, RuntimeError) as error:  # watchfiles raises what its Rust half says as either
            _log.warning("folder_not_watched", folder=folder.name, reason=str(error))
        await asyncio.sleep(AGAIN_SECONDS)
