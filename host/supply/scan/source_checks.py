"""Our own checks of the source: hidden code, dynamic code, what happens at import, imports against permissions.

bandit knows what is insecure; these know what hides from it: other encodings, other file names, roundabout
ways to say a name. A tree that cannot be analysed is a `high` finding: nothing passes because it is too odd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from host.supply.scan.child import ChildLimits, Ended, run, scratch
from host.supply.scan.distributions import SourceTree
from host.supply.scan.report import Check, Checked, CheckState, Finding, Severity, Source
from plugin_sdk.manifest import Manifest

NAME: Final = "source"
LIMITS: Final = ChildLimits(memory_bytes=2**30, file_bytes=0)


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    files: int
    findings: list[tuple[str, Severity, str, int, str]]
    left_out: dict[Severity, int]


async def check_source(
    own: SourceTree,
    dependencies: Sequence[SourceTree] = (),
    *,
    manifest: Manifest,
    limits: ChildLimits = LIMITS,
) -> Checked:
    """Look at the plugin's own tree, and at its dependencies' for what hides code from every reader.

    Takes as long as it takes: bound it with `asyncio.timeout`.

    Raises:
        OSError: the analysis cannot be started.
    """
    request = msgspec.json.encode(
        {
            "trees": [
                {"folder": str(tree.folder), "label": tree.label, "own": tree is own} for tree in (own, *dependencies)
            ],
            "network": bool(manifest.permissions.network),
            "inline": manifest.runtime.isolation == "inline",
        }
    )
    async with scratch() as folder:
        path = folder / "request.json"
        await asyncio.to_thread(path.write_bytes, request)
        ended = await run("host.supply.scan.source_child", str(path), folder=folder, limits=limits, site=False)
    try:
        if ended.status or ended.too_much:
            raise ValueError(_why(ended))
        answer = msgspec.json.decode(ended.out, type=_Answer)
    except (ValueError, msgspec.MsgspecError) as error:
        return not_analysed(own.folder, str(error))
    return Checked(
        Check(name=NAME, state=CheckState.DONE, looked_at=answer.files),
        [
            Finding(rule=rule, severity=severity, source=Source.SOURCE, path=where, line=line, message=message)
            for rule, severity, where, line, message in answer.findings
        ],
        answer.left_out,
    )


def not_analysed(folder: Path, why: str) -> Checked:
    """The result of a check that came to no end; it speaks against the release."""
    return Checked(
        Check(name=NAME, state=CheckState.NOT_DONE, reason=why),
        [
            Finding(
                rule="not-analysed",
                severity=Severity.HIGH,
                source=Source.SOURCE,
                path=folder.name,
                message=f"could not be analysed: {why}",
            )
        ],
    )


def _why(ended: Ended) -> str:
    if ended.too_much:
        return "the analysis printed more than it may"
    stopped = f"signal {-ended.status}" if ended.status < 0 else f"status {ended.status}"
    return f"the analysis ended with {stopped} at {ended.last_words or 'its start'}"
