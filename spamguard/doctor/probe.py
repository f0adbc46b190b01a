"""Two messages through the mail server, an ordinary one and GTUBE; their verdicts looked for."""

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
from spamguard.verdict import Label

WAIT_SECONDS = 30.0  # the log is written each second; a content filter works after the queue
SMTP_SECONDS = 60.0  # a milter may take its deadline before the reply comes
_POLL_SECONDS = 0.5
_TEXTS = {
    "ordinary": "This is an ordinary message.\n\nspamguard doctor sent it to see that mail passes.",
    "GTUBE": f"spamguard doctor sent this to see that spam is found.\n\n{GTUBE}",
}


def send_and_look(
    address: str,
    *,
    server: tuple[str, int],
    database: Path,
    clock: Callable[[], float] = time.time,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[Finding]:
    """Send both messages and look for their verdicts.

    Args:
        address: sender and recipient; undeliverable mail comes back to it.
        server: host and port of the mail server.
        database: where our verdicts are.
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
