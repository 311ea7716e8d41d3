"""Trust policies over HTTP: how many must sign what, which releases are kept, and whether the store is whole."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, View
from host.identity.access import Role
from host.observe.audit import Audit
from host.registry.registry import Registry
from host.supply.trust.publishers import TrustPolicy
from host.supply.trust.store import TrustStore

POLICIES: Final = "/api/v1/trust-policies"
KEPT: Final = "/api/v1/kept-releases"
STORE: Final = "/api/v1/trust-store"
SHA256: Final = r"^[0-9a-f]{64}$"


class WantedPolicy(View):
    """How many distinct publishers must have signed a plugin of the namespace."""

    threshold: Annotated[int, Field(ge=1, le=32)] = 1
    publishers: Annotated[
        list[str],
        Field(max_length=32, description="Those who count, the plugin's own before its reviewers; empty: any."),
    ] = []
    predicates: Annotated[
        list[str], Field(max_length=16, description="Types of statements that must stand beside the release's.")
    ] = []


class PolicyView(WantedPolicy):
    """A trust policy."""

    namespace: str


class Reason(View):
    """Why a release is kept."""

    reason: Annotated[str, Field(max_length=500)] = ""


class StoreView(View):
    """Whether trust store and registry are as the host left them; where they are not, nothing is believed."""

    whole: bool
    cause: str
    publishers: int
    policies: int


class TrustPolicies:
    """The handlers."""

    def __init__(self, trust: TrustStore, registry: Registry, audit: Audit) -> None:
        self._trust = trust
        self._registry = registry
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        viewer, admin = Role.VIEWER, Role.ADMIN
        one, kept = POLICIES + "/{namespace}", KEPT + "/{sha256}"
        return (
            Endpoint(
                "GET",
                POLICIES,
                "listTrustPolicies",
                "List who must sign what.",
                viewer,
                self.list,
                response=PolicyView,
                many=True,
            ),
            Endpoint(
                "PUT",
                one,
                "setTrustPolicy",
                "Say how many publishers must sign the plugins of a namespace.",
                admin,
                self.set,
                request=WantedPolicy,
                response=PolicyView,
            ),
            Endpoint("DELETE", one, "dropTrustPolicy", "Leave a namespace to the policy above it.", admin, self.drop),
            Endpoint(
                "GET", KEPT, "listKeptReleases", "List releases kept in spite of a revoked key.", viewer, self.kept
            ),
            Endpoint(
                "PUT",
                kept,
                "keepRelease",
                "Let an installed release run on although a key that signed it is revoked.",
                admin,
                self.keep,
                request=Reason,
            ),
            Endpoint("DELETE", kept, "letGoOfRelease", "Keep a release no longer.", admin, self.let_go),
            Endpoint(
                "GET",
                STORE,
                "showTrustStore",
                "Show whether the trust store is whole.",
                viewer,
                self.store,
                response=StoreView,
            ),
            Endpoint(
                "POST",
                STORE + "/confirm",
                "confirmTrustStore",
                "Believe trust store and registry as they stand: you have looked at them and answer for it.",
                admin,
                self.confirm,
                response=StoreView,
            ),
        )

    async def list(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Every policy, by namespace."""
        return Answer([_view(policy) for policy in self._trust.shown().policies])

    async def set(self, call: Call) -> Answer:
        """Set the policy of a namespace."""
        wanted: WantedPolicy = call.body
        policy = TrustPolicy(
            call.path("namespace"), wanted.threshold, tuple(wanted.publishers), tuple(wanted.predicates)
        )
        await self._trust.set_policy(policy)
        await self._note(call, "trust-policy.set", policy.namespace, wanted.model_dump())
        return Answer(_view(policy))

    async def drop(self, call: Call) -> Answer:
        """Drop the policy of a namespace."""
        namespace = call.path("namespace")
        await self._trust.drop_policy(namespace)
        await self._note(call, "trust-policy.drop", namespace, {})
        return Answer({"namespace": namespace}, message="dropped; the next longer namespace's policy holds")

    async def kept(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Hashes of the releases that are kept."""
        return Answer([{"release": sha256} for sha256 in sorted(self._trust.shown().kept)])

    async def keep(self, call: Call) -> Answer:
        """Keep a release."""
        sha256 = call.path("sha256")
        await self._trust.keep(sha256, call.body.reason)
        await self._note(call, "release.keep", sha256, {"reason": call.body.reason})
        return Answer({"release": sha256}, message="kept: it runs on, with a warning")

    async def let_go(self, call: Call) -> Answer:
        """Keep a release no longer."""
        sha256 = call.path("sha256")
        await self._trust.let_go(sha256)
        await self._note(call, "release.let-go", sha256, {})
        return Answer({"release": sha256}, message="kept no longer")

    async def store(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Whether the store is whole."""
        return Answer(self._store())

    async def confirm(self, call: Call) -> Answer:
        """Seal the store as it stands."""
        cause = self._cause()
        await self._registry.confirm()
        await self._trust.confirm()  # the last one, for it is what has every release looked at again
        await self._note(call, "trust-store.confirm", "trust-store", {"cause": cause})
        return Answer(self._store(), message="the trust store and the registry are believed as they stand")

    def _store(self) -> StoreView:
        held = self._trust.shown()
        return StoreView(
            whole=not self._cause(),
            cause=self._cause(),
            publishers=len(held.publishers),
            policies=len(held.policies),
        )

    def _cause(self) -> str:
        return "; ".join(filter(None, (self._trust.tampered, self._registry.tampered)))

    async def _note(self, call: Call, action: str, target: str, detail: dict[str, Any]) -> None:
        await self._audit.record(actor=call.actor, action=action, target=target, detail=detail, outcome="done")


def _view(policy: TrustPolicy) -> PolicyView:
    return PolicyView(
        namespace=policy.namespace,
        threshold=policy.threshold,
        publishers=list(policy.publishers),
        predicates=list(policy.predicates),
    )
