"""Teamwork: takes milestones, keeps its own count of them, and asks for a notification when one is completed."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from plugin_sdk import Context, DeadLetter, Event, Plugin, on_event, service


class Config(BaseModel):
    """What an administrator may set; `{user}`, `{milestone}` and `{count}` are filled in."""

    message: str = "Well done, {user}: that is milestone number {count}!"


class Milestone(BaseModel):
    """What `milestone.created` and `milestone.completed` carry."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    milestone_id: str = Field(min_length=1, max_length=100)
    user_id: str = Field(min_length=1, max_length=100)
    progress: float = Field(default=0, ge=0, le=100)


class Teamwork(Plugin):
    """State is in the kv: `created/<user>/<milestone>`, `completed/<user>/<milestone>`. A key cannot count twice."""

    Config = Config

    @on_event("milestone.created")
    async def created(self, event: Event, context: Context) -> None:
        """Remember what someone has set out to do."""
        milestone = _milestone(event)
        await context.kv.set(f"created/{milestone.user_id}/{milestone.milestone_id}", event.time)

    @on_event("milestone.completed")
    async def completed(self, event: Event, context: Context) -> None:
        """Count it, and have its user congratulated, once for each milestone however often it is delivered."""
        milestone = _milestone(event)
        user = milestone.user_id
        await context.kv.set(f"completed/{user}/{milestone.milestone_id}", event.time)
        count = len(await context.kv.keys(f"completed/{user}/"))
        text = context.config.message.format(user=user, milestone=milestone.milestone_id, count=count)
        await context.emit(
            "notification.requested",
            subject=user,
            data={
                "userId": user,
                "title": "Milestone completed",
                "text": text,
                "milestoneId": milestone.milestone_id,
            },
            id=f"congratulation/{user}/{milestone.milestone_id}/{event.id}",
        )

    @service
    async def progress(self, user: str, context: Context) -> dict[str, Any]:
        """How many milestones a user has set out to do, and completed."""
        created = await context.kv.keys(f"created/{user}/")
        completed = await context.kv.keys(f"completed/{user}/")
        return {"userId": user, "created": len(created), "completed": len(completed)}


def _milestone(event: Event) -> Milestone:
    try:
        return Milestone.model_validate(event.data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DeadLetter(f"no milestone: {problems}") from None
