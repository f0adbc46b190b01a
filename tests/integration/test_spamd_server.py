"""The spamd door on real sockets: each method, failures, limits, draining."""

import asyncio
import contextlib
import zlib

import pytest

from spamguard.frontends.spamd import SpamdServer
from spamguard.observe import Metrics
from spamguard.report import ReportSource
from spamguard.verdict import Disposition, Label, Policy
from tests.support.mail import message
from tests.support.scorers import WordScorer, clock, word_filter
from tests.support.sinks import MemorySink

pytestmark = pytest.mark.timeout(30)

SPAM_MAIL = message("XSPAM")
HAM_MAIL = message("hello")


class Site:
    def __init__(self, **options):
        policy = options.pop("policy", Policy(subject_prefix="[SPAM] ", spam=Disposition.TAG))
        self.metrics = Metrics()
        self.scorer = WordScorer()
        self.sink = options.pop("sink", None)
        self.server = SpamdServer(
            word_filter(policy, scorer=self.scorer, metrics=self.metrics),
            self.sink,
            metrics=self.metrics,
            clock=clock,
            max_message_bytes=options.pop("max_message_bytes", 100_000),
            **options,
        )

    async def __aenter__(self):
        self.host, self.port = await self.server.start_tcp("127.0.0.1", 0)
        return self

    async def __aexit__(self, *error):
        await self.server.drain(0.5)

    async def ask(self, data, *, half_close=True):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(data)
            if half_close:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def request(method, mail=b"", version="1.5", **fields):
    lines = [f"{method} SPAMC/{version}", f"Content-length: {len(mail)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + mail


async def test_check_says_spam_with_points_and_keeps_the_connection_open_till_then():
    async with Site() as site:
        answer = await site.ask(request("CHECK", SPAM_MAIL), half_close=False)
    assert answer == b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 9.9 / 5.0\r\n\r\n"


async def test_check_says_ham_and_unsure_is_not_spam():
    async with Site() as site:
        ham = await site.ask(request("CHECK", HAM_MAIL))
        unsure = await site.ask(request("CHECK", message("XUNSURE")))
    assert b"Spam: False ; 0.0 / 5.0" in ham
    assert b"Spam: False ; 4.1 / 5.0" in unsure


async def test_symbols_name_the_verdict():
    async with Site() as site:
        answer = await site.ask(request("SYMBOLS", SPAM_MAIL))
    assert answer.endswith(b"\r\n\r\nSPAMGUARD_SPAM")


async def test_report_explains_and_report_ifspam_does_so_for_spam_alone():
    async with Site() as site:
        report = await site.ask(request("REPORT", HAM_MAIL))
        if_spam = await site.ask(request("REPORT_IFSPAM", SPAM_MAIL))
        if_ham = await site.ask(request("REPORT_IFSPAM", HAM_MAIL))
    assert b"judged this message ham" in report
    assert b"model words-1" in report
    assert b"judged this message spam" in if_spam
    assert if_ham.endswith(b"\r\n\r\n")


async def test_process_gives_the_message_with_our_fields_for_those_that_were_forged():
    forged = b"X-Spam-Flag: NO\r\n" + SPAM_MAIL
    async with Site() as site:
        head, _, processed = (await site.ask(request("PROCESS", forged))).partition(b"\r\n\r\n")
    assert f"Content-length: {len(processed)}".encode() in head
    assert processed.startswith(b"X-Spam-Flag: YES\r\nX-Spam-Score: 0.9900\r\n")
    assert b"X-Spam-Flag: NO" not in processed
    assert b"\r\nSubject: [SPAM] A test\r\n" in processed
    assert processed.endswith(b"\r\n\r\nXSPAM\r\n")


async def test_headers_gives_the_header_alone():
    async with Site() as site:
        _, _, processed = (await site.ask(request("HEADERS", SPAM_MAIL))).partition(b"\r\n\r\n")
    assert b"X-Spam-Flag: YES" in processed
    assert processed.endswith(b"8bit\r\n\r\n")


async def test_a_compressed_message_is_judged():
    async with Site() as site:
        answer = await site.ask(request("CHECK", zlib.compress(SPAM_MAIL), Compress="zlib"))
    assert b"Spam: True" in answer
    assert site.scorer.scored == [SPAM_MAIL]


async def test_what_could_not_be_judged_is_a_temporary_failure():
    async with Site() as site:
        for word in ("XCRASH", "XTIMEOUT", "XBUG"):
            answer = await site.ask(request("PROCESS", message(word)))
            assert answer == b"SPAMD/1.1 75 EX_TEMPFAIL\r\n"


async def test_ping_and_skip():
    async with Site() as site:
        assert await site.ask(b"PING SPAMC/1.2\r\n", half_close=False) == b"SPAMD/1.5 0 PONG\r\n"
        assert await site.ask(b"SKIP SPAMC/1.2\r\n") == b""


async def test_a_broken_request_ends_its_connection_alone():
    async with Site(max_message_bytes=1000) as site:
        assert await site.ask(b"HELO x\r\n\r\n") == b"SPAMD/1.1 76 EX_PROTOCOL\r\n"
        assert b" 76 " in await site.ask(b"CHECK SPAMC/1.5\r\nContent-length: 1001\r\n\r\n")
        assert b"Spam: True" in await site.ask(request("CHECK", SPAM_MAIL))
        assert site.metrics.snapshot()["spamd_protocol_errors"] == 2


async def test_a_silent_client_is_cut():
    async with Site(read_seconds=0.1) as site:
        assert await site.ask(b"CHECK SPAMC/1.5\r\n", half_close=False) == b""


async def test_held_mail_does_not_exist_here():
    policy = Policy(spam=Disposition.QUARANTINE)
    async with Site(policy=policy) as site:
        assert b"Spam: True" in await site.ask(request("CHECK", SPAM_MAIL))
        assert site.metrics.snapshot()["disposition.tag"] == 1


async def test_tell_is_refused_unless_allowed():
    async with Site() as site:
        told = request("TELL", SPAM_MAIL, Message_class="spam", Set="local", User="ann")
        assert await site.ask(told) == b"SPAMD/1.1 69 EX_UNAVAILABLE\r\n"


async def test_tell_records_a_report_once_and_takes_it_back():
    async with Site(sink=MemorySink()) as site:
        told = request("TELL", SPAM_MAIL, Message_class="spam", Set="local", User="ann")
        assert b"DidSet: local\r\n" in await site.ask(told)
        assert b"DidSet" not in await site.ask(told)
        (report,) = site.sink.reports
        assert (report.label, report.reporter, report.raw) == (Label.SPAM, "ann", SPAM_MAIL)
        assert report.source is ReportSource.SPAMD
        forget = request("TELL", SPAM_MAIL, Remove="local", User="ann")
        assert b"DidRemove: local\r\n" in await site.ask(forget)
        assert b"DidRemove" not in await site.ask(forget)
        assert site.sink.reports == []


async def test_tell_that_cannot_be_recorded_says_why_by_its_code():
    async with Site(sink=MemorySink(fails=True)) as site:
        told = request("TELL", SPAM_MAIL, Message_class="spam", Set="local", User="ann")
        assert b" 75 EX_TEMPFAIL" in await site.ask(told)
        assert site.metrics.snapshot()["report_failures"] == 1
    async with Site(sink=MemorySink(refuses=b"XSPAM")) as site:
        assert b" 65 EX_DATAERR" in await site.ask(told)
        no_class = request("TELL", HAM_MAIL, Set="local", User="ann")
        assert b" 65 EX_DATAERR" in await site.ask(no_class)
        nothing = request("TELL", HAM_MAIL, User="ann")
        assert b" 65 EX_DATAERR" in await site.ask(nothing)


async def test_a_drain_answers_what_is_being_judged():
    site = Site()
    async with site:
        asked = asyncio.create_task(site.ask(request("CHECK", message("XSLOW XSPAM"))))
        while not site.scorer.waiting:
            await asyncio.sleep(0.01)
        await site.server.drain(5)
        assert b"Spam: True" in await asked


async def test_a_drain_cuts_what_does_not_end():
    async with Site() as site:
        reader, writer = await asyncio.open_connection(site.host, site.port)
        writer.write(b"CHECK SPAMC/1.5\r\n")
        await asyncio.sleep(0.05)
        await site.server.drain(0.1)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_a_unix_socket_serves_too(tmp_path):
    site = Site()
    path = tmp_path / "spamd.sock"
    await site.server.start_unix(path, 0o660)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request("CHECK", HAM_MAIL))
    assert b"Spam: False" in await reader.read()
    writer.close()
    await site.server.drain(1)
    assert not path.exists()
