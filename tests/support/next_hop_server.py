"""A next hop on a real socket that refuses, waits or dies where a test says so.

It is strict: only CRLF "." CRLF ends its data, and it keeps every command and message.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

ALL_EXTENSIONS = ("PIPELINING", "8BITMIME", "DSN", "SMTPUTF8", "XFORWARD NAME ADDR HELO IDENT")


@dataclass
class NextHopServer:
    """What it is told to do, and what it saw.

    Attributes:
        extensions: offered after EHLO.
        replies: the reply to a command line that begins so; also ``.`` for the end of data.
        is_lmtp: one reply for each accepted recipient after the data; ``.N`` is for the Nth.
        dies: ``DATA`` cuts after 354, ``.`` before its 250, ``.250`` just after it.
        before_250: awaited between the end of data and its reply.
        commands: every command line, in order.
        messages: (MAIL line, RCPT lines that were accepted, message) with 250.
        connections: how many were opened.
    """

    extensions: tuple[str, ...] = ALL_EXTENSIONS
    replies: dict[str, str] = field(default_factory=dict)
    is_lmtp: bool = False
    dies: str = ""
    before_250: asyncio.Event | None = None
    commands: list[str] = field(default_factory=list)
    messages: list[tuple[str, list[str], bytes]] = field(default_factory=list)
    connections: int = 0
    data_ended: asyncio.Event = field(default_factory=asyncio.Event)
    endpoint: str = ""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def reply_to(self, line: str) -> str:
        for beginning, reply in self.replies.items():
            if line.startswith(beginning):
                return reply
        return "354 go on" if line == "DATA" else "250 2.0.0 Ok: next hop"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._dialogue(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _dialogue(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mail, recipients = "", []
        writer.write(b"220 next hop\r\n")
        while True:
            line = (await reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "surrogateescape")
            self.commands.append(line)
            reply = self.reply_to(line)
            if line.startswith("LHLO" if self.is_lmtp else "EHLO"):
                lines = ["next.hop", *self.extensions]
                for text in lines[:-1]:
                    writer.write(f"250-{text}\r\n".encode())
                reply = f"250 {lines[-1]}"
            elif line.startswith("MAIL"):
                mail, recipients = line, []
            elif line.startswith("RCPT") and reply.startswith("250"):
                recipients.append(line)
            elif line == "DATA" and reply.startswith("354"):
                writer.write(f"{reply}\r\n".encode())
                if self.dies == "DATA":
                    return
                raw = await _read_data(reader)
                self.data_ended.set()
                if self.before_250 is not None:
                    await self.before_250.wait()
                if self.dies == ".":
                    return
                reply = self.reply_to(".")
                if self.is_lmtp:
                    replies = [self.reply_to(f".{n}") for n in range(1, len(recipients) + 1)]
                    reply = "\r\n".join(replies)
                if "250" in reply:
                    self.messages.append((mail, recipients, raw))
                if self.dies == ".250":
                    writer.write(f"{reply}\r\n".encode())
                    await writer.drain()
                    writer.close()
                    return
            writer.write(f"{reply}\r\n".encode())
            if line == "QUIT":
                await writer.drain()
                return


async def _read_data(reader: asyncio.StreamReader) -> bytes:
    data = await reader.readuntil(b"\r\n")
    if data == b".\r\n":
        return b""
    data += await reader.readuntil(b"\r\n.\r\n")
    data = data[: -len(b".\r\n")].removeprefix(b".")
    return data.replace(b"\r\n.", b"\r\n")  # not line by line: it shares the door's loop


@asynccontextmanager
async def next_hop_server(**options):
    """Listen on a free port of loopback."""
    made = NextHopServer(**options)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 27)
    made.endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for writer in list(made._writers):
            writer.transport.abort()
        await server.wait_closed()
        for _ in range(200):
            if not made._writers:
                break
            await asyncio.sleep(0.005)
