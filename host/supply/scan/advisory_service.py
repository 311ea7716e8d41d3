"""Advisories from an online service that speaks the OSV protocol, asked by pip-audit in a child.

pip-audit ends with the same status for "vulnerable" and for "service unreachable": what counts is whether its
answer can be read and names every distribution that was asked about. It tells no severity, so for what it finds
the service is asked once more.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from packaging.utils import canonicalize_name

from host.resolver import ClientResolver, Resolver
from host.supply.scan.advisory import ECOSYSTEM, UNKNOWN, Advisory
from host.supply.scan.advisory_match import Match
from host.supply.scan.child import ChildLimits, run, scratch
from host.supply.scan.distributions import ScannedDistribution
from host.supply.scan.report import Severity

PUBLIC: Final = "https://api.osv.dev/v1/query"
LIMITS: Final = ChildLimits()
MAX_ANSWER: Final = 8 * 2**20
_STATUSES: Final = (0, 1)
_PASSED_OVER: Final = b":pip_audit._service."
"""The logger that warns of advisories without a list of what is affected, or of a newer schema."""
_INHERITED: Final = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""How the machine reaches the network; nothing else of the host's environment goes to the child."""
_PATIENCE: Final = aiohttp.ClientTimeout(total=15)


class ServiceError(Exception):
    """The audit was not done, with why."""


class _Vulnerability(msgspec.Struct, frozen=True):
    id: str
    fix_versions: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    description: str = ""


class _Audited(msgspec.Struct, frozen=True):
    name: str
    version: str = ""
    vulns: tuple[_Vulnerability, ...] = ()
    skip_reason: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    dependencies: tuple[_Audited, ...]


class _Vulns(msgspec.Struct, frozen=True):
    vulns: tuple[Advisory, ...] = ()


def pip_audit_version() -> str | None:
    """The version of pip-audit beside this host; None where there is none."""
    if importlib.util.find_spec("pip_audit") is None:
        return None
    return importlib.metadata.version("pip-audit")


async def audit(
    url: str, distributions: Sequence[ScannedDistribution], *, limits: ChildLimits = LIMITS
) -> tuple[Match, ...]:
    """Ask the service at `url` (its query endpoint) about each distribution.

    Takes as long as it takes: bound it with `asyncio.timeout`.

    Raises:
        ServiceError: the audit was not done.
        OSError: pip-audit cannot be started.
    """
    wanted = {(one.name, one.version): one for one in distributions}
    async with scratch() as folder:
        answer = await _asked(url, distributions, folder, limits)
    missing = {name for name, _ in wanted} - {
        canonicalize_name(found.name) for found in answer.dependencies if found.skip_reason is None
    }
    if missing:
        raise ServiceError("pip-audit left out " + ", ".join(sorted(missing)))
    matches: list[Match] = []
    for found in answer.dependencies:
        if not found.vulns:
            continue
        distribution = wanted.get((canonicalize_name(found.name), found.version))
        if distribution is None:
            raise ServiceError(f"pip-audit answered about {found.name} {found.version}, which it was not asked about")
        severities = await _severities(url, distribution)
        matches += [_match(distribution, vulnerability, severities) for vulnerability in found.vulns]
    return tuple(matches)


async def _asked(url: str, distributions: Sequence[ScannedDistribution], folder: Path, limits: ChildLimits) -> _Answer:
    requirements = folder / "requirements.txt"
    lines = "".join(f"{one.name}=={one.version}\n" for one in distributions)
    await asyncio.to_thread(requirements.write_text, lines, encoding="utf-8")
    ended = await run(
        *("pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip", "-s", "osv", "--osv-url", url),
        *("-f", "json", "--progress-spinner", "off", "--cache-dir", str(folder / "cache")),
        folder=folder,
        limits=limits,
        site=True,
        environment={name: os.environ[name] for name in _INHERITED if name in os.environ},
    )
    if ended.too_much or ended.status not in _STATUSES:
        raise ServiceError(f"pip-audit ended with status {ended.status}: {ended.last_words}")
    if _PASSED_OVER in ended.err:
        raise ServiceError(f"pip-audit passed over an advisory that it cannot read: {ended.last_words}")
    try:
        return msgspec.json.decode(ended.out, type=_Answer)
    except msgspec.MsgspecError:
        raise ServiceError(f"pip-audit gave no answer: {ended.last_words}") from None


def _match(distribution: ScannedDistribution, vulnerability: _Vulnerability, severities: dict[str, Severity]) -> Match:
    names = frozenset({vulnerability.id, *vulnerability.aliases})
    known = [severities[name] for name in names if name in severities]
    return Match(
        distribution,
        names,
        max(known, key=lambda severity: severity.rank, default=UNKNOWN),
        vulnerability.description.strip() or "no description",
        vulnerability.fix_versions,
    )


async def _severities(url: str, distribution: ScannedDistribution) -> dict[str, Severity]:
    """The severity of each advisory about a distribution, under each of its ids; empty where nobody says."""
    query = {"package": {"name": distribution.name, "ecosystem": ECOSYSTEM}, "version": distribution.version}
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=ClientResolver(Resolver())), timeout=_PATIENCE, trust_env=True
            ) as session,
            session.post(url, json=query) as response,
        ):
            raw = await _body(response)
        vulns = msgspec.json.decode(raw, type=_Vulns).vulns
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.MsgspecError):
        return {}  # pip-audit has its answer already: the vulnerability counts, of unknown severity
    found: dict[str, Severity] = {}
    for advisory in vulns:
        severity = advisory.severity_for(distribution.name)
        for name in advisory.names:
            if name not in found or severity.rank > found[name].rank:
                found[name] = severity
    return found


async def _body(response: aiohttp.ClientResponse) -> bytes:
    response.raise_for_status()
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ValueError(f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(body)
