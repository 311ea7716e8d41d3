"""One index as it is configured, and which indexes may be asked for a plugin: the rule against confusion.

Whoever can upload to any of several indexes must not be able to put his release in the place of another's. So a plugin
id has one place to come from: the indexes that name it, or its namespace, the longest name first; where none does,
those that name nothing.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from yarl import URL

from host.settings import IndexSection, SettingsError
from host.storage.beneath import read_plain
from host.storage.errors import OddFileError

MAX_TOKEN: Final = 4096
Origin = tuple[str, str, int]
"""Scheme, host and port, the port of the scheme written out (RFC 6454)."""
_TOKEN: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class IndexSource:
    """An index.

    Args:
        name: What plugins are bound to.
        url: Its root; the page of a project is right below it.
        priority: The higher is asked first.
        plugins: Ids and namespaces that it gives, and no other index does; empty for all that none names.
        file_origins: Origins besides its own that its files may come from.
        attestations: Template of the address of attestations, with `{filename}` or `{url}`; may be empty.
        authorization: The header's value, for the index's own origin and no other.
    """

    name: str
    url: URL
    priority: int = 0
    plugins: tuple[str, ...] = ()
    file_origins: frozenset[Origin] = frozenset()
    attestations: str = ""
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, section: IndexSection, environment: Mapping[str, str] = os.environ) -> Self:
        """The index of a table of the settings, its token read from its file. Blocks for a small file.

        Raises:
            SettingsError: the token cannot be read, or others may read it.
        """
        return cls(
            name=section.name,
            url=URL(section.url),
            priority=section.priority,
            plugins=section.plugins,
            file_origins=frozenset(filter(None, map(origin_of, map(URL, section.file_origins)))),
            attestations=section.attestations,
            authorization=None if section.token is None else _authorization(section, section.token, environment),
        )

    @property
    def origins(self) -> frozenset[Origin | None]:
        """Everywhere that anything of this index may come from."""
        return self.file_origins | {origin_of(self.url)}

    def claim(self, plugin: str) -> int | None:
        """How closely the index names the plugin (PEP 752): the longer, the closer; None where it may not give it."""
        if not self.plugins:
            return 0
        return max((len(own) for own in self.plugins if plugin == own or plugin.startswith(own + "-")), default=None)


def origin_of(url: URL) -> Origin | None:
    """The origin of a web address; None for anything else."""
    if url.scheme not in {"http", "https"} or not url.raw_host or not url.port:
        return None
    return url.scheme, url.raw_host, url.port


def asked_for(plugin: str, sources: Iterable[IndexSource]) -> tuple[IndexSource, ...]:
    """The indexes that may give the plugin, in the order in which they are asked."""
    claims = [(claim, source) for source in sources if (claim := source.claim(plugin)) is not None]
    closest = max((claim for claim, _ in claims), default=0)
    asked = [source for claim, source in claims if claim == closest]
    return tuple(sorted(asked, key=lambda source: -source.priority))  # stable: as in the file where it is equal


def _authorization(section: IndexSection, name: Path, environment: Mapping[str, str]) -> str:
    """`Basic` for `user:password`, `Bearer` for anything else."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    given = Path(directory) / name if directory else name
    path = given if given.exists() else name
    try:
        if path is name and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"others may read the token of index {section.name}: run `chmod 600 {path}`")
        token = read_plain(path, MAX_TOKEN).decode("ascii", "replace").strip()
    except OddFileError as error:
        raise SettingsError(f"{path} is no token: {error.message}") from None
    except OSError as error:
        raise SettingsError(f"the token of index {section.name}, {path}, cannot be read: {error.strerror}") from None
    if not _TOKEN.fullmatch(token):
        raise SettingsError(f"{path} is no token: write one line, a token or user:password, without blanks")
    if ":" in token:
        return "Basic " + base64.b64encode(token.encode()).decode()
    return f"Bearer {token}"
