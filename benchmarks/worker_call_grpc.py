"""Calls per second into a worker with 256 in flight, beside the same over grpcio's asyncio on a Unix socket.

Both carry the same bytes to a process of its own whose handler does nothing; gRPC without protobuf, so that
only the transport is compared.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from grpc import aio

from benchmarks import worker
from benchmarks.measure import Figure

NAME: Final = "worker-call-grpc"
IN_FLIGHT: Final = 256
ROUNDS: Final = 5
CALLS: Final = 20_480
PEER_CALLS: Final = 2_560
METHOD: Final = "/busbar.Plugin/OnEvent"


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="busbar-grpc-") as folder:
        address = f"unix:{Path(folder) / 'socket'}"
        ready, stop = context.Event(), context.Event()
        server = context.Process(target=_serve, args=(address, ready, stop), daemon=True)
        server.start()
        assert ready.wait(30)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_measure(address))
        finally:
            stop.set()
            server.join(10)


def _serve(address: str, ready: Event, stop: Event) -> None:
    async def on_event(request: bytes, context: Any) -> bytes:  # noqa: ARG001 - the handler's signature
        return b""

    async def serve() -> None:
        server = aio.server()
        handler = grpc.unary_unary_rpc_method_handler(on_event)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("busbar.Plugin", {"OnEvent": handler}),))
        server.add_insecure_port(address)
        await server.start()
        ready.set()
        await asyncio.to_thread(stop.wait, 300)
        await server.stop(1)

    uvloop.run(serve())


async def _measure(address: str) -> list[Figure]:
    body = worker.event().to_json()
    ours: list[float] = []
    theirs: list[float] = []
    async with worker.worker() as runtime, aio.insecure_channel(address) as channel:
        remote = channel.unary_unary(METHOD)
        deliverer = worker.Deliverer(IN_FLIGHT, runtime)

        async def over_grpc() -> None:
            await remote(body)

        for _ in range(ROUNDS):
            theirs.append(await _rate(over_grpc, PEER_CALLS))
            ours.append(await _rate(deliverer.deliver, CALLS))
    return [Figure(NAME, statistics.median(ours), "calls/s", "grpcio asyncio, Unix socket", statistics.median(theirs))]


async def _rate(call: Callable[[], Awaitable[None]], calls: int) -> float:
    async def caller() -> None:
        for _ in range(calls // IN_FLIGHT):
            await call()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(caller())
    return calls / (time.perf_counter() - started)
