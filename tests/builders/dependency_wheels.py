"""Wheels that a plugin depends on, locks that name them, and a plugin's wheel that holds such a lock."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import supply_wheels
from packaging.requirements import Requirement

from host.supply.dependencies.lock import LockedWheel
from host.supply.dependencies.wheel import Distribution
from host.supply.wheel.reader import ReadWheel, read_wheel

_LOCAL = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
"""What an installer adds to a distribution's metadata."""


@dataclass(frozen=True)
class Built:
    """A wheel of a dependency."""

    name: str
    version: str
    filename: str
    content: bytes

    def locked(self, **changes: object) -> LockedWheel:
        hashes = (("sha256", hashlib.sha256(self.content).hexdigest()),)
        return LockedWheel(**{**vars_of(self), "hashes": hashes, **changes})  # type: ignore[arg-type]  # a test may break any field

    def put_into(self, folder: Path) -> Path:
        """Where it is then."""
        path = folder / self.filename
        path.write_bytes(self.content)
        return path


def vars_of(built: Built) -> dict[str, str]:
    return {"name": built.name, "version": built.version, "filename": built.filename}


def dependency(
    name: str = "greeter",
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    metadata: str = "",
) -> Built:
    """A wheel with these files, by default a package of its own name."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    asked = "".join(f"Requires-Dist: {one}\n" for one in requires)
    return _built(
        name,
        version,
        tag,
        {
            **(files if files is not None else {f"{name.replace('-', '_')}/__init__.py": b"HELLO = 'hello'\n"}),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}{metadata}".encode(),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        },
    )


def repacked(
    name: str, version: str = "", *, edit: Callable[[str, bytes], bytes] = lambda _path, content: content
) -> Built:
    """A wheel of a distribution that is installed here, as it is or called another version and edited."""
    found = importlib.metadata.distribution(name)
    old = found.version
    files = {}
    for file in found.files or []:
        if ".." in file.parts or "__pycache__" in file.parts or file.name in _LOCAL:
            continue
        content = Path(str(file.locate())).read_bytes()
        path = str(file)
        if version:
            path = path.replace(f"-{old}.dist-info/", f"-{version}.dist-info/")
            if file.name == "METADATA":
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode(), 1)
        files[path] = edit(path, content)
    tags = [line.removeprefix("Tag: ") for line in (found.read_text("WHEEL") or "").splitlines() if "Tag: " in line]
    python, abi, _ = tags[0].split("-")
    platforms = ".".join(tag.split("-")[2] for tag in tags)
    return _built(name, version or old, f"{python}-{abi}-{platforms}", files)


def _built(name: str, version: str, tag: str, files: dict[str, bytes]) -> Built:
    stem = f"{name.replace('-', '_')}-{version}"
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
        for path, content in files.items()
    ]
    record = "\n".join([*rows, f"{stem}.dist-info/RECORD,,"]).encode() + b"\n"
    wheel = supply_wheels.pack({**files, f"{stem}.dist-info/RECORD": record})
    return Built(name, version, f"{stem}-{tag}.whl", wheel)


def lock(*wheels: Built, url: str = "https://wheels.example.com/files/", head: str = "", **more: str) -> bytes:
    """A lock of these wheels; `more` has lines for the packages of these names, `head` lines in front."""
    text = f'lock-version = "1.0"\ncreated-by = "tests"\n{head}\n'
    if not wheels:
        text += "packages = []\n"
    for one in wheels:
        digest = hashlib.sha256(one.content).hexdigest()
        text += (
            f'[[packages]]\nname = "{one.name}"\nversion = "{one.version}"\n{more.get(one.name, "")}\n'
            f'wheels = [{{ url = {json.dumps(url + one.filename)}, hashes = {{ sha256 = "{digest}" }} }}]\n'
        )
    return text.encode()


def plugin_wheel(
    lock: bytes | None, *, requires: Sequence[str] = (), code: str = "", manifest: str = "", **files: bytes
) -> bytes:
    """The wheel of the plugin `acme-demo`, with a lock and requirements of its own."""
    asked = "".join(f"Requires-Dist: {one}\n" for one in requires)
    changed: dict[str, bytes] = {
        f"{supply_wheels.INFO}/METADATA": f"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\n{asked}".encode(),
        "acme_demo/plugin.toml": f'[plugin]\nid = "acme-demo"\ntitle = "Demo"\n{manifest}'.encode(),
        **files,
    }
    if lock is not None:
        changed["acme_demo/pylock.toml"] = lock
    if code:
        changed["acme_demo/__init__.py"] = code.encode()
    return supply_wheels.good(files=changed)


def plugin(lock: bytes | None, *, provided: Mapping[str, str] = supply_wheels.PROVIDED, **changes: object) -> ReadWheel:
    """The same, read."""
    wheel = plugin_wheel(lock, **changes)  # type: ignore[arg-type]  # passed on as they come
    return read_wheel(wheel, supply_wheels.NAME, dict(provided))


def distribution(
    name: str, version: str = "1.0", requires: Sequence[str] = (), modules: Sequence[str] = ()
) -> Distribution:
    """What a distribution asks for and brings, by default a module of its own name."""
    brought = frozenset(modules or [name.replace("-", "_")])
    return Distribution(name, version, tuple(map(Requirement, requires)), brought)
