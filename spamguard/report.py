"""A user's report of a mistake: what every way in hands to the one sink.

Frontends, mail intake, the drop directory and the command line build a `Report`;
`feedback.corrections.CorrectionStore` is the sink. Nothing is stored or learned here.
"""

import enum
from dataclasses import dataclass
from typing import Protocol

from spamguard.message import Envelope
from spamguard.verdict import Label


class ReportSource(enum.StrEnum):
    """How a report reached us."""

    IMAP = "imap"  # a message moved into or out of Junk
    MAIL = "mail"  # a message sent to a report address
    DROP = "drop"  # a file put into a watched directory
    CLI = "cli"
    HTTP = "http"
    SPAMD = "spamd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One user says what one message really is.

    Attributes:
        label: HAM or SPAM, nothing else.
        reporter: mail address or user name, in lower case; whoever built the report has made
            sure that it is who it says.
        source: the way in.
        raw: the reported message as it was delivered, our header fields included, or what a
            mail program left of it.
        is_original: False when ``raw`` was put together from a forwarded text; such a report
            counts once the administrator has looked at it, or when its original is known.
        comment: a few words of the reporter's, or "".
    """

    label: Label
    reporter: str
    source: ReportSource
    raw: bytes
    is_original: bool = True
    comment: str = ""

    def __post_init__(self) -> None:
        if self.label not in {Label.HAM, Label.SPAM}:
            raise ValueError(f"label {self.label}: expected ham or spam")


class Standing(enum.StrEnum):
    """What became of a correction; `feedback.trust` says by which rules."""

    COUNTED = "counted"  # learned from
    PERSONAL = "personal"  # counts for its reporter until others agree
    CONFLICT = "conflict"  # reporters disagree
    REVIEW = "review"  # waits for the administrator
    CAPPED = "capped"  # beyond what one reporter, campaign or day may add
    REJECTED = "rejected"  # by the administrator
    UNDONE = "undone"  # taken back
    SUPERSEDED = "superseded"  # the same reporter said something newer


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the sink did with a report.

    Attributes:
        correction_id: number of the row.
        is_new: False when the same reporter had said the same of the same message.
        standing: see `Standing`; may change as others report.
        reason: why, in a few words.
    """

    correction_id: int
    is_new: bool
    standing: Standing
    reason: str = ""


class CorrectionSink(Protocol):
    """Where reports end. Blocking (SQLite): event loops call it in a thread."""

    def record(self, report: Report) -> Receipt:
        """Make one report durable.

        Raises:
            ReportError: this report cannot be taken, e.g. its reporter did not get the message.
            StoreError: the database or disk failed; the report may be tried again.
        """

    def undo(self, reporter: str, raw: bytes) -> bool:
        """Take back what a reporter said of a message; False when there was nothing.

        Raises:
            ReportError: that is no reporter's name.
            StoreError: the database or disk failed.
        """


class ReportDesk(Protocol):
    """What the mail doors ask about report addresses; see `feedback.desk.MailDesk`."""

    def label_of(self, recipient: str) -> Label | None:
        """Return what a report address stands for, or None for any other recipient."""

    def refusal(self, envelope: Envelope) -> str:
        """Return the SMTP reply for a client that may not report, or ""."""

    async def take(self, envelope: Envelope, raw: bytes) -> str:
        """Record the reports in a mail; return the SMTP reply to it, 2xx once they are durable."""
