"""The milter door: for Postfix and Sendmail, on TCP and Unix sockets.

A connection carries one SMTP session with any number of messages; everything of a message
lives in a `_Transaction` that is dropped at the message's end, at an abort and at the next
MAIL, so that nothing of one can leak into the next. The whole message is kept in memory while
it is judged: holding it must be possible.
"""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from spamguard.errors import PeerProtocolError
from spamguard.filter import Clock, Filter
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.verdict import Action, Disposition
from spamguard.wire import milter as wire

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0  # Postfix restarts its content timer at each; its default is 300 s
READ_BYTES = 128 * 1024
WRITE_TIMEOUT_SECONDS = 30.0  # a peer that does not read its answer
MAX_RECIPIENTS = 10_000  # remembered for the envelope
MAX_HEADER_BYTES = 1024 * 1024  # Postfix cuts at 102,400; hostile headers are cut here


@dataclass(slots=True)
class _Transaction:
    """What is known of the message under way."""

    reverse_path: str
    recipients: list[bytes] = field(default_factory=list)
    header_bytes: list[bytes] = field(default_factory=list)
    header_size: int = 0
    header_counts: Counter[bytes] = field(default_factory=Counter)
    subject: bytes | None = None
    body: list[bytes] = field(default_factory=list)
    body_size: int = 0
    is_cut: bool = False


@dataclass(slots=True)
class _Client:
    """What is known of the SMTP client."""

    ip: str | None = None
    name: str = ""
    helo: str = ""


class MilterServer:
    """Listens for MTAs and hands their messages to the filter.

    Args:
        mail_filter: the core.
        metrics: counters.
        clock: wall clock, seconds since the epoch.
        max_message_bytes: of a larger message only the beginning is kept and judged; it is
            tagged and never held, since what we could hold would not be the whole.
        idle_timeout_seconds: after which a silent MTA is cut.
        progress_seconds: between signs of life while a message is judged.
    """

    def __init__(
        self,
        mail_filter: Filter,
        *,
        metrics: Metrics,
        clock: Clock,
        max_message_bytes: int,
        idle_timeout_seconds: float = 3600,
        progress_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self.filter = mail_filter
        self.metrics = metrics
        self.clock = clock
        self.max_message_bytes = max_message_bytes
        self.idle_timeout_seconds = idle_timeout_seconds
        self.progress_seconds = progress_seconds
        self.is_draining = False
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; port 0 takes a free one. Returns the address bound.

        Raises:
            OSError: the address is taken or not ours.
        """
        server = await asyncio.start_server(self._serve, host, port, limit=READ_BYTES)
        self._servers.append(server)
        bound: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return bound

    async def start_unix(self, path: Path, mode: int) -> None:
        """Listen on a Unix socket with the given file mode, replacing a stale one.

        Raises:
            OSError: the directory is missing or not ours.
        """
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, str(path), limit=READ_BYTES)
        self._servers.append(server)
        path.chmod(mode)

    async def start_socket(self, listening: socket.socket) -> None:
        """Listen on a socket that is already open (socket activation)."""
        server = await asyncio.start_server(self._serve, sock=listening, limit=READ_BYTES)
        self._servers.append(server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, reader, writer)
        self._connections[task] = connection
        self.metrics.count("milter_connections")
        try:
            await connection.run()
        except PeerProtocolError as error:
            self.metrics.count("milter_protocol_errors")
            log.warning("milter peer broke the protocol", extra={"error": str(error)})
        except (OSError, EOFError, TimeoutError) as error:
            log.info("milter connection ended", extra={"error": str(error) or "closed"})
        except asyncio.CancelledError:
            # Only `drain` cancels. The task ends here, which is what was asked for.
            log.info("milter connection cut while stopping")
        finally:
            del self._connections[task]
            writer.close()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, let messages in flight finish, close idle connections, cut the rest.

        The MTA sees a closed connection between two messages and opens a new one, or applies
        its default action; it has every message that we did not answer.
        """
        self.is_draining = True
        for server in self._servers:
            server.close()
        for task, connection in list(self._connections.items()):
            if connection.is_idle:
                task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=deadline_seconds)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1)


class _Connection:
    """One MTA connection."""

    def __init__(
        self, server: MilterServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._codec = wire.Codec()
        self._options: wire.Negotiate | None = None
        self._client = _Client()
        self._macros: dict[bytes, dict[bytes, bytes]] = {}
        self._transaction: _Transaction | None = None
        connection = writer.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            # Without it an answer waits for the peer's delayed acknowledgement: 40 ms a message.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_idle(self) -> bool:
        """Whether no message is under way."""
        return self._transaction is None

    async def run(self) -> None:
        """Serve until the peer quits, goes away, or breaks the protocol."""
        while True:
            event = await self._next_event(self._server.idle_timeout_seconds)
            if event is None or isinstance(event, wire.Quit):
                return
            await self._handle(event)
            if self._server.is_draining and self.is_idle:
                return

    async def _next_event(self, timeout_seconds: float | None) -> wire.Event | None:
        """Return the next event, or None at the end of the stream."""
        while (event := self._codec.next_event()) is None:
            async with asyncio.timeout(timeout_seconds):
                data = await self._reader.read(READ_BYTES)
            if not data:
                return None
            self._codec.receive_data(data)
        return event

    async def _handle(self, event: wire.Event) -> None:
        if isinstance(event, wire.Negotiate):
            await self._negotiate(event)
            return
        if self._options is None:
            raise PeerProtocolError(f"{type(event).__name__} before the negotiation")
        protocol = wire.Protocol
        match event:
            case wire.Macros(command, values):
                self._macros[command] = dict(values)
            case wire.Connect():
                self._client = _client_of(event)
                self._transaction = None
                await self._reply_unless(protocol.NO_REPLY_CONNECT)
            case wire.Helo(name):
                self._client.helo = _text(name)
                await self._reply_unless(protocol.NO_REPLY_HELO)
            case wire.MailFrom(arguments):
                self._transaction = _Transaction(reverse_path=_text(arguments[0].strip(b"<>")))
                await self._reply_unless(protocol.NO_REPLY_MAIL)
            case wire.RcptTo(arguments):
                recipients = self._under_way(event).recipients
                if len(recipients) < MAX_RECIPIENTS:
                    recipients.append(arguments[0])
                await self._reply_unless(protocol.NO_REPLY_RECIPIENT)
            case wire.Data():
                await self._reply_unless(protocol.NO_REPLY_DATA)
            case wire.Header():
                self._add_header(self._under_way(event), event)
                await self._reply_unless(protocol.NO_REPLY_HEADER)
            case wire.EndOfHeaders():
                self._under_way(event)
                await self._reply_unless(protocol.NO_REPLY_END_OF_HEADERS)
            case wire.Body(chunk):
                self._add_body(self._under_way(event), chunk)
                await self._reply_unless(protocol.NO_REPLY_BODY)
            case wire.EndOfMessage(chunk):
                transaction = self._under_way(event)
                self._add_body(transaction, chunk)
                await self._finish(transaction)
            case wire.Abort():
                self._reset_message()
            case wire.QuitNewConnection():
                self._reset_message()
                self._macros.clear()
                self._client = _Client()
            case wire.Unknown():
                await self._reply_unless(protocol.NO_REPLY_UNKNOWN)
            case wire.Quit():
                raise AssertionError("handled by the caller")

    def _reset_message(self) -> None:
        self._transaction = None
        for command in (b"M", b"R", b"T", b"N", b"E"):
            self._macros.pop(command, None)

    def _under_way(self, event: wire.Event) -> _Transaction:
        if self._transaction is None:
            raise PeerProtocolError(f"{type(event).__name__} before MAIL")
        return self._transaction

    async def _negotiate(self, offer: wire.Negotiate) -> None:
        if self._options is not None:
            raise PeerProtocolError("a second negotiation")
        self._options = wire.negotiate(offer)
        missing = wire.WANTED_ACTIONS & ~self._options.actions & ~wire.Actions.SET_MACRO_LIST
        if missing:
            log.warning("MTA does not allow", extra={"actions": str(wire.Actions(missing))})
        await self._send(wire.encode_negotiation(self._options))

    async def _reply_unless(self, bit: wire.Protocol) -> None:
        """Say continue, unless the MTA was told not to wait for an answer."""
        assert self._options is not None
        if not self._options.protocol & bit:
            await self._send(wire.encode_packet(wire.CONTINUE))

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            await self._writer.drain()

    # -- collecting --------------------------------------------------------------------------

    def _add_header(self, transaction: _Transaction, header: wire.Header) -> None:
        assert self._options is not None
        name = header.name.lower()
        transaction.header_counts[name] += 1
        if name == b"subject" and transaction.subject is None:
            transaction.subject = header.value
        blank = b"" if self._options.protocol & wire.Protocol.LEADING_SPACE else b" "
        value = header.value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        line = header.name + b":" + blank + value + b"\r\n"
        transaction.header_size += len(line)
        if transaction.header_size <= MAX_HEADER_BYTES:
            transaction.header_bytes.append(line)
        else:
            transaction.is_cut = True

    def _add_body(self, transaction: _Transaction, chunk: bytes) -> None:
        room = self._server.max_message_bytes - transaction.body_size
        transaction.body_size += len(chunk)
        if len(chunk) > room:
            transaction.is_cut = True
            chunk = chunk[: max(0, room)]
        if chunk:
            transaction.body.append(chunk)

    # -- judging -----------------------------------------------------------------------------

    async def _finish(self, transaction: _Transaction) -> None:
        """Judge the message and answer, with signs of life while that takes long."""
        assert self._options is not None
        raw = b"".join([*transaction.header_bytes, b"\r\n", *transaction.body])
        envelope = self._envelope(transaction)
        check = asyncio.create_task(
            self._server.filter.check(envelope, raw, can_hold=not transaction.is_cut)
        )
        event = asyncio.create_task(self._next_event(None))
        try:
            while not check.done():
                await asyncio.wait(
                    {check, event},
                    timeout=self._server.progress_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if event.done():
                    # Nothing may follow before our answer but the end of the message's story.
                    if isinstance(event.result(), wire.Abort):
                        self._reset_message()
                        return
                    raise EOFError("closed while a message was judged")
                if not check.done():
                    await self._send(wire.encode_packet(wire.PROGRESS))
        finally:
            for task in (event, check):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, PeerProtocolError):
                    await task
        action = check.result().action
        self._reset_message()
        await self._send(self._render(action, transaction))

    def _envelope(self, transaction: _Transaction) -> Envelope:
        return Envelope(
            frontend="milter",
            reverse_path=transaction.reverse_path,
            recipients=tuple(_text(r.strip(b"<>")) for r in transaction.recipients),
            queue_id=_text(self._macro(b"i")),
            client_ip=self._client.ip or _text(self._macro(b"client_addr")) or None,
            client_name=self._client.name,
            helo=self._client.helo,
            authenticated_user=_text(self._macro(b"auth_authen")),
            received_at=self._server.clock(),
        )

    def _macro(self, name: bytes) -> bytes:
        """Return a macro's value, the latest stage's first."""
        for command in (b"E", b"N", b"T", b"R", b"M", b"H", b"C"):
            if value := self._macros.get(command, {}).get(name):
                return value
        return b""

    def _render(self, action: Action, transaction: _Transaction) -> bytes:
        """Return edits and verdict as one write."""
        match action.disposition:
            case Disposition.QUARANTINE:
                return wire.encode_packet(wire.DISCARD)  # it is durably ours
            case Disposition.REJECT | Disposition.DEFER:
                return wire.encode_reply_code(action.smtp_reply)
            case Disposition.REDIRECT:
                edits = self._redirect_edits(action, transaction)
            case _:
                edits = b""
        return edits + self._header_edits(action, transaction) + wire.encode_packet(wire.ACCEPT)

    def _redirect_edits(self, action: Action, transaction: _Transaction) -> bytes:
        assert self._options is not None
        needed = wire.Actions.ADD_RECIPIENT | wire.Actions.DELETE_RECIPIENT
        if self._options.actions & needed != needed:
            log.warning("MTA does not allow redirecting, delivering tagged")
            return b""
        deleted = [wire.encode_delete_recipient(r) for r in transaction.recipients]
        added = wire.encode_add_recipient(f"<{action.redirect_to}>".encode())
        return b"".join([*deleted, added])

    def _header_edits(self, action: Action, transaction: _Transaction) -> bytes:
        assert self._options is not None
        blank = b" " if self._options.protocol & wire.Protocol.LEADING_SPACE else b""
        counts = transaction.header_counts
        subject = None
        if action.subject_prefix:
            value = (transaction.subject or b"").lstrip()
            subject = (blank + action.subject_prefix.encode() + value, counts[b"subject"])
        return wire.edits(
            self._options.actions,
            delete=[
                (name.encode(), counts[name.lower().encode()])
                for name in action.delete_headers
                if counts[name.lower().encode()]
            ],
            add=[(name.encode(), blank + value.encode()) for name, value in action.add_headers],
            subject=subject,
        )


def _client_of(event: wire.Connect) -> _Client:
    ip = None
    if event.family in {b"4", b"6"}:
        ip = _text(event.address).removeprefix("IPv6:").removeprefix("IPV6:")
    return _Client(ip=ip, name=_text(event.hostname))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
