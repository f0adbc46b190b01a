"""Two messages through the mail server, an ordinary one and GTUBE; what became of them looked for.

Their verdicts are on record where SpamGuard was asked; that its header fields reach the reader
shows in the mailbox alone.
"""

import secrets
import smtplib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

from spamguard.doctor.findings import Finding, error, ok, warning
from spamguard.gtube import GTUBE
from spamguard.verdict import ID_HEADER, Label

WAIT_SECONDS = 30.0  # the log is written each second; a content filter works after the queue
SMTP_SECONDS = 60.0  # a milter may take its deadline before the reply comes
_POLL_SECONDS = 0.5
_NEWEST = 100  # of the files of a Maildir
_WINDOW_BYTES = 1024 * 1024  # of a mailbox in one file, from its end: what came in meanwhile
_TEXTS = {
    "ordinary": "This is an ordinary message.\n\nspamguard doctor sent it to see that mail passes.",
    "GTUBE": f"spamguard doctor sent this to see that spam is found.\n\n{GTUBE}",
}


def send_and_look(
    address: str,
    *,
    server: tuple[str, int],
    database: Path,
    mailbox: Path | None = None,
    clock: Callable[[], float] = time.time,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[Finding]:
    """Send both messages and look for their verdicts, and for the ordinary one where it arrives.

    Args:
        address: sender and recipient; undeliverable mail comes back to it.
        server: host and port of the mail server.
        database: where our verdicts are.
        mailbox: the Maildir or mbox of the address, or None.
        clock: seconds since the epoch, for the Date field.
        wait_seconds: how long a verdict may take to be on record.
    """
    sent = {}
    for name, text in _TEXTS.items():
        message = _message(address, f"spamguard doctor: {name}", text, now=clock())
        refused = _send(message, address, server)
        # Where policy rejects spam that is the answer to GTUBE, and a verdict is on record.
        if refused and (name == "ordinary" or "refused as spam" not in refused):
            advice = f"does {server[0]} port {server[1]} take mail for it? see the server's log"
            yield error("test mail", f"{name}: {refused}", advice)
        else:
            sent[name] = message["Message-ID"]
    labels = _wait(database, sent, wait_seconds)
    for name in sent:
        yield _judged(name, labels.get(name))
    if mailbox and "ordinary" in sent:
        yield _arrived(mailbox, sent["ordinary"], wait_seconds)


def _send(message: EmailMessage, address: str, server: tuple[str, int]) -> str:
    """Send a message; return why it was not taken, or ""."""
    try:
        with smtplib.SMTP(*server, timeout=SMTP_SECONDS) as client:
            client.send_message(message, from_addr=address, to_addrs=[address])
    except smtplib.SMTPResponseException as refused:
        said = refused.smtp_error
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return f"{refused.smtp_code} {text}"
    except (OSError, smtplib.SMTPException) as problem:
        return str(problem)
    return ""


def _message(address: str, subject: str, text: str, *, now: float) -> EmailMessage:
    message = EmailMessage()
    message["From"] = message["To"] = address
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Message-ID"] = make_msgid(secrets.token_hex(8), "spamguard.invalid")
    message.set_content(text)
    return message


def _wait(database: Path, sent: dict[str, str], wait_seconds: float) -> dict[str, str]:
    deadline = time.monotonic() + wait_seconds
    found: dict[str, str] = {}
    while len(found) < len(sent) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        for name, message_id in sent.items():
            if label := _look(database, message_id):
                found[name] = label
    return found


def _look(database: Path, message_id: str) -> str | None:
    uri = f"{database.absolute().as_uri()}?mode=rw"
    query = "SELECT label FROM verdicts WHERE message_id = ?"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            row = connection.execute(query, [message_id]).fetchone()
    except sqlite3.Error:
        return None  # what is wrong with it has been said
    return str(row[0]) if row else None


def _judged(name: str, label: str | None) -> Finding:
    if label is None:
        text = f"{name}: the server took it, and SpamGuard recorded no verdict"
        return error("test mail", text, "the server does not hand it over, or it was unscored")
    expected = Label.SPAM if name == "GTUBE" else Label.HAM
    if label == expected:
        return ok("test mail", f"{name}: judged {label}")
    return warning(
        "test mail", f"{name}: judged {label}, not {expected}", "see the reason in the log"
    )


def _arrived(mailbox: Path, message_id: str, wait_seconds: float) -> Finding:
    """Look for the ordinary message in a mailbox, and in it for our header field."""
    deadline = time.monotonic() + wait_seconds
    try:
        while (header := _header_in(mailbox, message_id.encode())) is None:
            if time.monotonic() > deadline:
                text = f"the ordinary message is not in {mailbox}"
                return error("test mail", text, "is it the right mailbox? see the server's queue")
            time.sleep(_POLL_SECONDS)
    except OSError as problem:
        text = f"{problem.filename}: {problem.strerror or problem}"
        return error("test mail", text, "--mailbox is a Maildir or a file that you may read")
    if f"\n{ID_HEADER}:".lower().encode() in b"\n" + header.lower():
        return ok("test mail", f"it arrived in {mailbox} with {ID_HEADER}")
    text = f"it arrived in {mailbox} without {ID_HEADER}"
    return error("test mail", text, "something behind SpamGuard removes its fields: header_checks?")


def _header_in(mailbox: Path, message_id: bytes) -> bytes | None:
    """Return the header of a message in a mbox file or Maildir; None while it is not there."""
    files = [mailbox] if mailbox.is_file() else [*mailbox.glob("new/*"), *mailbox.glob("cur/*")]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[:_NEWEST]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _WINDOW_BYTES))
            before, found, after = file.read().replace(b"\r\n", b"\n").partition(message_id)
        if found:
            return before.rpartition(b"\nFrom ")[2] + found + after.partition(b"\n\n")[0]
    return None
