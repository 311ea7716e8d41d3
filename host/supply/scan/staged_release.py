"""The scan and the bill of materials of a release that is staged: read and unpacked, and not run yet."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import parse_email

from host.supply.release_store import TREE, WHEELS, dependency_folder
from host.supply.scan.bill_of_materials import bill_of_materials
from host.supply.scan.distributions import ScannedDistribution
from host.supply.scan.scanner import Scanner
from host.supply.wheel.reader import ReadWheel


@dataclass(frozen=True, slots=True)
class Papers:
    """What is kept with a release: the report of its scan, and its bill of materials, both JSON."""

    report: bytes
    bill: bytes


async def scan_staged(scanner: Scanner, staging: Path, read: ReadWheel, sha256: str) -> Papers:
    """Scan a staged release and hold the report against the policy.

    Raises:
        ScanRefusedError: the policy does not let it through.
    """
    distributions = await asyncio.to_thread(_distributions, staging, read)
    report = await scanner.scan(
        staging / TREE,
        plugin=read.name,
        version=read.version,
        sha256=sha256,
        manifest=read.manifest,
        distributions=distributions,
    )
    scanner.refuse(report)
    bill = bill_of_materials(
        plugin=read.name,
        version=read.version,
        sha256=sha256,
        distributions=distributions,
        license_text=await asyncio.to_thread(_license, staging / TREE),
    )
    return Papers(report.to_json(), bill)


def _distributions(staging: Path, read: ReadWheel) -> list[ScannedDistribution]:
    found = []
    for wheel in () if read.lock is None else read.lock.wheels:
        folder = dependency_folder(staging, wheel)
        with (staging / WHEELS / wheel.filename).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(ScannedDistribution(wheel.name, wheel.version, digest, _license(folder), folder))
    return found


def _license(tree: Path) -> str | None:
    """What the METADATA of an unpacked wheel says of its licence."""
    metadata = next(tree.glob("*.dist-info/METADATA"), None)
    if metadata is None:
        return None
    raw, _ = parse_email(metadata.read_bytes())
    return raw.get("license_expression") or raw.get("license")
