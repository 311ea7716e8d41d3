"""Code that does more than it says is refused, can do nothing while it is looked at, and is never shown raw."""

import os
import socket
from dataclasses import replace

import pytest
from supply_rig import files_of, sign, supply_rig, table, workers
from supply_wheels import Acme

from host.runtime.sdk_path import build_sdk_path
from host.supply.errors import PublisherRefusedError

ESCAPE = "\x1b[2J"


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def sdk_path(tmp_path_factory):
    return build_sdk_path(tmp_path_factory.mktemp("sdk"))


# -- M1 and M2: what the code does, when it is looked at

BEYOND = {
    "subscription": ("permissions.subscribe", 'subscriptions=(Subscription(name="x", types=("other.*",)),)'),
    "route": ("permissions.routes", "routes=True"),
    "webhook": ("permissions.webhooks", 'webhooks=(Webhook(name="x", scheme="plugin"),)'),
}


def describing(described):
    return (
        "from plugin_sdk import *\nfrom plugin_sdk import Description, Subscription, hookimpl\n"
        "from plugin_sdk.webhooks.endpoint import Webhook\n\n"
        f"class Demo:\n    @hookimpl\n    def describe(self):\n        return Description({described})\n"
        "    @hookimpl\n    async def on_event(self, event):\n        pass\n"
        "    @hookimpl\n    async def handle_request(self, request):\n        pass\n"
    )


async def refused_for(rig, found, described):
    rig.describe = found.describe
    signed = sign(rig.acme, files_of(code=describing(described), manifest='[permissions]\nsubscribe = ["acme.*"]\n'))
    return await rig.refusal(signed.wheel, signed.attestations, looked=1)


@pytest.mark.parametrize(("where", "described"), BEYOND.values(), ids=BEYOND)
async def test_m1_code_that_does_more_than_its_manifest_is_refused(rig, sdk_path, tmp_path, where, described):
    async with workers(sdk_path, tmp_path / "data") as found:
        refused = await refused_for(rig, found, described)
    assert refused.word == "release_manifest_exceeded"
    assert where in refused.message


SPY = """
import os, signal, socket
from pathlib import Path
from plugin_sdk import Description, Service, hookimpl

def tried(action):
    try:
        action()
    except BaseException as error:
        return type(error).__name__
    return "done"

def write_home():
    Path(__file__).with_name("planted.py").write_text("x")

FOUND = {
    "database": tried(lambda: Path(DATABASE).read_bytes()),
    "neighbour": tried(lambda: list(Path(STORE).iterdir())),
    "home": tried(write_home),
    "network": tried(lambda: socket.create_connection(("127.0.0.1", PORT), 2)),
    "kill": tried(lambda: os.kill(HOST, signal.SIGKILL)),
    "secret": "done" if "BUSBAR_SIGNING_KEY" in os.environ else "nothing",
}

class Demo:
    @hookimpl
    def describe(self):
        return Description(services=tuple(Service(name=name, summary=found) for name, found in FOUND.items()))

    @hookimpl
    async def call(self, method):
        pass
"""


async def test_m2_a_plugin_that_attacks_while_it_is_looked_at_reaches_nothing(rig, sdk_path, tmp_path, monkeypatch):
    monkeypatch.setenv("BUSBAR_SIGNING_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        told = {
            "DATABASE": str(tmp_path / "busbar.db"),
            "STORE": str(rig.store.releases),
            "PORT": listening.getsockname()[1],
            "HOST": os.getpid(),
        }
        code = "".join(f"{name} = {value!r}\n" for name, value in told.items()) + SPY
        async with workers(sdk_path, tmp_path / "data") as found:
            description = await described(rig, found, code)
        with pytest.raises(BlockingIOError):
            listening.accept()
    outcomes = {service.name: service.summary for service in description.services}
    assert "done" not in outcomes.values(), outcomes
    assert outcomes["database"] == outcomes["neighbour"] == outcomes["home"] == "PermissionError"


async def described(rig, found, code):
    """What the code says of itself, through a whole install."""
    rig.describe = found.describe
    seen = []

    async def commit(_release, description):
        seen.append(description)

    signed = sign(rig.acme, files_of(code=code))
    await rig.take(signed.wheel, signed.attestations, commit=commit)
    return seen[0]


# -- M3: what people read


def rewritten(acme, path, content):
    return sign(acme, {**files_of(), path: content.encode()})


def statement(acme, **changes):
    good = sign(acme)
    return replace(good, attestations=acme.sign(good.wheel, **changes))


INFO = "acme_demo-1.0.0.dist-info"
NAMES = [
    (
        "platform of the file name",
        lambda a: replace(sign(a), filename=f"acme_demo-1.0.0-py3-none-any{ESCAPE}.whl"),
    ),
    ("version of the file name", lambda a: replace(sign(a), filename=f"acme_demo-1.0.0{ESCAPE}-py3-none-any.whl")),
    ("publisher of the statement", lambda a: statement(a, publisher=f"acme{ESCAPE}")),
    ("plugin of the statement", lambda a: statement(a, plugin=f"acme-demo{ESCAPE}")),
    ("version of the statement", lambda a: statement(a, version=f"1.0.0{ESCAPE}")),
    ("file name of the statement", lambda a: statement(a, filename=f"acme_demo-1.0.0-py3-none-any{ESCAPE}.whl")),
    ("title", lambda a: rewritten(a, "acme_demo/plugin.toml", '[plugin]\nid = "acme-demo"\ntitle = "\\u001b[2J"\n')),
    (
        "description",
        lambda a: rewritten(
            a, "acme_demo/plugin.toml", '[plugin]\nid = "acme-demo"\ntitle = "x"\ndescription = "\\u001b[2J"\n'
        ),
    ),
    ("key of the manifest", lambda a: rewritten(a, "acme_demo/plugin.toml", '[plugin]\n"\\u001b[2J" = 1\n')),
    ("Wheel-Version", lambda a: rewritten(a, f"{INFO}/WHEEL", f"Wheel-Version: 9{ESCAPE}\n")),
    (
        "METADATA's name",
        lambda a: rewritten(a, f"{INFO}/METADATA", f"Metadata-Version: 2.1\nName: acme{ESCAPE}\nVersion: 1.0.0\n"),
    ),
    (
        "METADATA's requirement",
        lambda a: rewritten(
            a,
            f"{INFO}/METADATA",
            f"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\nRequires-Dist: x; os_name != '{ESCAPE}'\n",
        ),
    ),
    (
        "entry point",
        lambda a: rewritten(a, f"{INFO}/entry_points.txt", f"[busbar.plugins]\nacme{ESCAPE} = acme_demo\n"),
    ),
    ("entry point's group", lambda a: rewritten(a, f"{INFO}/entry_points.txt", f"[x{ESCAPE}\n")),
]


@pytest.mark.parametrize(("case", "attack"), table(NAMES))
async def test_m3_control_characters_are_refused_and_never_shown(rig, case, attack):
    signed = attack(rig.acme)
    refused = await rig.refusal(signed.wheel, signed.attestations, signed.filename)
    assert all(text.isprintable() for text in (refused.message, *refused.errors))


async def test_m3_what_a_plugin_raises_while_it_is_looked_at_is_not_shown_raw(rig, sdk_path, tmp_path):
    code = f"class Demo:\n    raise ValueError({ESCAPE!r})\n"
    async with workers(sdk_path, tmp_path / "data") as found:
        rig.describe = found.describe
        signed = sign(rig.acme, files_of(code=code))
        refused = await rig.refusal(signed.wheel, signed.attestations, looked=1)
    assert all(text.isprintable() for text in (refused.message, *refused.errors))


async def test_m3_a_publishers_title_has_no_control_characters(rig):
    with pytest.raises(PublisherRefusedError):
        await rig.trust.add(replace(Acme("globex").publisher, title=ESCAPE))
