"""What only a worker promises: whatever a plugin does, it is its own process that suffers."""

import asyncio
import errno
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flights import Heard, flight_of

from host.runtime.data_watch import DataWatch
from host.runtime.errors import NotRunningError, StartFailedError, WorkerDiedError
from host.runtime.examiner import WorkerExaminer
from host.runtime.process import WorkerRuntime
from host.runtime.supervisor import SupervisedState, SupervisionLimits, Supervisor
from plugin_sdk.calls import Delivery, EventCall, ServiceCall
from plugin_sdk.clock import SystemClock
from plugin_sdk.errors import DeadLetter, HostError
from plugin_sdk.events import new_event
from plugin_sdk.worker.wire import MAX_FRAME

ROOT = Path(__file__).parents[3]


def event_call(data=None):
    return EventCall(new_event("example.event", source="/tests", data=data), Delivery("example/act/1", "act", 1, 1))


@pytest.fixture
async def supervised(launch, host, workshop):
    made = []

    def make(memory=2**30, **limits):
        numbers = {"heartbeat": 0.05, "silence": 0.5, "first_restart": 0.05, "stop_hook": 1.0, "term": 1.0, **limits}
        one = Supervisor(
            "example",
            make_runtime=lambda: WorkerRuntime(launch(), host, workshop, lambda *_: None),
            limits=SupervisionLimits(**numbers),
            memory=memory,
            clock=SystemClock(),
            rng=random.Random(1),
            on_change=lambda: states.append(one.status.state) if made else None,
        )
        states = []
        one.states = states
        made.append(one)
        one.start()
        return one

    yield make
    for one in made:
        await one.stop()


async def state(one, wanted):
    async with asyncio.timeout(20):
        while one.status.state is not wanted:
            await asyncio.sleep(0.01)


async def test_a_worker_cannot_import_the_host_and_holds_no_descriptor_of_it(worker):
    one = await worker()
    assert await one.call(ServiceCall("import_host", {})) == "no host"
    pid = one.snapshot().pid
    found = sorted(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in found]
    assert not [link for link in links if ".db" in link or link.startswith("/work")]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert os.getsid(pid) == pid


async def test_a_worker_that_dies_fails_its_call_with_the_reason_in_words(worker):
    one = await worker()
    with pytest.raises(WorkerDiedError, match="ended with status 9"):
        await one.call(event_call("exit"))
    assert (await one.exited).cause == "exit"
    with pytest.raises(NotRunningError):
        await one.call(event_call())


async def test_a_killed_worker_fails_its_call_and_names_the_signal(worker):
    one = await worker()
    calling = asyncio.create_task(one.call(event_call("hang")))
    while not one.snapshot().in_flight:
        await asyncio.sleep(0.01)
    os.kill(one.snapshot().pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        await calling


async def test_the_supervisor_starts_a_killed_worker_again(supervised):
    one = supervised()
    await state(one, SupervisedState.RUNNING)
    before = one.snapshot().pid
    os.kill(before, signal.SIGKILL)
    await state(one, SupervisedState.BACKING_OFF)
    assert "SIGKILL" in one.status.evidence
    assert one.status.next_action == "restart"
    await state(one, SupervisedState.RUNNING)
    assert one.snapshot().pid != before
    assert one.restarts == 1


async def test_a_worker_whose_loop_is_blocked_is_found_and_killed(supervised):
    one = supervised()
    await state(one, SupervisedState.RUNNING)
    with pytest.raises(WorkerDiedError, match="silent"):
        await one.call(event_call("block"))
    await state(one, SupervisedState.BACKING_OFF)
    assert one.status.cause == "blocked loop"


async def test_a_worker_that_takes_too_much_memory_is_killed(supervised):
    one = supervised(memory=2**20, restarts=2)
    await state(one, SupervisedState.FAILED)
    assert "out of memory" in one.last_error


async def test_too_many_ends_within_the_window_are_left_to_a_person(supervised):
    one = supervised(restarts=3, first_restart=0.01)
    for _ in range(3):
        await state(one, SupervisedState.RUNNING)
        os.kill(one.snapshot().pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while one.running:
                await asyncio.sleep(0.005)
    await state(one, SupervisedState.FAILED)
    assert one.status.cause == "ended 3 times within 600 s"


async def test_stopping_while_it_backs_off_ends_at_once(supervised):
    one = supervised(first_restart=30.0)
    await state(one, SupervisedState.RUNNING)
    os.kill(one.snapshot().pid, signal.SIGKILL)
    await state(one, SupervisedState.BACKING_OFF)
    async with asyncio.timeout(2):
        await one.stop()
    assert one.status.state is SupervisedState.STOPPED


async def test_a_plugin_describes_itself_in_a_throw_away_worker_and_leaves_no_process(launch, workshop, fork_server):
    examiner = WorkerExaminer(workshop, lambda _plugin: lambda *_: None)
    description = await examiner.describe(launch())
    assert [one.name for one in description.subscriptions] == ["act"]
    assert {one.name for one in description.services} == {"add", "thread", "bad", "echo", "odd", "import_host"}
    assert description.config_schema["properties"]["greeting"]["default"] == "hello"
    children = Path(f"/proc/{fork_server.pid}/task/{fork_server.pid}/children").read_text().split()
    assert children == []


async def test_a_wrong_hook_is_refused_with_a_sentence(launch, workshop, tmp_path):
    (tmp_path / "release" / "wrong.py").write_text(
        "from plugin_sdk import hookimpl\n@hookimpl\ndef on_evnt(event): ...\n"
    )
    examiner = WorkerExaminer(workshop, lambda _plugin: lambda *_: None)
    with pytest.raises(StartFailedError, match="no hook 'on_evnt': did you mean 'on_event'"):
        await examiner.describe(launch("wrong"))


async def test_twenty_starts_and_stops_leave_no_process_and_no_descriptor(worker, fork_server):
    await worker()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        one = await worker()
        await one.stop(1.0, 1.0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    children = Path(f"/proc/{fork_server.pid}/task/{fork_server.pid}/children").read_text().split()
    assert len(children) == 1


async def test_workers_come_back_after_the_fork_server_was_killed(supervised, fork_server):
    one = supervised()
    await state(one, SupervisedState.RUNNING)
    os.kill(fork_server.pid, signal.SIGKILL)
    await state(one, SupervisedState.BACKING_OFF)
    await state(one, SupervisedState.RUNNING)
    assert await one.call(ServiceCall("add", {"a": 1, "b": 1})) == 2


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, (MAX_FRAME + 1).to_bytes(4, "big"), b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x03\x91\x92\x63"],
    ids=["noise", "huge frame", "no message", "unknown message"],
)
async def test_a_worker_that_sends_garbage_is_killed_and_nobody_else_notices(launch, host, workshop, garbage, tmp_path):
    (tmp_path / "release" / "liar.py").write_text(
        "import os\nfrom plugin_sdk import *\nclass Liar(Plugin):\n"
        "    @service\n    async def lie(self):\n        '''Write into the socket.'''\n"
        f"        os.write(3, {garbage!r} * 2)\n        import asyncio\n        await asyncio.sleep(60)\n"
    )
    liar = WorkerRuntime(launch("liar:Liar"), host, workshop, lambda *_: None)
    honest = WorkerRuntime(launch(), host, workshop, lambda *_: None)
    await liar.start()
    await honest.start()
    with pytest.raises(WorkerDiedError, match="protocol error"):
        async with asyncio.timeout(10):
            await liar.call(ServiceCall("lie", {}))
    assert (await liar.exited).cause == "protocol error"
    assert await honest.call(ServiceCall("add", {"a": 1, "b": 1})) == 2
    await honest.stop(1.0, 1.0)


HOST = """
import asyncio, sys
from pathlib import Path
from host.runtime.fork_server import ForkServer
from host.runtime.process import WorkerRuntime
from host.runtime.workshop import Workshop
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy

async def main():
    release, sdk, data = map(Path, sys.argv[1:4])
    workshop = Workshop(ForkServer(sdk), Sandbox(SandboxPolicy(plugins_as_root=True), sdk))
    launch = Launch("example", release, "example_plugin:Example", {}, {}, "process", 2**28, 8, 5.0, data)
    one = WorkerRuntime(launch, None, workshop, lambda *_: None)
    await one.start()
    print(one.snapshot().pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_when_the_host_is_killed_its_workers_die_with_it(launch, sdk_path, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOST, str(launch().folder), str(sdk_path), str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pid = next(int(line) for line in child.stdout if line.strip().isdigit())
    child.kill()
    child.wait()
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.02)


async def test_a_start_without_descriptors_is_tried_again_until_there_are_some(supervised, monkeypatch):
    """Given a host that has no descriptor left, when a plugin starts, then it backs off and starts later."""
    real, short = socket.socketpair, [3]

    def socketpair(*arguments):
        if short[0]:
            short[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    monkeypatch.setattr("host.runtime.process.socket.socketpair", socketpair)
    one = supervised()
    await state(one, SupervisedState.RUNNING)
    assert one.restarts == 3


async def test_a_start_that_meets_a_mistake_of_the_hosts_never_stays_starting(supervised, monkeypatch):
    def broken(_self):
        raise LookupError("a mistake")

    monkeypatch.setattr(WorkerRuntime, "snapshot", broken)
    one = supervised(restarts=2)
    await state(one, SupervisedState.FAILED)
    assert "LookupError: a mistake" in one.status.evidence


async def test_the_end_of_a_worker_is_told_whatever_cleaning_up_after_it_meets(worker):
    one = await worker()
    one._closing.callback(lambda: 1 / 0)
    calling = asyncio.create_task(one.call(event_call("hang")))
    await asyncio.sleep(0)
    one.kill("stopped: for the test")
    async with asyncio.timeout(5):
        assert (await asyncio.shield(one.exited)).cause == "stopped"
    one._watch.exception()  # the mistake itself, which the loop would tell of
    calling.cancel()


async def test_config_that_cannot_be_carried_fails_the_start_and_leaves_no_worker(launch, host, workshop):
    where = replace(launch(), secrets={"api_key": "\udcff"})
    one = WorkerRuntime(where, host, workshop, lambda *_: None)
    with pytest.raises(StartFailedError, match="cannot be told its config") as failed:
        await one.start()
    assert not failed.value.retryable
    assert one.exited.done()


async def test_a_call_that_cannot_be_carried_is_refused_and_costs_the_worker_nothing(worker):
    one = await worker()
    with pytest.raises(HostError) as refused:
        await one.call(ServiceCall("echo", {"value": "\udcff"}))
    assert refused.value.word == "call_not_carried"
    with pytest.raises(DeadLetter, match="cannot be handed"):
        one.fly(*flight_of(b"x" * MAX_FRAME), Heard())
    assert await one.call(ServiceCall("echo", {"value": 1})) == 1


class Watching(DataWatch):
    """A watch that stops a worker, and lets it go on, when the test says so."""

    def add(self, folder, quota, pid, inbox, *, cut, unseen, held):
        self.pid, self.tell = pid, held
        return lambda: None

    def hold(self):
        os.kill(self.pid, signal.SIGSTOP)
        self.tell(True)  # noqa: FBT003 - as the watch does

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)
        self.tell(False)  # noqa: FBT003 - as above


async def test_a_worker_that_stands_still_to_be_counted_is_not_taken_for_a_silent_one(launch, host, workshop):
    watch = Watching()
    one = WorkerRuntime(launch(), host, replace(workshop, data_watch=watch), lambda *_: None)
    await one.start()
    watch.hold()
    calling = asyncio.create_task(one.call(event_call()))
    await asyncio.sleep(0.3)
    assert (one.snapshot().silent_for, calling.done()) == (0.0, False)
    watch.go_on()
    async with asyncio.timeout(30):
        await calling
    await one.stop(1.0, 1.0)


async def test_who_sends_more_bytes_than_may_arrive_is_read_more_slowly_and_loses_nothing(launch, host, workshop):
    limits = replace(workshop.limits, arriving=200_000.0)
    one = WorkerRuntime(launch(), host, replace(workshop, limits=limits), lambda *_: None)
    loop = asyncio.get_running_loop()
    await one.start()
    began = loop.time()
    for _ in range(4):
        assert len(await one.call(ServiceCall("echo", {"value": "x" * 45_000}))) == 45_000
    assert loop.time() - began >= (4 * 45_000 - 50_000) / 200_000 * 0.9
    assert one.snapshot().pid is not None
    await one.stop(1.0, 1.0)
