"""The `inline` runtime: a plugin in the host's own process, for publishers the operator trusts with it.

It can bound a hook's time and count its failures. It cannot stop a hook that never yields, nor one that
ends the process; that is what the `process` runtime is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from host.resolver import ClientResolver, Resolver
from host.runtime.errors import HookFailedError, NotRunningError, ReleaseModifiedError, StartFailedError
from host.runtime.exits import ExitReason
from host.runtime.hook_outcomes import error_of, value_of
from host.runtime.loop_watch import LoopWatch
from host.runtime.own_folder import own_folder
from host.runtime.runtime import Handed, Hands, Launch, RuntimeSnapshot
from plugin_sdk.calls import Flight, HookCall, StopCall, delivery_call
from plugin_sdk.context import HostPort, Session
from plugin_sdk.errors import DescriptionError, HostError
from plugin_sdk.loading import LoadedPlugin
from plugin_sdk.worker.digests import unpack
from plugin_sdk.worker.eager_task import eager_task
from plugin_sdk.worker.file_errors import is_shortage
from plugin_sdk.worker.log_lines import line_of
from plugin_sdk.worker.outcomes import encoded, raised
from plugin_sdk.worker.verified_imports import VerifiedImports
from plugin_sdk.worker.wire import LogLine

_PARTS: Final = ("session", "descriptors", "limits", "files", "network", "user", "privileges", "systemCalls")

_log = structlog.get_logger(__name__)


class InlineRuntime:
    """One plugin in the host's process.

    Args:
        launch: What to load.
        port: Serves what the plugin asks of the host.
        log: Takes the plugin's log lines.
        loop_watch: Names the plugin when it blocks the host's loop.
        resolver: Looks up the names that the plugin's HTTP client connects to: no thread of the host's waits for them.
    """

    def __init__(
        self,
        launch: Launch,
        port: HostPort,
        log: Callable[[list[LogLine], int], None],
        loop_watch: LoopWatch | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._launch = launch
        self._port = port
        self._take_line = log
        self._loop_watch = loop_watch
        self._resolver = resolver or Resolver()
        self._closing = contextlib.ExitStack()
        self.exited: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()
        self._plugin: LoadedPlugin | None = None
        self._session: Session | None = None
        self._in_flight = 0
        self._flying: dict[Handed, asyncio.Task[None] | None] = {}

    async def start(self) -> None:
        """Import the plugin and run its start hook; errors as in `Runtime.start`."""
        launch = self._launch
        retryable = False
        imports: VerifiedImports | None = None
        try:
            if launch.dependencies:
                raise HostError(
                    'an inline plugin shares the host\'s libraries: set isolation = "process" in plugin.toml for one '
                    "that brings its own",
                    "inline_dependencies",
                )
            await asyncio.to_thread(_make_own_folder, launch.data_folder)
            if self._loop_watch is not None:
                self._closing.enter_context(self._loop_watch.watching(launch.plugin, launch.folder))
            imports = self._verify_imports()
            plugin = self._load()
            log = logging.Logger(  # noqa: LOG001 - apart from the host's tree of loggers, on purpose
                f"busbar.plugin.{launch.plugin}", logging.INFO
            )
            log.addHandler(_Lines(self._take_line))
            session = Session(
                plugin=launch.plugin,
                host=self._port,
                secrets=launch.secrets,
                log=log,
                resolver=ClientResolver(self._resolver),
            )
            session.config = plugin.parse_config(launch.config)
            retryable = True
            await plugin.start(session)
            if imports is not None and imports.modified:
                raise ImportError(imports.modified)  # however well the plugin got along without it
        except asyncio.CancelledError:
            self._unload()
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a plugin's import raises is its failure
            self._unload()
            self.exited.set_result(ExitReason("stopped", "it did not start"))
            if imports is not None and imports.modified:
                raise ReleaseModifiedError(
                    f"{launch.plugin} could not be loaded: {imports.modified}", retryable=False
                ) from None
            known = isinstance(error, DescriptionError | HostError)
            what = raised(0, error)
            sentence = what.reason if known else f"{what.name}: {what.reason}"
            raise StartFailedError(
                f"{launch.plugin} could not be loaded: {sentence}",
                retryable=(retryable or is_shortage(error)) and not known,
                traceback="" if known else what.traceback,
            ) from None
        self._plugin, self._session = plugin, session

    def call(self, call: HookCall) -> Coroutine[Any, Any, Any]:
        """Enter a hook; errors as in `Runtime.call`."""
        return self._call(call)

    async def _call(self, call: HookCall) -> Any:
        if self._plugin is None or self._session is None:
            raise NotRunningError(f"{self._launch.plugin} is not loaded")
        self._in_flight += 1
        try:
            value = await self._plugin.run(call, self._session)
            # As it would come from a worker: the host's own parts never hold a plugin's objects.
            return None if value is None else value_of(call, encoded(value))
        except HookFailedError:
            raise
        except BaseException as error:  # whatever a plugin raises is its failure, and raised as one
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            frames = error.__traceback__ and error.__traceback__.tb_next  # from the plugin's side on
            raise error_of(raised(0, error.with_traceback(frames))) from None
        finally:
            self._in_flight -= 1

    def fly(self, flight: Flight, handed: Sequence[Handed], hands: Hands) -> None:
        """Make deliveries, each in a task; as `Runtime.fly`. It is handed no more than may be in flight."""
        if self._plugin is None:
            raise NotRunningError(f"{self._launch.plugin} is not loaded")
        loop = asyncio.get_running_loop()
        for one in handed:
            self._flying[one] = None
            loop.call_soon(self._begin, loop, flight, one, hands)

    def _begin(self, loop: asyncio.AbstractEventLoop, flight: Flight, one: Handed, hands: Hands) -> None:
        if one in self._flying:  # it may have been cancelled meanwhile
            task = eager_task(self._deliver(flight, one, hands), loop)
            if task is not None:
                self._flying[one] = task

    async def _deliver(self, flight: Flight, one: Handed, hands: Hands) -> None:
        began = time.perf_counter()
        failure: Exception | None = None
        try:
            await self._call(delivery_call(flight, one.stored.sequence, one.attempt, one.stored.event))
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is an outcome, never the host's end
            failure = error
        except asyncio.CancelledError:
            if one not in self._flying:
                return  # the host asked for it
            failure = HookFailedError("CancelledError", "the hook cancelled its own task")
        if one in self._flying:
            del self._flying[one]
            hands.landed([(one, failure, time.perf_counter() - began)])

    def cancel(self, handed: Handed) -> None:
        """Cancel a delivery; as `Runtime.cancel`."""
        task = self._flying.pop(handed, None)
        if task is not None:
            task.cancel()

    def recall(self, handed: Sequence[Handed]) -> None:
        """Nothing comes back: whatever it is handed begins."""

    def go_on(self) -> None:
        """Nothing waits here."""

    async def stop(self, stop_hook: float, term: float) -> None:  # noqa: ARG002 - there is no process to end
        """Run the stop hook within its limit, then forget the plugin's modules."""
        if self._plugin is not None:
            try:
                async with asyncio.timeout(stop_hook):
                    await self._call(StopCall())
            except TimeoutError:
                _log.warning("stop_hook_too_slow", plugin=self._launch.plugin, seconds=stop_hook)
            except Exception as error:  # noqa: BLE001 - a failing stop hook does not keep the plugin
                _log.warning("stop_hook_failed", plugin=self._launch.plugin, reason=str(error))
        self.kill("stopped")

    def kill(self, why: str, *, ask_where: bool = False) -> None:  # noqa: ARG002 - the host's own stack says nothing
        """Forget the plugin. Calls in flight end by themselves or by their time limit."""
        self._plugin = None
        self._unload()
        if not self.exited.done():
            self.exited.set_result(ExitReason(why.partition(":")[0], why))

    def snapshot(self) -> RuntimeSnapshot:
        """How it is; it has no process of its own."""
        return RuntimeSnapshot(
            isolation="inline",
            started="inline",
            pid=None,
            rss_bytes=None,
            in_flight=self._in_flight,
            silent_for=0.0,
            overdue_for=0.0,
            sandbox=dict.fromkeys(_PARTS, "unavailable: an inline plugin shares the host's process"),
        )

    async def look_after(self) -> None:
        """Nothing: what would be looked after is the host itself."""

    def _verify_imports(self) -> VerifiedImports | None:
        """Hold the plugin's files to their digests until it is forgotten, where there are some."""
        if not self._launch.digests:
            return None
        imports = VerifiedImports(unpack(self._launch.digests))
        imports.install()
        self._closing.callback(imports.remove)
        return imports

    def _load(self) -> LoadedPlugin:
        folder = str(self._launch.folder)
        sys.path.insert(0, folder)
        try:
            return LoadedPlugin.load(self._launch.plugin, self._launch.entry_point)
        finally:
            sys.path.remove(folder)

    def _unload(self) -> None:
        """Forget the modules that came from the release, so that the next release is really imported."""
        self._closing.close()
        folder = str(self._launch.folder) + "/"
        for name, module in tuple(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folder):
                del sys.modules[name]


class _Lines(logging.Handler):
    """Hands log records on as lines."""

    def __init__(self, take: Callable[[list[LogLine], int], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one record."""
        self._take([line_of(record)], 0)


def _make_own_folder(path: Path) -> None:
    with own_folder(path):
        pass
