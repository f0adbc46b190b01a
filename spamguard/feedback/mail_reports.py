"""Mail to a report address, taken apart: raw bytes -> the reports in it.

Users report by forwarding: attached messages come as they were delivered, inline forwards are
what a mail program left of them, and a redirected message is the message itself. Mail servers
report by RFC 5965 ("ARF"), Dovecot's vnd.dovecot.report among them. Who may report is for
`desk.py`; what a report is worth is for `trust.py`.
"""

from dataclasses import dataclass

from spamguard.errors import ReportError
from spamguard.feedback.forwards import find_forward
from spamguard.message import Leaf, ParsedMessage, leaves, parse_message
from spamguard.report import Report, ReportSource
from spamguard.verdict import Label

MAX_BYTES = 32 * 1024 * 1024  # of one mail: what providers let their users send, and some
MAX_REPORTS = 50  # of one mail; more is a mailbox and no report
MAX_COMMENT_CHARS = 500

_ATTACHED_TYPES = frozenset({"message/rfc822", "message/global"})
_HEADER_TYPES = frozenset({"text/rfc822-headers", "message/global-headers"})
# RFC 5965 section 7.3 and RFC 6430; what is not here is as the address says.
_LABEL_OF_FEEDBACK = {
    "abuse": Label.SPAM,
    "fraud": Label.SPAM,
    "virus": Label.SPAM,
    "not-spam": Label.HAM,
}
_NOTHING = (
    "no reported message found: forward it as an attachment, or inline with the lines From, Date,"
    " To and Subject above its text"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What the machine-readable part of an RFC 5965 report says.

    Attributes:
        label: of its Feedback-Type, or None when that says neither.
        reporting_user: Dovecot-Reporting-User in lower case, or "".
    """

    label: Label | None = None
    reporting_user: str = ""


def read_reports(
    raw: bytes, *, label: Label, reporter: str, may_name_reporter: bool = False
) -> list[Report]:
    """Return every report in a mail, in order; at least one.

    Args:
        raw: the mail that came to a report address.
        label: what that address stands for; the Feedback-Type of RFC 5965 is stronger.
        reporter: who sent it, or "" when only the mail itself can say.
        may_name_reporter: whether a Dovecot-Reporting-User field is believed.

    Raises:
        ReportError: there is no report to be found in it; the text is for its sender.
    """
    if len(raw) > MAX_BYTES:
        raise ReportError(f"larger than {MAX_BYTES >> 20} MiB: report fewer messages at a time")
    outer = parse_message(raw)
    if any(name in {"resent-from", "resent-to"} for name, _ in outer.headers):
        # Redirected ("bounced" in mutt): the message itself, RFC 5322 section 3.6.6.
        return [_report(raw, label, reporter)]
    parts = leaves(raw)
    feedback = _feedback(parts)
    if feedback.reporting_user and may_name_reporter:
        reporter = feedback.reporting_user
    if feedback.label:
        label = feedback.label
    attached = [part for part in parts if _is_message(part)]
    headers_alone = [part for part in parts if part.content_type in _HEADER_TYPES]
    if len(attached) > MAX_REPORTS:
        raise ReportError(f"more than {MAX_REPORTS} messages: report fewer at a time")
    if attached:
        comment = _comment(parts)
        return [_report(part.body.lstrip(), label, reporter, comment) for part in attached]
    if headers_alone:
        body = headers_alone[0].body
        return [_report(body, label, reporter, is_original=False)]
    return [_inline(outer, parts, label, reporter)]


def _report(
    raw: bytes, label: Label, reporter: str, comment: str = "", *, is_original: bool = True
) -> Report:
    if not reporter:
        raise ReportError("nobody to credit: the reverse path is empty and nobody logged in")
    return Report(
        label=label,
        reporter=reporter.lower(),
        source=ReportSource.MAIL,
        raw=raw,
        is_original=is_original,
        comment=comment,
    )


def _inline(outer: ParsedMessage, parts: list[Leaf], label: Label, reporter: str) -> Report:
    for text in (outer.text, outer.html_text):
        if found := find_forward(text):
            message = found.as_message(_forwarded_id(outer))
            return _report(message, label, reporter, found.comment, is_original=False)
    for part in parts:
        name = part.filename.lower()
        if name.endswith(".msg") or name == "winmail.dat" or "ms-tnef" in part.content_type:
            raise ReportError("attached in Outlook's own format: attach it as .eml")
    raise ReportError(_NOTHING)


def _is_message(part: Leaf) -> bool:
    is_named_so = part.filename.lower().endswith(".eml")
    return (part.content_type in _ATTACHED_TYPES or is_named_so) and bool(part.body.strip())


def _feedback(parts: list[Leaf]) -> Feedback:
    """Read the message/feedback-report part (RFC 5965 section 3): fields like a header."""
    for part in parts:
        if part.content_type == "message/feedback-report":
            fields = parse_message(part.body.lstrip() + b"\r\n\r\n")
            kind = fields.header("feedback-type").partition(";")[0].strip().lower()
            user = fields.header("dovecot-reporting-user").strip().lower()
            if user.startswith("<") and user.endswith(">"):  # as Dovecot 2.3 writes it
                user = user[1:-1]
            return Feedback(label=_LABEL_OF_FEEDBACK.get(kind), reporting_user=user)
    return Feedback()


def _forwarded_id(outer: ParsedMessage) -> str:
    """Return the Message-ID of what was forwarded, where the mail program names it."""
    words = (outer.header("references") or outer.header("in-reply-to")).split()
    found = words[-1] if words else ""
    is_id = found.startswith("<") and found.endswith(">") and "@" in found
    return found if is_id and found.isascii() else ""


def _comment(parts: list[Leaf]) -> str:
    """Return what the reporter wrote above the attachments."""
    first = parts[0]
    if first.content_type != "text/plain" or first.filename:
        return ""
    text = first.body[: 4 * MAX_COMMENT_CHARS].decode("utf-8", "replace")
    return " ".join(text.split())[:MAX_COMMENT_CHARS]
