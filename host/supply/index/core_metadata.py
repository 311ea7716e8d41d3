"""Holding a wheel against what its index said of it beforehand (PEP 658)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from host.supply.errors import ReleaseRefusedError
from host.supply.wheel.reader import ReadWheel

_METADATA: Final = re.compile(r"[^/]+\.dist-info/METADATA")


def check_metadata(promised: str | None, wheel: ReadWheel) -> None:
    """Refuse a wheel whose METADATA is not what the index named. `promised` is a SHA-256, or None for no promise.

    Called when the wheel has been read, which is after its signature held: before, nothing of an archive is opened.

    Raises:
        ReleaseRefusedError: `release_metadata_mismatch`.
    """
    if promised is None:
        return
    found = next(content for path, content in wheel.files.items() if _METADATA.fullmatch(path))
    if hashlib.sha256(found).hexdigest() != promised:
        raise ReleaseRefusedError(
            "metadata_mismatch", f"the METADATA of {wheel.name} {wheel.version} is not what its index named beforehand"
        )
