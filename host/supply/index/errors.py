"""What goes wrong between this host and a package index."""

from __future__ import annotations

from collections.abc import Iterable

from host.errors import ErrorKind
from host.supply.errors import ReleaseRefusedError, SupplyError


class IndexFailedError(SupplyError):
    """Base of the errors of this folder that are about an index and not about a release."""

    code = "index_failed"
    kind = ErrorKind.UPSTREAM


class IndexNotConfiguredError(IndexFailedError):
    """No index of the settings may give what is asked for."""

    code = "index_not_configured"
    kind = ErrorKind.UNPROCESSABLE


class IndexUnavailableError(IndexFailedError):
    """The index is down, overloaded or out of reach; the same request may succeed later."""

    code = "index_unavailable"
    kind = ErrorKind.UNAVAILABLE


class IndexDeniedError(IndexFailedError):
    """The index does not let this host in."""

    code = "index_denied"


class IndexAnswerError(IndexFailedError):
    """The index answers with something that is no answer of the simple repository API."""

    code = "index_answer_invalid"


class RequirementRefusedError(SupplyError):
    """Text that is no requirement, or one that says more than a name and versions."""

    code = "requirement_invalid"
    kind = ErrorKind.INVALID


class ReleaseNotFoundError(ReleaseRefusedError):
    """No index that may give the plugin has it, or none of its files fits."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, message: str, errors: Iterable[str] = ()) -> None:
        super().__init__("not_found", message)
        self.errors = tuple(errors)


class BadOriginError(ReleaseRefusedError):
    """The index points to a place that it may not point to."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_origin", message)


class ReleaseTimeoutError(ReleaseRefusedError):
    """The index takes longer than any honest one would."""

    kind = ErrorKind.TIMEOUT

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)
