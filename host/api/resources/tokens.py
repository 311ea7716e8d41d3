"""API tokens over HTTP."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, Instant, View
from host.api.envelope import rfc3339, written
from host.identity.access import Role, Token, Tokens
from host.observe.audit import Audit

BASE: Final = "/api/v1/tokens"


class NewToken(View):
    """What a token is for, and what it may."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Role = Role.VIEWER
    expires_at: Instant | None = None


class TokenView(View):
    """A token without its secret; `token` is the secret, in the answer that makes it and never again."""

    id: str
    name: str
    role: Role
    created_at: str
    expires_at: str | None
    token: str | None = None


class TokenResource:
    """The handlers."""

    def __init__(self, tokens: Tokens, audit: Audit) -> None:
        self._tokens = tokens
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE,
                "listTokens",
                "List the tokens.",
                Role.ADMIN,
                self.list,
                response=TokenView,
                many=True,
            ),
            Endpoint(
                "POST",
                BASE,
                "createToken",
                "Make a token; its secret is shown once.",
                Role.ADMIN,
                self.create,
                request=NewToken,
                response=TokenView,
                status=201,
            ),
            Endpoint("DELETE", BASE + "/{id}", "revokeToken", "Make a token worthless.", Role.ADMIN, self.revoke),
        )

    async def list(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Every token, the oldest first."""
        return Answer([_view(token) for token in self._tokens.all()])

    async def create(self, call: Call) -> Answer:
        """Make a token."""
        wanted: NewToken = call.body
        expires_at = None if wanted.expires_at is None else wanted.expires_at.timestamp()
        token, secret = await self._tokens.create(wanted.name, wanted.role, expires_at)
        await self._audit.record(
            actor=call.actor,
            action="token.create",
            target=token.id,
            detail={"name": token.name, "role": token.role.value},
            outcome="done",
        )
        return Answer(
            _view(token).model_copy(update={"token": secret}), message="keep the token: it is not shown again"
        )

    async def revoke(self, call: Call) -> Answer:
        """Revoke a token."""
        await self._tokens.revoke(call.path("id"))
        await self._audit.record(
            actor=call.actor, action="token.revoke", target=call.path("id"), detail={}, outcome="done"
        )
        return Answer({"id": call.path("id")}, message="revoked")


def _view(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        name=token.name,
        role=token.role,
        created_at=written(token.created_at),
        expires_at=rfc3339(token.expires_at),
    )
