"""What an administrator may set."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]


class Config(BaseModel):
    """The bounds of the plugin. `allow_private` lets endpoints be at addresses inside, and at any port."""

    model_config = ConfigDict(extra="forbid")

    allow_private: bool = False
    allowed_ports: tuple[Port, ...] = (80, 443)
    endpoints: int = Field(default=100, ge=1, le=1000)
    pending: int = Field(default=1000, ge=1, le=10_000, description="Messages of one endpoint that wait.")
    kept: int = Field(default=200, ge=1, le=1000, description="Messages of one endpoint that are kept when done.")
    in_flight: int = Field(default=16, ge=1, le=24, description="Requests at once; a host lets a plugin have 32.")
    in_flight_of_one: int = Field(default=4, ge=1, le=24, description="Requests at once to one endpoint.")
