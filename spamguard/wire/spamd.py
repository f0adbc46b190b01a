"""The spamd protocol 1.5, the server's side: bytes to `Request`, verdicts to bytes. Sans-io.

SpamAssassin's spamd/PROTOCOL describes it. How an answer looks depends on the version that the
client speaks; where the text is silent we do as spamd 4.0 does, because Exim's `spam` condition
accepts nothing else. A connection carries one request. What is judged and learned is none of
this module's business.
"""

import enum
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from spamguard.errors import PeerProtocolError

# Request line and header together; spamc sends some 200 bytes.
MAX_HEAD_BYTES = 16 * 1024
EX_OK = 0
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_PROTOCOL = 76

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(r"([A-Z_]+) SPAMC/(\d{1,3})\.(\d{1,3})")
_NAMES = {
    EX_DATAERR: "EX_DATAERR",
    EX_UNAVAILABLE: "EX_UNAVAILABLE",
    EX_TEMPFAIL: "EX_TEMPFAIL",
    EX_PROTOCOL: "EX_PROTOCOL",
}


class Method(enum.StrEnum):
    """What a client asks for."""

    CHECK = "CHECK"  # spam or not
    SYMBOLS = "SYMBOLS"  # and which rules
    REPORT = "REPORT"  # and a text that explains
    REPORT_IFSPAM = "REPORT_IFSPAM"  # likewise, on spam alone
    PROCESS = "PROCESS"  # the message with our header fields
    HEADERS = "HEADERS"  # its header alone
    TELL = "TELL"  # learn or forget
    PING = "PING"
    SKIP = "SKIP"  # the client changed its mind


_WITHOUT_MESSAGE = {Method.PING, Method.SKIP}
_COMPLETE_WITH_FIRST_LINE = (b"PING ", b"SKIP ")  # monitoring sends nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        method: see `Method`.
        version: of the client's protocol, e.g. (1, 5).
        user: whose mail it is, or "".
        message: the message, decompressed.
        message_class: for TELL ``spam``, ``ham`` or "".
        to_set, to_remove: for TELL, in which databases: ``local``, ``remote``.
    """

    method: Method
    version: tuple[int, int]
    user: str = ""
    message: bytes = b""
    message_class: str = ""
    to_set: frozenset[str] = frozenset()
    to_remove: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer's ``Spam:`` field."""

    is_spam: bool
    points: float
    required: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A request without its message."""

    method: Method
    version: tuple[int, int]
    fields: Mapping[str, str]
    content_length: int | None


class RequestReader:
    """Takes a connection's bytes and returns its request once it is complete.

    Args:
        max_message_bytes: larger messages are refused, compressed or not.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._is_eof = False

    def receive_data(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    def receive_eof(self) -> None:
        """Take note that the client has said everything."""
        self._is_eof = True

    def next_request(self) -> Request | None:
        """Return the request, or None while it is incomplete.

        Raises:
            PeerProtocolError: it is malformed, too large, or ends too early.
        """
        if self._head is None and not self._read_head():
            return None
        head = self._head
        assert head is not None
        if head.method in _WITHOUT_MESSAGE:
            return Request(method=head.method, version=head.version)
        size = len(self._buffer)
        if head.content_length is None:
            if size > self._max_message_bytes:
                raise PeerProtocolError(f"message larger than {self._max_message_bytes} bytes")
            if not self._is_eof:
                return None
        elif size < head.content_length:
            if self._is_eof:
                raise PeerProtocolError(
                    f"Content-length is {head.content_length}, the message has {size} bytes"
                )
            return None
        return self._request(head, bytes(self._buffer[: head.content_length]))

    def _read_head(self) -> bool:
        end_of_line = self._buffer.find(b"\n", 0, MAX_HEAD_BYTES)
        ended = _END_OF_HEAD.search(self._buffer, 0, MAX_HEAD_BYTES)
        if end_of_line >= 0 and self._buffer.startswith(_COMPLETE_WITH_FIRST_LINE):
            end = start_of_body = end_of_line
        elif ended is not None:
            end, start_of_body = ended.span()
        elif len(self._buffer) >= MAX_HEAD_BYTES:
            raise PeerProtocolError(f"a header of more than {MAX_HEAD_BYTES} bytes")
        elif self._is_eof:
            end = start_of_body = len(self._buffer)
        else:
            return False
        self._head = _parse_head(bytes(self._buffer[:end]), self._max_message_bytes)
        del self._buffer[:start_of_body]
        return True

    def _request(self, head: _Head, body: bytes) -> Request:
        compression = head.fields.get("compress", "").lower()
        if compression == "zlib":
            body = _decompress(body, self._max_message_bytes)
        elif compression:
            raise PeerProtocolError(f"Compress: {compression[:20]!r}, expected zlib")
        user = head.fields.get("user", "")
        return Request(
            method=head.method,
            version=head.version,
            user=user if user.isprintable() else "",
            message=body,
            message_class=head.fields.get("message-class", "").lower(),
            to_set=_words(head.fields.get("set", "")),
            to_remove=_words(head.fields.get("remove", "")),
        )


def _parse_head(data: bytes, max_message_bytes: int) -> _Head:
    first, *lines = data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    matched = _REQUEST_LINE.fullmatch(first.strip())
    if matched is None or matched.group(1) not in set(Method):
        raise PeerProtocolError(f"expected a request, got {first[:60]!r}")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon and line.strip():
            raise PeerProtocolError(f"expected a header field, got {line[:60]!r}")
        fields.setdefault(name.strip().lower(), value.strip())
    length = fields.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 16):
        raise PeerProtocolError(f"Content-length: {length[:20]!r}, expected a number")
    if length is not None and int(length) > max_message_bytes:
        raise PeerProtocolError(f"message larger than {max_message_bytes} bytes")
    return _Head(
        method=Method(matched.group(1)),
        version=(int(matched.group(2)), int(matched.group(3))),
        fields=fields,
        content_length=None if length is None else int(length),
    )


def _decompress(data: bytes, max_bytes: int) -> bytes:
    """Undo zlib, and stop at the limit: a thousandfold is easily packed into it."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise PeerProtocolError(f"Compress: zlib: {error}") from error
    if len(body) > max_bytes:
        raise PeerProtocolError(f"message larger than {max_bytes} bytes once decompressed")
    if not unpacker.eof:
        raise PeerProtocolError("Compress: zlib: the data ends too early")
    return body


def _words(value: str) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in value.split(",") if word.strip())


def encode_judgement(request: Request, judgement: Judgement, body: bytes = b"") -> bytes:
    """Return the answer to a request for a verdict.

    Args:
        request: of which the method and version say what the answer looks like.
        judgement: for the ``Spam:`` field.
        body: the symbols, the report or the message; CHECK has none.
    """
    word = "True" if judgement.is_spam else "False"
    spam = f"Spam: {word} ; {judgement.points:.1f} / {judgement.required:.1f}"
    length = f"Content-length: {len(body)}"
    version = request.version
    match request.method:
        case Method.CHECK:
            fields, body = [spam], b""
        case Method.PROCESS | Method.HEADERS:
            fields = [length, spam] if version >= (1, 3) else [length] if version >= (1, 2) else []
        case _:
            # Exim speaks 1.2 and knows no answer in which another field stands before Spam.
            fields = [length, spam] if version >= (1, 3) else [spam]
            if request.method is Method.SYMBOLS and version < (1, 3):
                body += b"\r\n"
    return _answer(fields) + body


def encode_told(*, did_set: bool = False, did_remove: bool = False) -> bytes:
    """Return the answer to TELL; with neither, the client says that it was known already."""
    fields = ["DidSet: local"] * did_set + ["DidRemove: local"] * did_remove
    return _answer([*fields, "Content-length: 0"])


def encode_pong() -> bytes:
    """Return the answer to PING."""
    return b"SPAMD/1.5 0 PONG\r\n"


def encode_failure(code: int) -> bytes:
    """Return an answer that is none, by an exit code of sysexits.h; spamc then passes mail on.

    The first line alone, and then the connection ends: after an empty line spamc 4.0 takes a
    failed TELL for done, and with `Content-length: 0` an empty message for the processed one.
    """
    return f"SPAMD/1.1 {code} {_NAMES[code]}\r\n".encode()


def _answer(fields: list[str]) -> bytes:
    head = "".join(f"{line}\r\n" for line in [f"SPAMD/1.1 {EX_OK} EX_OK", *fields])
    return f"{head}\r\n".encode()
