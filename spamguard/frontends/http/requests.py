"""What every route of the HTTP door shares: tokens, bounded bodies, envelopes, reports."""

import asyncio
import base64
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from spamguard.errors import ReportError, StoreError
from spamguard.filter import Clock, Filter, Outcome
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.report import CorrectionSink, Receipt, Report, ReportSource
from spamguard.verdict import Label

log = logging.getLogger(__name__)

READ_SECONDS = 60.0  # for a body to come in
MAX_ADDRESS_CHARS = 1024  # RFC 5321 allows 254; nothing is gained by judging addresses here
MAX_RECIPIENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the routes work with.

    Attributes:
        filter: the core.
        sink: where reports end.
        tokens: any of them opens the door; none: no report is taken.
        metrics: counters.
        clock: wall clock.
        max_message_bytes: larger messages are refused.
        read_seconds: for a body to come in.
        is_unix: whether this is a Unix socket, whose file mode says who may ask.
    """

    filter: Filter
    sink: CorrectionSink
    tokens: tuple[bytes, ...]
    metrics: Metrics
    clock: Clock
    max_message_bytes: int
    read_seconds: float = READ_SECONDS
    is_unix: bool = False

    def require(self, request: Request, *, for_report: bool = False) -> None:
        """Let a request in, or raise 401.

        A verdict may be had on a Unix socket, and by everybody where there are no tokens. To
        report always takes a token: whoever may connect is nobody in particular.
        """
        if not for_report and (self.is_unix or not self.tokens):
            return
        given = _given_token(request)
        # Each is compared, and in constant time: nothing is learned from how long it takes.
        if sum(hmac.compare_digest(given, token) for token in self.tokens):
            return
        self.metrics.count("http_unauthorized")
        log.warning("HTTP request without a valid token", extra={"path": request.url.path})
        raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})

    async def body(self, request: Request, limit_bytes: int = 0) -> bytes:
        """Read a body, at most so many bytes and for so long.

        Raises:
            HTTPException: 413 too large, 408 too slow, 400 not complete, 415 compressed.
        """
        limit = limit_bytes or self.max_message_bytes
        if {"content-encoding", "compression"} & set(request.headers):
            raise HTTPException(415, "compressed bodies are not taken")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise HTTPException(413, f"larger than {limit} bytes", {"Connection": "close"})
        data = bytearray()
        try:
            async with asyncio.timeout(self.read_seconds):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > limit:
                        close = {"Connection": "close"}
                        raise HTTPException(413, f"larger than {limit} bytes", close)
        except TimeoutError as error:
            raise HTTPException(408, "the body did not come in time") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the body is not complete") from error
        return bytes(data)

    def envelope(self, known: Mapping[str, str], recipients: list[str]) -> Envelope:
        """Return the envelope that a client states.

        Args:
            known: ``from``, ``ip``, ``name``, ``helo``, ``user``, ``queue_id``, as far as stated.
            recipients: with or without angle brackets.
        """
        return Envelope(
            frontend="http",
            reverse_path=_address(known.get("from", "")),
            recipients=tuple(_address(r) for r in recipients[:MAX_RECIPIENTS] if r),
            queue_id=_line(known.get("queue_id", "")),
            client_ip=_line(known.get("ip", "")) or None,
            client_name=_line(known.get("name", "")),
            helo=_line(known.get("helo", "")),
            authenticated_user=_line(known.get("user", "")),
            received_at=self.clock(),
        )

    async def judge(self, envelope: Envelope, raw: bytes) -> Outcome:
        """Judge a message; the client keeps it, so it is never held."""
        return await self.filter.check(envelope, raw, can_hold=False)

    async def report(self, label: Label, reporter: str, raw: bytes) -> Receipt:
        """Record a report.

        Raises:
            HTTPException: 422 this report cannot be taken, 503 not now.
        """
        report = Report(label=label, reporter=reporter, source=ReportSource.HTTP, raw=raw)
        try:
            return await asyncio.to_thread(self.sink.record, report)
        except ReportError as error:
            raise HTTPException(422, str(error)) from error
        except StoreError as error:
            raise self.not_recorded(error) from error

    async def undo(self, reporter: str, raw: bytes) -> bool:
        """Take a report back; see `report`."""
        try:
            return await asyncio.to_thread(self.sink.undo, reporter, raw)
        except ReportError as error:
            raise HTTPException(422, str(error)) from error
        except StoreError as error:
            raise self.not_recorded(error) from error

    def not_recorded(self, error: StoreError) -> HTTPException:
        """Return the answer when the record fails; count and log it."""
        self.metrics.count("report_failures")
        log.error("report not recorded", extra={"error": str(error)})
        return HTTPException(503, "the report could not be recorded, try again")


def _given_token(request: Request) -> bytes:
    """Return the token of ``Authorization`` (Bearer, or Basic's password) or ``Password``."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # no base64, or not even ASCII
            return b""
    return request.headers.get("password", "").encode()


def _address(value: str) -> str:
    return _line(value).removeprefix("<").removesuffix(">")


def _line(value: str) -> str:
    value = value.strip()[:MAX_ADDRESS_CHARS]
    return value if value.isprintable() else ""
