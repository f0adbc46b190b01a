"""OpenSMTPD's filter protocol (smtpd-filters(7), versions 0.5 to 0.7): lines in, lines out.

smtpd reports what happens in its sessions and asks before each step that was registered. A
message comes line by line, dots doubled, many sessions at once; what stands in our answers
takes its place. Nothing is decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from spamguard.errors import PeerProtocolError

REPORTS = (
    "link-connect", "link-disconnect", "link-identify", "link-auth",
    "tx-begin", "tx-mail", "tx-rcpt",
)  # fmt: skip
PHASES = ("data-line", "commit")
MAX_RECIPIENTS = 1000
_END = b"."


@dataclass(slots=True)
class Session:
    """One SMTP session and its transaction.

    Attributes:
        client_ip, client_name, helo, user: of the client, as far as known.
        queue_id, reverse_path, recipients: of the transaction.
        refusal: what the commit is answered with, or "".
    """

    client_ip: str = ""
    client_name: str = ""
    helo: str = ""
    user: str = ""
    queue_id: str = ""
    reverse_path: str = ""
    recipients: list[str] = field(default_factory=list)
    refusal: str = ""
    lines: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message that has come in whole and waits for an answer.

    Attributes:
        name, token: of the session and of the question, as smtpd wrote them.
        session: what is known.
        raw: the message with CRLF line ends.
    """

    name: bytes
    token: bytes
    session: Session
    raw: bytes


class FilterProtocol:
    """Reads smtpd's lines.

    Args:
        max_message_bytes: larger messages are handed back as they come, unjudged.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._sessions: dict[bytes, Session] = {}

    def receive(self, line: bytes) -> tuple[bytes, Request | None]:
        """Take a line; return what is written at once, and a message that is complete.

        Raises:
            PeerProtocolError: not a line of this protocol.
        """
        fields = line.rstrip(b"\n").split(b"|", 7)
        match fields:
            case [b"config", b"ready"]:
                return _registration(), None
            case [b"config", *_]:
                return b"", None
            case [b"report", _, _, b"smtp-in", event, name, *rest]:
                self._report(event, name, [part for text in rest for part in text.split(b"|")])
                return b"", None
            case [b"filter", _, _, b"smtp-in", b"data-line", name, token, text]:
                return self._data_line(name, token, text)
            case [b"filter", _, _, b"smtp-in", b"commit", name, token, *_]:
                session = self._sessions.get(name)
                answer = f"reject|{session.refusal}" if session and session.refusal else "proceed"
                return b"filter-result|%b|%b|%b\n" % (name, token, answer.encode()), None
            case _:
                raise PeerProtocolError(f"not a line of the filter protocol: {line[:80]!r}")

    def knows(self, request: Request) -> bool:
        """Whether its session is still there: an answer to another would be an error."""
        return self._sessions.get(request.name) is request.session

    def _report(self, event: bytes, name: bytes, values: list[bytes]) -> None:
        if event == b"link-disconnect":
            self._sessions.pop(name, None)
            return
        session = self._sessions.setdefault(name, Session())
        texts = [value.decode("utf-8", "surrogateescape") for value in values]
        match event, texts:
            case b"link-connect", [reverse_dns, _, source, *_]:
                session.client_ip = _ip(source)
                session.client_name = "" if reverse_dns == "<unknown>" else reverse_dns
            case b"link-identify", [_, *identity]:
                session.helo = "|".join(identity)
            case b"link-auth", ["pass", *user] | [*user, "pass"]:  # 0.7 has the result first
                session.user = "|".join(user)
            case b"tx-begin", [queue_id, *_]:
                session.queue_id, session.reverse_path, session.refusal = queue_id, "", ""
                session.recipients, session.lines, session.size = [], [], 0
            case b"tx-mail", [_, "ok", *address]:
                session.reverse_path = "|".join(address)
            case b"tx-rcpt", [_, "ok", *address]:
                session.recipients.append("|".join(address))
                del session.recipients[MAX_RECIPIENTS:]

    def _data_line(self, name: bytes, token: bytes, text: bytes) -> tuple[bytes, Request | None]:
        session = self._sessions.setdefault(name, Session())
        is_passing = session.size > self._max_message_bytes
        if text != _END:
            session.size += len(text) + 2
            if is_passing:
                return _data_lines(name, token, [text]), None
            session.lines.append(text)
            if session.size > self._max_message_bytes:
                lines, session.lines = session.lines, []
                return _data_lines(name, token, lines), None
            return b"", None
        lines, session.lines, session.size = session.lines, [], 0
        if is_passing:
            return _data_lines(name, token, [_END]), None
        raw = b"".join(_undoubled(line) + b"\r\n" for line in lines)
        return b"", Request(name=name, token=token, session=session, raw=raw)


def encode_message(request: Request, raw: bytes) -> bytes:
    """Return the lines that put a message in the place of the one that came."""
    lines = raw.removesuffix(b"\r\n").split(b"\r\n") if raw else []
    doubled = [b"." + line if line.startswith(b".") else line for line in lines]
    return _data_lines(request.name, request.token, [*doubled, _END])


def _data_lines(name: bytes, token: bytes, lines: list[bytes]) -> bytes:
    head = b"filter-dataline|%b|%b|" % (name, token)
    return b"".join(head + line + b"\n" for line in lines)


def _registration() -> bytes:
    def lines() -> Iterator[str]:
        yield from (f"register|report|smtp-in|{event}\n" for event in REPORTS)
        yield from (f"register|filter|smtp-in|{phase}\n" for phase in PHASES)
        yield "register|ready\n"

    return "".join(lines()).encode()


def _undoubled(line: bytes) -> bytes:
    return line[1:] if line.startswith(b".") else line


def _ip(source: str) -> str:
    """Return the address of ``192.0.2.1:25`` or ``[2001:db8::1]:25``; "" for a local socket."""
    return "" if source.startswith("unix:") else source.rpartition(":")[0].strip("[]")
