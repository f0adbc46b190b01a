"""Mail to report addresses through both doors, on real sockets."""

import asyncio
import ipaddress
from contextlib import asynccontextmanager

import pytest

from spamguard.feedback.desk import MailDesk
from spamguard.frontends.milter import MilterServer
from spamguard.frontends.smtp import SmtpServer
from spamguard.next_hop import NextHop
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Label, Policy
from spamguard.wire import milter_packets as wire
from tests.support.milter_mta import OLD_OFFER, POSTFIX_OFFER, MtaConnection, mta_connection
from tests.support.next_hop_server import next_hop_server
from tests.support.scorers import NOW, MemoryQuarantine, WordScorer, word_filter
from tests.support.sinks import MemorySink

pytestmark = pytest.mark.timeout(60)

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
INSIDE = (ipaddress.ip_network("192.0.2.0/24"),)
SPAM_ADDRESS, HAM_ADDRESS = "Spam@Test.Example", "ham@test.example"
ORIGINAL = b"From: n@shop.example\r\nSubject: XSPAM watches\r\n\r\nBuy.\r\n"
REPORT = (
    b"From: Bob <bob@test.example>\r\nSubject: Fwd\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nXSPAM\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + ORIGINAL + b"\r\n--b--\r\n"
)
NO_REPORT = b"From: Bob <bob@test.example>\r\nSubject: hello\r\n\r\nWhat is this for?\r\n"
ARF = (
    b"From: postmaster@test.example\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: not-spam\r\n"
    b"Dovecot-Reporting-User: carla\r\n\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + ORIGINAL + b"\r\n--b--\r\n"
)
REFUSAL = "550 5.7.1 only logged-in users may report mail: log in for sending and try again"


class Parts:
    """What both doors are built on."""

    def __init__(self, networks=(), **sink):
        self.sink = MemorySink(**sink)
        self.metrics = Metrics()
        self.scorer, self.quarantine = WordScorer(), MemoryQuarantine()
        self.filter = word_filter(
            Policy(spam=Disposition.QUARANTINE),
            scorer=self.scorer,
            quarantine=self.quarantine,
            metrics=self.metrics,
        )
        self.desk = MailDesk(
            self.sink,
            spam_addresses=[SPAM_ADDRESS.lower()],
            ham_addresses=[HAM_ADDRESS],
            networks=networks,
            metrics=self.metrics,
        )

    @property
    def reported(self):
        return [(report.label, report.reporter, report.raw) for report in self.sink.reports]


# -- milter ----------------------------------------------------------------------------------


@asynccontextmanager
async def milter(networks=(), **sink):
    made = Parts(networks, **sink)
    server = MilterServer(
        made.filter,
        metrics=made.metrics,
        clock=lambda: NOW,
        max_message_bytes=1_000_000,
        desk=made.desk,
    )
    made.address = await server.start_tcp("127.0.0.1", 0)
    try:
        yield made
    finally:
        await server.drain(5)
        assert {asyncio.current_task()} == asyncio.all_tasks()


def path(address):
    return f"<{address}>".encode()


SPAM_PATH, HAM_PATH, EVE = path(SPAM_ADDRESS), path(HAM_ADDRESS), path("eve@test.example")


@pytest.mark.parametrize("offer", [POSTFIX_OFFER, OLD_OFFER], ids=["v6", "v2"])
async def test_milter_records_a_report_of_a_user_and_discards_the_mail(offer):
    async with milter() as made, mta_connection(made.address, offer=offer) as mta:
        answer = await mta.deliver(REPORT, recipients=[SPAM_PATH], user=b"bob")
    assert (wire.Discard(), []) == (answer.verdict, answer.edits)
    assert [(Label.SPAM, "bob", ORIGINAL)] == made.reported
    assert [] == made.scorer.scored


async def test_milter_believes_the_reverse_path_of_a_client_in_the_networks():
    async with milter(INSIDE) as made, mta_connection(made.address) as mta:
        await mta.deliver(REPORT, recipients=[HAM_PATH], reverse_path=b"<Bob@Test.Example>")
    assert [(Label.HAM, "bob@test.example", ORIGINAL)] == made.reported


async def test_milter_delivers_to_the_other_recipients_and_holds_nothing():
    async with milter() as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(REPORT, recipients=[EVE, SPAM_PATH], user=b"bob")
    assert wire.Accept() == answer.verdict
    _, left = answer.applied(REPORT, [EVE, SPAM_PATH])
    assert [EVE] == left
    assert answer.added[b"X-Spam-Status"].startswith(b"Yes")
    assert [] == made.quarantine.held
    assert 1 == len(made.reported)


async def test_milter_refuses_a_stranger_at_rcpt_and_the_next_recipient_goes_on():
    async with milter() as made, mta_connection(made.address) as mta:
        reply = await mta.command(
            wire.Macros(stage=b"M", values=()),
            wire.Mail(path=b"<mallory@evil.example>", parameters=()),
            wire.Rcpt(path=SPAM_PATH),
        )
        assert wire.ReplyCode(text=REFUSAL.encode()) == reply
        assert wire.Continue() == await mta.command(wire.Rcpt(path=EVE))
        await mta.content(b"Subject: x\r\n\r\nHello\r\n")
        answer = await mta.verdict()
    assert wire.Accept() == answer.verdict
    assert not [edit for edit in answer.edits if isinstance(edit, wire.DeleteRecipient)]
    assert [] == made.reported


async def test_milter_refuses_a_local_submission_at_its_end_only():
    """Postfix cannot refuse a recipient of the sendmail command; it has no client port."""
    async with milter() as made:
        mta = await MtaConnection.open(made.address, offer=None)
        await mta.negotiate(POSTFIX_OFFER)
        await mta.command(
            wire.Macros(stage=b"C", values=()),
            wire.Connect(hostname=b"localhost", family=b"4", port=0, address=b"127.0.0.1"),
        )
        answer = await mta.deliver(REPORT, recipients=[SPAM_PATH])
        await mta.close()
    assert wire.ReplyCode(text=REFUSAL.encode()) == answer.verdict
    assert [] == made.reported


async def test_milter_defers_while_the_record_fails_and_takes_the_retry_once():
    async with milter(fails=True) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(REPORT, recipients=[EVE, SPAM_PATH], user=b"bob")
        assert answer.verdict.text.startswith(b"451 4.3.0 ")
        made.sink.fails = False
        for _ in range(2):
            answer = await mta.deliver(REPORT, recipients=[EVE, SPAM_PATH], user=b"bob")
            assert wire.Accept() == answer.verdict
    assert 1 == len(made.reported)
    assert 1 == made.metrics.snapshot()["report_failures"]


async def test_milter_says_why_a_report_is_none():
    async with milter() as made, mta_connection(made.address) as mta:
        alone = await mta.deliver(NO_REPORT, recipients=[SPAM_PATH], user=b"bob")
        shared = await mta.deliver(NO_REPORT, recipients=[SPAM_PATH, EVE], user=b"bob")
        both = await mta.deliver(REPORT, recipients=[SPAM_PATH, HAM_PATH], user=b"bob")
    assert alone.verdict.text.startswith(b"550 5.6.0 no reported message found: forward it")
    assert [EVE] == shared.applied(NO_REPORT, [SPAM_PATH, EVE])[1]
    assert b"550 5.6.0 addressed as spam and as not spam" == both.verdict.text


async def test_milter_passes_on_what_the_record_says_of_a_report():
    async with milter(refuses=b"watches") as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(REPORT, recipients=[SPAM_PATH], user=b"bob")
    assert b"550 5.6.0 not yours to report: ?" == answer.verdict.text


@pytest.mark.parametrize(
    ("networks", "user", "expected"),
    [
        (INSIDE, b"", [(Label.HAM, "carla", ORIGINAL)]),
        ((), b"mallory", [(Label.HAM, "mallory", ORIGINAL)]),
        (INSIDE, b"mallory", [(Label.HAM, "mallory", ORIGINAL)]),
    ],
    ids=["from the networks", "from a user", "from a user of webmail"],
)
async def test_the_user_that_dovecot_names_is_believed_from_the_networks(networks, user, expected):
    async with milter(networks) as made, mta_connection(made.address) as mta:
        await mta.deliver(ARF, recipients=[SPAM_PATH], reverse_path=b"<>", user=user)
    assert expected == made.reported


async def test_an_abort_while_a_report_is_recorded_answers_nothing():
    async with milter() as made, mta_connection(made.address) as mta:
        await mta.envelope(b"<bob@test.example>", [SPAM_PATH], user=b"bob")
        await mta.content(REPORT)
        await mta.send(wire.Abort())
        answer = await mta.deliver(b"Subject: x\r\n\r\nHello\r\n", recipients=[EVE])
    assert wire.Accept() == answer.verdict


# -- SMTP filter -----------------------------------------------------------------------------


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        lines = []
        while not lines or lines[-1][3:4] == "-":
            lines.append((await self.reader.readline()).decode().rstrip("\r\n"))
            assert lines[-1]
        return lines[-1]

    async def say(self, line):
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def deliver(self, raw, *recipients, sender="bob@test.example", client="192.0.2.7"):
        await self.say(f"XFORWARD ADDR={client}" if client else "XFORWARD SOURCE=LOCAL")
        await self.say(f"MAIL FROM:<{sender}>")
        replies = [await self.say(f"RCPT TO:<{recipient}>") for recipient in recipients]
        if not (await self.say("DATA")).startswith("354"):
            return replies
        self.writer.write(raw + b".\r\n")
        return [*replies, await self.reply()]


@asynccontextmanager
async def smtp(networks=INSIDE, *, hop=None, **sink):
    async with next_hop_server(**(hop or {})) as next_hop:
        made = Parts(networks, **sink)
        made.hop = next_hop
        server = SmtpServer(
            made.filter,
            NextHop(next_hop.endpoint, timeout_seconds=5),
            metrics=made.metrics,
            clock=lambda: NOW,
            max_message_bytes=1_000_000,
            xforward_networks=LOOPBACK,
            desk=made.desk,
        )
        address = await server.start_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*address)
        made.client = Client(reader, writer)
        try:
            await made.client.reply()
            await made.client.say("EHLO mx.test.example")
            yield made
        finally:
            writer.transport.abort()
            await server.drain(2)


async def test_smtp_records_a_report_and_relays_nothing():
    async with smtp() as made:
        replies = await made.client.deliver(REPORT, SPAM_ADDRESS)
        assert ["250 2.1.5 Ok", "250 2.0.0 Ok: 1 reported, thank you"] == replies
        assert (0, []) == (made.hop.connections, made.hop.messages)
    assert [(Label.SPAM, "bob@test.example", ORIGINAL)] == made.reported


async def test_smtp_relays_to_the_other_recipients_alone():
    async with smtp() as made:
        replies = await made.client.deliver(REPORT, SPAM_ADDRESS, "eve@test.example")
        assert "250 2.0.0 Ok: next hop" == replies[-1]
        [(_, recipients, _)] = made.hop.messages
    assert ["RCPT TO:<eve@test.example>"] == recipients
    assert ([], 1) == (made.quarantine.held, len(made.reported))


async def test_smtp_refuses_a_stranger_at_rcpt():
    async with smtp() as made:
        assert [REFUSAL] == await made.client.deliver(REPORT, HAM_ADDRESS, client="198.51.100.9")
        assert "250 2.0.0 Ok" == await made.client.say("RSET")
        assert [REFUSAL] == await made.client.deliver(REPORT, HAM_ADDRESS, client="")
    assert [] == made.reported


async def test_smtp_takes_local_submissions_where_loopback_may_report():
    async with smtp(LOOPBACK) as made:
        await made.client.deliver(REPORT, HAM_ADDRESS, client="")
        await made.client.deliver(ARF, SPAM_ADDRESS, sender="", client="")
    assert [
        (Label.HAM, "bob@test.example", ORIGINAL),
        (Label.HAM, "carla", ORIGINAL),
    ] == made.reported


async def test_smtp_leaves_the_mail_with_its_sender_while_the_record_fails():
    async with smtp(fails=True) as made:
        replies = await made.client.deliver(REPORT, SPAM_ADDRESS, "eve@test.example")
        assert replies[-1].startswith("451 4.3.0 ")
        assert [] == made.hop.messages
        made.sink.fails = False
        replies = await made.client.deliver(REPORT, SPAM_ADDRESS)
        assert replies[-1].startswith("250 ")


async def test_smtp_says_why_a_report_is_none_and_others_still_get_the_mail():
    async with smtp() as made:
        replies = await made.client.deliver(NO_REPORT, SPAM_ADDRESS)
        assert replies[-1].startswith("550 5.6.0 no reported message found")
        replies = await made.client.deliver(NO_REPORT, SPAM_ADDRESS, "eve@test.example")
        assert "250 2.0.0 Ok: next hop" == replies[-1]


async def test_a_report_that_the_record_refuses_does_not_cost_the_others():
    two = REPORT.replace(
        b"--b--",
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: clocks\r\n\r\nBuy.\r\n--b--",
    )
    async with smtp(refuses=b"XSPAM watches") as made:
        replies = await made.client.deliver(two, SPAM_ADDRESS)
    assert "250 2.0.0 Ok: 1 reported, thank you" == replies[-1]
    assert [b"Subject: clocks\r\n\r\nBuy."] == [raw.rstrip() for _, _, raw in made.reported]
