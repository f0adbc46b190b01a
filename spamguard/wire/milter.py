"""Milter protocol v6, both sides, bytes to values and back. No sockets, no asyncio.

A packet is a length (4 bytes, big-endian, counting the command byte), a command byte and data.
Strings end with NUL and are bytes: header names and addresses need not be UTF-8. There is no
RFC; the names are those of Sendmail's libmilter/mfdef.h and Postfix's src/milter/milter8.c.

`Codec` collects received bytes and yields values; `encode_*` functions return bytes. Who may
say what when is `frontends/milter.py`.
"""

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spamguard.errors import LocalProtocolError, PeerProtocolError

VERSION = 6
OLDEST_VERSION = 2  # spoken by Sendmail 8.9 to 8.13
# A body chunk of 65,535 bytes makes a length of 65,536; an end-of-message packet may carry one
# too, and macros and negotiation are far smaller. Postfix sends headers in one packet: they are
# bounded by its header_size_limit (102,400 bytes), so that twice this is allowed.
MAX_PACKET_BYTES = 256 * 1024


class Actions(enum.IntFlag):
    """What a filter may do to a message (SMFIF_*)."""

    ADD_HEADERS = 0x01
    CHANGE_BODY = 0x02
    ADD_RECIPIENT = 0x04
    DELETE_RECIPIENT = 0x08
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_FROM = 0x40
    ADD_RECIPIENT_PARAMETERS = 0x80
    SET_MACRO_LIST = 0x100


class Protocol(enum.IntFlag):
    """What the MTA need not send, or need not wait for (SMFIP_*)."""

    NO_CONNECT = 0x01
    NO_HELO = 0x02
    NO_MAIL = 0x04
    NO_RECIPIENT = 0x08
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADERS = 0x40
    NO_REPLY_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400
    REJECTED_RECIPIENTS = 0x800
    NO_REPLY_CONNECT = 0x1000
    NO_REPLY_HELO = 0x2000
    NO_REPLY_MAIL = 0x4000
    NO_REPLY_RECIPIENT = 0x8000
    NO_REPLY_DATA = 0x10000
    NO_REPLY_UNKNOWN = 0x20000
    NO_REPLY_END_OF_HEADERS = 0x40000
    NO_REPLY_BODY = 0x80000
    LEADING_SPACE = 0x100000


class Stage(enum.IntEnum):
    """Where macros can be asked for (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RECIPIENT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6


# -- what the MTA sends ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Negotiate:
    """SMFIC_OPTNEG, in both directions. Macro lists are the filter's wish, by stage."""

    version: int
    actions: int
    protocol: int
    macros: Mapping[int, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Macros:
    """SMFIC_MACRO: values for the command that follows; names without the braces."""

    command: bytes
    values: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Connect:
    """SMFIC_CONNECT. ``family`` is U (unknown), L (Unix), 4 or 6."""

    hostname: bytes
    family: bytes
    port: int = 0
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class Helo:
    """SMFIC_HELO."""

    name: bytes


@dataclass(frozen=True, slots=True)
class MailFrom:
    """SMFIC_MAIL: the address as given, then ESMTP parameters."""

    arguments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RcptTo:
    """SMFIC_RCPT: the address as given, then ESMTP parameters."""

    arguments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """SMFIC_DATA."""


@dataclass(frozen=True, slots=True)
class Header:
    """SMFIC_HEADER: lines of a folded value are separated by LF."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class EndOfHeaders:
    """SMFIC_EOH."""


@dataclass(frozen=True, slots=True)
class Body:
    """SMFIC_BODY: a chunk of at most 65,535 bytes."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """SMFIC_BODYEOB: it may carry a last chunk."""

    chunk: bytes = b""


@dataclass(frozen=True, slots=True)
class Abort:
    """SMFIC_ABORT: forget this message; the connection goes on."""


@dataclass(frozen=True, slots=True)
class Quit:
    """SMFIC_QUIT: close the connection."""


@dataclass(frozen=True, slots=True)
class QuitNewConnection:
    """SMFIC_QUIT_NC: another SMTP client follows on this connection."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """SMFIC_UNKNOWN: an SMTP command the MTA does not know."""

    command: bytes


Event = (
    Negotiate
    | Macros
    | Connect
    | Helo
    | MailFrom
    | RcptTo
    | Data
    | Header
    | EndOfHeaders
    | Body
    | EndOfMessage
    | Abort
    | Quit
    | QuitNewConnection
    | Unknown
)


# -- what the filter sends -------------------------------------------------------------------

CONTINUE = b"c"
ACCEPT = b"a"
REJECT = b"r"
TEMPFAIL = b"t"
DISCARD = b"d"
SKIP = b"s"
PROGRESS = b"p"


@dataclass(frozen=True, slots=True)
class Reply:
    """A packet from the filter, as the MTA's side of a test or benchmark reads it."""

    command: bytes
    data: bytes


def encode_packet(command: bytes, data: bytes = b"") -> bytes:
    """Return one packet.

    Raises:
        LocalProtocolError: it would be longer than any MTA takes.
    """
    if len(command) != 1 or len(data) >= MAX_PACKET_BYTES:
        raise LocalProtocolError(f"packet {command!r} of {len(data)} bytes")
    return struct.pack(">I", len(data) + 1) + command + data


def encode_negotiation(answer: Negotiate) -> bytes:
    """Return SMFIC_OPTNEG, for either side."""
    data = struct.pack(">III", answer.version, answer.actions, answer.protocol)
    for stage, names in sorted((answer.macros or {}).items()):
        data += struct.pack(">I", stage) + _string(names)
    return encode_packet(b"O", data)


def encode_add_header(name: bytes, value: bytes, index: int | None = None) -> bytes:
    """Return an added header field: at the end, or before field ``index`` (0 is the top)."""
    field = _string(name) + _string(value)
    if index is None:
        return encode_packet(b"h", field)
    return encode_packet(b"i", struct.pack(">I", index) + field)


def encode_change_header(name: bytes, occurrence: int, value: bytes) -> bytes:
    """Return a change of the n-th field of that name (from 1); an empty value deletes it."""
    if occurrence < 1:
        raise LocalProtocolError(f"occurrence {occurrence}: counted from 1")
    return encode_packet(b"m", struct.pack(">I", occurrence) + _string(name) + _string(value))


def encode_add_recipient(address: bytes) -> bytes:
    """Return an added envelope recipient."""
    return encode_packet(b"+", _string(address))


def encode_delete_recipient(address: bytes) -> bytes:
    """Return a deleted envelope recipient; it must be spelled as the MTA gave it."""
    return encode_packet(b"-", _string(address))


def encode_reply_code(text: str) -> bytes:
    """Return an SMTP reply of our own, e.g. ``550 5.7.1 no``.

    Percent signs are doubled: the MTA treats the text as a format.

    Raises:
        LocalProtocolError: it is not one line with a 4xx or 5xx code.
    """
    if text[:1] not in {"4", "5"} or not text[:3].isdigit() or text[3:4] != " ":
        raise LocalProtocolError(f"reply {text!r}: expected 4xx or 5xx and a text")
    if not text.isascii() or not text.isprintable():
        raise LocalProtocolError(f"reply {text!r}: expected one line of ASCII")
    return encode_packet(b"y", _string(text.replace("%", "%%").encode("ascii")))


def _string(text: bytes) -> bytes:
    if b"\0" in text:
        raise LocalProtocolError(f"NUL inside {text!r}")
    return text + b"\0"


def encode_event(event: Event) -> bytes:
    """Return what an MTA sends; for the MTA's side of tests and benchmarks."""
    match event:
        case Negotiate():
            return encode_negotiation(event)
        case Macros(command, values):
            pairs = b"".join(_string(n) + _string(v) for n, v in values.items())
            return encode_packet(b"D", command + pairs)
        case Connect(hostname, b"U", _, _):
            return encode_packet(b"C", _string(hostname) + b"U")
        case Connect(hostname, family, port, address):
            data = _string(hostname) + family + struct.pack(">H", port) + _string(address)
            return encode_packet(b"C", data)
        case Helo(name):
            return encode_packet(b"H", _string(name))
        case MailFrom(arguments):
            return encode_packet(b"M", b"".join(map(_string, arguments)))
        case RcptTo(arguments):
            return encode_packet(b"R", b"".join(map(_string, arguments)))
        case Data():
            return encode_packet(b"T")
        case Header(name, value):
            return encode_packet(b"L", _string(name) + _string(value))
        case EndOfHeaders():
            return encode_packet(b"N")
        case Body(chunk):
            return encode_packet(b"B", chunk)
        case EndOfMessage(chunk):
            return encode_packet(b"E", chunk)
        case Abort():
            return encode_packet(b"A")
        case Quit():
            return encode_packet(b"Q")
        case QuitNewConnection():
            return encode_packet(b"K")
        case Unknown(command):
            return encode_packet(b"U", _string(command))


# -- decoding --------------------------------------------------------------------------------


class Codec:
    """Turns received bytes into events (on the filter's side) or replies (on the MTA's)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Take bytes in whatever pieces they come."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return the next event, or None until more bytes come.

        Raises:
            PeerProtocolError: the peer does not speak milter; close the connection.
        """
        packet = self._next_packet()
        return None if packet is None else _decode(*packet)

    def next_reply(self) -> Reply | Negotiate | None:
        """Return the next reply of a filter, or None until more bytes come.

        Raises:
            PeerProtocolError: the peer does not speak milter.
        """
        packet = self._next_packet()
        if packet is None:
            return None
        command, data = packet
        return _negotiate(data) if command == b"O" else Reply(command, data)

    def _next_packet(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._buffer)
        if not 1 <= length <= MAX_PACKET_BYTES:
            raise PeerProtocolError(f"packet length {length}: expected 1 to {MAX_PACKET_BYTES}")
        if len(self._buffer) < 4 + length:
            return None
        packet = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return packet[:1], packet[1:]


def _decode(command: bytes, data: bytes) -> Event:
    match command:
        case b"O":
            return _negotiate(data)
        case b"D":
            if not data:
                raise PeerProtocolError("macros without a command")
            strings = _strings(data[1:]) if len(data) > 1 else ()
            if len(strings) % 2:
                raise PeerProtocolError("macros: a name without a value")
            pairs = zip(strings[::2], strings[1::2], strict=True)
            return Macros(data[:1], {name.strip(b"{}"): value for name, value in pairs})
        case b"C":
            return _connect(data)
        case b"H":
            return Helo(_only(data, "HELO"))
        case b"M":
            return MailFrom(_strings(data))
        case b"R":
            return RcptTo(_strings(data))
        case b"T":
            return Data()
        case b"L":
            strings = _strings(data)
            if len(strings) != 2:
                raise PeerProtocolError(f"header: expected 2 strings, got {len(strings)}")
            return Header(*strings)
        case b"N":
            return EndOfHeaders()
        case b"B":
            return Body(data)
        case b"E":
            return EndOfMessage(data)
        case b"A":
            return Abort()
        case b"Q":
            return Quit()
        case b"K":
            return QuitNewConnection()
        case b"U":
            return Unknown(_only(data, "unknown command"))
        case _:
            raise PeerProtocolError(f"command {command!r}: not of the milter protocol")


def _strings(data: bytes) -> tuple[bytes, ...]:
    if not data.endswith(b"\0"):
        raise PeerProtocolError("a string does not end with NUL")
    return tuple(data[:-1].split(b"\0"))


def _only(data: bytes, what: str) -> bytes:
    strings = _strings(data)
    if len(strings) != 1:
        raise PeerProtocolError(f"{what}: expected 1 string, got {len(strings)}")
    return strings[0]


def _negotiate(data: bytes) -> Negotiate:
    if len(data) < 12:
        raise PeerProtocolError(f"negotiation of {len(data)} bytes: expected at least 12")
    version, actions, protocol = struct.unpack_from(">III", data)
    macros: dict[int, bytes] = {}
    rest = data[12:]
    while rest:
        names, nul, after = rest[4:].partition(b"\0")
        if len(rest) < 5 or not nul:
            raise PeerProtocolError("negotiation: a macro list without its end")
        macros[struct.unpack_from(">I", rest)[0]] = names
        rest = after
    return Negotiate(version, actions, protocol, macros or None)


def _connect(data: bytes) -> Connect:
    hostname, nul, rest = data.partition(b"\0")
    if not nul or not rest:
        raise PeerProtocolError("connect: expected host name and family")
    family = rest[:1]
    if family == b"U":
        return Connect(hostname, family)
    if family not in {b"L", b"4", b"6"} or len(rest) < 4 or not rest.endswith(b"\0"):
        raise PeerProtocolError(f"connect: family {family!r} with {len(rest)} bytes")
    return Connect(hostname, family, struct.unpack_from(">H", rest, 1)[0], rest[3:-1])


# -- negotiation -----------------------------------------------------------------------------

WANTED_ACTIONS = (
    Actions.ADD_HEADERS
    | Actions.CHANGE_HEADERS
    | Actions.ADD_RECIPIENT
    | Actions.DELETE_RECIPIENT
    | Actions.SET_MACRO_LIST
)
WANTED_PROTOCOL = (
    Protocol.NO_UNKNOWN
    | Protocol.NO_DATA
    | Protocol.LEADING_SPACE
    | Protocol.SKIP
    | Protocol.NO_REPLY_CONNECT
    | Protocol.NO_REPLY_HELO
    | Protocol.NO_REPLY_MAIL
    | Protocol.NO_REPLY_RECIPIENT
    | Protocol.NO_REPLY_HEADER
    | Protocol.NO_REPLY_END_OF_HEADERS
    | Protocol.NO_REPLY_BODY
)
# Every stage must be named: as soon as one list is sent, Postfix empties all the others.
_WANTED_MACROS: Mapping[int, bytes] = {
    Stage.CONNECT: b"j {client_addr} {client_name} {daemon_name}",
    Stage.HELO: b"",
    Stage.MAIL: b"i {auth_authen} {client_addr}",
    Stage.RECIPIENT: b"i",
    Stage.DATA: b"i {auth_authen} {client_addr}",
    Stage.END_OF_MESSAGE: b"i {auth_authen} {client_addr}",
    Stage.END_OF_HEADERS: b"i",
}


def negotiate(offer: Negotiate) -> Negotiate:
    """Return our answer to an MTA's offer: what we want of what it offers, and no more.

    Raises:
        PeerProtocolError: the MTA speaks a version that we do not.
    """
    if offer.version < OLDEST_VERSION:
        raise PeerProtocolError(f"milter version {offer.version}: expected {OLDEST_VERSION}-6")
    actions = offer.actions & WANTED_ACTIONS
    has_lists = bool(actions & Actions.SET_MACRO_LIST)
    return Negotiate(
        min(offer.version, VERSION),
        actions,
        offer.protocol & WANTED_PROTOCOL,
        _WANTED_MACROS if has_lists else None,
    )


def edits(
    negotiated: int,
    *,
    delete: Iterable[tuple[bytes, int]],
    add: Sequence[tuple[bytes, bytes]],
    subject: tuple[bytes, int] | None,
) -> bytes:
    """Return header edits as packets, in an order that MTAs apply rightly.

    Deletions go from the highest occurrence down, so that none shifts the next; additions go
    to the top, the last first, so that they end in the order given.

    Args:
        negotiated: the actions agreed on; what is not among them is left out.
        delete: (name, how often it stands in the message).
        add: (name, value) pairs; the value with its leading blank where agreed.
        subject: (new value, 1 when the message has a Subject, else 0), or None.
    """
    packets = []
    if negotiated & Actions.CHANGE_HEADERS:
        for name, count in delete:
            packets += [encode_change_header(name, n, b"") for n in range(count, 0, -1)]
        if subject is not None and subject[1]:
            packets.append(encode_change_header(b"Subject", 1, subject[0]))
    if negotiated & Actions.ADD_HEADERS:
        if subject is not None and not subject[1]:
            packets.append(encode_add_header(b"Subject", subject[0]))
        packets += [encode_add_header(name, value, 0) for name, value in reversed(add)]
    return b"".join(packets)
