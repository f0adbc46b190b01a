"""The values of the milter protocol, version 6: everything that one end can say to the other.

How they are written is `milter.py`, which is allowed when is `milter_session.py`. Strings are
bytes: addresses and header names need not be UTF-8. Replies that we never give (new body, new
reverse path, connection failure) are left out. The protocol has no RFC; its description is
Sendmail's libmilter (mfdef.h) and Postfix's MILTER_README.
"""

import enum
from dataclasses import dataclass
from typing import ClassVar

VERSION = 6
OLDEST_VERSION = 2  # the first in use; 3 brought UNKNOWN, 4 DATA, 6 flags and macro lists


class ActionFlags(enum.IntFlag):
    """What a filter may do at the end of a message (SMFIF_*)."""

    ADD_HEADERS = 0x01
    CHANGE_BODY = 0x02
    ADD_RECIPIENTS = 0x04
    DELETE_RECIPIENTS = 0x08
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_FROM = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    SET_MACRO_LISTS = 0x100


class StepFlags(enum.IntFlag):
    """Which steps are left out, and which are not answered (SMFIP_*)."""

    NO_CONNECT = 0x01
    NO_HELO = 0x02
    NO_MAIL = 0x04
    NO_RCPT = 0x08
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADERS = 0x40
    NO_REPLY_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400
    REJECTED_RCPT = 0x800
    NO_REPLY_CONNECT = 0x1000
    NO_REPLY_HELO = 0x2000
    NO_REPLY_MAIL = 0x4000
    NO_REPLY_RCPT = 0x8000
    NO_REPLY_DATA = 0x10000
    NO_REPLY_UNKNOWN = 0x20000
    NO_REPLY_END_OF_HEADERS = 0x40000
    NO_REPLY_BODY = 0x80000
    HEADER_LEADING_SPACE = 0x100000


class MacroStage(enum.IntEnum):
    """The stages of macro lists (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6


# -- shapes: what the data of a packet is made of ----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """No data."""

    code: ClassVar[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A path in angle brackets as the client wrote it, then its ESMTP parameters."""

    code: ClassVar[bytes]
    path: bytes
    parameters: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of the body."""

    code: ClassVar[bytes]
    chunk: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One string."""

    code: ClassVar[bytes]
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A header field. Lines of a folded value are separated by LF alone."""

    code: ClassVar[bytes]
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedField:
    """A header field and a place."""

    code: ClassVar[bytes]
    index: int
    name: bytes
    value: bytes


# -- both ways ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiate:
    """Option negotiation: the MTA offers, the filter answers with a part of the offer.

    Attributes:
        version: of the protocol.
        actions: what the filter may, or will, do.
        steps: what may be, or is to be, left out.
        macros: (stage, names separated by blanks) that the filter wants; with
            SET_MACRO_LISTS only. Postfix drops its defaults of all stages once one is named.
    """

    code: ClassVar[bytes] = b"O"
    version: int
    actions: ActionFlags
    steps: StepFlags
    macros: tuple[tuple[int, bytes], ...] = ()


# -- from the MTA ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Macros:
    """Values of macros, sent before the command they belong to.

    Attributes:
        stage: the code of that command.
        values: (name, value); names of more than one letter stand in braces.
    """

    code: ClassVar[bytes] = b"D"
    stage: bytes
    values: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client has connected to the MTA.

    Attributes:
        hostname: its name, or its address in square brackets.
        family: b"4", b"6", b"L" (Unix socket) or b"U" (unknown: no port, no address).
        port: or 0.
        address: as text; Sendmail puts ``IPv6:`` before the long ones.
    """

    code: ClassVar[bytes] = b"C"
    hostname: bytes
    family: bytes = b"U"
    port: int = 0
    address: bytes = b""


class Helo(Text):
    """HELO or EHLO, with the name given."""

    code = b"H"


class Mail(Path):
    """MAIL FROM."""

    code = b"M"


class Rcpt(Path):
    """RCPT TO, one accepted recipient."""

    code = b"R"


class Data(NoData):
    """DATA."""

    code = b"T"


class Header(Field):
    """One field of the top header section, in order."""

    code = b"L"


class EndOfHeaders(NoData):
    """The empty line after the header section."""

    code = b"N"


class Body(Chunk):
    """A piece of the body, with CRLF line ends."""

    code = b"B"


class EndOfBody(Chunk):
    """The end of the message, perhaps with its last piece. Now edits are allowed."""

    code = b"E"


class Abort(NoData):
    """Forget this message. Postfix sends it after every message, done or not."""

    code = b"A"


class Quit(NoData):
    """The session is over: close."""

    code = b"Q"


class QuitNewConnection(NoData):
    """The session is over, another begins on this connection with the same options."""

    code = b"K"


class Unknown(Text):
    """A command of the client that the MTA does not know."""

    code = b"U"


# -- from the filter ---------------------------------------------------------------------------


class Continue(NoData):
    """Go on; at the end of a message: nothing against it."""

    code = b"c"


class Accept(NoData):
    """Take the message, with the edits made."""

    code = b"a"


class Reject(NoData):
    """Refuse the message for good, in the MTA's words."""

    code = b"r"


class Tempfail(NoData):
    """Refuse the message for now, in the MTA's words."""

    code = b"t"


class Discard(NoData):
    """Tell the client that it was taken, and drop it."""

    code = b"d"


class Skip(NoData):
    """Send no more of this body; go on to its end."""

    code = b"s"


class Progress(NoData):
    """Still working: the MTA's timer starts anew."""

    code = b"p"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyCode:
    """Refuse with our own words: one line ``NNN X.Y.Z text``, 4xx or 5xx.

    `milter.py` doubles every ``%``, since Sendmail takes the text for a format.
    """

    code: ClassVar[bytes] = b"y"
    text: bytes


class AddHeader(Field):
    """Add a field after all others."""

    code = b"h"


class InsertHeader(IndexedField):
    """Insert a field before the one with that index; 0 is the top."""

    code = b"i"


class ChangeHeader(IndexedField):
    """Change the field of that name with that index, from 1; an empty value deletes it."""

    code = b"m"


class AddRecipient(Text):
    """Add a recipient, in angle brackets."""

    code = b"+"


class DeleteRecipient(Text):
    """Delete a recipient, as it was written in RCPT TO."""

    code = b"-"


class Quarantine(Text):
    """Put the message into the MTA's own hold queue; a verdict must still follow."""

    code = b"q"


Event = (
    Negotiate
    | Macros
    | Connect
    | Helo
    | Mail
    | Rcpt
    | Data
    | Header
    | EndOfHeaders
    | Body
    | EndOfBody
    | Abort
    | Quit
    | QuitNewConnection
    | Unknown
)
Verdict = Continue | Accept | Reject | Tempfail | Discard | ReplyCode
Edit = AddHeader | InsertHeader | ChangeHeader | AddRecipient | DeleteRecipient | Quarantine
Reply = Verdict | Edit | Skip | Progress
Packet = Event | Reply
