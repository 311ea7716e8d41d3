from datetime import UTC, datetime

import pytest

from host.supply.scan.distributions import ScannedDistribution
from plugin_sdk.manifest import Manifest

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.fixture
def now():
    return NOW


@pytest.fixture
def clock():
    class Still:
        def now(self):
            return NOW

        def monotonic(self):
            return 0.0

    return Still()


@pytest.fixture
def tree(tmp_path):
    """Writes the files of a plugin's unpacked wheel, and answers its folder."""

    def write(files, name="tree"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for path, content in files.items():
            full = folder / path
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.fixture
def manifest():
    def parse(permissions="", runtime=""):
        return Manifest.parse(
            f'[plugin]\nid = "acme-demo"\ntitle = "Demo"\n[permissions]\n{permissions}\n[runtime]\n{runtime}\n'
        )

    return parse


@pytest.fixture
def distribution(tmp_path):
    def make(name, version, *, sha256="b" * 64, license=None, folder=tmp_path):  # noqa: A002 - the field's name
        return ScannedDistribution(name, version, sha256, license, folder)

    return make
