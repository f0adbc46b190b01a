"""Fuzz targets that read a wire: any bytes give events or the peer's error, in any pieces."""

import asyncio
import contextlib
import json
import re
from typing import Any

from spamguard.errors import LocalProtocolError, PeerProtocolError
from spamguard.frontends.http.server import HttpServer
from spamguard.frontends.milter import _ACTIONS, _MACROS, _STEPS
from spamguard.frontends.milter_transaction import Client, Transaction, envelope_of, replies_for
from spamguard.frontends.smtp import _XFORWARD_VALUE
from spamguard.handover import read_envelope
from spamguard.observe import Metrics
from spamguard.verdict import OUR_HEADERS, Action, Disposition, Policy
from spamguard.wire import milter_packets as packets
from spamguard.wire import smtp as smtp_wire
from spamguard.wire import spamd as spamd_wire
from spamguard.wire.milter import Codec, encode
from spamguard.wire.milter_session import FilterSession
from tests.support.scorers import clock, word_filter
from tests.support.sinks import MemorySink

MAX_MESSAGE_BYTES = 10_000
PIECE_BYTES = 7  # odd, so that pieces end anywhere


def pieces(data: bytes) -> list[bytes]:
    """Cut data into small pieces."""
    return [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]


def milter(data: bytes) -> None:
    """Packets come out the same however they were cut, and can be written again."""
    whole = _packets(Codec(), [data])
    assert whole == _packets(Codec(), pieces(data))
    for packet in whole:
        if isinstance(packet, str):
            continue
        with contextlib.suppress(LocalProtocolError):  # a NUL is read and never written
            assert [packet] == _packets(Codec(), [encode(packet)])


def _packets(codec: Codec, chunks: list[bytes]) -> list[Any]:
    found: list[Any] = []
    for chunk in chunks:
        codec.receive_data(chunk)
        try:
            while (packet := codec.next_event()) is not None:
                found.append(packet)
        except PeerProtocolError as error:
            return [*found, str(error)]
    return found


_TAG = Action(
    disposition=Disposition.TAG,
    add_headers=(("X-Spam-Flag", "YES"),),
    subject_prefix="[SPAM] ",
)


def milter_session(data: bytes) -> None:
    """An MTA that says anything in any order ends its own connection and nothing else."""
    session = FilterSession(actions=_ACTIONS, steps=_STEPS, macros=_MACROS)
    transaction = Transaction(path=b"<>", macros={})
    session.receive_data(data)
    try:
        while (event := session.next_event()) is not None:
            match event:
                case packets.Negotiate():
                    session.answer_offer(event)
                case packets.Mail():
                    transaction = Transaction(path=event.path, macros={})
                case packets.Rcpt():
                    transaction.add_recipient(event.path)
                case packets.Header():
                    transaction.add_header(event, b" ", MAX_MESSAGE_BYTES)
                case packets.Body():
                    transaction.add_body(event.chunk, MAX_MESSAGE_BYTES)
                case packets.EndOfBody():
                    envelope_of(Client(), transaction, 0.0)
                    actions, steps = session.actions, session.steps
                    session.send(replies_for(_TAG, transaction, actions=actions, steps=steps))
                    assert len(transaction.raw) <= MAX_MESSAGE_BYTES
                    continue
            if session.is_reply_due:
                session.send([packets.Continue()])
    except PeerProtocolError:
        pass


def spamd(data: bytes) -> None:
    """A request is bounded and is the same however it was cut."""
    whole, cut = _request([data]), _request(pieces(data))
    if isinstance(whole, str) or isinstance(cut, str):
        # What comes with the end may be refused for what came after the request.
        assert type(whole) is type(cut)
        return
    assert whole == cut
    if whole is not None:
        assert len(whole.message) <= MAX_MESSAGE_BYTES
        assert whole.user.isprintable()
        read_envelope(whole.message)
        judgement = spamd_wire.Judgement(is_spam=True, points=7.5, required=5.0)
        answer = spamd_wire.encode_judgement(whole, judgement, b"body")
        assert answer.startswith(b"SPAMD/1.1 0 EX_OK\r\n")


def _request(chunks: list[bytes]) -> spamd_wire.Request | str | None:
    reader = spamd_wire.RequestReader(MAX_MESSAGE_BYTES)
    try:
        for chunk in chunks:
            reader.receive_data(chunk)
            if (request := reader.next_request()) is not None:
                return request
        reader.receive_eof()
        return reader.next_request()
    except PeerProtocolError as error:
        return str(error)


# Every line end that some server takes for one, around the dot that ends a message.
_END_OF_DATA = re.compile(rb"(?:\A|\r\n|\r|\n)\.(?=\r\n|\r|\n)")


def smtp(data: bytes) -> None:
    """What we send ends once, for every reader; commands and replies are read or refused."""
    encoded = smtp_wire.encode_data(data)
    assert encoded.endswith(b".\r\n")
    assert not _END_OF_DATA.search(encoded[:-3] + b"x"), "a second end of data"
    again = smtp_wire.decode_data(encoded[: -len(b".\r\n")])
    assert encoded == smtp_wire.encode_data(again)
    line, _, rest = data.partition(b"\n")
    text = line.decode("utf-8", "surrogateescape")
    for keyword in ("FROM:", "TO:"):
        with contextlib.suppress(PeerProtocolError):
            path, parameters = smtp_wire.parse_path(keyword + text, keyword)
            assert not re.search(r"\s", "".join(parameters))
            assert "\n" not in path
    matched = _XFORWARD_VALUE.fullmatch(text)
    assert matched is None or not re.search(r"\s", text)
    with contextlib.suppress(PeerProtocolError):
        reply = smtp_wire.parse_reply(rest.splitlines(keepends=True))
        assert reply is None or 200 <= reply.code < 600


PATHS = (
    "/v1/check", "/v1/report", "/report", "/checkv2", "/learnspam", "/learnham", "/stalwart",
    "/metrics", "/stat", "/ping", "/readyz", "/openapi.json",
)  # fmt: skip
STATUSES = {200, 208, 400, 401, 404, 405, 413, 415, 422}
TOKEN = b"0123456789abcdef"


async def _status() -> dict[str, Any]:
    return {
        "version": "1", "model": "m", "uptime_seconds": 1.0, "scorers": [1], "waiting": 0,
        "thresholds": {}, "drift": {}, "retraining": {"running": False},
    }  # fmt: skip


_server = HttpServer(
    word_filter(Policy(spam=Disposition.TAG, subject_prefix="[SPAM] ")),
    MemorySink(),
    status=_status,
    tokens=(TOKEN,),
    metrics=Metrics(),
    clock=clock,
    max_message_bytes=MAX_MESSAGE_BYTES,
)
_application = _server._application(is_unix=True)  # noqa: SLF001


def http(data: bytes) -> None:
    """Any request has a documented answer in JSON or text; a bug would be an exception.

    The first byte chooses the path, the first line is the query, then fields up to an empty line.
    """
    head, _, body = data[1:].partition(b"\n\n")
    query, *lines = head.split(b"\n")
    fields = [(b"authorization", b"Bearer " + TOKEN)]
    for line in lines:
        name, colon, value = line.partition(b":")
        # What h11 lets through: RFC 9110 section 5.6.2, and no NUL, CR or LF in a value.
        if colon and re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            fields.append((name.lower(), re.sub(rb"[\0\r\n]", b"", value.strip(b" \t"))))
    path = PATHS[data[0] % len(PATHS)] if data else "/"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": re.sub(rb"[^!-~]", b"", query), "headers": fields[::-1],
        "client": None, "server": None,
    }  # fmt: skip
    if data[:1] >= b"\x80":
        scope["method"] = "GET"
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    asyncio.run(_application(scope, receive, send))
    status, answer = sent[0]["status"], b"".join(part.get("body", b"") for part in sent)
    assert status in STATUSES, status
    if dict(sent[0]["headers"]).get(b"content-type") == b"application/json":
        json.loads(answer)
    if path == "/stalwart" and status == 200:
        for change in json.loads(answer).get("modifications", []):
            assert change["type"] != "insertHeader" or change["name"] in {*OUR_HEADERS, "Subject"}
