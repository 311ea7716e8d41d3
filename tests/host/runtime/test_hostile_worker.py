"""Whatever comes over the wire from a worker's side, the host goes on: it answers, slows the worker down or kills it.

The worker's side of the socket is in the test's hands here, so that it can send what no SDK would.
"""

import asyncio
import os
import signal

import msgspec
import pytest
from flights import Heard, handed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.runtime.errors import NotRunningError, StartFailedError, WorkerDiedError
from host.runtime.fork_server import Child
from host.runtime.process import WorkerRuntime
from host.runtime.requests import MAX_ASKS, RequestRates
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.workshop import WorkerLimits, Workshop
from plugin_sdk.calls import Request, ServiceCall
from plugin_sdk.errors import ArgumentsError, HostError
from plugin_sdk.events import new_event
from plugin_sdk.testing import MemoryHost
from plugin_sdk.worker.wire import (
    MAX_FRAME,
    MAX_MESSAGES,
    MAX_PAYLOAD,
    Answer,
    Ask,
    Call,
    Cancel,
    Confined,
    Deliver,
    Done,
    Heartbeat,
    Load,
    LogLine,
    LogLines,
    Raised,
    Ready,
    Recalled,
    Reply,
    ToWorker,
)

SANDBOX = {"session": "enforced", "files": "enforced"}


class Attacker:
    """A worker that is played by the test; it stands where the fork server would, and dies when it is killed."""

    def __init__(self):
        self.killed = []
        self._buffer = b""
        self._decoder = msgspec.msgpack.Decoder(list[ToWorker])

    async def spawn(self, connection, _errors, _prepared):
        self.socket = connection.dup()
        self.socket.settimeout(0)
        self.exited = asyncio.get_running_loop().create_future()
        return Child(4_000_000, self.exited, 1)

    def door(self, _child):
        return None

    def kill(self, _pid, number):
        self.killed.append(number)
        if number == signal.SIGKILL and not self.exited.done():
            self.socket.close()
            self.exited.set_result(-number)

    async def send(self, *messages):
        await self.raw(frame(msgspec.msgpack.encode(list(messages))))

    async def raw(self, data):
        """Send bytes, as far as the host still takes them."""
        try:
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except (OSError, TimeoutError):
            return

    async def take(self, kind):
        """The next message of a kind that the host sent."""
        async with asyncio.timeout(5):
            while True:
                while len(self._buffer) >= 4 and len(self._buffer) >= 4 + (size := int.from_bytes(self._buffer[:4])):
                    data, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                    found = [one for one in self._decoder.decode(data) if isinstance(one, kind)]
                    if found:
                        return found[-1]
                self._buffer += await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    def end(self):
        """Make sure that it is gone."""
        self.kill(0, signal.SIGKILL)


def frame(payload):
    return len(payload).to_bytes(4, "big") + payload


def ask(number, operation, *arguments):
    return Ask(number, operation, msgspec.Raw(msgspec.msgpack.encode(arguments)))


@pytest.fixture
def attacked(launch, sdk_path):
    """A maker of a runtime and its attacker, past the greeting where `ready`."""
    sandbox = Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path)
    limits = WorkerLimits(unread=0.3, rates=RequestRates(requests=100_000, emits=100_000, writes=100_000))

    async def make(*, ready=True, lines=None, limits=limits):
        attacker = Attacker()
        runtime = WorkerRuntime(
            launch(),
            MemoryHost({}),
            Workshop(attacker, sandbox, limits),
            (lambda found, dropped: lines.append((len(found), dropped))) if lines is not None else lambda *_: None,
        )
        starting = asyncio.create_task(runtime.start())
        await asyncio.sleep(0)
        while not hasattr(attacker, "socket"):
            await asyncio.sleep(0.001)
        await attacker.take(Load)
        if ready:
            await attacker.send(Confined(SANDBOX), Ready())
            await starting
        return runtime, attacker, starting

    return make


async def _ended(runtime):
    async with asyncio.timeout(5):
        return await asyncio.shield(runtime.exited)


async def test_a_worker_that_keeps_to_the_protocol_is_served(attacked):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    call = await attacker.take(Call)
    await attacker.send(ask(1, "kv_set", "key", b"1"), ask(2, "kv_get", "key"))
    await attacker.send(Reply(call.id, b"42"))
    assert await calling == 42
    assert (await attacker.take(Answer)).error == ""
    assert runtime.snapshot().sandbox == SANDBOX
    attacker.end()


@pytest.mark.parametrize(
    ("message", "evidence"),
    [
        (Reply(7, b"1"), "a call 7 that nobody made"),
        (Raised(7, "failure", "", name="Error"), "a call 7 that nobody made"),
        (Done([7], [0.0]), "a delivery 7 that nobody made"),
        (Done([], []), "of none"),
        (Done([7], []), "not a time for each"),
        (Recalled([7]), "7 is given back that nobody asked for"),
        (Recalled([]), "they are none"),
        (Ready(), "a second time whether it is loaded"),
        (Confined({}), "a second time how it is confined"),
        (ask(1, "drop_tables"), "no request 'drop_tables'"),
        (ask(1, "__class__"), "no request '__class__'"),
        (ask(1, "kv_get"), "wrong arguments"),
        (ask(1, "kv_get", 1), "wrong arguments"),
        (ask(1, "kv_get", "a", "b"), "wrong arguments"),
        (ask(1, "emit", ["nested"] * 1000), "wrong arguments"),
        (ask(1, "kv_set", "key", b"x" * (MAX_PAYLOAD + 1)), "at most"),
        (LogLines([LogLine(0, "info", "x")] * 65), "LogLines|length"),
        (LogLines([LogLine(0, "info", "x" * 9000)]), "log line of 9000"),
        (Call(1, ServiceCall("add", {})), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_message_out_of_place_costs_the_worker_its_life(attacked, message, evidence):
    runtime, attacker, _ = await attacked()
    await attacker.send(message)
    reason = await _ended(runtime)
    assert reason.cause == "protocol error", reason
    assert any(part in reason.evidence for part in evidence.split("|")) or "xpected" in reason.evidence


async def test_no_delivery_took_longer_than_since_it_was_sent_whatever_its_worker_says(attacked):
    runtime, attacker, _ = await attacked()
    heard = Heard()
    flight, ones = handed(*(new_event("example.event", source="/tests") for _ in range(2)))
    runtime.fly(flight, ones, heard)
    sent = await attacker.take(Deliver)
    year = 366 * 86_400.0
    await attacker.send(Done([sent.first], [year]), Raised(sent.first + 1, "failure", "", name="E", seconds=year))
    await heard.of(*ones)
    assert max(heard.seconds.values()) < 60
    attacker.end()


async def test_a_worker_that_gives_deliveries_back_unasked_is_ended_and_they_are_told_of_once(attacked):
    """Given one that would have them come and go for ever, then they end with it, and count as what it had."""
    runtime, attacker, _ = await attacked()
    heard = Heard()
    flight, ones = handed(*(new_event("example.event", source="/tests") for _ in range(3)))
    runtime.fly(flight, ones, heard)
    sent = await attacker.take(Deliver)
    await attacker.send(Done([sent.first], [0.1]), Recalled([sent.first + 1]))
    ends = await heard.of(*ones)
    assert ends[0] is None
    assert [type(end) for end in ends[1:]] == [WorkerDiedError, WorkerDiedError]
    assert heard.back == []
    assert (await _ended(runtime)).cause == "protocol error"


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME + 1).to_bytes(4, "big"),
        b"\xff" * 64,
        frame(b""),
        frame(b"\xc1"),
        frame(msgspec.msgpack.encode([[7]] * (MAX_MESSAGES + 1))),
        frame(b"\xdd\xff\xff\xff\xff"),
        frame(b"\x91" * 5000),
        frame(msgspec.msgpack.encode({"not": "a list"})),
        frame(msgspec.msgpack.encode([[99]])),
        frame(msgspec.msgpack.encode([[3, "not a number"]])),
        frame(msgspec.msgpack.encode([[3, 2**63]])),
        frame(msgspec.msgpack.encode([[3, 1, b"x"]]) + b"trailing"),
    ],
    ids=[
        *("too large", "noise", "empty", "reserved byte", "too many", "claims four thousand million", "deep"),
        *("a map", "unknown tag", "wrong type", "huge id", "trailing bytes"),
    ],
)
async def test_what_is_no_frame_costs_the_worker_its_life(attacked, data):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    await attacker.take(Call)
    await attacker.raw(data)
    assert (await _ended(runtime)).cause == "protocol error"
    with pytest.raises(WorkerDiedError):
        await calling
    with pytest.raises(NotRunningError):
        await runtime.call(ServiceCall("add", {}))


async def test_a_frame_that_comes_a_byte_at_a_time_is_taken(attacked):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    call = await attacker.take(Call)
    for byte in frame(msgspec.msgpack.encode([Heartbeat(), Reply(call.id, b'"' + b"x" * 300 + b'"')])):
        await attacker.raw(bytes([byte]))
        await asyncio.sleep(0)
    assert await calling == "x" * 300
    attacker.end()


@pytest.mark.parametrize("call", [ServiceCall("add", {}), Request("GET", "/")], ids=["call", "request"])
async def test_a_call_that_its_caller_gives_up_lasts_until_its_hook_has_ended_and_costs_the_worker_nothing(
    attacked, call
):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(call))
    number = (await attacker.take(Call)).id
    calling.cancel()
    assert (await attacker.take(Cancel)).id == number
    assert not calling.done()
    assert (runtime.snapshot().in_flight, runtime.snapshot().overdue_for) == (1, 0.0)
    await attacker.send(Raised(number, "failure", "", name="CancelledError"))
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (runtime.snapshot().in_flight, runtime.exited.done()) == (0, False)
    attacker.end()


async def test_a_call_that_was_given_up_ends_with_the_worker(attacked):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    await attacker.take(Call)
    calling.cancel()
    await attacker.take(Cancel)
    attacker.end()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_the_answer_to_a_call_that_was_given_up_for_good_is_not_taken_for_an_attack(attacked):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    number = (await attacker.take(Call)).id
    calling.cancel()
    await attacker.take(Cancel)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await attacker.send(Reply(number, b"1"), ask(1, "kv_get", "key"))
    await attacker.take(Answer)
    assert not runtime.exited.done()
    attacker.end()


async def test_wrong_arguments_are_told_apart_from_what_the_hook_was_refused_itself(attacked):
    runtime, attacker, _ = await attacked()
    for kind, error in (("arguments", ArgumentsError), ("host", HostError)):
        calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
        number = (await attacker.take(Call)).id
        await attacker.send(Raised(number, kind, "add: wrong", name="arguments_invalid"))
        with pytest.raises(HostError) as refused:
            await calling
        assert (type(refused.value), refused.value.word) == (error, "arguments_invalid")
    attacker.end()


async def test_a_large_frame_in_many_pieces_is_taken(attacked):
    runtime, attacker, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    call = await attacker.take(Call)
    await attacker.send(Reply(call.id, b'"' + b"x" * (MAX_PAYLOAD - 2) + b'"'))
    assert len(await calling) == MAX_PAYLOAD - 2
    attacker.end()


async def test_more_requests_at_once_than_the_sdk_makes_are_an_attack(attacked):
    runtime, attacker, _ = await attacked()
    runtime._requests._port = _NeverAnswers()
    for number in range(MAX_ASKS + 1):
        await attacker.send(ask(number, "kv_get", "key"))
    assert "requests at once" in (await _ended(runtime)).evidence


class _NeverAnswers:
    async def kv_get(self, _key):
        await asyncio.Event().wait()


async def test_a_worker_that_does_not_read_is_killed(attacked):
    runtime, _, _ = await attacked()
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {"data": "x" * 2**20})))
    async with asyncio.timeout(5):
        while not runtime.exited.done():
            await runtime.look_after()
            await asyncio.sleep(0.02)
    assert "left unread" in (await _ended(runtime)).evidence
    with pytest.raises(WorkerDiedError):
        await calling


async def test_a_flood_of_lines_is_logged_up_to_the_limit_and_the_rest_counted(attacked):
    lines = []
    runtime, attacker, _ = await attacked(lines=lines, limits=WorkerLimits(log_lines=20.0))
    for _ in range(20):
        await attacker.send(LogLines([LogLine(0.0, "info", "x")] * 10))
    async with asyncio.timeout(5):
        while sum(kept + dropped for kept, dropped in lines) < 200:
            await asyncio.sleep(0.01)
    assert sum(kept for kept, _ in lines) <= 45
    assert not runtime.exited.done()
    attacker.end()


async def test_a_flood_of_messages_is_read_more_slowly_and_calls_are_still_answered(attacked):
    runtime, attacker, _ = await attacked(limits=WorkerLimits(messages=100.0))
    for _ in range(20):
        await attacker.send(*[Heartbeat()] * 50)
    calling = asyncio.create_task(runtime.call(ServiceCall("add", {})))
    call = await attacker.take(Call)
    await attacker.send(Reply(call.id, b"1"))
    async with asyncio.timeout(15):
        assert await calling == 1
    assert not runtime.exited.done()
    attacker.end()


async def test_a_worker_that_hangs_up_before_it_is_ready_has_failed_to_start(attacked):
    _, attacker, starting = await attacked(ready=False)
    attacker.end()
    with pytest.raises(StartFailedError):
        await starting


_ids = st.integers(0, 5)
_text = st.text(max_size=20)
_messages = st.one_of(
    st.builds(Reply, _ids, st.none() | st.binary(max_size=20)),
    st.builds(Raised, _ids, _text, _text, st.none() | st.floats(), _text, _text),
    st.builds(LogLines, st.lists(st.builds(LogLine, st.floats(), _text, _text, _text), max_size=3), st.integers(0, 10)),
    st.builds(Confined, st.dictionaries(_text, _text, max_size=3)),
    st.just(Ready()),
    st.just(Heartbeat()),
    st.builds(
        lambda number, operation, arguments: Ask(number, operation, msgspec.Raw(msgspec.msgpack.encode(arguments))),
        _ids,
        st.sampled_from(["emit", "kv_get", "kv_set", "kv_delete", "kv_list", "extend", "stop"]) | _text,
        st.lists(
            st.binary(max_size=20) | _text | st.integers(-5, 5) | st.none() | st.lists(_text, max_size=2), max_size=4
        ),
    ),
)
_sent = st.lists(
    st.one_of(
        st.lists(_messages, max_size=5).map(lambda found: frame(msgspec.msgpack.encode(found))),
        st.binary(max_size=40).map(frame),
        st.binary(max_size=40),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=_sent, greeted=st.booleans())
def test_no_sequence_of_bytes_disturbs_the_host(attacked, sent, greeted):
    async def attack():
        loop = asyncio.get_running_loop()
        disturbed = []
        loop.set_exception_handler(lambda _, context: disturbed.append(context))
        before = len(os.listdir("/proc/self/fd"))
        runtime, attacker, starting = await attacked(ready=greeted)
        calling = asyncio.ensure_future(_called(runtime)) if greeted else starting
        for data in sent:
            await attacker.raw(data)
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        assert runtime.snapshot().in_flight <= 1
        attacker.end()
        async with asyncio.timeout(5):
            await asyncio.shield(runtime.exited)
            await asyncio.wait([calling, starting])
        assert all(
            isinstance(task.exception(), WorkerDiedError | StartFailedError | None) for task in (calling, starting)
        )
        await asyncio.sleep(0)
        assert disturbed == []
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    asyncio.run(attack())


async def _called(runtime):
    try:
        return await runtime.call(ServiceCall("add", {}))
    except WorkerDiedError:
        raise
    except Exception as error:
        return error
