"""The envelope as an MTA writes it on top of a message that it hands to a program.

At delivery there is no SMTP any more: Postfix and Exim put Return-Path, X-Envelope-From and the
like before everything else. Only fields that stand there count: the sender's own come below the
Received field of our border. The "From " line of an mbox is one of them.
"""

import re

# Whose value is the reverse path, and whose a recipient, in lower case.
_FROM_FIELDS = frozenset({"return-path", "x-envelope-from"})
_TO_FIELDS = frozenset({"delivered-to", "x-original-to", "envelope-to", "x-envelope-to"})
# Others that MTAs put among them.
_SKIPPED = frozenset({"delivery-date", "lines", "x-delivered-to"})
_FOLD = re.compile(rb"\r?\n[ \t]+")
_MBOX_LINE = re.compile(rb"From ([^\s]{1,320}) ")
# MTAs write plain addresses here; email.utils would recurse into "((((…" until it raises.
# A search begins where a word begins only: a long word without "@" is read once.
_ADDRESS = re.compile(r"(?<![^\s<>(),;\"])[^\s<>(),;\"]+@[^\s<>(),;\"]+")
_NOBODY = "MAILER-DAEMON"  # what an mbox line has for the null reverse path
MAX_TOP_BYTES = 64 * 1024
MAX_LINES = 20
MAX_RECIPIENTS = 100


def read_envelope(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Return reverse path and recipients as far as the message's top says them, else "" and ()."""
    reverse_path = ""
    recipients: dict[str, None] = {}
    top = _FOLD.sub(b" ", raw[:MAX_TOP_BYTES])
    for number, line in enumerate(top.split(b"\n", MAX_LINES)[:MAX_LINES]):
        if number == 0 and (mbox := _MBOX_LINE.match(line)):
            sender = mbox.group(1).decode("utf-8", "replace")
            reverse_path = "" if sender == _NOBODY else sender
            continue
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        name = name.strip().lower()
        if name in _FROM_FIELDS and colon:
            reverse_path = next(iter(_addresses(value)), "")
        elif name in _TO_FIELDS and colon:
            recipients.update(dict.fromkeys(_addresses(value)))
        elif name not in _SKIPPED:
            break
    return reverse_path, tuple(recipients)[:MAX_RECIPIENTS]


def _addresses(value: str) -> list[str]:
    return _ADDRESS.findall(value)
