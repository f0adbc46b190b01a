"""The spamd door: for spamc, Exim's `spam` condition and whatever else asks a SpamAssassin.

The client keeps the message and does with the verdict what it likes: nothing is held or refused
here. A message that could not be judged is answered `75 EX_TEMPFAIL`, with which spamc passes it
on unchanged and Exim's `defer_ok` accepts it. What the bytes mean is `wire/spamd.py`.
"""

import asyncio
import logging
import re

from spamguard.errors import PeerProtocolError, ReportError, StoreError
from spamguard.filter import Clock, Filter, Outcome
from spamguard.frontends.listener import Listener
from spamguard.frontends.points import SPAM_POINTS, points_of
from spamguard.handover import read_envelope
from spamguard.message import Envelope, edit_headers
from spamguard.observe import Metrics, log_context
from spamguard.report import CorrectionSink, Report, ReportSource
from spamguard.verdict import Label
from spamguard.wire import spamd as wire
from spamguard.wire.spamd import Method, Request, RequestReader

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 100  # each may keep a whole message in memory
READ_SECONDS = 60.0  # for a request to come in; spamc sends it at once
WRITE_SECONDS = 60.0  # for the answer to be read
READ_CHUNK_BYTES = 1 << 18
# What spamc and Exim say when they speak for no user in particular.
_NOT_A_USER = {"", "nobody", "root"}
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")


class SpamdServer(Listener):
    """Listens, and answers one request a connection.

    Args:
        mail_filter: the core.
        sink: where TELL goes, or None to refuse it: the protocol knows no login, so whoever may
            connect may report in anybody's name.
        metrics: counters.
        clock: wall clock.
        max_message_bytes: larger messages are refused, compressed or not.
        read_seconds: for a request to come in.
    """

    def __init__(
        self,
        mail_filter: Filter,
        sink: CorrectionSink | None,
        *,
        metrics: Metrics,
        clock: Clock,
        max_message_bytes: int,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        super().__init__(self._new_connection)
        self._filter = mail_filter
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._read_seconds = read_seconds
        self._connections: set[asyncio.Task[None]] = set()

    def _new_connection(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=READ_CHUNK_BYTES)
        return asyncio.StreamReaderProtocol(reader, self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        self._metrics.count("spamd_connections")

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, answer what is in flight, then cut the rest."""
        await self.stop_listening()
        if self._connections:
            _, left = await asyncio.wait(self._connections, timeout=deadline_seconds)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer_one(reader)
            writer.write(answer)
            async with asyncio.timeout(WRITE_SECONDS):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            log.info("spamd connection lost", extra={"error": str(error) or type(error).__name__})
        finally:
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader) -> bytes:
        if len(self._connections) > MAX_CONNECTIONS:
            self._metrics.count("spamd_refused")
            return wire.encode_failure(wire.EX_TEMPFAIL)
        try:
            async with asyncio.timeout(self._read_seconds):
                request = await self._read(reader)
        except PeerProtocolError as error:
            self._metrics.count("spamd_protocol_errors")
            log.warning("spamd client broke the protocol", extra={"error": str(error)})
            return wire.encode_failure(wire.EX_PROTOCOL)
        self._metrics.count("spamd_requests", request.method.lower())
        match request.method:
            case Method.PING:
                return wire.encode_pong()
            case Method.SKIP:
                return b""
            case Method.TELL:
                return await self._tell(request)
            case _:
                return await self._judge(request)

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        incoming = RequestReader(self._max_message_bytes)
        while (request := incoming.next_request()) is None:
            if data := await reader.read(READ_CHUNK_BYTES):
                incoming.receive_data(data)
            else:
                incoming.receive_eof()
        return request

    # -- judging -----------------------------------------------------------------------------

    async def _judge(self, request: Request) -> bytes:
        reverse_path, recipients = read_envelope(request.message)
        if not recipients and request.user.lower() not in _NOT_A_USER:
            recipients = (request.user,)
        envelope = Envelope(
            frontend="spamd",
            reverse_path=reverse_path,
            recipients=recipients,
            received_at=self._clock(),
        )
        outcome = await self._filter.check(envelope, request.message, can_hold=False)
        verdict = outcome.verdict
        if verdict.label is Label.UNSCORED:
            return wire.encode_failure(wire.EX_TEMPFAIL)
        judgement = wire.Judgement(
            is_spam=verdict.label is Label.SPAM, points=points_of(verdict), required=SPAM_POINTS
        )
        return wire.encode_judgement(request, judgement, _body(request, outcome))

    # -- learning ----------------------------------------------------------------------------

    async def _tell(self, request: Request) -> bytes:
        if self._sink is None:
            log.warning("TELL refused: spamd.allow_tell is false", extra={"user": request.user})
            return wire.encode_failure(wire.EX_UNAVAILABLE)
        with log_context(user=request.user, label=request.message_class or "forget"):
            try:
                return await asyncio.to_thread(_record, self._sink, request)
            except ReportError as error:
                log.warning("report refused", extra={"error": str(error)})
                return wire.encode_failure(wire.EX_DATAERR)
            except StoreError as error:
                self._metrics.count("report_failures")
                log.error("report not recorded", extra={"error": str(error)})  # noqa: TRY400
                return wire.encode_failure(wire.EX_TEMPFAIL)


def _record(sink: CorrectionSink, request: Request) -> bytes:
    """Report or take back; one record serves what the protocol calls local and remote."""
    if request.to_set:
        if request.message_class not in {Label.HAM, Label.SPAM}:
            raise ReportError(f"Message-class {request.message_class[:20]!r}: expected spam or ham")
        report = Report(
            label=Label(request.message_class),
            reporter=request.user,
            source=ReportSource.SPAMD,
            raw=request.message,
        )
        return wire.encode_told(did_set=sink.record(report).is_new)
    if not request.to_remove:
        raise ReportError("TELL with neither Set nor Remove")
    return wire.encode_told(did_remove=sink.undo(request.user, request.message))


def _body(request: Request, outcome: Outcome) -> bytes:
    """Return what the method asks for besides the verdict."""
    verdict, action = outcome.verdict, outcome.action
    match request.method:
        case Method.CHECK:
            return b""
        case Method.SYMBOLS:
            return f"SPAMGUARD_{verdict.label.upper()}".encode()
        case Method.REPORT_IFSPAM if verdict.label is not Label.SPAM:
            return b""
        case Method.REPORT | Method.REPORT_IFSPAM:
            return (
                f"SpamGuard judged this message {verdict.label}: {points_of(verdict):.1f} points,"
                f" spam from {SPAM_POINTS:.1f}.\r\n"
                f"Probability of spam {verdict.spam_probability:.4f}, model"
                f" {verdict.model_version}, {verdict.reason}.\r\n"
                f"Id {verdict.id}.\r\n"
            ).encode()
    edited = edit_headers(
        request.message,
        delete=action.delete_headers,
        add=action.add_headers,
        subject_prefix=action.subject_prefix,
    )
    if request.method is Method.HEADERS and (found := _END_OF_HEADER.search(edited)):
        return edited[: found.end()]
    return edited
