"""The parts of SMTP (RFC 5321) that both sides of the content filter share: bytes and values.

The server's dialogue is aiosmtpd's, see `frontends/smtp.py`; the client's is `next_hop.py`.
"""

import re
from dataclasses import dataclass

from spamguard.errors import PeerProtocolError

MAX_REPLY_LINE_BYTES = 4096  # RFC 5321 section 4.5.3.1.5 says 512; EHLO lines can be longer
MAX_REPLY_LINES = 200

# A path in angle brackets, its local part perhaps quoted, then parameters. Whatever the MTA in
# front of us accepted must pass: we are not the place to judge addresses.
_PATH = re.compile(r"^\s*<((?:\"(?:[^\"\\]|\\.)*\"|[^<>\"\s])*)>(?:\s+(\S.*?))?\s*$", re.DOTALL)
_REPLY = re.compile(rb"([2-5][0-9][0-9])([ -]|$)(.*)", re.DOTALL)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One SMTP reply.

    Attributes:
        code: three digits.
        lines: the texts of its lines, decoded with surrogate escapes.
    """

    code: int
    lines: tuple[str, ...]

    @property
    def is_success(self) -> bool:
        """Whether the command did what it was for (2xx, and 3xx for DATA)."""
        return self.code < 400

    def __str__(self) -> str:
        *first, last = self.lines or ("",)
        return "\r\n".join([*(f"{self.code}-{line}" for line in first), f"{self.code} {last}"])


def parse_path(argument: str, keyword: str) -> tuple[str, tuple[str, ...]]:
    """Split ``FROM:<path> PARAM=value …`` into path and parameters.

    Args:
        argument: what follows MAIL or RCPT.
        keyword: ``FROM:`` or ``TO:``.

    Raises:
        PeerProtocolError: it is not of that form.
    """
    if argument[: len(keyword)].upper() != keyword:
        raise PeerProtocolError(f"expected {keyword}<address>")
    matched = _PATH.match(argument[len(keyword) :])
    if matched is None:
        raise PeerProtocolError(f"expected {keyword}<address>")
    path, parameters = matched.groups()
    return path, tuple((parameters or "").split())


def parse_reply(lines: list[bytes]) -> Reply | None:
    """Return the reply that the lines make up, or None when more lines belong to it.

    Raises:
        PeerProtocolError: they are not reply lines, differ in code or are too many.
    """
    texts = []
    matched = None
    for line in lines:
        matched = _REPLY.fullmatch(line.rstrip(b"\r\n"))
        if matched is None or matched.group(1) != lines[0][:3]:
            raise PeerProtocolError(f"expected an SMTP reply, got {line[:60]!r}")
        texts.append(matched.group(3).decode("utf-8", "surrogateescape"))
    if matched is None:
        return None
    if matched.group(2) == b"-":
        if len(lines) >= MAX_REPLY_LINES:
            raise PeerProtocolError(f"a reply of more than {MAX_REPLY_LINES} lines")
        return None
    return Reply(code=int(lines[0][:3]), lines=tuple(texts))


def encode_data(raw: bytes) -> bytes:
    """Return a message as it goes over the wire after DATA, with the final dot.

    RFC 5321 section 2.3.8 forbids CR and LF but as line ends. Line feeds without carriage return
    become line ends before dots are doubled (section 4.5.2), carriage returns without line feed
    become blanks, as in Postfix (cleanup_replace_stray_cr_lf): a receiver that takes either for
    a line end cannot be made to see an end of data that we did not send ("SMTP smuggling").
    """
    data = raw
    rest = raw.replace(b"\r\n", b"")
    if b"\n" in rest:
        data = _BARE_LF.sub(b"\r\n", data)
    if b"\r" in rest:
        data = _BARE_CR.sub(b" ", data)
    if data.startswith(b"."):
        data = b"." + data
    data = data.replace(b"\r\n.", b"\r\n..")
    return data + (b".\r\n" if data.endswith(b"\r\n") or not data else b"\r\n.\r\n")


def decode_data(data: bytes) -> bytes:
    """Undo the doubling of dots in received data (the final dot already removed)."""
    if data.startswith(b"."):
        data = data[1:]
    return data.replace(b"\r\n.", b"\r\n")
