"""The trust store over HTTP."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, Instant, View
from host.api.envelope import rfc3339
from host.identity.access import Role
from host.observe.audit import Audit
from host.supply.trust.keys import PublicKey
from host.supply.trust.publishers import Publisher, TrustedKey
from host.supply.trust.store import TrustStore

BASE: Final = "/api/v1/publishers"


class NewKey(View):
    """A public key to trust, and when."""

    public: Annotated[str, Field(max_length=100)]
    not_before: Instant | None = None
    not_after: Instant | None = None


class NewPublisher(View):
    """A publisher to trust."""

    id: Annotated[str, Field(max_length=64)]
    title: Annotated[str, Field(max_length=500)] = ""
    keys: Annotated[list[NewKey], Field(min_length=1, max_length=32)]
    plugins: Annotated[list[str], Field(min_length=1, max_length=256)]
    max_isolation: Literal["process", "inline"] = "process"
    contact: Annotated[str, Field(max_length=500)] = ""


class Revocation(View):
    """Why a key is revoked."""

    reason: Annotated[str, Field(max_length=500)] = ""


class KeyChange(View):
    """A key's new state, and why."""

    state: Literal["retired"]
    reason: Annotated[str, Field(max_length=500)] = ""


class KeyView(View):
    """A key of a publisher."""

    kid: str
    public: str
    state: str
    reason: str
    not_before: str | None
    not_after: str | None


class PublisherView(View):
    """A publisher."""

    id: str
    title: str
    plugins: list[str]
    max_isolation: str
    contact: str
    keys: list[KeyView]


class Publishers:
    """The handlers."""

    def __init__(self, trust: TrustStore, audit: Audit) -> None:
        self._trust = trust
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        one = BASE + "/{id}"
        admin = Role.ADMIN
        return (
            Endpoint(
                "GET",
                BASE,
                "listPublishers",
                "List the trusted publishers.",
                Role.VIEWER,
                self.list,
                response=PublisherView,
                many=True,
            ),
            Endpoint(
                "POST",
                BASE,
                "addPublisher",
                "Trust a publisher.",
                admin,
                self.add,
                request=NewPublisher,
                response=PublisherView,
                status=201,
            ),
            Endpoint(
                "GET",
                one,
                "showPublisher",
                "Show a publisher.",
                Role.VIEWER,
                self.show,
                response=PublisherView,
            ),
            Endpoint("DELETE", one, "removePublisher", "Trust a publisher no more.", admin, self.remove),
            Endpoint(
                "POST",
                one + "/keys",
                "addKey",
                "Trust one more key.",
                admin,
                self.add_key,
                request=NewKey,
                response=PublisherView,
                status=201,
            ),
            Endpoint(
                "PATCH",
                one + "/keys/{kid}",
                "retireKey",
                "Believe a key for what is installed, and for nothing new.",
                admin,
                self.retire,
                request=KeyChange,
                response=PublisherView,
            ),
            Endpoint(
                "DELETE",
                one + "/keys/{kid}",
                "revokeKey",
                "Revoke a key.",
                admin,
                self.revoke,
                query=Revocation,
                response=PublisherView,
            ),
        )

    async def list(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Every publisher, by id."""
        return Answer([_view(one) for one in self._trust.shown().publishers])

    async def show(self, call: Call) -> Answer:
        """One publisher."""
        return Answer(_view(self._trust.get(call.path("id"))))

    async def add(self, call: Call) -> Answer:
        """Trust a publisher."""
        wanted: NewPublisher = call.body
        publisher = Publisher(
            id=wanted.id,
            title=wanted.title or wanted.id,
            plugins=tuple(wanted.plugins),
            keys=tuple(map(_key, wanted.keys)),
            max_isolation=wanted.max_isolation,
            contact=wanted.contact,
        )
        await self._trust.add(publisher)
        return await self._noted(call, "publisher.add", wanted.id)

    async def remove(self, call: Call) -> Answer:
        """Trust a publisher no more."""
        await self._trust.remove(call.path("id"))
        await self._audit.record(
            actor=call.actor, action="publisher.remove", target=call.path("id"), detail={}, outcome="done"
        )
        return Answer({"id": call.path("id")}, message="removed; plugins it signed do not start any more")

    async def add_key(self, call: Call) -> Answer:
        """Trust one more key."""
        await self._trust.add_key(call.path("id"), _key(call.body))
        return await self._noted(call, "publisher.key.add", call.path("id"))

    async def retire(self, call: Call) -> Answer:
        """Retire a key."""
        await self._trust.retire_key(call.path("id"), call.path("kid"), call.body.reason)
        return await self._noted(call, "publisher.key.retire", call.path("id"))

    async def revoke(self, call: Call) -> Answer:
        """Revoke a key."""
        await self._trust.revoke_key(call.path("id"), call.path("kid"), call.query.reason)
        return await self._noted(call, "publisher.key.revoke", call.path("id"))

    async def _noted(self, call: Call, action: str, publisher: str) -> Answer:
        view = _view(self._trust.get(publisher))
        detail = {"keys": {key.kid: key.state for key in view.keys}, "plugins": view.plugins}
        await self._audit.record(actor=call.actor, action=action, target=publisher, detail=detail, outcome="done")
        return Answer(view)


def _key(wanted: NewKey) -> TrustedKey:
    return TrustedKey(
        PublicKey.parse(wanted.public),
        None if wanted.not_before is None else wanted.not_before.timestamp(),
        None if wanted.not_after is None else wanted.not_after.timestamp(),
    )


def _view(one: Publisher) -> PublisherView:
    return PublisherView(
        id=one.id,
        title=one.title,
        plugins=list(one.plugins),
        max_isolation=one.max_isolation,
        contact=one.contact,
        keys=[
            KeyView(
                kid=key.public.id,
                public=str(key.public),
                state=key.state.value,
                reason=key.reason,
                not_before=rfc3339(key.not_before),
                not_after=rfc3339(key.not_after),
            )
            for key in one.keys
        ],
    )
