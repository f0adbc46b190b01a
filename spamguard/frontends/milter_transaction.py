"""One message at the milter door: from events to envelope and bytes, from action to replies.

No sockets and no asyncio: `milter.py` is the server, the codec is in `wire`.
"""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

from spamguard.errors import PeerProtocolError
from spamguard.message import Envelope, without_hidden
from spamguard.verdict import OUR_HEADERS, Action, Disposition
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter_packets import ActionFlags, StepFlags

MAX_RECIPIENTS = 100_000  # of one message; Postfix takes 1,000 by default, Sendmail 100

_OUR_NAMES = frozenset(name.lower().encode() for name in OUR_HEADERS)


@dataclass(slots=True)
class Client:
    """What is known of the SMTP client; port 0 where Postfix speaks for the sendmail command."""

    hostname: bytes = b""
    address: bytes = b""
    port: int = 0
    helo: bytes = b""
    macros: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Transaction:
    """What is known of the message under way.

    Attributes:
        recipients: in the angle brackets they came with, but for report addresses.
        reports: the report addresses among them, likewise.
        raw: its bytes as far as they are kept.
        header_counts: how often each field occurs, by lower-case name.
        mended: fields in which one of ours was hidden: name, place among those, value without.
        is_cut: whether it is larger than what is kept.
    """

    path: bytes
    macros: dict[bytes, bytes]
    recipients: list[bytes] = field(default_factory=list)
    reports: list[bytes] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    header_counts: Counter[bytes] = field(default_factory=Counter)
    mended: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    subject: bytes = b""
    in_body: bool = False
    is_cut: bool = False

    def add_recipient(self, path: bytes, *, is_report: bool = False) -> None:
        """Take a recipient, in the angle brackets it came with.

        Raises:
            PeerProtocolError: there are more than any MTA sends.
        """
        if len(self.recipients) + len(self.reports) >= MAX_RECIPIENTS:
            raise PeerProtocolError(f"more than {MAX_RECIPIENTS} recipients")
        (self.reports if is_report else self.recipients).append(path)

    def add_header(self, header: wire.Header, blank: bytes, max_bytes: int) -> None:
        """Take a field; ``blank`` is what the MTA has removed after the colon."""
        name = header.name.strip().lower()
        self.header_counts[name] += 1
        mended = without_hidden(header.value, _OUR_NAMES)
        if mended != header.value and name not in _OUR_NAMES:
            self.mended.append((header.name, self.header_counts[name], mended))
        if name == b"subject" and self.header_counts[name] == 1:
            self.subject = mended
        value = header.value
        if b"\n" in value:
            value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        self._add(header.name + b":" + blank + value + b"\r\n", max_bytes)

    def add_body(self, chunk: bytes, max_bytes: int) -> None:
        """Take a piece of the body; the first one ends the header section."""
        if not self.in_body:
            self.in_body = True
            self._add(b"\r\n", max_bytes)
        self._add(chunk, max_bytes)

    def _add(self, data: bytes, max_bytes: int) -> None:
        room = max_bytes - len(self.raw)
        self.is_cut = self.is_cut or len(data) > room
        self.raw += data[: max(0, room)]


def envelope_of(client: Client, transaction: Transaction, received_at: float) -> Envelope:
    """Return what the filter is told of a message besides its bytes."""
    macros = {**client.macros, **transaction.macros}
    name = _text(client.hostname or macros.get(b"client_name", b""))
    return Envelope(
        frontend="milter",
        reverse_path=address_of(transaction.path),
        recipients=tuple(map(address_of, transaction.recipients)),
        queue_id=_text(macros.get(b"i", b"")),
        client_ip=_ip(client.address) or _ip(macros.get(b"client_addr", b"")),
        client_name="" if name == "unknown" or name.startswith("[") else name,
        helo=_text(client.helo),
        authenticated_user=_text(macros.get(b"auth_authen", b"")),
        received_at=received_at,
    )


def replies_for(
    action: Action, transaction: Transaction, *, actions: ActionFlags, steps: StepFlags
) -> list[wire.Reply]:
    """Return the edits and the verdict that render an action.

    Args:
        action: what is to be done.
        transaction: the message.
        actions: what the MTA lets us do; edits it does not allow are left out.
        steps: what was negotiated; decides who writes the blank after a field's colon.
    """
    match action.disposition:
        case Disposition.QUARANTINE:
            return [wire.Discard()]  # it is durably ours
        case Disposition.REJECT | Disposition.DEFER:
            return [wire.ReplyCode(text=action.smtp_reply.encode("ascii", "replace"))]
    replies: list[wire.Reply] = []
    if ActionFlags.DELETE_RECIPIENTS in actions:
        replies += [wire.DeleteRecipient(text=path) for path in transaction.reports]
    can_redirect = ActionFlags.ADD_RECIPIENTS | ActionFlags.DELETE_RECIPIENTS
    if action.disposition is Disposition.REDIRECT and can_redirect in actions:
        replies += [wire.DeleteRecipient(text=path) for path in transaction.recipients]
        replies.append(wire.AddRecipient(text=f"<{action.redirect_to}>".encode()))
    blank = b" " if StepFlags.HEADER_LEADING_SPACE in steps else b""
    counts = transaction.header_counts
    prefix = action.subject_prefix.encode()
    if ActionFlags.CHANGE_HEADERS in actions:
        for name in map(str.encode, action.delete_headers):
            # From the last one down: MTAs differ in whether a deletion renumbers the rest.
            for index in range(counts[name.lower()], 0, -1):
                replies.append(wire.ChangeHeader(index=index, name=name, value=b""))
        for name, index, mended in transaction.mended:
            clean = mended.replace(b"\0", b"")
            replies.append(wire.ChangeHeader(index=index, name=name, value=clean))
        if prefix and counts[b"subject"]:
            subject = prefix + transaction.subject.lstrip(b" \t").replace(b"\0", b"")
            replies.append(wire.ChangeHeader(index=1, name=b"Subject", value=blank + subject))
    if ActionFlags.ADD_HEADERS in actions:
        if prefix and not counts[b"subject"]:
            replies.append(wire.AddHeader(name=b"Subject", value=blank + prefix.rstrip()))
        # Each at the very top, the last first: so they end in order however the MTA counts.
        for field_name, value in reversed(action.add_headers):
            replies.append(
                wire.InsertHeader(index=0, name=field_name.encode(), value=blank + value.encode())
            )
    return [*replies, wire.Accept()]


def report_replies(reply: str) -> list[wire.Reply]:
    """Return what answers a mail to report addresses alone: it is never delivered."""
    if reply.startswith("2"):
        return [wire.Discard()]
    return [wire.ReplyCode(text=reply.encode("ascii", "replace"))]


def address_of(path: bytes) -> str:
    """Return an address without its angle brackets."""
    return _text(path[1:-1] if path[:1] == b"<" and path[-1:] == b">" else path)


def _ip(address: bytes) -> str | None:
    """Return a client's address, or None when the MTA did not know it."""
    text = _text(address)
    if text[:5].lower() == "ipv6:":  # as Sendmail writes it
        text = text[5:]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _text(value: bytes) -> str:
    """Decode so that the very bytes can be had back: addresses need not be UTF-8."""
    return value.decode("utf-8", "surrogateescape")
