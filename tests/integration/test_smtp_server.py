"""The SMTP door between two real sockets: a client written by hand and a next hop that fails."""

import asyncio
import ipaddress
import time
from contextlib import asynccontextmanager

import pytest

from spamguard.frontends.smtp import SmtpServer
from spamguard.next_hop import NextHop
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Policy
from tests.support.next_hop_server import next_hop_server
from tests.support.scorers import NOW, MemoryQuarantine, WordScorer, word_filter

pytestmark = pytest.mark.timeout(60)

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
TAG_ALL = Policy(spam=Disposition.TAG)
HAM = b"Subject: test\r\n\r\nHello\r\n"


class Client:
    """Speaks SMTP line by line, and raw bytes where a test wants them."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        lines = []
        while not lines or lines[-1][3:4] == "-":
            line = await self.reader.readline()
            if not line:
                raise EOFError
            lines.append(line.decode().rstrip("\r\n"))
        return "\n".join(lines)

    async def say(self, line):
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def begin(self, *recipients, mail="MAIL FROM:<ann@sender.example>"):
        replies = [await self.say(mail)]
        for recipient in recipients or ("bob@here.example",):
            replies.append(await self.say(f"RCPT TO:<{recipient}>"))
        return replies

    async def data(self, raw):
        assert (await self.say("DATA")).startswith("354")
        self.writer.write(raw + b".\r\n")
        return await self.reply()

    async def deliver(self, raw, *recipients, mail="MAIL FROM:<ann@sender.example>"):
        await self.begin(*recipients, mail=mail)
        return await self.data(raw)


class Door:
    """An SMTP server on fakes, in front of a real next hop."""

    def __init__(self, hop, policy, *, next_hop_timeout=5.0, endpoint="", **options):
        self.hop = hop
        self.scorer = options.pop("scorer", WordScorer())
        self.quarantine = options.pop("quarantine", MemoryQuarantine())
        self.metrics = Metrics()
        self.greeting = "LHLO" if options.get("is_lmtp") else "EHLO"
        self.filter = word_filter(
            policy, scorer=self.scorer, quarantine=self.quarantine, metrics=self.metrics
        )
        self.server = SmtpServer(
            self.filter,
            NextHop(endpoint or hop.endpoint, timeout_seconds=next_hop_timeout),
            metrics=self.metrics,
            clock=lambda: NOW,
            max_message_bytes=options.pop("max_message_bytes", 50_000_000),
            **options,
        )

    @asynccontextmanager
    async def client(self):
        reader, writer = await asyncio.open_connection(*self.address)
        client = Client(reader, writer)
        try:
            assert (await client.reply()).startswith("220")
            client.ehlo = await client.say(f"{self.greeting} client.example")
            yield client
        finally:
            writer.transport.abort()


@asynccontextmanager
async def door(policy=TAG_ALL, *, hop=None, **options):
    async with next_hop_server(**(hop or {})) as server:
        made = Door(server, policy, **options)
        made.address = await made.server.start_tcp("127.0.0.1", 0)
        try:
            yield made
        finally:
            await made.server.drain(2)
            assert set() == made.server.connections


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


# -- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status"),
    [
        (b"", b"No, score=0.0100"),
        (b"XUNSURE", b"Unsure, score=0.6000"),
        (b"XSPAM", b"Yes, score=0.9900"),
        (b"XCRASH", b"Unknown, unscored (WorkerCrashed)"),
        (b"XBUG", b"Unknown, unscored (internal error)"),
    ],
)
async def test_a_message_goes_on_with_its_verdict(word, status):
    raw = HAM + word + b"\r\n..dots\r\n"
    async with door() as made, made.client() as client:
        assert "250 2.0.0 Ok: next hop" == await client.deliver(raw.replace(b"\r\n.", b"\r\n.."))
    [(mail, recipients, sent)] = made.hop.messages
    assert ("MAIL FROM:<ann@sender.example>", ["RCPT TO:<bob@here.example>"]) == (mail, recipients)
    assert sent.endswith(raw)
    assert b"X-Spam-Status: " + status in sent
    assert [raw] == made.scorer.scored


async def test_held_mail_is_answered_with_its_id_and_nothing_reaches_the_next_hop():
    async with door(Policy()) as made, made.client() as client:
        reply = await client.deliver(HAM + b"XSPAM\r\n")
    [(raw, _, verdict)] = made.quarantine.held
    assert (f"250 2.0.0 Ok: held as {verdict.id}", HAM + b"XSPAM\r\n") == (reply, raw)
    assert ([], False) == (made.hop.messages, "DATA" in made.hop.commands)


async def test_mail_that_cannot_be_held_is_delivered_tagged():
    async with door(Policy(), quarantine=MemoryQuarantine(fails=True)) as made:
        async with made.client() as client:
            assert (await client.deliver(HAM + b"XSPAM\r\n")).startswith("250")
    assert b"X-Spam-Flag: YES" in made.hop.messages[0][2]


@pytest.mark.parametrize(
    ("disposition", "code"), [(Disposition.REJECT, "550 5.7.1"), (Disposition.DEFER, "451 4.7.1")]
)
async def test_refused_mail_does_not_reach_the_next_hop(disposition, code):
    async with door(Policy(spam=disposition)) as made, made.client() as client:
        assert (await client.deliver(HAM + b"XSPAM\r\n")).startswith(code)
        assert (await client.deliver(HAM)).startswith("250")
    assert [HAM] == [sent[-len(HAM) :] for _, _, sent in made.hop.messages]


async def test_redirected_mail_goes_to_the_one_address():
    policy = Policy(spam=Disposition.REDIRECT, redirect_to="spam@here.example")
    async with door(policy) as made, made.client() as client:
        assert (await client.deliver(HAM + b"XSPAM\r\n", "a@b.example", "c@d.example"))[:3] == "250"
    assert [["RCPT TO:<spam@here.example>"]] == [
        recipients for _, recipients, _ in made.hop.messages
    ]


# -- custody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [("PIPELINING", "DSN"), ("8BITMIME",)])
async def test_each_recipient_gets_the_next_hops_own_reply(extensions):
    replies = {"RCPT TO:<no@": "550 5.1.1 no such user", "RCPT TO:<later@": "450 4.2.1 busy"}
    hop = {"replies": replies, "extensions": extensions}
    async with door(hop=hop) as made, made.client() as client:
        answers = await client.begin("no@x.example", "bob@x.example", "later@x.example")
        assert ["550 5.1.1 no such user", "250 2.0.0 Ok: next hop", "450 4.2.1 busy"] == answers[1:]
        assert (await client.data(HAM)).startswith("250")
    assert ["RCPT TO:<bob@x.example>"] == made.hop.messages[0][1]


@pytest.mark.parametrize(
    ("command", "reply"),
    [("DATA", "452 4.3.1 disk"), (".", "554 5.6.0 no thanks"), (".", "451 4.3.0 later")],
)
async def test_a_refusal_of_the_message_is_relayed(command, reply):
    async with door(hop={"replies": {command: reply}}) as made, made.client() as client:
        assert reply == await client.deliver(HAM)
        assert [] == made.hop.messages


async def test_a_refused_sender_is_told_at_rcpt():
    hop = {"replies": {"MAIL": "550 5.7.1 not you", "RCPT": "503 need MAIL"}}
    async with door(hop=hop) as made, made.client() as client:
        assert "550 5.7.1 not you" == (await client.begin())[1]
        assert (await client.say("DATA")).startswith("503")


async def test_250_is_said_only_after_the_next_hop_has_said_it():
    async with door(hop={"before_250": asyncio.Event()}) as made, made.client() as client:
        answer = asyncio.create_task(client.deliver(HAM))
        await made.hop.data_ended.wait()
        await asyncio.sleep(0.1)
        assert not answer.done()
        made.hop.before_250.set()
        assert (await answer).startswith("250")


@pytest.mark.parametrize("dies", ["DATA", "."])
async def test_a_next_hop_that_dies_before_its_250_is_451(dies):
    async with door(hop={"dies": dies}) as made, made.client() as client:
        assert (await client.deliver(HAM)).startswith("451")
        made.hop.dies = ""
        assert (await client.deliver(HAM)).startswith("250")
    assert 1 == len(made.hop.messages)


async def test_a_next_hop_that_dies_after_its_250_is_connected_anew():
    async with door(hop={"dies": ".250"}) as made, made.client() as client:
        for _ in range(2):
            assert (await client.deliver(HAM)).startswith("250")
    assert (2, 2) == (len(made.hop.messages), made.hop.connections)


async def test_a_next_hop_that_is_down_is_4xx():
    async with door(endpoint="127.0.0.1:1") as made, made.client() as client:
        assert (await client.begin())[1].startswith("451 4.4.1")


async def test_a_next_hop_that_never_answers_is_451():
    hop = {"before_250": asyncio.Event()}
    async with door(hop=hop, next_hop_timeout=0.2) as made, made.client() as client:
        assert (await client.deliver(HAM)).startswith("451")
        made.hop.before_250.set()


async def test_connections_to_the_next_hop_are_reused():
    async with door() as made:
        for _ in range(3):
            async with made.client() as client:
                assert (await client.deliver(HAM)).startswith("250")
                assert (await client.say("QUIT")).startswith("221")
    assert (3, 1) == (len(made.hop.messages), made.hop.connections)


async def test_a_client_that_leaves_in_data_delivers_nothing():
    async with door() as made:
        async with made.client() as client:
            await client.begin()
            await client.say("DATA")
            client.writer.write(HAM)
            await client.writer.drain()
        await until(lambda: not made.server.connections)
    assert ([], []) == (made.hop.messages, made.scorer.scored)


async def test_a_bug_in_the_filter_is_451(monkeypatch):
    async def fail(envelope, raw):
        raise RuntimeError("secret text")

    async with door() as made, made.client() as client:
        monkeypatch.setattr(made.filter, "check", fail)
        reply = await client.deliver(HAM)
    assert "451 4.3.0 temporary failure, try again" == reply
    assert [] == made.hop.messages


# -- extensions ------------------------------------------------------------------------------


async def test_xforward_is_believed_from_allowed_networks_and_passed_on():
    async with door(Policy(), xforward_networks=LOOPBACK) as made, made.client() as client:
        assert "XFORWARD" in client.ehlo
        line = "XFORWARD NAME=mail.example ADDR=198.51.100.7 HELO=h+2Bi IDENT=4XYZ"
        assert (await client.say(line)).startswith("250")
        await client.deliver(HAM + b"XSPAM\r\n")
    [(_, envelope, _)] = made.quarantine.held
    assert ("198.51.100.7", "mail.example", "h+i", "4XYZ") == (
        envelope.client_ip,
        envelope.client_name,
        envelope.helo,
        envelope.queue_id,
    )
    assert "XFORWARD ADDR=198.51.100.7" in made.hop.commands


async def test_xforward_is_refused_from_elsewhere():
    async with door() as made, made.client() as client:
        assert "XFORWARD" not in client.ehlo
        assert (await client.say("XFORWARD ADDR=192.0.2.1")).startswith("550")


@pytest.mark.parametrize("offers", [True, False])
async def test_parameters_are_passed_on_where_they_are_offered(offers):
    hop = {} if offers else {"extensions": ("PIPELINING",)}
    mail = "MAIL FROM:<añn@sender.example> RET=HDRS ENVID=abc SMTPUTF8 BODY=8BITMIME SIZE=10"
    rcpt = "RCPT TO:<bob@here.example> NOTIFY=NEVER ORCPT=rfc822;bob@here.example"
    async with door(hop=hop) as made, made.client() as client:
        assert (await client.say(mail)).startswith("250")
        assert (await client.say(rcpt)).startswith("250")
        assert (await client.data(HAM)).startswith("250")
    kept = (mail.removesuffix(" SIZE=10"), rcpt) if offers else (mail[:30], rcpt[:26])
    assert (kept[0], [kept[1]]) == made.hop.messages[0][:2]


async def test_the_null_reverse_path_stays_null():
    async with door(Policy()) as made, made.client() as client:
        assert (await client.deliver(HAM + b"XSPAM\r\n", mail="MAIL FROM:<>")).startswith("250")
    assert ("MAIL FROM:<>", []) == (made.hop.messages[0][0], made.quarantine.held)


# -- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"one line\r\n", b"end.\r\n", b"a.\r\n..\r\n"])
@pytest.mark.parametrize("is_slow", [False, True])
async def test_the_shortest_messages_end_at_their_own_dot(raw, is_slow):
    async with door() as made, made.client() as client:
        await client.begin()
        await client.say("DATA")
        if is_slow:
            for byte in raw + b".\r\n":
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.002)
        else:
            client.writer.write(raw + b".\r\n")
        assert (await asyncio.wait_for(client.reply(), 5)).startswith("250")
    assert [raw.replace(b"..", b".")] == made.scorer.scored


@pytest.mark.parametrize("size", [100_000, 262_142, 262_143, 262_144, 700_000])
async def test_long_lines_pass_unchanged(size):
    raw = HAM + b"x" * size + b"\r\n.end\r\n"
    async with door() as made, made.client() as client:
        assert (await client.deliver(raw.replace(b"\r\n.", b"\r\n.."))).startswith("250")
    assert made.hop.messages[0][2].endswith(raw)


async def test_lines_that_end_in_dots_cost_no_more_than_others():
    raw = HAM + b"x.\r\n" * 1_000_000
    async with door() as made, made.client() as client:
        started = time.perf_counter()
        assert (await client.deliver(raw)).startswith("250")
        assert time.perf_counter() - started < 10
    assert made.hop.messages[0][2].endswith(raw)


async def test_a_large_message_does_not_keep_others_waiting():
    raw = HAM + (b"x" * 76 + b"\r\n") * 320_000
    slowest = 0.0
    async with door() as made, made.client() as client, made.client() as other:
        began = time.monotonic()
        answer = asyncio.create_task(client.deliver(raw))
        while not answer.done():
            started = time.monotonic()
            await other.say("NOOP")
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.005)
        whole = time.monotonic() - began
        assert (await answer).startswith("250")
    assert len(raw) < len(made.hop.messages[0][2])
    # 0.07 to 0.18 s of a second, with client, scorer and next hop on the same loop.
    assert slowest < whole / 2


async def test_too_large_is_552_by_size_and_by_bytes_and_the_session_goes_on():
    async with door(max_message_bytes=1000) as made, made.client() as client:
        assert (await client.say("MAIL FROM:<a@b.example> SIZE=1001")).startswith("552")
        assert (await client.deliver(b"x" * 1100 + b"\r\n")).startswith("552")
        assert (await client.deliver(HAM)).startswith("250")
    assert 1 == len(made.hop.messages)


async def test_commands_in_one_packet_are_answered_in_order():
    async with door() as made, made.client() as client:
        client.writer.write(
            b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + HAM + b".\r\nQUIT\r\n"
        )
        codes = [(await client.reply())[:3] for _ in range(5)]
    assert ["250", "250", "354", "250", "221"] == codes
    assert 1 == len(made.hop.messages)


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r"]
)
async def test_no_other_end_of_data_smuggles_a_second_message(end):
    smuggled = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<bob@x.example>\r\nDATA\r\nevil\r\n"
    async with door() as made, made.client() as client:
        assert (await client.deliver(HAM + b"a" + end + smuggled)).startswith("250")
        assert (await client.say("NOOP")).startswith("250")
    assert 1 == len(made.hop.messages)
    assert b"evil@x.example" in made.hop.messages[0][2]
    assert not any("evil" in command for command in made.hop.commands)


# -- limits and stopping ---------------------------------------------------------------------


async def test_too_many_connections_are_told_421():
    async with door(max_connections=1) as made, made.client():
        reader, writer = await asyncio.open_connection(*made.address)
        assert (await reader.read()).startswith(b"421")
        writer.close()


async def test_draining_finishes_what_is_under_way_and_accepts_nothing_new():
    async with door(scorer=WordScorer(slow_seconds=0.3)) as made:

        async def one():
            async with made.client() as client:
                return await client.deliver(HAM + b"XSLOW\r\n")

        answers = [asyncio.create_task(one()) for _ in range(10)]
        await until(lambda: made.scorer.waiting == 10)
        await made.server.drain(5)
        assert ["250"] * 10 == [(await answer)[:3] for answer in answers]
        with pytest.raises(OSError):
            await asyncio.open_connection(*made.address)
    assert 10 == len(made.hop.messages)
