"""Looks at plugins in throw-away workers: what their code does, and whether a config is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from host.runtime.errors import StartFailedError
from host.runtime.process import EXIT_SECONDS, WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.workshop import Workshop
from plugin_sdk.description import Description
from plugin_sdk.errors import DescriptionError
from plugin_sdk.strict_json import loads
from plugin_sdk.worker.wire import Inspect, LogLine, Validate

EXAMINE_SECONDS: Final = 60.0


class WorkerExaminer:
    """Looks at plugins in throw-away workers, without grants, config or secrets."""

    def __init__(self, workshop: Workshop, log: Callable[[str], Callable[[list[LogLine], int], None]]) -> None:
        self._workshop = workshop
        self._log = log

    async def describe(self, launch: Launch) -> Description:
        """What the plugin's code does; errors as in `Examiner.describe`."""
        found = await self._examine(launch, Inspect)
        try:
            return msgspec.convert(loads(found or b"null"), Description)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, DescriptionError) as error:
            raise StartFailedError(f"{launch.plugin} describes itself wrongly: {error}", retryable=False) from None

    async def validate_config(self, launch: Launch, config: dict[str, Any]) -> None:
        """Check a config against the plugin's own model; errors as in `Examiner.validate_config`."""
        await self._examine(launch, lambda number: Validate(number, config))

    async def _examine(self, launch: Launch, make: Callable[[int], Inspect | Validate]) -> bytes | None:
        runtime = WorkerRuntime(launch, None, self._workshop, self._log(launch.plugin), start_hook=False)
        try:
            async with asyncio.timeout(EXAMINE_SECONDS):
                await runtime.start()
                return await runtime.examine(make)
        except TimeoutError:
            raise StartFailedError(
                f"{launch.plugin} did not describe itself within {EXAMINE_SECONDS:g} s", retryable=False
            ) from None
        finally:
            runtime.kill("stopped: it was only looked at")
            await asyncio.wait((runtime.exited,), timeout=EXIT_SECONDS)
