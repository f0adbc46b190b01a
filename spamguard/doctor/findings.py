"""What the doctor says: findings, each with its severity and what to do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad it is, mildest first."""

    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to mend
    WARNING = "warning"  # works now, or works worse than it could
    ERROR = "error"  # mail is not judged, or will not be


# Of the command. Not of sysexits.h: monitoring asks for "warning" and "critical".
EXIT_CODES = {Severity.OK: 0, Severity.NOTE: 0, Severity.WARNING: 1, Severity.ERROR: 2}
_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at.

    Attributes:
        check: what was looked at, one or two words.
        severity: how bad it is.
        found: what was found.
        advice: what to do; "" where nothing is to be done.
    """

    check: str
    severity: Severity
    found: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self)


def ok(check: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, severity=Severity.OK, found=found)


def note(check: str, found: str, advice: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(check=check, severity=Severity.NOTE, found=found, advice=advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return a finding that should be mended."""
    return Finding(check=check, severity=Severity.WARNING, found=found, advice=advice)


def error(check: str, found: str, advice: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(check=check, severity=Severity.ERROR, found=found, advice=advice)


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the worst severity; OK of nothing."""
    return max((f.severity for f in findings), key=_ORDER.index, default=Severity.OK)
