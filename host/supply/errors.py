"""Refusals of releases and wheels, each with a code of its own (`release_…`, `wheel_…`)."""

from __future__ import annotations

from collections.abc import Sequence

from host.errors import BusbarError, ErrorKind


class SupplyError(BusbarError):
    """Base of the errors of this folder."""

    code = "supply_error"
    kind = ErrorKind.UNPROCESSABLE


class ReleaseRefusedError(SupplyError):
    """Signature, trust or history speak against the release; `reason` is the rule that was broken."""

    code = "release_refused"

    def __init__(self, reason: str, message: str, errors: Sequence[str] = ()) -> None:
        super().__init__(message, code=f"release_{reason}", errors=errors)
        self.reason = reason


class ReleaseConflictError(ReleaseRefusedError):
    """The release does not fit what is installed or under way."""

    kind = ErrorKind.CONFLICT


class ReleaseTooLargeError(ReleaseRefusedError):
    """More bytes than a release may have."""

    kind = ErrorKind.TOO_LARGE


class WheelRefusedError(SupplyError):
    """The archive breaks a rule of the strict reader."""

    code = "wheel_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, code=f"wheel_{reason}")
        self.reason = reason


class PluginRefusedError(SupplyError):
    """Manifest and code do not fit each other, or one of them is wrong."""

    code = "plugin_refused"


class KeyRefusedError(SupplyError):
    """Text that is no usable key."""

    code = "key_refused"
    kind = ErrorKind.INVALID


class PaperNotFoundError(SupplyError):
    """No report, or no bill of materials, is kept with the release."""

    code = "paper_not_found"
    kind = ErrorKind.NOT_FOUND


class PublisherNotFoundError(SupplyError):
    """No publisher, or no key, of that id."""

    code = "publisher_not_found"
    kind = ErrorKind.NOT_FOUND


class PublisherRefusedError(SupplyError):
    """A publisher that cannot be taken into the trust store as it is."""

    code = "publisher_refused"
    kind = ErrorKind.INVALID


class PolicyRefusedError(SupplyError):
    """A trust policy that cannot be taken as it is."""

    code = "policy_refused"
    kind = ErrorKind.INVALID


class PolicyNotFoundError(SupplyError):
    """No trust policy for that namespace, or no release of that hash is kept."""

    code = "policy_not_found"
    kind = ErrorKind.NOT_FOUND


class TrustStoreTamperedError(SupplyError):
    """The trust store is not as this host left it; nothing is believed until an administrator confirms it."""

    code = "trust_store_tampered"
    kind = ErrorKind.CONFLICT
