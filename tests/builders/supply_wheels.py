"""Good wheels as build tools make them, and a publisher who signs; `archives` makes those that lie."""

import base64
import hashlib
import io
import zipfile
from datetime import UTC, datetime

from host.supply.trust.dsse import PAYLOAD_TYPE, Envelope, Signature, dump, pae
from host.supply.trust.keys import PrivateKey
from host.supply.trust.publishers import Publisher, TrustedKey, TrustSnapshot
from host.supply.trust.statement import Statement

NAME = "acme_demo-1.0.0-py3-none-any.whl"
INFO = "acme_demo-1.0.0.dist-info"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
PROVIDED = {"pluggy": "1.6.0", "pydantic": "2.12.0"}


def contents(**changes):
    """The files of a good wheel; `changes` replace, add (by path) or remove (None) files."""
    files = {
        "acme_demo/__init__.py": b"from plugin_sdk import Plugin\n\n\nclass Demo(Plugin):\n    pass\n",
        "acme_demo/plugin.toml": b'[plugin]\nid = "acme-demo"\ntitle = "Demo"\n',
        f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\n",
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{INFO}/entry_points.txt": b"[busbar.plugins]\nacme-demo = acme_demo:Demo\n",
    }
    for path, content in changes.pop("files", {}).items():
        if content is None:
            files.pop(path)
        else:
            files[path] = content
    return files


def record(files, extra=()):
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
        for path, content in files.items()
    ]
    return "\n".join([*rows, *extra, f"{INFO}/RECORD,,"]).encode() + b"\n"


def pack(files):
    """A ZIP of the files, as build tools make one."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            info = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()


def good(**changes):
    files = contents(**changes)
    return pack({**files, f"{INFO}/RECORD": record(files)})


class Acme:
    """A publisher with a key, who signs what it is told to sign."""

    def __init__(self, publisher="acme", plugins=("acme",), **key):
        self.private = PrivateKey.new()
        self.publisher = Publisher(publisher, publisher, tuple(plugins), (TrustedKey(self.private.public, **key),))

    @property
    def trust(self):
        return TrustSnapshot((self.publisher,))

    def statement(self, wheel, **changes):
        files = {
            "filename": NAME,
            "sha256": hashlib.sha256(wheel).hexdigest(),
            "publisher": self.publisher.id,
            "plugin": "acme-demo",
            "version": "1.0.0",
            "sequence": 7,
            "issued_at": NOW,
            "record_sha256": hashlib.sha256(record(contents())).hexdigest(),
        }
        return Statement(**{**files, **changes})

    def line(self, payload, *, payload_type=PAYLOAD_TYPE, key_id=None, sign_as=None):
        signature = self.private.sign(pae(sign_as or payload_type, payload))
        return dump(Envelope(payload_type, payload, (Signature(key_id or self.private.public.id, signature),))) + b"\n"

    def sign(self, wheel, **changes):
        return self.line(self.statement(wheel, **changes).dump())
