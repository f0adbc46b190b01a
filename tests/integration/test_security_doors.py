"""Hostile peers at the doors: slow ones, many, those that lie about lengths, those that guess."""

import asyncio
import contextlib
import logging
import stat
import time
import tracemalloc
import zlib

import pytest

from spamguard.frontends.control import ControlServer
from spamguard.frontends.control import ask as ask_control
from spamguard.frontends.http import server as http_server
from spamguard.frontends.http.server import HttpServer
from spamguard.frontends.smtp import SmtpServer
from spamguard.frontends.spamd import SpamdServer
from spamguard.next_hop import NextHop
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Policy
from tests.support.http_client import ask
from tests.support.mail import message
from tests.support.next_hop_server import next_hop_server
from tests.support.scorers import WordScorer, clock, word_filter
from tests.support.sinks import MemorySink

pytestmark = pytest.mark.timeout(60)

TOKEN = "0123456789abcdef0123456789abcdef"
POLICY = Policy(subject_prefix="[SPAM] ", spam=Disposition.TAG)


async def status():
    return {"scorers": [1]}


@contextlib.asynccontextmanager
async def http_door(**options):
    scorer = WordScorer()
    door = HttpServer(
        word_filter(POLICY, scorer=scorer),
        MemorySink(),
        status=status,
        tokens=(TOKEN.encode(),),
        metrics=Metrics(),
        clock=clock,
        max_message_bytes=100_000,
        **options,
    )
    _, door.port = await door.start_tcp("127.0.0.1", 0)
    door.scorer = scorer
    try:
        yield door
    finally:
        await door.drain(1)


@contextlib.asynccontextmanager
async def spamd_door(max_message_bytes=1_000_000):
    door = SpamdServer(
        word_filter(POLICY),
        None,
        metrics=Metrics(),
        clock=clock,
        max_message_bytes=max_message_bytes,
    )
    door.address = await door.start_tcp("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.drain(1)


async def said(reader, seconds=10):
    """Return all that comes until the connection ends."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), seconds)
    return b""


def ping(door):
    return asyncio.to_thread(ask, door.port, "GET", "/ping")


# -- HTTP: slow and many -------------------------------------------------------------------------

HEAD = f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /pi",
        HEAD.encode(),
        HEAD.encode() + b"Content-Length: 1000\r\n\r\n",
        b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",  # 401, then the body
        b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /pi",
    ],
)
async def test_a_client_with_a_byte_now_and_then_is_cut(begin):
    async with http_door(read_seconds=0.4) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(begin)
        started = time.monotonic()
        ended = asyncio.create_task(said(reader))
        while not ended.done() and time.monotonic() - started < 8:
            with contextlib.suppress(OSError):
                writer.write(b"a")
                await writer.drain()
            await asyncio.sleep(0.1)
        await ended
        writer.close()
        assert time.monotonic() - started < 5
        assert (await ping(door)).status == 200


async def test_a_request_that_takes_longer_than_a_head_may_is_answered():
    async with http_door(read_seconds=0.1) as door:
        door.scorer.slow_seconds = 0.5
        answer = await asyncio.to_thread(
            ask, door.port, "POST", "/v1/check", message("XSLOW"), {"Password": TOKEN}
        )
        assert answer.json()["label"] == "ham"


async def test_idle_connections_take_no_more_descriptors_than_allowed(monkeypatch):
    monkeypatch.setattr(http_server, "MAX_OPEN", 5)
    async with http_door() as door:
        opened = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(12)]
        cut = [asyncio.create_task(said(reader, 1)) for reader, _ in opened]
        results = await asyncio.gather(*cut, return_exceptions=True)
        assert 7 == sum(result == b"" for result in results)
        for _, writer in opened:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await ping(door)).status == 200


# -- HTTP: lengths -------------------------------------------------------------------------------

_SMUGGLED = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Content-Length: 4\r\nContent-Length: 99",
        b"Content-Length: 4, 99", b"Content-Length: +4", b"Content-Length: 0x4", b"Content-Length: -1",
        b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked",
        b"Content-Length : 4", b"X: y\n\rContent-Length: 4", b"Transfer-Encoding:\x0bchunked",
    ],
)  # fmt: skip
async def test_two_opinions_about_a_length_never_give_two_answers(lengths):
    async with http_door() as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(HEAD.encode() + lengths + b"\r\n\r\n0\r\n\r\n" + _SMUGGLED)
        writer.write_eof()
        answer = await said(reader)
        writer.close()
    assert b"openapi" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1


async def test_a_body_without_a_length_is_bounded_as_any_other():
    async with http_door() as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(20):
                writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                await writer.drain()
        assert (await said(reader))[:12] in {b"HTTP/1.1 413", b""}  # cut while we were writing
        writer.close()
        assert not door.scorer.scored


# -- HTTP: tokens and texts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic \xff\xfe"}, {"Authorization": "Basic ===="},
        {"Authorization": "Bearer \xe9"}, {"Authorization": "Bearer"}, {"Password": ""},
        {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": f"Bearer {TOKEN}x"},
    ],
)  # fmt: skip
async def test_a_wrong_token_is_401_and_stands_in_no_log(headers, caplog):
    caplog.set_level(logging.DEBUG)
    async with http_door() as door:
        answer = await asyncio.to_thread(ask, door.port, "POST", "/v1/check", b"x", headers)
    assert answer.status == 401
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert TOKEN[:-1] not in caplog.text


async def test_half_a_surrogate_pair_in_a_hook_is_no_error():
    asked = (
        '{"context": {"client": {}}, "message": {"headers": [["Subject", " XSPAM \\ud800"],'
        ' ["\\udfff", "x"]], "contents": "\\ud800"}}'
    )
    async with http_door() as door:
        answer = await asyncio.to_thread(
            ask, door.port, "POST", "/stalwart", asked, {"Password": TOKEN}
        )
    assert answer.status == 200
    assert "[SPAM] XSPAM ?" in answer.body.decode()


# -- spamd ---------------------------------------------------------------------------------------


async def test_a_packed_message_is_unpacked_no_further_than_allowed():
    bomb = zlib.compress(b"\0" * 300_000_000, 9)
    request = (
        b"CHECK SPAMC/1.5\r\nCompress: zlib\r\nContent-length: %d\r\n\r\n" % len(bomb)
    ) + bomb
    async with spamd_door() as door:
        reader, writer = await asyncio.open_connection(*door.address)
        tracemalloc.start()
        try:
            writer.write(request)
            assert (await said(reader)).startswith(b"SPAMD/1.1 76 ")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            writer.close()
    assert peak < 10_000_000


async def test_one_message_does_not_keep_the_others_waiting():
    field = b"Return-Path: " + b"a" * 60_000 + b"\r\nDelivered-To: " + b"(" * 60_000
    raw = field + b"\r\n\r\n"
    async with spamd_door() as door:
        reader, writer = await asyncio.open_connection(*door.address)
        started = time.process_time()
        writer.write(b"CHECK SPAMC/1.5\r\nContent-length: %d\r\n\r\n" % len(raw) + raw)
        assert (await said(reader)).startswith(b"SPAMD/1.1 0 ")
        writer.close()
    assert time.process_time() - started < 0.5


# -- the control socket --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"\n", b"[" * 60_000 + b"\n", b"x" * 200_000 + b"\n", b"\xff\n", b"[1]\n", b"null\n"]
)
async def test_nonsense_on_the_control_socket_costs_that_connection_alone(tmp_path, line):
    async def answer():
        return {"fine": True}

    server = ControlServer({"status": answer})
    await server.start(tmp_path / "c.sock")
    assert 0o600 == stat.S_IMODE((tmp_path / "c.sock").stat().st_mode)
    try:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
        with contextlib.suppress(OSError):
            writer.write(line)
            await writer.drain()
        assert await said(reader) == b""
        writer.close()
        asked = await asyncio.to_thread(ask_control, tmp_path / "c.sock", "status")
        assert asked == {"fine": True}
    finally:
        await server.stop()


# -- SMTP ----------------------------------------------------------------------------------------


async def test_nothing_of_a_message_before_helo_is_in_the_next():
    async with next_hop_server() as hop:
        server = SmtpServer(
            word_filter(POLICY),
            NextHop(hop.endpoint),
            metrics=Metrics(),
            clock=clock,
            max_message_bytes=100_000,
        )
        host, port = await server.start_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"EHLO x\r\nMAIL FROM:<one@a.example>\r\nRCPT TO:<one@b.example>\r\nHELO y\r\n"
            b"MAIL FROM:<two@a.example>\r\nRCPT TO:<two@b.example>\r\nDATA\r\n"
            b"Subject: x\r\n\r\ny\r\n.\r\nQUIT\r\n"
        )
        answers = (await said(reader)).decode()
        writer.close()
        await server.drain(1)
    assert "503" not in answers
    assert [["two@b.example"]] == [
        [line[len("RCPT TO:<") : -1] for line in recipients] for _, recipients, _ in hop.messages
    ]
