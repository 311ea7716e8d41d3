"""Services: methods of plugins that other plugins and administrators call, behind the callee's guard of calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from host.port.errors import (
    ArgumentsRefusedError,
    CallCycleError,
    CallFailedError,
    MethodNotFoundError,
    PluginNotRunningError,
)
from host.registry.registry import Registry
from host.registry.states import PluginStatus
from host.routing.callee import Callee
from host.runtime.errors import HookAnswerError, HookFailedError
from plugin_sdk.calls import ServiceCall
from plugin_sdk.errors import ArgumentsError, HostError, Verdict

MAX_CHAIN: Final = 8
"""Plugins that one call may go through."""
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a code looks like; a plugin may give its errors its own."""


class Services:
    """Finds the plugin that serves a method, and calls it.

    Args:
        registry: Knows which services there are.
        hosted: Answers a plugin as it is hosted now, or None.
        status: Answers the state of a plugin.
    """

    def __init__(
        self,
        registry: Registry,
        hosted: Callable[[str], Callee | None],
        status: Callable[[str], PluginStatus],
    ) -> None:
        self._registry = registry
        self._hosted = hosted
        self._status = status

    async def call(
        self,
        plugin: str,
        method: str,
        arguments: dict[str, Any],
        *,
        chain: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - handed on to the guard and to the callee
        traceparent: str = "",
        actor: str = "",
    ) -> Any:
        """Call a service of a plugin; what it answers.

        Args:
            plugin: Whose service it is.
            method: Its name.
            arguments: By name, JSON values.
            chain: The plugins that the call came through, the first caller first; empty for an administrator.
            timeout: Seconds that the caller waits; the callee's own limit counts in any case.
            traceparent: The trace that the call belongs to.
            actor: Which administrator calls, where it is no plugin.

        Raises:
            PluginNotFoundError, MethodNotFoundError, PluginNotRunningError: there is nothing to call.
            CallCycleError: the plugin waits for this very call, or the call has come through too many.
            BreakerOpenError, BulkheadFullError, HookTimeoutError: the callee's guard does not let it through, or
                its time was up.
            ArgumentsRefusedError: the service does not take these arguments.
            CallFailedError: the service raised; the sentence has its type and message, no traceback. With the code
                `plugin_answer_invalid`, where it returned what is no JSON value, or decided on a delivery.
        """
        record = self._registry.get(plugin)
        if method not in {service.name for service in record.description.services}:
            raise MethodNotFoundError(plugin, method)
        if plugin in chain or len(chain) > MAX_CHAIN:
            raise CallCycleError([*chain, plugin])
        hosted = self._hosted(plugin)
        if hosted is None or not hosted.running:
            raise not_running(plugin, self._status(plugin))
        call = ServiceCall(method, arguments, chain[-1] if chain else "api", traceparent, tuple(chain), timeout or 0.0)
        try:
            return await hosted.serve(call, "call", timeout, caller=chain[-1] if chain else f"api:{actor}")
        except ArgumentsError as error:
            raise ArgumentsRefusedError(str(error), code=word_of(error)) from None
        except HostError as error:
            raise CallFailedError(str(error), code=word_of(error)) from None
        except HookFailedError as error:
            code = error.word if isinstance(error, HookAnswerError) else None
            raise CallFailedError(f"{plugin}.{method} failed: {error.message}", code=code) from None
        except Verdict as error:
            raise no_delivery(f"{plugin}.{method}", error) from None


def word_of(error: HostError) -> str | None:
    """The code that a plugin gave its error, if it is one; None for what callers could not go by."""
    return error.word if _WORD.fullmatch(error.word) else None


def no_delivery(what: str, verdict: Verdict) -> CallFailedError:
    """That a plugin raised, for someone who waits for its answer, what decides on a delivery."""
    return CallFailedError(
        f"{what} raised {type(verdict).__name__}, which decides on a delivery, and this is none: "
        "return an answer, or raise an exception of your own",
        code=HookAnswerError.code,
    )


def not_running(plugin: str, status: PluginStatus) -> PluginNotRunningError:
    """That a plugin cannot be reached, and why."""
    return PluginNotRunningError(f"{plugin} is {status.state.value}" + (f": {status.cause}" if status.cause else ""))
