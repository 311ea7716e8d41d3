"""Threads of plain functions: apart by kind, bounded, and counted until they have really ended."""

import asyncio
import threading

import pytest

from plugin_sdk import Event, Plugin, Response, on_event, service
from plugin_sdk.calls import Request, ServiceCall
from plugin_sdk.context import Session
from plugin_sdk.loading import LoadedPlugin
from plugin_sdk.testing import MemoryHost, PluginHarness
from plugin_sdk.threads import HookThreads, Threads


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def gate():
    found = threading.Event()
    yield found
    found.set()


async def test_plain_functions_that_hang_take_no_thread_of_another_kind(gate):
    class Booth(Plugin):
        routes = True

        @on_event("order.*")
        def note(self, event: Event):
            pass

        @service
        def wait(self):
            gate.wait()

        def handle_request(self, request, context):
            gate.wait()
            return Response(200)

    async with PluginHarness(Booth) as harness:
        session = Session(plugin="plugin", host=MemoryHost({}))
        hung = [asyncio.create_task(harness._plugin.run(ServiceCall("wait", {}), session)) for _ in range(100)]
        hung += [asyncio.create_task(harness._plugin.run(Request("GET", "/"), session)) for _ in range(100)]
        await asyncio.sleep(0)
        assert (await harness.deliver("order.placed")).outcome == "delivered"
        gate.set()
        await asyncio.gather(*hung)


async def test_each_hook_has_the_threads_of_its_kind():
    threads = Threads()
    kinds = {hook: threads.of(hook) for hook in ("on_event", "on_schedule", "call", "handle_request", "check_health")}
    assert kinds["on_event"] is kinds["on_schedule"]
    assert len({id(kind) for kind in kinds.values()}) == 4


async def test_a_plain_call_that_is_cancelled_ends_when_its_thread_has(gate):
    threads = HookThreads("call", 1, stays=True)
    running = asyncio.create_task(threads.run(gate.wait))
    await until(lambda: threads._pool and threads._pool._threads)
    running.cancel()
    assert await asyncio.wait((running,), timeout=0.01) == (set(), {running})
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_plain_delivery_that_is_cancelled_is_over_at_once_and_keeps_its_thread_until_it_ends(gate):
    threads = HookThreads("delivery", 1, stays=False)
    running = asyncio.create_task(threads.run(gate.wait))
    await until(lambda: threads._pool and threads._pool._threads)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    behind = asyncio.create_task(threads.run(lambda: "done"))
    assert await asyncio.wait((behind,), timeout=0.01) == (set(), {behind})
    gate.set()
    assert await behind == "done"


async def test_calls_that_are_cancelled_while_they_wait_for_a_thread_leave_nothing_behind(gate):
    threads = HookThreads("call", 1, stays=True)
    running = asyncio.create_task(threads.run(gate.wait))
    waiting = [asyncio.create_task(threads.run(lambda: None)) for _ in range(50)]
    await until(lambda: threads._places.waiting == 50)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert threads._pool._work_queue.qsize() == 0
    gate.set()
    await running
    await until(lambda: not threads._places.in_use)


async def test_what_a_plain_function_raises_or_answers_to_be_awaited_comes_out():
    threads = HookThreads("life", 2, stays=False)

    def bad():
        raise LookupError("no")

    async def later():
        return "awaited"

    with pytest.raises(LookupError):
        await threads.run(bad)
    assert await threads.run(later) == "awaited"


def test_every_plugin_has_threads_of_its_own():
    assert LoadedPlugin("a", Plugin)._threads is not LoadedPlugin("b", Plugin)._threads
