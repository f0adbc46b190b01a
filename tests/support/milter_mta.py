"""The MTA's side of the milter protocol, for tests and benchmarks: asyncio, one connection.

`MtaConnection.deliver` takes one message through a filter as Postfix does, waits for a reply
exactly where one was negotiated, and returns what the filter said. `Answer.applied` does to the
message what an MTA would do.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from spamguard.wire import milter_packets as wire
from spamguard.wire.milter import MAX_CHUNK_BYTES, Codec, encode
from spamguard.wire.milter_packets import ActionFlags, StepFlags

ALL_ACTIONS = ActionFlags(0x1FF)
ALL_STEPS = StepFlags(0x1FFFFF)
POSTFIX_OFFER = wire.Negotiate(version=6, actions=ALL_ACTIONS, steps=ALL_STEPS)
# A filter of the last century: every event is answered, nothing can be left out.
OLD_OFFER = wire.Negotiate(version=2, actions=ActionFlags(0x1F), steps=StepFlags(0))

_NO_REPLY = {
    wire.Connect: StepFlags.NO_REPLY_CONNECT,
    wire.Helo: StepFlags.NO_REPLY_HELO,
    wire.Mail: StepFlags.NO_REPLY_MAIL,
    wire.Rcpt: StepFlags.NO_REPLY_RCPT,
    wire.Data: StepFlags.NO_REPLY_DATA,
    wire.Unknown: StepFlags.NO_REPLY_UNKNOWN,
    wire.Header: StepFlags.NO_REPLY_HEADER,
    wire.EndOfHeaders: StepFlags.NO_REPLY_END_OF_HEADERS,
    wire.Body: StepFlags.NO_REPLY_BODY,
}
_LEFT_OUT = {
    wire.Data: StepFlags.NO_DATA,
    wire.Unknown: StepFlags.NO_UNKNOWN,
    wire.EndOfHeaders: StepFlags.NO_END_OF_HEADERS,
}
_FINAL = (wire.Accept, wire.Continue, wire.Discard, wire.Reject, wire.ReplyCode, wire.Tempfail)
_FINAL_CODES = frozenset(kind.code for kind in _FINAL)
_ABORT = encode(wire.Abort())


@dataclass
class Answer:
    """What a filter said to one message."""

    verdict: wire.Packet
    edits: list[wire.Packet] = field(default_factory=list)
    progress: int = 0
    skipped: bool = False

    @property
    def added(self) -> dict[bytes, bytes]:
        """The header fields inserted, without the blank."""
        return {
            edit.name: edit.value.lstrip(b" ")
            for edit in self.edits
            if isinstance(edit, wire.InsertHeader)
        }

    def applied(
        self, raw: bytes, recipients: Sequence[bytes], *, leading_space: bool = True
    ) -> tuple[bytes, list[bytes]]:
        """Return message and recipients after the edits."""
        fields, body = split_message(raw)
        left = list(recipients)
        blank = b"" if leading_space else b" "
        for edit in self.edits:
            match edit:
                case wire.AddHeader():
                    fields.append((edit.name, blank + edit.value))
                case wire.InsertHeader():
                    fields.insert(edit.index, (edit.name, blank + edit.value))
                case wire.ChangeHeader():
                    places = [
                        i for i, (n, _) in enumerate(fields) if n.lower() == edit.name.lower()
                    ]
                    place = places[edit.index - 1]
                    if edit.value:
                        fields[place] = (fields[place][0], blank + edit.value)
                    else:
                        del fields[place]
                case wire.AddRecipient():
                    left.append(edit.text)
                case wire.DeleteRecipient():
                    left.remove(edit.text)
        head = b"".join(n + b":" + v.replace(b"\n", b"\r\n") + b"\r\n" for n, v in fields)
        return head + b"\r\n" + body, left


def split_message(raw: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Split into (name, value with its leading blank and bare line feeds) pairs and body."""
    head, _, body = raw.partition(b"\r\n\r\n")
    fields: list[tuple[bytes, bytes]] = []
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            name, value = fields[-1]
            fields[-1] = (name, value + b"\n" + line)
        else:
            name, _, value = line.partition(b":")
            fields.append((name, value))
    return fields, body


class MtaConnection:
    """One connection to a filter."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        fragments: random.Random | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._codec = Codec()
        self._fragments = fragments
        self.options = wire.Negotiate(version=0, actions=ActionFlags(0), steps=StepFlags(0))

    @classmethod
    async def open(
        cls,
        address: tuple[str, int] | Path,
        *,
        offer: wire.Negotiate | None = POSTFIX_OFFER,
        fragments: random.Random | None = None,
    ) -> "MtaConnection":
        """Connect and, unless the offer is None, negotiate and name a client.

        Args:
            address: of the filter.
            offer: what this MTA can do.
            fragments: cuts what is sent into pieces of random size.
        """
        if isinstance(address, Path):
            reader, writer = await asyncio.open_unix_connection(str(address))
        else:
            reader, writer = await asyncio.open_connection(*address)
        connection = cls(reader, writer, fragments=fragments)
        if offer is not None:
            await connection.negotiate(offer)
            await connection.announce()
        return connection

    async def negotiate(self, offer: wire.Negotiate) -> None:
        await self.send(offer)
        answer = await self.read()
        assert isinstance(answer, wire.Negotiate)
        assert answer.version <= offer.version
        assert answer.actions in offer.actions
        assert answer.steps in offer.steps
        self.options = answer

    async def announce(
        self, *, name: bytes = b"client.example", ip: bytes = b"192.0.2.7", helo: bytes = b"helo"
    ) -> None:
        """Tell of an SMTP client."""
        await self.command(
            wire.Macros(stage=b"C", values=((b"j", b"mx.test.example"), (b"{client_addr}", ip))),
            wire.Connect(hostname=name, family=b"4", port=1025, address=ip),
            wire.Helo(text=helo),
        )

    async def deliver(
        self,
        raw: bytes,
        *,
        reverse_path: bytes = b"<alice@example.org>",
        recipients: Sequence[bytes] = (b"<bob@test.example>",),
        queue_id: bytes = b"4TestQueueId",
        user: bytes = b"",
    ) -> Answer:
        """Take one message through the filter."""
        await self.envelope(reverse_path, recipients, queue_id=queue_id, user=user)
        skipped = await self.content(raw)
        answer = await self.verdict()
        answer.skipped = skipped
        with suppress(OSError):  # a filter that stops has closed by now
            await self.send(wire.Abort())  # as Postfix does after each message
        return answer

    def conversation(self, raw: bytes) -> bytes:
        """Return all that is said of a message where nothing is answered before its end."""
        fields, body = split_message(raw)
        packets = [
            wire.Macros(stage=b"M"),
            wire.Mail(path=b"<alice@example.org>", parameters=(b"SIZE=100",)),
            wire.Rcpt(path=b"<bob@test.example>"),
            wire.Macros(stage=b"T", values=((b"i", b"4TestQueueId"),)),
            wire.Data(),
            *(wire.Header(name=name, value=value) for name, value in fields),
            wire.EndOfHeaders(),
            *(
                wire.Body(chunk=body[start : start + MAX_CHUNK_BYTES])
                for start in range(0, len(body), MAX_CHUNK_BYTES)
            ),
        ]
        steps = self.options.steps
        said = [p for p in packets if not _LEFT_OUT.get(type(p), StepFlags(0)) & steps]
        assert all(_NO_REPLY[type(p)] & steps for p in said if type(p) in _NO_REPLY)
        return b"".join(map(encode, [*said, wire.EndOfBody()]))

    async def converse(self, conversation: bytes) -> None:
        """Say what `conversation` returned, and wait for the verdict without reading the edits."""
        self._writer.write(conversation)
        while True:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if (await self._reader.readexactly(length))[:1] in _FINAL_CODES:
                break
        self._writer.write(_ABORT)  # as Postfix does after each message

    async def envelope(
        self,
        reverse_path: bytes,
        recipients: Sequence[bytes],
        *,
        queue_id: bytes = b"4TestQueueId",
        user: bytes = b"",
    ) -> None:
        login = ((b"{auth_authen}", user),) if user else ()
        await self.command(
            wire.Macros(stage=b"M", values=login),
            wire.Mail(path=reverse_path, parameters=(b"SIZE=100",)),
            *(wire.Rcpt(path=recipient) for recipient in recipients),
            wire.Macros(stage=b"T", values=((b"i", queue_id),)),
            wire.Data(),
        )

    async def content(self, raw: bytes) -> bool:
        """Send headers, body and its end; returns whether the filter asked to skip."""
        fields, body = split_message(raw)
        if StepFlags.HEADER_LEADING_SPACE not in self.options.steps:
            fields = [(name, value.removeprefix(b" ")) for name, value in fields]
        headers = [wire.Header(name=name, value=value) for name, value in fields]
        await self.command(*headers, wire.EndOfHeaders())
        for start in range(0, len(body), MAX_CHUNK_BYTES):
            reply = await self.command(wire.Body(chunk=body[start : start + MAX_CHUNK_BYTES]))
            if isinstance(reply, wire.Skip):
                await self.send(wire.EndOfBody())
                return True
        await self.send(wire.EndOfBody())
        return False

    async def verdict(self) -> Answer:
        """Read replies up to the final one."""
        edits: list[wire.Packet] = []
        progress = 0
        while True:
            match await self.read():
                case wire.Progress():
                    progress += 1
                case reply if isinstance(reply, _FINAL):
                    return Answer(verdict=reply, edits=edits, progress=progress)
                case None:
                    raise EOFError("closed before the verdict")
                case edit:
                    edits.append(edit)

    async def command(self, *packets: wire.Packet) -> wire.Packet | None:
        """Send packets as negotiated, wait where a reply is due; returns the last reply."""
        steps, reply = self.options.steps, None
        pending: list[wire.Packet] = []
        for packet in packets:
            if _LEFT_OUT.get(type(packet), StepFlags(0)) & steps:
                continue
            pending.append(packet)
            flag = _NO_REPLY.get(type(packet))
            if flag is not None and not flag & steps:
                await self.send(*pending)
                pending.clear()
                reply = await self.read()
                may_refuse = isinstance(packet, wire.Rcpt) and isinstance(reply, wire.ReplyCode)
                assert may_refuse or isinstance(reply, wire.Continue | wire.Skip), reply
        await self.send(*pending)
        return reply

    async def send(self, *packets: wire.Packet) -> None:
        """Send packets whatever was negotiated."""
        await self.send_bytes(b"".join(map(encode, packets)))

    async def send_bytes(self, data: bytes) -> None:
        if self._fragments is None:
            self._writer.write(data)
        else:
            longest = self._fragments.choice((1, 7, 100, 5000, 100_000))
            longest = max(longest, len(data) // 200)  # long ones byte by byte take too long
            while data:
                if self._writer.is_closing():
                    raise ConnectionResetError("the filter has closed")
                size = self._fragments.randint(1, longest)
                self._writer.write(data[:size])
                data = data[size:]
                await asyncio.sleep(0)
        await self._writer.drain()

    async def read(self) -> wire.Packet | None:
        """Return the filter's next packet, or None when it has closed."""
        while (packet := self._codec.next_event()) is None:
            data = await self._reader.read(1 << 16)
            if not data:
                return None
            self._codec.receive_data(data)
        return packet

    async def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.read()
        except TimeoutError:
            return True
        return False

    async def close(self, *, polite: bool = True) -> None:
        with suppress(OSError):
            if polite:
                await self.send(wire.Quit())
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def mta_connection(address, **options):
    """Open a connection for a block."""
    connection = await MtaConnection.open(address, **options)
    try:
        yield connection
    finally:
        await connection.close()
