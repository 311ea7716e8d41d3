import asyncio

import pytest

from host.runtime.fork_server import ForkServer
from host.runtime.inline import InlineRuntime
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.sdk_path import build_sdk_path
from host.runtime.workshop import WorkerLimits, Workshop
from plugin_sdk.testing import MemoryHost

PLUGIN = '''
import asyncio, logging, os, sys, time
from pydantic import BaseModel
from plugin_sdk import *

class Speechless(Exception):
    def __str__(self):
        raise LookupError("no words")

ODD_RECORD = {"msg": "odd \\udcff", "levelname": 7, "levelno": 30, "created": "then", "args": None}

class Config(BaseModel):
    greeting: str = "hello"

class Example(Plugin):
    Config = Config

    async def start(self, context):
        if context.config.greeting == "fail":
            raise RuntimeError("cannot start")

    async def stop(self, context):
        await context.kv.set("stopped", True)

    @on_event("example.*")
    async def act(self, event, context):
        match event.data:
            case {"keep": value}:
                await context.kv.set("kept", value)
                await context.emit("example.kept", data=await context.kv.get("kept"))
            case "retry": raise Retry(7, "later")
            case "drop": raise Drop("not mine")
            case "dead": raise DeadLetter("hopeless")
            case "raise": raise LookupError("author's line")
            case "sysexit": sys.exit(3)
            case "interrupt": raise KeyboardInterrupt
            case "exit": os._exit(9)
            case "block": time.sleep(60)
            case "hang":
                await context.kv.set("hangs", True)
                try:
                    await asyncio.Event().wait()
                finally:
                    await context.kv.set("cancelled", True)
            case "emit": await context.emit("example.done", data=1)
            case "log":
                context.log.info("logged")
                print("printed")
            case _: await context.kv.set("seen", event.id)

    @service
    async def add(self, a, b):
        """Add two numbers."""
        return a + b

    @service
    def thread(self):
        """A plain function."""
        import threading
        return threading.current_thread() is not threading.main_thread()

    @service
    async def bad(self):
        """Answer with something that is no JSON."""
        return object()

    @service
    async def echo(self, value):
        """Answer with what came."""
        return value

    @service
    async def odd(self, how, context):
        """Do something that no author means to."""
        match how:
            case "retry-reason": raise Retry("soon")
            case "retry-nan":
                verdict = Retry()
                verdict.after = float("nan")
                raise verdict
            case "surrogate": raise ValueError("\\udcff")
            case "cancelled": raise asyncio.CancelledError
            case "speechless": raise Speechless
            case "long": raise ValueError("x" * 10_000_000)
            case "print": print("\\udcff printed")
            case "log": context.log.handle(logging.makeLogRecord(ODD_RECORD))
        return None

    async def check_health(self, context):
        return Health("warn", "\u00e9" * 100_000)

    @service
    async def import_host(self):
        """Try to reach the host's code."""
        try:
            import host
        except ImportError:
            return "no host"
        return "host"
'''

PLAIN = """
from plugin_sdk import Description, Subscription, hookimpl

@hookimpl
def describe():
    return Description(subscriptions=(Subscription(name="plain", types=("plain.*",)),))

@hookimpl
async def on_event(event):
    if event.type != "plain.event":
        raise ValueError(event.type)
"""


@pytest.fixture(scope="session")
def sdk_path(tmp_path_factory):
    return build_sdk_path(tmp_path_factory.mktemp("sdk"))


@pytest.fixture
async def fork_server(sdk_path):
    server = ForkServer(sdk_path)
    yield server
    await server.stop()


@pytest.fixture
def workshop(fork_server, sdk_path):
    return Workshop(fork_server, Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path), WorkerLimits(heartbeat=0.05))


@pytest.fixture
def launch(tmp_path):
    release = tmp_path / "release"
    release.mkdir()
    (release / "example_plugin.py").write_text(PLUGIN)
    (release / "plain_plugin.py").write_text(PLAIN)

    def make(entry_point="example_plugin:Example", **config):
        return Launch(
            plugin="example",
            folder=release,
            entry_point=entry_point,
            config=config,
            secrets={"api_key": "s3cret"},
            isolation="process",
            memory=256 * 2**20,
            concurrency=8,
            timeout=5.0,
            data_folder=tmp_path / "data",
        )

    return make


@pytest.fixture
def host():
    return MemoryHost({})


@pytest.fixture
def lines():
    return []


@pytest.fixture(params=["process", "inline"])
async def runtime(request, launch, host, lines, workshop):
    """A maker of started runtimes of both kinds; each is stopped at the end."""
    made = []

    def take(found, _dropped):
        lines.extend(line.message for line in found)

    async def make(entry_point="example_plugin:Example", **config):
        where = launch(entry_point, **config)
        one = (
            WorkerRuntime(where, host, workshop, take)
            if request.param == "process"
            else InlineRuntime(where, host, take)
        )
        await one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        async with asyncio.timeout(20):
            await one.stop(2.0, 2.0)


@pytest.fixture
async def worker(launch, host, workshop, lines):
    made = []

    async def make():
        one = WorkerRuntime(launch(), host, workshop, lambda found, _: lines.extend(found))
        await one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        await one.stop(1.0, 1.0)
