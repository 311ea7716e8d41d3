"""An install that is cut short, raced, scanned or left without room leaves the host as it was; the next one works."""

import asyncio
import hashlib
import os
import resource
import signal
import subprocess
import sys

import pytest
import pytest_asyncio
from supply_rig import files_of, sign, supply_rig, table
from supply_wheels import Acme

from host.errors import BusbarError, ErrorKind
from host.storage.errors import StorageFailedError
from host.supply.errors import ReleaseConflictError
from host.supply.scan.scanner import ScanPolicy


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


# -- I1: killed at every step

HOST = """
import asyncio, os, sys, time
from pathlib import Path
import host.supply.installer as installer
import host.supply.release_store as release_store
import host.supply.sealed_tree as sealed_tree
from supply_rig import supply_rig, sign

def here():
    print("here", flush=True)
    time.sleep(60)

def before(module, name):
    setattr(module, name, lambda *_, **__: here())

def after(module, name, times=1):
    real, left = getattr(module, name), [times]
    def stopping(*given, **named):
        found = real(*given, **named)
        left[0] -= 1
        if not left[0]:
            here()
        return found
    setattr(module, name, stopping)

STEPS = {
    "verify": lambda: before(installer, "verify_release"),
    "read": lambda: before(installer, "read_wheel"),
    "resolve": lambda: before(installer, "take_dependencies"),
    "stage": lambda: after(sealed_tree, "write_sealed", 3),
    "scan": lambda: before(installer, "scan_staged"),
    "keep": lambda: before(installer.ReleaseStore, "keep"),
    "in the middle of keep": lambda: after(release_store, "sync_folder"),
}

async def install(folder, step):
    wheel = (folder / "wheel").read_bytes()

    async def received():
        yield wheel[:100]
        if step == "receive":
            here()
        yield wheel[100:]

    async def describe(release):
        from plugin_sdk.description import Description
        return here() if step == "describe" else Description()

    async with supply_rig(folder, again=True, describe=describe) as rig:
        STEPS.get(step, lambda: None)()

        async def commit(release, description):
            if step == "commit":
                here()
            await rig.registry.install(release, description, enabled=True)
            here()

        await rig.take(received(), (folder / "attestations").read_bytes(), commit=commit)

for line in sys.stdin:  # each install in a fork of its own, because what is imported here takes a second
    folder, step = line.rstrip().split("\\t")
    if pid := os.fork():
        print(pid, flush=True)
        os.waitpid(pid, 0)
    else:
        asyncio.run(install(Path(folder), step))
        os._exit(1)
"""


@pytest.fixture(scope="module")
def killed():
    """Installs in a process that is killed when it has come to a step."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    def install(folder, step):
        host.stdin.write(f"{folder}\t{step}\n".encode())
        host.stdin.flush()
        said = {host.stdout.readline() for _ in range(2)}  # its process, and that it is there, in either order
        assert b"here\n" in said, said
        (pid,) = said - {b"here\n"}
        os.kill(int(pid), signal.SIGKILL)

    yield install
    host.stdin.close()
    host.wait(10)


STEPS = ["receive", "verify", "read", "resolve", "stage", "scan", "describe", "keep", "in the middle of keep", "commit"]


@pytest.mark.parametrize("step", STEPS)
async def test_i1_a_host_that_is_killed_at_any_step_is_as_it_was(tmp_path, killed, step):
    acme = Acme()
    signed = sign(acme)
    (tmp_path / "wheel").write_bytes(signed.wheel)
    (tmp_path / "attestations").write_bytes(signed.attestations)
    async with supply_rig(tmp_path, acme=acme) as rig:
        before = await rig.picture()
    killed(tmp_path, step)
    async with supply_rig(tmp_path, acme=acme, again=True) as rig:
        assert await rig.picture() == before
        assert list(rig.store.staging.iterdir()) == []
        (record,) = rig.registry.all()
        assert (await rig.installer.verify_installed(record.sha256)).version == "0.9.0"
        assert (await rig.install(signed)).version == "1.0.0"


async def test_i1_a_host_that_is_killed_after_the_commit_has_the_new_release_whole(tmp_path, killed):
    acme = Acme()
    signed = sign(acme)
    (tmp_path / "wheel").write_bytes(signed.wheel)
    (tmp_path / "attestations").write_bytes(signed.attestations)
    async with supply_rig(tmp_path, acme=acme):
        pass
    killed(tmp_path, "after the commit")
    async with supply_rig(tmp_path, acme=acme, again=True) as rig:
        (record,) = rig.registry.all()
        assert [one.name for one in rig.store.releases.iterdir()] == [record.sha256] == [signed.sha256]
        assert list(rig.store.staging.iterdir()) == []
        assert (await rig.installer.verify_installed(record.sha256)).version == "1.0.0"


# -- I1: cancelled, refused by the registry, out of room, twice at once


@pytest.mark.parametrize("step", ["receive", "describe"])
async def test_i1_an_install_that_is_cancelled_leaves_nothing(rig, step):
    signed, begun = sign(rig.acme), asyncio.Event()

    async def stalled(*_):
        begun.set()
        await asyncio.Event().wait()

    async def stalling():
        yield signed.wheel[:100]
        await stalled()

    if step == "describe":
        rig.describe = stalled
    before = await rig.picture()
    install = asyncio.create_task(rig.take(stalling() if step == "receive" else signed.wheel, signed.attestations))
    await begun.wait()
    install.cancel()
    with pytest.raises(asyncio.CancelledError):
        await install
    assert await rig.picture() == before
    rig.describe = None
    assert (await rig.install(signed)).version == "1.0.0"


async def test_i1_an_install_that_is_cancelled_while_it_is_recorded_is_installed(rig):
    """The registry may have it already: a release that it names must not go."""
    signed, begun, go_on = sign(rig.acme), asyncio.Event(), asyncio.Event()

    async def commit(release, description):
        begun.set()
        await go_on.wait()
        await rig.registry.install(release, description, enabled=True)

    install = asyncio.create_task(rig.take(signed.wheel, signed.attestations, commit=commit))
    await begun.wait()
    install.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await install
    assert rig.registry.get("acme-demo").sha256 == signed.sha256
    assert (await rig.installer.verify_installed(signed.sha256)).version == "1.0.0"


async def test_i1_a_commit_that_fails_leaves_nothing(rig):
    async def fail(_release, _description):
        raise BusbarError("the registry cannot be written", code="storage_failed")

    signed = sign(rig.acme)
    before = await rig.picture()
    with pytest.raises(BusbarError, match="cannot be written"):
        await rig.take(signed.wheel, signed.attestations, commit=fail)
    assert await rig.picture() == before


async def test_i1_a_disk_that_is_full_while_files_are_unpacked_leaves_nothing(rig):
    # Packed it fits and unpacked it does not: a file may have no more bytes than the limit, as on a disk that is full.
    text = "".join(f"{number:0200}\n" for number in range(3000)).encode()
    signed = sign(rig.acme, {**files_of(), "acme_demo/table.txt": text})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(signed.wheel) < 200_000 < len(text)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        refused = await rig.refusal(signed.wheel, signed.attestations)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (type(refused), refused.word, refused.kind) == (
        StorageFailedError,
        "storage_unavailable",
        ErrorKind.UNAVAILABLE,
    )
    assert "make room on the disk" in refused.message
    assert (await rig.install(signed)).version == "1.0.0"


@pytest.mark.parametrize("name", ["acme_demo", "Acme.Demo", "ACME_DEMO"])
async def test_i1_of_two_installs_of_one_plugin_at_once_the_second_is_refused(rig, name):
    first, second = sign(rig.acme), sign(rig.acme, version="1.1.0", sequence=8)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield first.wheel[:100]
        begun.set()
        await go_on.wait()
        yield first.wheel[100:]

    install = asyncio.create_task(rig.take(slow(), first.attestations))
    await begun.wait()
    with pytest.raises(ReleaseConflictError) as refused:
        await rig.take(second.wheel, second.attestations, f"{name}-1.1.0-py3-none-any.whl")
    assert (refused.value.word, refused.value.kind) == ("release_busy", ErrorKind.CONFLICT)
    go_on.set()
    assert (await install).version == "1.0.0"
    assert rig.registry.get("acme-demo").version == "1.0.0"
    assert list(rig.store.staging.iterdir()) == []


async def test_i1_of_many_installs_of_one_plugin_at_once_one_wins(rig):
    signed = [sign(rig.acme, version=f"1.{number}.0", sequence=10 + number) for number in range(6)]
    done = await asyncio.gather(*(rig.install(one) for one in signed), return_exceptions=True)
    (winner,) = (one for one in done if not isinstance(one, Exception))
    assert {one.word for one in done if isinstance(one, Exception)} == {"release_busy"}
    assert rig.registry.get("acme-demo").sha256 == winner.sha256


# -- I2: code that hides from the scan

EVIL = "import base64\nexec(base64.b64decode('cGFzcw=='))\n"
SHELL = "import subprocess\n\ndef run(what):\n    subprocess.call(what, shell=True)  # nosec\n"
HUGE = "".join(f"x = '{hashlib.shake_256(str(number).encode()).hexdigest(450)}'\n" for number in range(1200))
HIDDEN = [
    ("I2 nosec", {"acme_demo/run.py": SHELL.encode()}),
    ("I2 rule file in the plugin", {"acme_demo/run.py": SHELL.encode(), ".bandit": b"[bandit]\nskips: B602,B404\n"}),
    (
        "I2 rule file in the package",
        {"acme_demo/run.py": SHELL.encode(), "acme_demo/.bandit": b"[bandit]\nskips: B602\n"},
    ),
    ("I2 odd encoding", {"acme_demo/odd.py": b"# coding: rot13\nvzcbeg bf\n"}),
    ("I2 UTF-7", {"acme_demo/odd.py": b"# -*- coding: utf-7 -*-\n+AGUAeABlAGM-('x')\n"}),
    ("I2 unparsable", {"acme_demo/odd.py": b"def (:\n"}),
    ("I2 nested too deeply", {"acme_demo/odd.py": b"x = " + b"-" * 50_000 + b"1\n"}),
    ("I2 huge", {"acme_demo/big.py": HUGE.encode()}),
    ("I2 code in a folder that others leave out", {"acme_demo/.tox/a.py": EVIL.encode()}),
    ("I2 code in a test", {"acme_demo/tests/a.py": EVIL.encode()}),
    ("I2 code that is called text", {"acme_demo/notes.txt": b"import marshal\nmarshal.loads(x)\n"}),
    ("I2 bidirectional text", {"acme_demo/a.py": "x = '\u202e'\n".encode()}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scanned(tmp_path_factory):
    """One host that scans with everything it has; none of the releases changes it."""
    async with supply_rig(tmp_path_factory.mktemp("scanned"), scan=ScanPolicy(bandit="require")) as found:
        yield found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "files"), table(HIDDEN))
async def test_code_that_hides_is_found_and_the_release_refused_without_running_it(scanned, case, files):
    signed = sign(scanned.acme, files_of() | files)
    refused = await scanned.refusal(signed.wheel, signed.attestations)
    assert refused.word == "release_blocked_by_scan"
    assert next(iter(files)) in refused.message
