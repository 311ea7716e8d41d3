"""The bill of materials of a release: CycloneDX 1.6 in JSON (https://cyclonedx.org/docs/1.6/json/).

The same release has the same bytes on every host and at any time: there is no time in it, and its serial number
comes from the release's hash.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from host.supply.scan.distributions import ScannedDistribution
from host.supply.scan.report import printable

MAX_LICENSE: Final = 200
_SPEC: Final = "1.6"
_SCHEMA: Final = f"http://cyclonedx.org/schema/bom-{_SPEC}.schema.json"


def bill_of_materials(
    *,
    plugin: str,
    version: str,
    sha256: str,
    distributions: Sequence[ScannedDistribution],
    license_text: str | None = None,
) -> bytes:
    """The document: the plugin as its subject, each dependency as a component.

    Args:
        plugin: The plugin's id.
        version: Its version.
        sha256: The hash of its wheel.
        distributions: Its dependencies.
        license_text: What its METADATA says of its licence.
    """
    ordered = sorted(distributions, key=lambda one: (one.name, one.version, one.sha256))
    components = [_component("library", one.name, one.version, one.sha256, one.license) for one in ordered]
    subject = _component("application", plugin, version, sha256, license_text)
    references = [component["bom-ref"] for component in components]
    return msgspec.json.encode(
        {
            "$schema": _SCHEMA,
            "bomFormat": "CycloneDX",
            "specVersion": _SPEC,
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:busbar:release:{sha256}')}",
            "version": 1,
            "metadata": {"component": subject},
            "components": components,
            "dependencies": [
                {"ref": subject["bom-ref"], "dependsOn": references},
                *({"ref": reference} for reference in references),
            ],
        }
    )


def _component(kind: str, name: str, version: str, sha256: str, license_text: str | None) -> dict[str, Any]:
    url = package_url(name, version)
    component: dict[str, Any] = {
        "type": kind,
        "bom-ref": f"{url}#{sha256}",
        "name": name,
        "version": version,
        "purl": url,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }
    if license_text and license_text.strip():
        component["licenses"] = [_license(license_text.strip())]
    return component


def package_url(name: str, version: str) -> str:
    """The package URL of a Python distribution; `name` is normalised."""
    return f"pkg:pypi/{quote(name, safe='')}@{quote(version, safe='')}"


def _license(text: str) -> dict[str, Any]:
    """An SPDX expression where it is one; else the text's first line as a name."""
    try:
        return {"expression": str(canonicalize_license_expression(text))}
    except (InvalidLicenseExpression, RecursionError, ValueError):
        return {"license": {"name": printable(text.splitlines()[0], MAX_LICENSE)}}
