"""The client that hands mail on: by SMTP to the MTA, by LMTP to the mail store.

It serves the content filter and the release of held messages. Kept small on purpose: one
server, no TLS (loopback or a trusted network), connections reused, commands pipelined where
the server offers it (RFC 2920), every reply passed back to the caller, because only the caller
may answer for a message.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from spamguard.errors import DeliveryError, PeerProtocolError
from spamguard.wire.smtp import MAX_REPLY_LINE_BYTES, Reply, encode_data, parse_reply

log = logging.getLogger(__name__)

LMTP_PREFIX = "lmtp:"  # of an endpoint that speaks LMTP (RFC 2033)
CONNECT_TIMEOUT_SECONDS = 30.0
MAX_IDLE = 20  # connections kept for reuse; Postfix's default process limit is 100
MAX_IDLE_SECONDS = 60.0  # well below smtpd_timeout (300 s, 10 s under stress), see `acquire`
_DATA_CHUNK_BYTES = 256 * 1024  # written between drains, so that no other connection waits

# Parameters of MAIL and RCPT, and the extension that must be offered for each.
_PARAMETER_EXTENSIONS = {
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
}


class Connection:
    """One connection to the next hop, between EHLO (LHLO) and QUIT."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout_seconds: float,
        *,
        is_lmtp: bool = False,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_seconds = timeout_seconds
        self._is_lmtp = is_lmtp
        self.extensions: frozenset[str] = frozenset()
        self.idle_since = 0.0
        self.is_broken = False

    async def greet(self, hostname: str) -> None:
        """Read the greeting and say EHLO, or LHLO (RFC 2033 section 4.1)."""
        greeting = await self._read_reply()
        if not greeting.is_success:
            raise DeliveryError(f"next hop greets with {greeting.code}", str(greeting))
        (reply,) = await self.commands(f"{'LHLO' if self._is_lmtp else 'EHLO'} {hostname}")
        if not reply.is_success and self._is_lmtp:
            raise DeliveryError(f"next hop answers LHLO with {reply.code}")
        if not reply.is_success:
            (reply,) = await self.commands(f"HELO {hostname}")
        self.extensions = frozenset(line.split(" ")[0].upper() for line in reply.lines[1:])

    async def commands(self, *lines: str) -> list[Reply]:
        """Send command lines and return their replies; in one write where that is allowed.

        Raises:
            DeliveryError: the connection broke or the peer does not speak SMTP.
        """
        try:
            if "PIPELINING" in self.extensions:
                self._write(*lines)
                return [await self._read_reply() for _ in lines]
            replies = []
            for line in lines:
                self._write(line)
                replies.append(await self._read_reply())
        except (OSError, TimeoutError, EOFError, ValueError, PeerProtocolError) as error:
            self.is_broken = True
            raise DeliveryError(f"next hop: {error or type(error).__name__}") from error
        else:
            return replies

    async def data(self, raw: bytes, recipients: int = 1) -> list[Reply]:
        """Send a message after accepted RCPTs and return the server's final reply.

        Args:
            raw: the message.
            recipients: how many were accepted.

        Returns:
            One reply for all recipients; one for each by LMTP, in the order of the RCPTs (RFC
            2033 section 4.2).

        Raises:
            DeliveryError: the connection broke. Whether the server took the message is then
                unknown: the caller answers 4xx, and the sender may deliver it twice.
        """
        (reply,) = await self.commands("DATA")
        if reply.code != 354:
            return [reply] * (recipients if self._is_lmtp else 1)
        try:
            encoded = encode_data(raw)
            for start in range(0, len(encoded), _DATA_CHUNK_BYTES):
                self._writer.write(encoded[start : start + _DATA_CHUNK_BYTES])
                async with asyncio.timeout(self._timeout_seconds):
                    await self._writer.drain()
            expected = recipients if self._is_lmtp else 1
            return [await self._read_reply() for _ in range(expected)]
        except (OSError, TimeoutError, EOFError, ValueError, PeerProtocolError) as error:
            self.is_broken = True
            raise DeliveryError(f"next hop: {error or type(error).__name__}") from error

    def parameters(self, parameters: Sequence[str]) -> str:
        """Return those parameters whose extension the server offers, with a leading blank."""
        kept = []
        for parameter in parameters:
            extension = _PARAMETER_EXTENSIONS.get(parameter.partition("=")[0].upper())
            if extension in self.extensions:
                kept.append(parameter)
        return "".join(f" {parameter}" for parameter in kept)

    def _write(self, *lines: str) -> None:
        if any("\r" in line or "\n" in line for line in lines):
            raise DeliveryError("line break in an SMTP command", "501 5.5.4 bad address")
        data = "".join(f"{line}\r\n" for line in lines)
        self._writer.write(data.encode("utf-8", "surrogateescape"))

    async def _read_reply(self) -> Reply:
        lines: list[bytes] = []
        async with asyncio.timeout(self._timeout_seconds):
            while True:
                line = await self._reader.readline()
                if not line.endswith(b"\n"):
                    raise EOFError("connection closed")
                lines.append(line)
                if (reply := parse_reply(lines)) is not None:
                    return reply

    async def close(self) -> None:
        """Say QUIT without waiting long for the answer, and close."""
        with contextlib.suppress(OSError, TimeoutError):
            if not self.is_broken:
                self._writer.write(b"QUIT\r\n")
            self._writer.close()
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once; a message being sent is not completed."""
        self.is_broken = True
        self._writer.transport.abort()


class NextHop:
    """A pool of connections to one server.

    Args:
        endpoint: ``host:port``, ``[v6]:port`` or ``unix:/path``, behind ``lmtp:`` where LMTP is
            spoken.
        hostname: what EHLO says.
        timeout_seconds: for each reply; RFC 5321 section 4.5.3.2 wants minutes after DATA.
    """

    def __init__(
        self, endpoint: str, *, hostname: str = "localhost", timeout_seconds: float = 300
    ) -> None:
        self.endpoint = endpoint
        self._hostname = hostname
        self._timeout_seconds = timeout_seconds
        self._idle: list[Connection] = []

    async def acquire(self) -> Connection:
        """Return a connection ready for MAIL; one that was idle is checked with RSET first.

        Raises:
            DeliveryError: the next hop cannot be reached.
        """
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < MAX_IDLE_SECONDS:
                with contextlib.suppress(DeliveryError):
                    (reply,) = await connection.commands("RSET")
                    if reply.is_success:
                        return connection
            await connection.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                reader, writer = await open_stream(self.endpoint)
        except (OSError, TimeoutError) as error:
            raise DeliveryError(f"next hop {self.endpoint}: {error}") from error
        connection = Connection(
            reader,
            writer,
            self._timeout_seconds,
            is_lmtp=self.endpoint.startswith(LMTP_PREFIX),
        )
        try:
            await connection.greet(self._hostname)
        except (OSError, TimeoutError, EOFError, ValueError, PeerProtocolError) as error:
            await connection.close()
            raise DeliveryError(f"next hop {self.endpoint}: {error}") from error
        except DeliveryError:
            await connection.close()
            raise
        return connection

    async def release(self, connection: Connection) -> None:
        """Give a connection back; a broken one is closed."""
        if connection.is_broken or len(self._idle) >= MAX_IDLE:
            await connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def deliver(
        self, raw: bytes, *, reverse_path: str, recipients: Sequence[str]
    ) -> list[tuple[str, Reply]]:
        """Send one message in a transaction of its own.

        Returns:
            The recipients that were refused, each with its reply; the others have it.

        Raises:
            DeliveryError: nobody got it.
        """
        connection = await self.acquire()
        try:
            needs_utf8 = not "".join([reverse_path, *recipients]).isascii()
            options = ["BODY=8BITMIME", *(["SMTPUTF8"] if needs_utf8 else [])]
            mail, *replies = await connection.commands(
                f"MAIL FROM:<{reverse_path}>{connection.parameters(options)}",
                *(f"RCPT TO:<{recipient}>" for recipient in recipients),
            )
            if not mail.is_success:
                raise DeliveryError(f"next hop refused the sender: {mail}", str(mail))
            refused = [
                (recipient, reply)
                for recipient, reply in zip(recipients, replies, strict=True)
                if not reply.is_success
            ]
            if len(refused) == len(recipients):
                reply = refused[0][1]
                raise DeliveryError(f"next hop refused every recipient: {reply}", str(reply))
            accepted = [r for r, reply in zip(recipients, replies, strict=True) if reply.is_success]
            final = await connection.data(raw, len(accepted))
            if not any(reply.is_success for reply in final):
                raise DeliveryError(f"next hop refused the message: {final[0]}", str(final[0]))
            by_recipient = zip(accepted, final, strict=False)  # one reply is everybody's by SMTP
            return refused + [(r, reply) for r, reply in by_recipient if not reply.is_success]
        finally:
            await self.release(connection)

    async def close(self) -> None:
        """Close all idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def open_stream(endpoint: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to ``host:port``, ``[v6]:port`` or ``unix:/path``."""
    endpoint = endpoint.removeprefix(LMTP_PREFIX)
    if endpoint.startswith("unix:"):
        return await asyncio.open_unix_connection(
            endpoint.removeprefix("unix:"), limit=MAX_REPLY_LINE_BYTES
        )
    host, _, port = endpoint.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=MAX_REPLY_LINE_BYTES)
