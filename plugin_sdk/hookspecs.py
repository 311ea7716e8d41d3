"""The contract: every hook that a plugin may implement. pluggy holds plugins to these names and arguments.

Hooks may be `async def` or plain functions; plain ones run in a thread. An implementation takes any
subset of a hook's arguments, by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from plugin_sdk.context import Context, Firing, Health, Request, Response
    from plugin_sdk.description import Description
    from plugin_sdk.events import Event

PROJECT: Final = "busbar"
API: Final = 1
"""Version of this contract; a manifest names the one it was written for."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def describe() -> Description:  # type: ignore[empty-body]  # a specification has no body
    """Say what the plugin does. Called once at install, in a throw-away worker without grants."""


@hookspec(firstresult=True)
def start(context: Context) -> None:
    """Get ready: called once before any other hook. An exception keeps the plugin from starting."""


@hookspec(firstresult=True)
def stop(context: Context) -> None:
    """Let go: called once after the last hook, within the stop limit."""


@hookspec(firstresult=True)
def on_event(event: Event, context: Context) -> None:
    """Handle a delivery. Raise `Retry`, `Drop` or `DeadLetter` to decide it; returning settles it."""


@hookspec(firstresult=True)
def on_schedule(firing: Firing, context: Context) -> None:
    """Handle one firing of one of the plugin's schedules."""


@hookspec(firstresult=True)
def call(method: str, arguments: dict[str, Any], context: Context) -> Any:
    """Serve a call of one of the plugin's services; the answer must be a JSON value."""


@hookspec(firstresult=True)
def handle_request(request: Request, context: Context) -> Response:  # type: ignore[empty-body]  # as above
    """Answer HTTP under the plugin's own routes and webhooks."""


@hookspec(firstresult=True)
def check_health(context: Context) -> Health:  # type: ignore[empty-body]  # as above
    """Say how the plugin is: pass, warn or fail, with a reason. Called every health interval."""


@hookspec(firstresult=True)
def config_changed(config: Any, context: Context) -> None:
    """Take new, validated config without a restart."""
