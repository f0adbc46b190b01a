"""A correction sink in memory."""

from dataclasses import dataclass, field

from spamguard.errors import ReportError, StoreError
from spamguard.report import Receipt, Report, Standing


@dataclass
class MemorySink:
    """Remembers reports.

    Attributes:
        fails: as a full disk or locked database does.
        refuses: reports whose message holds these bytes are nobody's to make.
        reports: in order; one of the same reporter, label and message only once.
    """

    fails: bool = False
    refuses: bytes = b"\0none"
    reports: list[Report] = field(default_factory=list)

    def record(self, report: Report) -> Receipt:
        if self.fails:
            raise StoreError("database is locked")
        if self.refuses in report.raw:
            raise ReportError("not yours to report: é")
        is_new = report not in self.reports
        if is_new:
            self.reports.append(report)
        return Receipt(correction_id=1, is_new=is_new, standing=Standing.COUNTED)

    def undo(self, reporter: str, raw: bytes) -> bool:
        if self.fails:
            raise StoreError("database is locked")
        kept = [r for r in self.reports if (r.reporter, r.raw) != (reporter.lower(), raw)]
        was_there = len(kept) < len(self.reports)
        self.reports[:] = kept
        return was_there
