"""Drop-in releases: signed wheels in a folder, installed and enabled at the start as an administrator would."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final

import structlog

from host.administration.installation import Installation, InstallOptions, chunks_of
from host.errors import BusbarError
from host.registry.registry import Registry
from host.storage.beneath import read_plain
from host.supply.installer import ReceivedRelease
from host.supply.trust.dsse import MAX_BUNDLE
from host.supply.trust.signing import attestations_of
from host.supply.wheel.structure import MAX_ARCHIVE

ACTOR: Final = "drop-in"

_log = structlog.get_logger(__name__)


async def install_drop_ins(folder: Path, installation: Installation, registry: Registry) -> None:
    """Install every wheel of the folder that is not installed yet; one that is refused keeps none of the others.

    A plugin that someone disabled or removed the same release of stays as they left it.
    """
    for wheel in await asyncio.to_thread(lambda: sorted(folder.glob("*.whl"))):
        try:
            content = await asyncio.to_thread(read_plain, wheel, MAX_ARCHIVE)
            digest = hashlib.sha256(content).hexdigest()
            if any(record.sha256 == digest for record in registry.all()) or await registry.knows(digest):
                continue
            attestations = await asyncio.to_thread(read_plain, attestations_of(wheel), MAX_BUNDLE)
            received = ReceivedRelease(chunks_of(wheel), wheel.name, attestations)
            await installation.install(received, InstallOptions(enable=True), actor=ACTOR)
        except (BusbarError, OSError) as error:
            _log.warning("drop_in_refused", wheel=wheel.name, reason=str(error))
        except Exception:  # noqa: BLE001 - logged with its traceback; the wheels behind it are not kept waiting
            _log.exception("drop_in_not_taken", wheel=wheel.name)
