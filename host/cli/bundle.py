"""`make run`'s helper: build and sign the first-party plugins with a development key, for the daemon to drop in.

Run as `python -m host.cli.bundle --state FOLDER`. It works again only where something changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from host.cli.building import build_wheel
from host.runtime.sdk_path import provided
from host.supply.trust.keys import PrivateKey
from host.supply.trust.signing import attestations_of, sign_wheel

PUBLISHER: Final = "development"
BUNDLED: Final = ("heartbeat", "teamwork", "saboteur", "webhooks")
PROJECTS: Final = Path(__file__).parents[2] / "plugins"


def bundle(state: Path) -> None:
    """Have a signed wheel of each first-party plugin in `state/bundled`, and its publisher in `state/publishers.d`."""
    publishers, bundled, key_file = state / "publishers.d", state / "bundled", state / "development.key"
    for folder in (publishers, bundled):
        folder.mkdir(parents=True, exist_ok=True)
    if not key_file.exists():
        PrivateKey.new().save(key_file, None)
    key = PrivateKey.load(key_file)
    (publishers / f"{PUBLISHER}.toml").write_text(
        f'[publisher]\nid = "{PUBLISHER}"\ntitle = "First-party plugins"\nplugins = {json.dumps(BUNDLED)}\n\n'
        f'[[keys]]\npublic = "{key.public}"\n'
    )
    for name in BUNDLED:
        _bundle_one(PROJECTS / name, bundled, key)


def _bundle_one(project: Path, bundled: Path, key: PrivateKey) -> None:
    stamp = bundled / f"{project.name}.source"
    source = _digest(project)
    if stamp.exists() and stamp.read_text() == source:
        return
    with tempfile.TemporaryDirectory(dir=bundled) as folder:
        wheel = build_wheel(project, Path(folder))
        sign_wheel(wheel, key, publisher=PUBLISHER, sequence=None, issued_at=datetime.now(UTC), provided=provided())
        for old in bundled.glob(f"{wheel.name.partition('-')[0]}-*"):
            old.unlink()
        for made in (attestations_of(wheel), wheel):
            shutil.move(made, bundled / made.name)
    stamp.write_text(source)
    print(f"built and signed {wheel.name}")


def _digest(project: Path) -> str:
    """What the project's files are, so that an unchanged one is not built again."""
    digest = hashlib.sha256()
    for path in sorted(project.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=bundle.__doc__)
    parser.add_argument("--state", type=Path, required=True)
    bundle(parser.parse_args().state)
