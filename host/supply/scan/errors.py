"""What a scan may raise: a release is refused, or a stored report is none."""

from __future__ import annotations

from collections.abc import Sequence

from host.errors import ErrorKind
from host.supply.errors import SupplyError


class ScanRefusedError(SupplyError):
    """The policy of the scan speaks against the release; `errors` has one sentence for each reason."""

    code = "release_blocked_by_scan"
    kind = ErrorKind.UNPROCESSABLE

    def __init__(self, reasons: Sequence[str], *, more: int = 0) -> None:
        rest = f"; and {more} more" if more else ""
        super().__init__("Plugin failed security scan: " + "; ".join(reasons) + rest, errors=reasons)


class ScanReportError(SupplyError):
    """Bytes that are no report of a scan."""

    code = "scan_report_unreadable"
    kind = ErrorKind.INTERNAL
