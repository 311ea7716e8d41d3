"""Heartbeat: one schedule, and the event it emits. The smallest plugin that does something all by itself."""

from pydantic import BaseModel

from plugin_sdk import Context, Firing, Health, Plugin, every


class Config(BaseModel):
    """What an administrator may set."""

    greeting: str = "still here"


class Heartbeat(Plugin):
    """Counts its beats in its kv, so the count goes on after a restart."""

    Config = Config

    def __init__(self) -> None:
        super().__init__()
        self._last_due = ""

    @every(2)
    async def beat(self, firing: Firing, context: Context) -> None:
        """Emit one beat for one firing, however often the firing is delivered."""
        count = await context.kv.get("count", 0) + 1
        await context.kv.set("count", count)
        data = {"count": count, "due": firing.due, "greeting": context.config.greeting}
        context.log.info("beat %d: %s", count, context.config.greeting)
        await context.emit("heartbeat.beat", subject="heartbeat", data=data)
        self._last_due = firing.due

    async def check_health(self, context: Context) -> Health:
        """Well, as long as it is asked."""
        return Health("pass", f"last beat was due {self._last_due}" if self._last_due else "")
