"""What runs no more, or is to: plugins that are being stopped, each kept until it is gone altogether."""

from __future__ import annotations

from host.lifecycle.hosted_plugin import HostedPlugin


class Leaving:
    """The plugins of one keeper that are to be stopped; nothing is started in their place before they are gone."""

    def __init__(self) -> None:
        self._left: list[HostedPlugin] = []

    def __bool__(self) -> bool:
        """Whether any is left."""
        return bool(self._left)

    def add(self, hosted: HostedPlugin) -> None:
        """Have one be stopped next."""
        self._left.append(hosted)

    async def stop(self, grace: float) -> None:
        """Stop them, whatever becomes of the others; deliveries in flight have `grace` seconds to end in.

        Raises:
            Exception: what the first of those raised that are still left.
        """
        errors: list[Exception] = []
        for hosted in tuple(self._left):
            try:
                await hosted.stop(grace if hosted.delivering else 0)
            except Exception as error:  # noqa: BLE001 - raised below, once each was tried
                errors.append(error)
            else:
                self._left.remove(hosted)
        if errors:
            raise errors[0]
