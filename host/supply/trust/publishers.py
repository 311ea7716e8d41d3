"""Whom a host believes: publishers with their keys, policies for namespaces, and the releases kept in spite of all.

Values only, and the rules that they must keep; `TrustStore` holds them, `verification` decides by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from packaging.utils import canonicalize_name

from host.supply.errors import PolicyRefusedError, PublisherRefusedError
from host.supply.trust.keys import PublicKey

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""Ids of publishers and plugins, and namespaces."""
ANY: Final = "*"
"""The namespace of every plugin."""
MAX_NAME: Final = 64
MAX_KEYS: Final = 32
MAX_NAMESPACES: Final = 256
MAX_TEXT: Final = 500
MAX_PREDICATES: Final = 16
PREDICATE: Final = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]{1,200}")
"""A predicate type is a URI."""


class KeyState(Enum):
    """`retired` keys verify what is installed, not what is new; `revoked` ones verify nothing."""

    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key of a publisher. Times are seconds since the epoch; None is without a bound."""

    public: PublicKey
    not_before: float | None = None
    not_after: float | None = None
    state: KeyState = KeyState.ACTIVE
    reason: str = ""
    changed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who signs, with which keys, and for which plugins: ids, namespaces that reach to the next `-`, or `*`."""

    id: str
    title: str
    plugins: tuple[str, ...]
    keys: tuple[TrustedKey, ...]
    max_isolation: str = "process"
    contact: str = ""

    def may_sign(self, plugin: str) -> bool:
        """Whether `plugin` is in one of the publisher's namespaces."""
        return any(reaches(namespace, plugin) for namespace in self.plugins)

    def nearness(self, plugin: str) -> int:
        """How closely the publisher's namespaces name `plugin`: the length of the longest that reaches it."""
        return max((len(namespace) for namespace in self.plugins if reaches(namespace, plugin)), default=-1)


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """How many distinct publishers must have signed a plugin of a namespace, and what else they must have said.

    `publishers` are those who count, the one whose plugin it is before those who review; empty, all those count
    whose own namespaces hold the plugin. `predicates` are types of statements that must stand beside the release's.
    """

    namespace: str
    threshold: int = 1
    publishers: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()


EVERYONE: Final = TrustPolicy(ANY)
"""Where no policy is set: one publisher, for its own namespaces."""


@dataclass(frozen=True, slots=True)
class TrustSnapshot:
    """The trust store at one instant; what verification decides by.

    `kept` has the hashes of installed releases that an administrator keeps although their keys were revoked.
    """

    publishers: tuple[Publisher, ...]
    policies: tuple[TrustPolicy, ...] = ()
    kept: frozenset[str] = field(default_factory=frozenset)

    def publisher(self, publisher: str) -> Publisher | None:
        """The publisher of that id."""
        return next((one for one in self.publishers if one.id == publisher), None)

    def policy(self, plugin: str) -> TrustPolicy:
        """The policy that owns a plugin's name: the one with the longest namespace."""
        reaching = [policy for policy in self.policies if reaches(policy.namespace, plugin)]
        return max(reaching, key=lambda policy: len(policy.namespace), default=EVERYONE)

    def every_key(self) -> Iterator[tuple[Publisher, TrustedKey]]:
        """Every key with its publisher."""
        return ((publisher, key) for publisher in self.publishers for key in publisher.keys)


def reaches(namespace: str, plugin: str) -> bool:
    """Whether a plugin is in a namespace: equal, or it starts with `namespace-` (PEP 752), or the namespace is `*`."""
    if namespace == ANY:
        return True
    name, own = canonicalize_name(plugin), canonicalize_name(namespace)
    return name == own or name.startswith(own + "-")


def check_publisher(publisher: Publisher) -> None:
    """Refuse a malformed publisher.

    Raises:
        PublisherRefusedError: with what is wrong.
    """
    if not NAME.fullmatch(publisher.id) or len(publisher.id) > MAX_NAME:
        raise PublisherRefusedError("a publisher's id has lower-case letters and digits in words joined by '-'")
    if not 0 < len(publisher.plugins) <= MAX_NAMESPACES:
        raise PublisherRefusedError(f"publisher {publisher.id} must name 1 to {MAX_NAMESPACES} plugins it may sign")
    for name in publisher.plugins:
        if not _is_namespace(name):
            raise PublisherRefusedError(f"'{name}' is no plugin id and no namespace")
    if not 0 < len(publisher.keys) <= MAX_KEYS:
        raise PublisherRefusedError(f"a publisher has 1 to {MAX_KEYS} keys")
    if publisher.max_isolation not in {"process", "inline"}:
        raise PublisherRefusedError("maxIsolation is 'process' or 'inline'")
    for text in (publisher.title, publisher.contact):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise PublisherRefusedError(f"titles and contacts are printable, and at most {MAX_TEXT} characters")


def check_policy(policy: TrustPolicy, publishers: tuple[Publisher, ...]) -> None:
    """Refuse a policy that is malformed, or that no release could ever meet.

    Raises:
        PolicyRefusedError: with what is wrong.
    """
    if not _is_namespace(policy.namespace):
        raise PolicyRefusedError(f"'{policy.namespace}' is no namespace: write a plugin id, a part of one, or '*'")
    if not 0 < policy.threshold <= MAX_KEYS:
        raise PolicyRefusedError(f"a threshold is 1 to {MAX_KEYS} publishers")
    if len(set(policy.publishers)) != len(policy.publishers):
        raise PolicyRefusedError("a policy names each publisher once")
    known = {publisher.id for publisher in publishers}
    for name in policy.publishers:
        if name not in known:
            raise PolicyRefusedError(f"there is no publisher '{name}': add it first, with its keys")
    if policy.publishers and policy.threshold > len(policy.publishers):
        raise PolicyRefusedError(
            f"{policy.threshold} of {len(policy.publishers)} publishers can never be met: name more, or ask for fewer"
        )
    if len(policy.predicates) > MAX_PREDICATES:
        raise PolicyRefusedError(f"a policy asks for at most {MAX_PREDICATES} kinds of statements")
    for predicate in policy.predicates:
        if not PREDICATE.fullmatch(predicate):
            raise PolicyRefusedError(f"'{predicate[:100]}' is no predicate type: it is a URI")


def _is_namespace(name: str) -> bool:
    return name == ANY or (len(name) <= MAX_NAME and NAME.fullmatch(name) is not None)
