"""The milter door: for Postfix, Sendmail and whatever else speaks their filter protocol.

A connection carries one SMTP session, or several, with any number of messages; everything of a
message lives in a `Transaction` that is dropped with its verdict, at an abort and at the next
MAIL, so that nothing of one can leak into the next. The whole message is kept in memory until
it is judged: holding it must be possible. What the bytes mean and which reply is allowed when
is `wire/milter_session.py`; nothing is decided here.
"""

import asyncio
import logging
import socket
from dataclasses import replace

from spamguard.errors import PeerProtocolError
from spamguard.filter import Clock, Filter
from spamguard.frontends.listener import Listener
from spamguard.frontends.milter_transaction import (
    Client,
    Transaction,
    address_of,
    envelope_of,
    replies_for,
    report_replies,
)
from spamguard.observe import Metrics
from spamguard.report import ReportDesk
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter_packets import ActionFlags, MacroStage, StepFlags
from spamguard.wire.milter_session import FilterSession

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0  # each restarts the MTA's timer: Postfix 300 s, others less
NEGOTIATION_SECONDS = 30.0  # an MTA speaks at once; Postfix's own limit here is 30 s
# Each may keep a whole message in memory. Far above what an MTA opens (Postfix: a connection a
# process, 100 by default); one more is closed, and the MTA applies its default action.
MAX_CONNECTIONS = 1000
CLOSE_SECONDS = 1.0  # for last bytes to leave when the deadline of a drain is over

_ACTIONS = (
    ActionFlags.ADD_HEADERS
    | ActionFlags.CHANGE_HEADERS
    | ActionFlags.ADD_RECIPIENTS
    | ActionFlags.DELETE_RECIPIENTS
    | ActionFlags.SET_MACRO_LISTS
)
_STEPS = (
    StepFlags.NO_DATA
    | StepFlags.NO_UNKNOWN
    | StepFlags.NO_END_OF_HEADERS  # the body, or its end, says the same
    | StepFlags.SKIP
    | StepFlags.HEADER_LEADING_SPACE
    | StepFlags.NO_REPLY_CONNECT
    | StepFlags.NO_REPLY_HELO
    | StepFlags.NO_REPLY_MAIL
    | StepFlags.NO_REPLY_RCPT
    | StepFlags.NO_REPLY_DATA
    | StepFlags.NO_REPLY_UNKNOWN
    | StepFlags.NO_REPLY_HEADER
    | StepFlags.NO_REPLY_END_OF_HEADERS
    | StepFlags.NO_REPLY_BODY
)
# Every stage has its list: as soon as one is sent, Postfix forgets its own for all the others.
_MACROS = (
    (MacroStage.CONNECT, b"j {client_addr} {client_name}"),
    (MacroStage.HELO, b"{client_addr}"),
    (MacroStage.MAIL, b"i {auth_authen} {client_addr}"),
    (MacroStage.RCPT, b"i"),
    (MacroStage.DATA, b"i {auth_authen}"),
    (MacroStage.END_OF_MESSAGE, b"i {auth_authen}"),
    (MacroStage.END_OF_HEADERS, b"i"),
)
_KNOWN_MACROS = frozenset({b"i", b"auth_authen", b"client_addr", b"client_name"})


class MilterServer(Listener):
    """Listens for MTAs and hands their messages to the filter.

    Args:
        mail_filter: the core.
        metrics: counters.
        clock: wall clock, seconds since the epoch.
        max_message_bytes: of a larger message only the beginning is kept and judged; it is
            tagged and never held, since what we could hold would not be the whole.
        idle_timeout_seconds: a connection with no complete packet for so long is closed.
        progress_seconds: between signs of life while a message is judged.
        desk: takes mail to report addresses, or None where there are none.
    """

    def __init__(
        self,
        mail_filter: Filter,
        *,
        metrics: Metrics,
        clock: Clock,
        max_message_bytes: int,
        idle_timeout_seconds: float = 3600.0,
        progress_seconds: float = PROGRESS_SECONDS,
        desk: ReportDesk | None = None,
    ) -> None:
        super().__init__(lambda: _Connection(self))
        self.filter = mail_filter
        self.metrics = metrics
        self.clock = clock
        self.max_message_bytes = max_message_bytes
        self.idle_timeout_seconds = idle_timeout_seconds
        self.progress_seconds = progress_seconds
        self.desk = desk
        self.connections: set[_Connection] = set()
        self.judging: set[asyncio.Task[list[wire.Reply]]] = set()
        self._said: set[str] = set()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, let sessions and messages in flight finish, cut the rest.

        A message that is still being judged at the deadline is deferred; of one that was not
        yet received the MTA sees the connection close and applies its default action.
        """
        await self.stop_listening()
        await self.let_finish(self.connections, deadline_seconds)
        for connection in list(self.connections):
            connection.cut()
        await self._closed(CLOSE_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        await self._closed(CLOSE_SECONDS)
        if self.judging:
            await asyncio.wait(self.judging)  # they were cancelled

    async def _closed(self, timeout_seconds: float) -> None:
        if self.connections:
            await asyncio.wait([c.closed for c in self.connections], timeout=timeout_seconds)

    def warn_once(self, text: str) -> None:
        """Say something about the MTA's configuration once, not with every message."""
        if text not in self._said:
            self._said.add(text)
            log.warning(text)


class _Connection(asyncio.Protocol):
    """One connection of an MTA."""

    def __init__(self, server: MilterServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        # Only where a recipient may have to be refused does the MTA wait for our word on each.
        steps = _STEPS if server.desk is None else _STEPS & ~StepFlags.NO_REPLY_RCPT
        self._session = FilterSession(actions=_ACTIONS, steps=steps, macros=_MACROS)
        self._blank = b" "  # that the MTA takes away after the colon of a field
        self._client = Client()
        self._mail_macros: dict[bytes, bytes] = {}
        self._transaction: Transaction | None = None
        self._judging: asyncio.Task[list[wire.Reply]] | None = None
        self._heard_at = self._loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._progress: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # -- connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the MTA's offer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = _tcp_socket(transport)
        self._server.connections.add(self)
        self._server.metrics.count("milter_connections")
        if len(self._server.connections) > MAX_CONNECTIONS:
            self._server.metrics.count("milter_refused")
            self._server.warn_once(f"more than {MAX_CONNECTIONS} milter connections")
            self._transport.abort()
            return
        wait = min(NEGOTIATION_SECONDS, self._server.idle_timeout_seconds)
        self._idle_timer = self._loop.call_later(wait, self._look_if_idle)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget everything; a message without verdict is still the MTA's."""
        self._drop_transaction()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._server.connections.discard(self)
        self.closed.set_result(None)
        if error is not None:
            log.info("milter connection lost", extra={"error": str(error)})

    def pause_writing(self) -> None:
        """Hear no more of a peer that does not read what we say."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Hear it again."""
        self._transport.resume_reading()

    def close_if_idle(self, silent_seconds: float) -> None:
        """Close the connection unless a message is under way or the MTA has just spoken."""
        if self._transaction is None and self._loop.time() - self._heard_at >= silent_seconds:
            self._transport.close()

    def cut(self) -> None:
        """Close the connection; a message that waits for its verdict is deferred first."""
        if self._judging is not None:
            self._drop_transaction()
            self._send(wire.Tempfail())
        self._transport.close()

    def abort(self) -> None:
        """Close the connection without waiting for the peer to read."""
        self._transport.abort()

    def _look_if_idle(self) -> None:
        """Close a connection on which nothing complete was heard for too long.

        Bytes alone do not count, so that nobody can keep a connection by a byte now and then.
        """
        silent_seconds = self._loop.time() - self._heard_at
        limit = self._server.idle_timeout_seconds
        if not self._session.is_negotiated:
            limit = min(NEGOTIATION_SECONDS, limit)
        if self._judging is None and silent_seconds >= limit:
            log.info("milter connection idle, closing", extra={"seconds": round(silent_seconds)})
            self._server.metrics.count("milter_idle_closed")
            self._transport.abort()
            return
        wait = limit - silent_seconds if self._judging is None else limit
        self._idle_timer = self._loop.call_later(wait, self._look_if_idle)

    # -- events ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Handle every event that is complete; a peer's error ends this connection only."""
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._session.receive_data(data)
        has_heard = False
        try:
            while not self._transport.is_closing():
                event = self._session.next_event()
                if event is None:
                    break
                has_heard = True
                self._handle(event)
        except PeerProtocolError as error:
            self._server.metrics.count("milter_protocol_errors")
            log.warning("milter peer broke the protocol", extra={"error": str(error)})
            self._transport.abort()
        if has_heard:
            self._heard_at = self._loop.time()

    def _handle(self, event: wire.Event) -> None:
        max_bytes = self._server.max_message_bytes
        transaction = self._transaction
        match event:
            case wire.Header() if transaction:  # first: it is most of what is said
                transaction.add_header(event, self._blank, max_bytes)
            case wire.Negotiate():
                self._transport.write(self._session.answer_offer(event))
                if StepFlags.HEADER_LEADING_SPACE in self._session.steps:
                    self._blank = b""
                self._report_missing()
            case wire.Macros():
                self._add_macros(event)
            case wire.Connect():
                self._client.hostname, self._client.address = event.hostname, event.address
                self._client.port = event.port
                if event.family not in {b"4", b"6"}:
                    self._client.address = b""
            case wire.Helo():
                self._drop_transaction()
                self._client.helo = event.text
            case wire.Mail():
                macros = self._mail_macros
                self._drop_transaction()
                self._mail_macros = macros  # those of MAIL come before it, others follow
                self._transaction = Transaction(path=event.path, macros=macros)
            case wire.Rcpt() if transaction:
                if refusal := self._add_recipient(transaction, event.path):
                    self._send(wire.ReplyCode(text=refusal.encode("ascii", "replace")))
            case wire.Body() if transaction:
                transaction.add_body(event.chunk, max_bytes)
            case wire.EndOfBody() if transaction:
                transaction.add_body(event.chunk, max_bytes)
                self._judge(transaction)
                return
            case wire.Abort():
                self._drop_transaction()
            case wire.QuitNewConnection():
                self._drop_transaction()
                self._client = Client()
            case wire.Quit():
                self._drop_transaction()
                self._transport.close()
        if self._session.is_reply_due:
            is_enough = isinstance(event, wire.Body) and transaction and transaction.is_cut
            can_skip = StepFlags.SKIP in self._session.steps
            self._send(wire.Skip() if is_enough and can_skip else wire.Continue())

    def _add_macros(self, event: wire.Macros) -> None:
        if event.stage == wire.Mail.code:
            self._mail_macros = {}
        is_clients = event.stage in (wire.Connect.code, wire.Helo.code)
        macros = self._client.macros if is_clients else self._mail_macros
        for name, value in event.values:
            plain = name.strip(b"{}")
            if plain in _KNOWN_MACROS:
                macros[plain] = value

    def _report_missing(self) -> None:
        """Say what an MTA does not let us do; verdicts are then rendered without it."""
        missing = _ACTIONS & ~self._session.actions & ~ActionFlags.SET_MACRO_LISTS
        if missing:
            names = ", ".join(flag.name.lower().replace("_", " ") for flag in missing if flag.name)
            self._server.warn_once(f"this MTA does not let a milter {names}")

    def _add_recipient(self, transaction: Transaction, path: bytes) -> str:
        """Take a recipient, or return the reply that refuses it."""
        desk = self._server.desk
        if desk is None or desk.label_of(address_of(path)) is None:
            transaction.add_recipient(path)
            return ""
        refusal = desk.refusal(envelope_of(self._client, transaction, self._server.clock()))
        if refusal and self._client.port:
            return refusal
        # A recipient of the sendmail command must not be refused (Postfix MILTER_README): such
        # a mail gets the refusal at its end.
        transaction.add_recipient(path, is_report=True)
        return ""

    def _drop_transaction(self) -> None:
        self._transaction = None
        self._mail_macros = {}
        if self._progress is not None:
            self._progress.cancel()
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None

    def _send(self, *replies: wire.Reply) -> None:
        self._transport.write(self._session.send(replies))

    # -- judging -----------------------------------------------------------------------------

    def _judge(self, transaction: Transaction) -> None:
        raw = bytes(transaction.raw)
        transaction.raw.clear()
        task = asyncio.create_task(self._replies_to(transaction, raw))
        self._judging = task
        self._server.judging.add(task)
        task.add_done_callback(self._on_outcome)
        self._progress = self._loop.call_later(self._server.progress_seconds, self._send_progress)

    async def _replies_to(self, transaction: Transaction, raw: bytes) -> list[wire.Reply]:
        """Take the reports in a message, judge it for its other recipients."""
        envelope = envelope_of(self._client, transaction, self._server.clock())
        if transaction.reports and self._server.desk:
            addresses = tuple(map(address_of, transaction.reports))
            reply = await self._server.desk.take(replace(envelope, recipients=addresses), raw)
            if not transaction.recipients or reply.startswith("4"):
                return report_replies(reply)
        # A report quotes spam: its copies for others are not held for that.
        can_hold = not transaction.is_cut and not transaction.reports
        outcome = await self._server.filter.check(envelope, raw, can_hold=can_hold)
        session = self._session
        return replies_for(
            outcome.action, transaction, actions=session.actions, steps=session.steps
        )

    def _send_progress(self) -> None:
        self._send(wire.Progress())
        self._progress = self._loop.call_later(self._server.progress_seconds, self._send_progress)

    def _on_outcome(self, task: asyncio.Task[list[wire.Reply]]) -> None:
        """Answer, unless nobody waits for it any more."""
        self._server.judging.discard(task)
        if task.cancelled():  # by an abort, or because the connection is gone
            return
        error = task.exception()
        if error is not None:
            # `_replies_to` raises nothing: a bug. Custody is in doubt, the sender keeps it.
            log.error("bug in the filter", exc_info=error)
        transaction = self._transaction
        if self._judging is not task or transaction is None:
            return
        self._judging = None
        self._drop_transaction()
        self._heard_at = self._loop.time()
        if error is not None:
            self._send(wire.Tempfail())
        else:
            self._send(*task.result())
        if self._server.is_closing:
            self._transport.close()


def _tcp_socket(transport: asyncio.Transport) -> socket.socket | None:
    """Return the socket whose acknowledgements must not be delayed, or None on a Unix socket.

    Postfix sends a message in small writes that we do not answer, and Nagle's algorithm holds
    back the last until the one before is acknowledged: 40 ms a message, unless we acknowledge at
    once. Linux forgets the option, so it is set with every read (tcp(7), TCP_QUICKACK).
    """
    found: socket.socket | None = transport.get_extra_info("socket")
    is_tcp = found is not None and found.family in {socket.AF_INET, socket.AF_INET6}
    return found if is_tcp and hasattr(socket, "TCP_QUICKACK") else None
