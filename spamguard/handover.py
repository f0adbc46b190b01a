"""The envelope as an MTA writes it on top of a message that it hands to a program.

At delivery there is no SMTP any more: Postfix and Exim put Return-Path, X-Envelope-From and the
like before everything else. Only fields that stand there count: the sender's own come below the
Received field of our border. The "From " line of an mbox is one of them.
"""

import email.utils
import re

# Whose value is the reverse path, and whose a recipient, in lower case.
_FROM_FIELDS = frozenset({"return-path", "x-envelope-from"})
_TO_FIELDS = frozenset({"delivered-to", "x-original-to", "envelope-to", "x-envelope-to"})
# Others that MTAs put among them.
_SKIPPED = frozenset({"delivery-date", "lines", "x-delivered-to"})
_FIELD = re.compile(rb"([!-9;-~]{1,40})[ \t]*:([^\r\n]{0,2000})")
_MBOX_LINE = re.compile(rb"From ([^\s]{1,320}) ")
_NOBODY = "MAILER-DAEMON"  # what an mbox line has for the null reverse path
MAX_LINES = 20
MAX_RECIPIENTS = 100


def read_envelope(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Return reverse path and recipients as far as the message's top says them, else "" and ()."""
    reverse_path: str | None = None
    recipients: dict[str, None] = {}
    for number, line in enumerate(raw[: 64 * 1024].split(b"\n", MAX_LINES)[:MAX_LINES]):
        if number == 0 and (mbox := _MBOX_LINE.match(line)):
            sender = mbox.group(1).decode("utf-8", "replace")
            reverse_path = "" if sender == _NOBODY else sender
            continue
        matched = _FIELD.match(line)
        if matched is None:
            break
        name = matched.group(1).decode("ascii").lower()
        value = matched.group(2).decode("utf-8", "replace").strip()
        if name in _FROM_FIELDS:
            reverse_path = email.utils.parseaddr(value)[1]
        elif name in _TO_FIELDS:
            recipients.update(
                (address, None) for _, address in email.utils.getaddresses([value]) if address
            )
        elif name not in _SKIPPED:
            break
    return reverse_path or "", tuple(recipients)[:MAX_RECIPIENTS]
