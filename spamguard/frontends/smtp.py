"""The SMTP content filter, for Postfix's `content_filter` and `smtpd_proxy_filter`; and LMTP.

aiosmtpd holds the dialogue; what mail administrators need and it does not do is here: XFORWARD,
DSN parameters, the null reverse path, any line length, bodies read in chunks. A transaction is
mirrored to the next hop as it goes, so that each recipient gets the next hop's own reply; 250
to DATA is said only after the next hop has said it, or after the message is durably held. Every
failure of ours is 451: the client keeps the message.

LMTP (RFC 2033) stands between an MTA and the mail store; it differs in its greeting and in one
reply to each recipient after the data.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import aiosmtpd.smtp
from aiosmtpd.smtp import SMTP

from spamguard.errors import DeliveryError, PeerProtocolError
from spamguard.filter import Clock, Filter
from spamguard.frontends.listener import Listener
from spamguard.message import Envelope, edit_headers
from spamguard.next_hop import Connection, NextHop
from spamguard.observe import Metrics
from spamguard.report import ReportDesk
from spamguard.verdict import Action, Disposition, Network
from spamguard.wire.smtp import Reply, decode_data, parse_path

log = logging.getLogger(__name__)

IDLE_TIMEOUT_SECONDS = 900  # from command to reply, our wait for the next hop included
CLOSE_SECONDS = 1.0  # for connections that were cut at the deadline of a drain
MAX_RECIPIENTS = 1000  # RFC 5321 section 4.5.3.1.8 wants at least 100; Postfix sends 50
READ_CHUNK_BYTES = 1 << 18
_EVERYTHING = 1 << 30  # what the stream reader holds, which is twice its limit at most
_END_OF_DATA = b"\r\n.\r\n"
_OUR_FAILURE = "451 4.3.0 temporary failure, try again"
_XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
_XFORWARD_VALUE = re.compile("(" + "|".join(_XFORWARD_NAMES) + r")=([!-~]{0,255})", re.IGNORECASE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_UNKNOWN = {"[UNAVAILABLE]", "[TEMPUNAVAIL]"}


@dataclass(slots=True)
class _Transaction:
    """One mail transaction, mirrored to the next hop from its first recipient on."""

    reverse_path: str
    parameters: tuple[str, ...]
    recipients: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)  # report addresses: not mirrored
    connection: Connection | None = None
    mail_reply: Reply | None = None


class SmtpServer(Listener):
    """Listens, and hands messages to the filter and on.

    Args:
        mail_filter: the core.
        next_hop: where accepted mail goes.
        metrics: counters.
        clock: wall clock.
        max_message_bytes: larger messages are refused, as the MTA in front should have.
        max_connections: more are told 421.
        xforward_networks: clients whose XFORWARD is believed; Unix sockets always are.
        hostname: for the greeting and EHLO.
        desk: takes mail to report addresses, or None where there are none.
        is_lmtp: whether LMTP is spoken, to the next hop too.
    """

    def __init__(
        self,
        mail_filter: Filter,
        next_hop: NextHop,
        *,
        metrics: Metrics,
        clock: Clock,
        max_message_bytes: int,
        max_connections: int = 100,
        xforward_networks: Sequence[Network] = (),
        hostname: str = "localhost",
        desk: ReportDesk | None = None,
        is_lmtp: bool = False,
    ) -> None:
        super().__init__(lambda: (_LmtpSession if is_lmtp else _Session)(self))
        self.filter = mail_filter
        self.next_hop = next_hop
        self.metrics = metrics
        self.clock = clock
        self.max_message_bytes = max_message_bytes
        self.max_connections = max_connections
        self.xforward_networks = tuple(xforward_networks)
        self.hostname = hostname
        self.desk = desk
        self.connections: set[_Session] = set()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, let transactions in flight finish, then cut the rest."""
        await self.stop_listening()
        await self.let_finish(self.connections, deadline_seconds)
        for session in list(self.connections):
            session.abort()
        await self.let_finish(self.connections, CLOSE_SECONDS)
        await self.next_hop.close()


class _Handler:
    """aiosmtpd's hooks: the extensions that are offered."""

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name and signature
        self,
        server: "_Session",
        session: aiosmtpd.smtp.Session,
        envelope: aiosmtpd.smtp.Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Offer what Postfix asks for; aiosmtpd's own list has SIZE, 8BITMIME, SMTPUTF8."""
        del envelope
        session.host_name = hostname
        offered = ["250-PIPELINING", "250-ENHANCEDSTATUSCODES", "250-DSN"]
        if server.may_xforward:
            offered.append("250-XFORWARD " + " ".join(_XFORWARD_NAMES))
        return [*responses[:-1], *offered, responses[-1]]


class _Session(SMTP):
    """One client connection."""

    frontend = "smtp"
    line_length_limit = READ_CHUNK_BYTES  # of the stream reader: also of a body's chunks

    def __init__(self, owner: SmtpServer) -> None:
        super().__init__(
            _Handler(),
            data_size_limit=owner.max_message_bytes,
            enable_SMTPUTF8=True,
            hostname=owner.hostname,
            ident="SpamGuard",
            timeout=IDLE_TIMEOUT_SECONDS,
            loop=asyncio.get_running_loop(),
        )
        # Paths, DSN and XFORWARD make long lines; aiosmtpd's table is shared by all instances.
        self.command_size_limit = 4096
        self.command_size_limits = _SameForAll(4096)
        self._owner = owner
        self._transaction: _Transaction | None = None
        self._xforward: dict[str, str] = {}
        self._is_busy = False
        self._heard_at = self.loop.time()
        self.may_xforward = False

    # -- connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or say 421 when there are too many."""
        assert isinstance(transport, asyncio.Transport)
        owner = self._owner
        if len(owner.connections) >= owner.max_connections:
            transport.write(b"421 4.3.2 too many connections, try again\r\n")
            transport.close()
            return
        owner.connections.add(self)
        owner.metrics.count(f"{self.frontend}_connections")
        peer = transport.get_extra_info("peername")
        self.may_xforward = not peer or _is_in(peer[0], owner.xforward_networks)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the transaction: what the next hop has of it is aborted, never completed."""
        self._owner.connections.discard(self)
        if self._transaction is not None and self._transaction.connection is not None:
            self._transaction.connection.abort()
        self._transaction = None
        if self.session is not None:
            super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Note that the client is not idle."""
        self._heard_at = self.loop.time()
        super().data_received(data)

    def close_if_idle(self, silent_seconds: float) -> None:
        """Close the connection unless a transaction is under way or the client has just spoken."""
        is_silent = self.loop.time() - self._heard_at >= silent_seconds
        if is_silent and self._transaction is None and not self._is_busy:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.close()

    async def handle_exception(self, error: Exception) -> str:
        """Turn a bug of ours into 451; aiosmtpd would say 500 and quote the error."""
        log.error("bug in the SMTP dialogue", exc_info=error)
        self._owner.metrics.count(f"{self.frontend}_errors")
        return _OUR_FAILURE

    # -- commands ----------------------------------------------------------------------------

    async def smtp_XFORWARD(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's naming
        """Take what the MTA in front knows of the client (Postfix XFORWARD_README)."""
        if not self.may_xforward:
            await self.push("550 5.7.1 not authorised to use XFORWARD")
            return
        words = (arg or "").split()
        for word in words:
            matched = _XFORWARD_VALUE.fullmatch(word)
            if matched is None:
                await self.push("501 5.5.4 bad XFORWARD attribute")
                return
            self._xforward[matched.group(1).upper()] = matched.group(2)
        await self.push("250 2.0.0 Ok" if words else "501 5.5.4 XFORWARD attributes expected")

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        """Note the reverse path and its parameters; the next hop hears them with RCPT."""
        if await self.check_helo_needed():
            return
        if self._transaction is not None:
            await self.push("503 5.5.1 nested MAIL command")
            return
        try:
            path, parameters = parse_path(arg or "", "FROM:")
        except PeerProtocolError as error:
            await self.push(f"501 5.5.4 {error}")
            return
        for parameter in parameters:
            name, _, value = parameter.upper().partition("=")
            limit = self._owner.max_message_bytes
            if name == "SIZE" and value.isdigit() and int(value) > limit:
                await self.push("552 5.3.4 message size exceeds the limit")
                return
        self._transaction = _Transaction(reverse_path=path, parameters=parameters)
        await self.push("250 2.1.0 Ok")

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802
        """Ask the next hop about this recipient and pass its reply on."""
        transaction = self._transaction
        if transaction is None:
            await self.push("503 5.5.1 need MAIL command")
            return
        try:
            path, parameters = parse_path(arg or "", "TO:")
        except PeerProtocolError as error:
            await self.push(f"501 5.5.4 {error}")
            return
        if len(transaction.recipients) + len(transaction.reports) >= MAX_RECIPIENTS:
            await self.push("452 4.5.3 too many recipients")
            return
        desk = self._owner.desk
        if desk and desk.label_of(path):
            refusal = desk.refusal(self._envelope(transaction))
            if not refusal:
                transaction.reports.append(path)
            await self.push(refusal or "250 2.1.5 Ok")
            return
        try:
            reply = await self._mirror_recipient(transaction, path, parameters)
        except DeliveryError as error:
            log.warning("next hop failed at RCPT", extra={"error": str(error)})
            self._owner.metrics.count("next_hop_failures")
            transaction.connection, transaction.mail_reply = None, None
            await self.push(_temporary(error.reply))
            return
        if reply.is_success:
            transaction.recipients.append(path)
        await self.push(_sendable(reply))

    async def _mirror_recipient(
        self, transaction: _Transaction, path: str, parameters: tuple[str, ...]
    ) -> Reply:
        connection = transaction.connection
        if connection is None:
            if transaction.recipients:
                # It accepted recipients before and broke: they cannot be taken back.
                raise DeliveryError("next hop was lost in the transaction")
            connection = transaction.connection = await self._owner.next_hop.acquire()
        rcpt = f"RCPT TO:<{path}>{connection.parameters(parameters)}"
        if transaction.mail_reply is None:
            reverse_path = transaction.reverse_path
            mail = f"MAIL FROM:<{reverse_path}>{connection.parameters(transaction.parameters)}"
            *_, transaction.mail_reply, reply = await connection.commands(
                *self._xforward_lines(connection), mail, rcpt
            )
        elif transaction.mail_reply.is_success:
            (reply,) = await connection.commands(rcpt)
        return reply if transaction.mail_reply.is_success else transaction.mail_reply

    def _xforward_lines(self, connection: Connection) -> list[str]:
        if "XFORWARD" not in connection.extensions:
            return []
        return [f"XFORWARD {name}={value}" for name, value in self._xforward.items()]

    async def smtp_RSET(self, arg: str | None) -> None:  # noqa: N802
        """Forget the transaction."""
        del arg
        await self._end_transaction()
        await self.push("250 2.0.0 Ok")

    async def smtp_QUIT(self, arg: str | None) -> None:  # noqa: N802
        """Say good-bye."""
        await self._end_transaction()
        await super().smtp_QUIT(arg)

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802
        """Greet; an EHLO in a transaction resets it (RFC 5321 section 4.1.4)."""
        await self._end_transaction()
        await super().smtp_EHLO(hostname)

    async def smtp_HELO(self, hostname: str) -> None:  # noqa: N802
        """Greet; see `smtp_EHLO`."""
        await self._end_transaction()
        await super().smtp_HELO(hostname)

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802
        """Read the message, have it judged, do what the action says, answer."""
        transaction = self._transaction
        if arg:
            await self.push("501 5.5.4 DATA takes no arguments")
            return
        if transaction is None or not (transaction.recipients or transaction.reports):
            await self.push("503 5.5.1 need RCPT command")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        raw = await self._read_message()
        self._is_busy = True
        try:
            if raw is None:
                replies = ["552 5.3.4 message size exceeds the limit"]
            else:
                replies = await self._finish(transaction, raw)
            await self._push_final(transaction, replies)
        finally:
            self._is_busy = False
            await self._end_transaction()
            if self._owner.is_closing:
                self.abort()

    async def _read_message(self) -> bytes | None:
        """Read up to the final dot, in chunks; None when it is larger than allowed.

        Only CRLF "." CRLF ends the data (RFC 5321 section 4.1.1.4).
        """
        chunks: list[bytes] = []
        size = 0
        tail = b"\r\n"  # the command line's own end: a dot may stand on the first line
        while True:
            data = await self._reader.read(_EVERYTHING)
            if not data:
                raise ConnectionResetError("closed in DATA")
            window = tail + data
            found = window.find(_END_OF_DATA)
            if found >= 0:
                end = found + len(_END_OF_DATA) - len(tail)
                data, rest = data[:end], data[end:]
                if rest:
                    self._reader.feed_data(rest)  # commands that were pipelined behind it
            size += len(data)
            if size <= self._owner.max_message_bytes:
                chunks.append(data)
            if found >= 0:
                break
            tail = window[-len(_END_OF_DATA) + 1 :]
        if size > self._owner.max_message_bytes:
            return None
        data = b"".join(chunks)
        return decode_data(data[: -len(b".\r\n")])

    async def _push_final(self, transaction: _Transaction, replies: list[str]) -> None:
        """Answer the data; by SMTP there is one reply."""
        del transaction
        await self.push(replies[0])

    async def _finish(self, transaction: _Transaction, raw: bytes) -> list[str]:
        """Take the reports in a message, judge it, act.

        Returns:
            One reply for all recipients, or one for each.
        """
        envelope = self._envelope(transaction)
        if transaction.reports and self._owner.desk:
            addresses = tuple(transaction.reports)
            reply = await self._owner.desk.take(replace(envelope, recipients=addresses), raw)
            if not transaction.recipients or reply.startswith("4"):
                return [reply]
        # A report quotes spam: its copies for others are not held for that.
        outcome = await self._owner.filter.check(envelope, raw, can_hold=not transaction.reports)
        action = outcome.action
        try:
            match action.disposition:
                case Disposition.QUARANTINE:
                    return [f"250 2.0.0 Ok: held as {outcome.verdict.id}"]
                case Disposition.REJECT | Disposition.DEFER:
                    return [action.smtp_reply]
                case Disposition.REDIRECT:
                    return [await self._redirect(transaction, action, raw)]
                case _:
                    return await self._hand_on(transaction, action, raw)
        except DeliveryError as error:
            log.warning(
                "next hop failed at DATA", extra={"id": outcome.verdict.id, "error": str(error)}
            )
            self._owner.metrics.count("next_hop_failures")
            return [_temporary(error.reply)]

    async def _hand_on(self, transaction: _Transaction, action: Action, raw: bytes) -> list[str]:
        if transaction.connection is None:
            raise DeliveryError("next hop was lost in the transaction")
        replies = await transaction.connection.data(
            _edited(raw, action), len(transaction.recipients)
        )
        return [_sendable(reply) for reply in replies]

    async def _redirect(self, transaction: _Transaction, action: Action, raw: bytes) -> str:
        await self._owner.next_hop.deliver(
            _edited(raw, action),
            reverse_path=transaction.reverse_path,
            recipients=[action.redirect_to],
        )
        return "250 2.0.0 Ok: redirected"

    async def _end_transaction(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None and transaction.connection is not None:
            await self._owner.next_hop.release(transaction.connection)

    def _envelope(self, transaction: _Transaction) -> Envelope:
        known = {
            name: _XTEXT.sub(lambda m: chr(int(m.group(1), 16)), value)
            for name, value in self._xforward.items()
            if value.upper() not in _UNKNOWN
        }
        address = known.get("ADDR", "").removeprefix("IPV6:").removeprefix("IPv6:")
        return Envelope(
            frontend=self.frontend,
            reverse_path=transaction.reverse_path,
            recipients=tuple(transaction.recipients),
            queue_id=known.get("IDENT", ""),
            client_ip=address or None,
            client_name=known.get("NAME", ""),
            helo=known.get("HELO", ""),
            # XFORWARD does not say who logged in. No address and a local source is Postfix's
            # own submission (the sendmail command); with an address local_networks decides.
            authenticated_user="local" if known.get("SOURCE") == "LOCAL" and not address else "",
            received_at=self._owner.clock(),
        )


class _LmtpSession(_Session):
    """One client connection that speaks LMTP."""

    frontend = "lmtp"

    async def smtp_LHLO(self, hostname: str) -> None:  # noqa: N802
        """Greet as EHLO does."""
        await super().smtp_EHLO(hostname)

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802
        """Refuse: RFC 2033 section 4.1 keeps LMTP apart from SMTP."""
        del hostname
        await self.push("500 5.5.1 this is LMTP: LHLO expected")

    smtp_HELO = smtp_EHLO  # noqa: N815

    async def _push_final(self, transaction: _Transaction, replies: list[str]) -> None:
        """Answer for each recipient (RFC 2033 section 4.2); a single reply is everybody's."""
        if len(replies) == 1:
            replies = replies * len(transaction.recipients)
        await self.push("\r\n".join(replies))


class _SameForAll(dict[str, int]):
    """A limit that is the same for every command."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, command: str) -> int:
        return self._limit


def _edited(raw: bytes, action: Action) -> bytes:
    return edit_headers(
        raw,
        delete=action.delete_headers,
        add=action.add_headers,
        subject_prefix=action.subject_prefix,
    )


def _sendable(reply: Reply) -> str:
    return str(reply).encode("utf-8", "surrogateescape").decode("ascii", "replace")


def _temporary(reply: str) -> str:
    """Pass on a refusal of the next hop; anything else is our failure."""
    return reply if re.match(r"[45]\d\d ", reply) else _OUR_FAILURE


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
