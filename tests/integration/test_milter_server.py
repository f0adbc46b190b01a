"""The milter door on real sockets, with an MTA that cuts what it says into random pieces."""

import asyncio
import logging
import random
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from spamguard.frontends.milter import MilterServer
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Policy
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter import encode
from spamguard.wire.milter_packets import ActionFlags, StepFlags
from tests.support.milter_mta import OLD_OFFER, POSTFIX_OFFER, MtaConnection, mta_connection
from tests.support.scorers import NOW, MemoryQuarantine, WordScorer, word_filter

pytestmark = pytest.mark.timeout(60)

BOB = b"<bob@test.example>"
TAG_ALL = Policy(spam=Disposition.TAG)


def message(word=b"", *, headers=b"", body=b"Hello\r\n"):
    return b"Subject: test\r\n" + headers + b"\r\n" + word + b"\r\n" + body


class Door:
    """A milter server on fakes."""

    def __init__(self, policy=TAG_ALL, **options):
        self.scorer = options.pop("scorer", WordScorer())
        self.quarantine = options.pop("quarantine", MemoryQuarantine())
        self.metrics = Metrics()
        self.filter = word_filter(
            policy, scorer=self.scorer, quarantine=self.quarantine, metrics=self.metrics
        )
        self.server = MilterServer(
            self.filter,
            metrics=self.metrics,
            clock=lambda: NOW,
            max_message_bytes=options.pop("max_message_bytes", 50_000_000),
            **options,
        )

    def count(self, name):
        return self.metrics.snapshot().get(name, 0)


@asynccontextmanager
async def door(policy=TAG_ALL, **options):
    """Open a door on TCP; at the end nothing may be left of it."""
    made = Door(policy, **options)
    made.address = await made.server.start_tcp("127.0.0.1", 0)
    try:
        yield made
    finally:
        await made.server.drain(5)
        assert set() == made.server.connections
        assert set() == made.server.judging
        assert {asyncio.current_task()} == asyncio.all_tasks()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


# -- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status", "flag"),
    [
        (b"", b"No, score=0.0100", None),
        (b"XUNSURE", b"Unsure, score=0.6000", None),
        (b"XSPAM", b"Yes, score=0.9900", b"YES"),
        (b"XCRASH", b"Unknown, unscored (WorkerCrashed)", None),
        (b"XBUG", b"Unknown, unscored (internal error)", None),
    ],
)
@pytest.mark.parametrize("offer", [POSTFIX_OFFER, OLD_OFFER], ids=["v6", "v2"])
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_a_message_is_delivered_with_its_verdict(word, status, flag, offer, seed):
    fragments = None if seed is None else random.Random(seed)
    raw = message(word)
    async with (
        door() as made,
        mta_connection(made.address, offer=offer, fragments=fragments) as mta,
    ):
        answer = await mta.deliver(raw)
    assert wire.Accept() == answer.verdict
    assert answer.added[b"X-Spam-Status"].startswith(status)
    assert flag == answer.added.get(b"X-Spam-Flag")
    assert [raw] == made.scorer.scored


async def test_spam_is_held_with_its_envelope_and_discarded():
    raw = message(b"XSPAM")
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(raw, recipients=(BOB, b"<eve@test.example>"))
    assert (wire.Discard(), []) == (answer.verdict, answer.edits)
    [(held, envelope, _)] = made.quarantine.held
    assert raw == held
    assert "alice@example.org" == envelope.reverse_path
    assert ("bob@test.example", "eve@test.example") == envelope.recipients
    assert ("4TestQueueId", "192.0.2.7", "client.example", "helo", NOW) == (
        envelope.queue_id,
        envelope.client_ip,
        envelope.client_name,
        envelope.helo,
        envelope.received_at,
    )


async def test_spam_is_delivered_tagged_when_it_cannot_be_held():
    quarantine = MemoryQuarantine(fails=True)
    async with (
        door(Policy(), quarantine=quarantine) as made,
        mta_connection(made.address) as mta,
    ):
        answer = await mta.deliver(message(b"XSPAM"))
    assert wire.Accept() == answer.verdict
    assert b"YES" == answer.added[b"X-Spam-Flag"]


async def test_spam_is_refused_in_our_words():
    async with (
        door(Policy(spam=Disposition.REJECT)) as made,
        mta_connection(made.address) as mta,
    ):
        answer = await mta.deliver(message(b"XSPAM"))
    assert isinstance(answer.verdict, wire.ReplyCode)
    assert answer.verdict.text.startswith(b"550 5.7.1 message refused as spam, id ")


async def test_spam_is_redirected_away_from_all_its_recipients():
    policy = Policy(spam=Disposition.REDIRECT, redirect_to="spam@test.example")
    recipients = [BOB, b"<j\xc3\xb6rg@test.example>"]
    raw = message(b"XSPAM")
    async with door(policy) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(raw, recipients=recipients)
    delivered, left = answer.applied(raw, recipients)
    assert [b"<spam@test.example>"] == left
    assert delivered.startswith(b"X-Spam-Flag: YES\r\n")


async def test_an_mta_that_cannot_redirect_gets_the_message_tagged_and_a_warning_once(caplog):
    policy = Policy(spam=Disposition.REDIRECT, redirect_to="spam@test.example")
    offer = wire.Negotiate(version=6, actions=ActionFlags.ADD_HEADERS, steps=StepFlags(0))
    async with door(policy) as made:
        for _ in range(2):
            async with mta_connection(made.address, offer=offer) as mta:
                answer = await mta.deliver(message(b"XSPAM", headers=b"X-Spam-Flag: NO\r\n"))
                assert wire.Accept() == answer.verdict
                assert {wire.InsertHeader} == {type(edit) for edit in answer.edits}
    expected = "this MTA does not let a milter add recipients, delete recipients, change headers"
    assert [expected] == [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


async def test_mail_of_a_logged_in_user_is_outgoing():
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(message(b"XSPAM"), user=b"alice")
    assert wire.Accept() == answer.verdict


async def test_the_null_reverse_path_is_taken():
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(message(b"XSPAM"), reverse_path=b"<>")
    assert wire.Accept() == answer.verdict
    assert b"YES" == answer.added[b"X-Spam-Flag"]


# -- the message that arrives ----------------------------------------------------------------


@pytest.mark.parametrize("offer", [POSTFIX_OFFER, OLD_OFFER], ids=["v6", "v2"])
async def test_forged_headers_go_and_every_other_byte_stays(offer):
    raw = (
        b"X-Spam-Flag: NO\r\n"
        b"Received: from a\r\n\tby b\r\n"
        b"X-SPAM-FLAG: NO\r\n"
        b"X-\xe4\xf6: \xff latin\r\n"
        b"x-spamguard-id: forged\r\n"
        b"Subject: one\r\n  two\r\n"
        b"X-Spam-Status: No,\r\n\tscore=0\r\n"
        b"X-Spam-Flag: NO\r\n"
        b"\r\nbody X-Spam-Flag: NO\r\n\0\xff\r\n"
    )
    kept = (
        b"Received: from a\r\n\tby b\r\n"
        b"X-\xe4\xf6: \xff latin\r\n"
        b"Subject: one\r\n  two\r\n"
        b"\r\nbody X-Spam-Flag: NO\r\n\0\xff\r\n"
    )
    async with door() as made, mta_connection(made.address, offer=offer) as mta:
        answer = await mta.deliver(raw)
    has_space = StepFlags.HEADER_LEADING_SPACE in mta.options.steps
    delivered, _ = answer.applied(raw, [BOB], leading_space=has_space)
    ours = b"".join(
        name + b": " + answer.added[name] + b"\r\n"
        for name in (b"X-Spam-Score", b"X-Spam-Status", b"X-SpamGuard-ID")
    )
    assert ours + kept == delivered
    assert [raw] == made.scorer.scored


async def test_a_prefix_is_put_before_the_subject_of_tagged_spam():
    policy = Policy(spam=Disposition.TAG, subject_prefix="[SPAM] ")
    raw = message(b"XSPAM")
    async with door(policy) as made, mta_connection(made.address) as mta:
        answer = await mta.deliver(raw)
    assert b"Subject: [SPAM] test\r\n" in answer.applied(raw, [BOB])[0]


async def test_addresses_that_are_not_utf8_reach_the_filter_whole():
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        await mta.deliver(
            message(b"XSPAM"), reverse_path=b"<\xe4@x>", recipients=[b"<\xc3\xb6@y>", b"<\xff@z>"]
        )
    [(_, envelope, _)] = made.quarantine.held
    addresses = (envelope.reverse_path, *envelope.recipients)
    expected = [b"\xe4@x", b"\xc3\xb6@y", b"\xff@z"]
    assert expected == [a.encode("utf-8", "surrogateescape") for a in addresses]


@pytest.mark.parametrize("offer", [POSTFIX_OFFER, OLD_OFFER], ids=["v6", "v2"])
async def test_25_megabytes_are_judged_and_held_whole(offer):
    line = bytes(range(32, 127)) * 10 + b"\r\n"
    raw = message(b"XSPAM", body=line * (25_000_000 // len(line)))
    async with (
        door(Policy()) as made,
        mta_connection(made.address, offer=offer, fragments=random.Random(4)) as mta,
    ):
        answer = await mta.deliver(raw)
    assert wire.Discard() == answer.verdict
    assert raw == made.quarantine.held[0][0]


@pytest.mark.parametrize(
    ("offered", "skipped"),
    [(POSTFIX_OFFER.steps, False), (StepFlags.SKIP, True), (StepFlags(0), False)],
)
async def test_of_a_message_over_the_limit_the_beginning_is_judged_and_it_is_never_held(
    offered, skipped
):
    raw = message(b"XSPAM", body=b"x" * 300_000)
    offer = wire.Negotiate(version=6, actions=ActionFlags(0x1FF), steps=offered)
    async with (
        door(Policy(), max_message_bytes=100_000) as made,
        mta_connection(made.address, offer=offer) as mta,
    ):
        answer = await mta.deliver(raw)
    assert wire.Accept() == answer.verdict
    assert b"YES" == answer.added[b"X-Spam-Flag"]
    assert [] == made.quarantine.held
    assert skipped == answer.skipped
    assert 100_000 == len(made.scorer.scored[0])


# -- connections -----------------------------------------------------------------------------


async def test_each_of_several_messages_on_a_connection_gets_its_own_verdict():
    words = [b"XSPAM", b"", b"XUNSURE", b"XSPAM", b"XCRASH", b""]
    async with (
        door(Policy()) as made,
        mta_connection(made.address, fragments=random.Random(7)) as mta,
    ):
        answers = [
            await mta.deliver(
                message(word),
                recipients=[b"<r%d@test.example>" % number],
                queue_id=b"4Q%d" % number,
            )
            for number, word in enumerate(words)
        ]
    assert [wire.Discard if word == b"XSPAM" else wire.Accept for word in words] == [
        type(answer.verdict) for answer in answers
    ]
    assert [None, b"No", b"Unsure", None, b"Unknown", b"No"] == [
        answer.added[b"X-Spam-Status"].split(b",")[0] if answer.edits else None
        for answer in answers
    ]
    ids = [a.added[b"X-SpamGuard-ID"] for a in answers if a.edits]
    assert len(ids) == len(set(ids))
    assert [(("r0@test.example",), "4Q0"), (("r3@test.example",), "4Q3")] == [
        (envelope.recipients, envelope.queue_id) for _, envelope, _ in made.quarantine.held
    ]


async def test_nothing_of_an_aborted_message_is_in_the_next():
    stages = [
        [wire.Macros(stage=b"M", values=((b"{auth_authen}", b"mallory"),))],
        [wire.Mail(path=b"<mallory@example.org>")],
        [wire.Rcpt(path=b"<first@test.example>")],
        [wire.Macros(stage=b"T", values=((b"i", b"4First"),))],
        [wire.Header(name=b"X-Spam-Flag", value=b" NO"), wire.EndOfHeaders()],
        [wire.Body(chunk=b"XSPAM of the first message\r\n")],
    ]
    async with door() as made, mta_connection(made.address) as mta:
        for number in range(1, len(stages) + 1):
            for stage in stages[:number]:
                await mta.send(*stage)
            await mta.send(wire.Abort())
            answer = await mta.deliver(message(), queue_id=b"")
            assert 3 == len(answer.edits)
    assert [message()] * len(stages) == made.scorer.scored
    assert 0 == made.count("milter_protocol_errors")


async def test_a_mail_command_forgets_the_message_before_it():
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        await mta.send(wire.Mail(path=b"<a@b>"), wire.Rcpt(path=b"<first@test.example>"))
        await mta.deliver(message(b"XSPAM"))
    [(_, envelope, _)] = made.quarantine.held
    assert ("bob@test.example",) == envelope.recipients


@pytest.mark.parametrize("end", [wire.Abort(), wire.QuitNewConnection()])
async def test_an_abort_while_judging_cancels_and_is_not_answered(end):
    async with (
        door(scorer=WordScorer(slow_seconds=30)) as made,
        mta_connection(made.address) as mta,
    ):
        await mta.envelope(b"<a@b>", [BOB])
        await mta.content(message(b"XSLOW XSPAM"))
        await until(lambda: made.scorer.waiting)
        await mta.send(end)
        await until(lambda: made.scorer.cancelled)
        if isinstance(end, wire.QuitNewConnection):
            await mta.announce()
        answer = await mta.deliver(message())
    assert answer.added[b"X-Spam-Status"].startswith(b"No")


@pytest.mark.parametrize("polite", [True, False])
async def test_an_mta_that_goes_away_while_judging_cancels(polite):
    async with door(scorer=WordScorer(slow_seconds=30)) as made:
        mta = await MtaConnection.open(made.address)
        await mta.envelope(b"<a@b>", [BOB])
        await mta.content(message(b"XSLOW"))
        await until(lambda: made.scorer.waiting)
        await mta.close(polite=polite)
        await until(lambda: made.scorer.cancelled)
        await until(lambda: not made.server.connections)


@pytest.mark.parametrize("stage", range(1, 8))
async def test_an_mta_that_goes_away_at_any_stage_leaves_nothing(stage):
    packets = [
        wire.Macros(stage=b"M"),
        wire.Mail(path=b"<a@b>"),
        wire.Rcpt(path=BOB),
        wire.Header(name=b"A", value=b" b"),
        wire.EndOfHeaders(),
        wire.Body(chunk=b"x"),
    ]
    async with door() as made:
        mta = await MtaConnection.open(made.address)
        data = b"".join(map(encode, packets[:stage]))
        await mta.send_bytes(data if stage < 7 else data[:-3])
        await mta.close(polite=False)
        await until(lambda: not made.server.connections)
    assert [] == made.scorer.scored


async def test_a_connection_is_used_for_the_next_client_after_quit_nc():
    async with door(Policy()) as made, mta_connection(made.address) as mta:
        await mta.deliver(message(b"XSPAM"))
        await mta.send(wire.QuitNewConnection())
        await mta.announce(name=b"other.example", ip=b"198.51.100.1", helo=b"other")
        await mta.deliver(message(b"XSPAM"))
    assert ["client.example", "other.example"] == [
        e.client_name for _, e, _ in made.quarantine.held
    ]
    assert ["192.0.2.7", "198.51.100.1"] == [e.client_ip for _, e, _ in made.quarantine.held]
    assert 1 == made.count("milter_connections")


async def test_signs_of_life_come_while_the_scorer_is_slow():
    async with (
        door(scorer=WordScorer(slow_seconds=0.5), progress_seconds=0.1) as made,
        mta_connection(made.address) as mta,
    ):
        answer = await mta.deliver(message(b"XSLOW XSPAM"))
        assert 3 <= answer.progress <= 5
        assert b"YES" == answer.added[b"X-Spam-Flag"]
        assert await mta.is_silent(0.25)


async def test_a_bug_in_the_filter_defers_the_message(caplog):
    async with door() as made, mta_connection(made.address) as mta:
        made.filter.policy = None
        answer = await mta.deliver(message())
    assert wire.Tempfail() == answer.verdict
    assert "bug in the filter" in caplog.text


# -- peers that break the protocol -----------------------------------------------------------


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\0\0\0\0",
    b"\0\0\0\1Z",
    encode(wire.Mail(path=b"<a@b>")),
    encode(POSTFIX_OFFER) * 2,
    encode(POSTFIX_OFFER) + encode(wire.Connect(hostname=b"a")) + encode(wire.EndOfBody()),
    encode(POSTFIX_OFFER) + encode(wire.Accept()),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_a_peer_that_breaks_the_protocol_is_cut_while_another_goes_on(garbage):
    async with door() as made, mta_connection(made.address) as mta:
        await mta.envelope(b"<a@b>", [BOB])
        bad = await MtaConnection.open(made.address, offer=None)
        await bad.send_bytes(garbage)
        with pytest.raises(ConnectionResetError):
            while await bad.read() is not None:
                pass
            raise ConnectionResetError  # a clean end does as well
        await bad.close(polite=False)
        await mta.content(message(b"XSPAM"))
        assert b"YES" == (await mta.verdict()).added[b"X-Spam-Flag"]
    assert 1 == made.count("milter_protocol_errors")


async def test_a_command_while_a_verdict_is_due_cuts_the_connection():
    async with door(scorer=WordScorer(slow_seconds=30)) as made:
        mta = await MtaConnection.open(made.address)
        await mta.envelope(b"<a@b>", [BOB])
        await mta.content(message(b"XSLOW"))
        await mta.send(wire.Mail(path=b"<a@b>"))
        await until(lambda: not made.server.connections)
        await mta.close(polite=False)
    assert 1 == made.scorer.cancelled


async def test_a_peer_with_a_byte_now_and_then_is_cut():
    async with door(idle_timeout_seconds=0.4) as made:
        mta = await MtaConnection.open(made.address)
        started = time.monotonic()
        for byte in encode(wire.Mail(path=b"<%s@b>" % (b"a" * 100))):
            if not made.server.connections:
                break
            await mta.send_bytes(bytes([byte]))
            await asyncio.sleep(0.05)
        assert 0.3 < time.monotonic() - started < 2
        await mta.close(polite=False)
    assert 1 == made.count("milter_idle_closed")


async def test_waiting_for_a_verdict_is_not_idling():
    async with (
        door(idle_timeout_seconds=0.2, scorer=WordScorer(slow_seconds=0.7)) as made,
        mta_connection(made.address) as mta,
    ):
        assert wire.Accept() == (await mta.deliver(message(b"XSLOW"))).verdict


# -- listening and stopping ------------------------------------------------------------------


async def test_a_unix_socket_has_its_mode_and_replaces_a_stale_one(tmp_path):
    path = tmp_path / "m.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    made = Door()
    await made.server.start_unix(path, 0o660)
    assert 0o660 == path.stat().st_mode & 0o777
    async with mta_connection(path, fragments=random.Random(1)) as mta:
        assert wire.Accept() == (await mta.deliver(message())).verdict
    await made.server.drain(1)
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_not_replaced(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError):
        await Door().server.start_unix(path, 0o660)
    assert "data" == path.read_text()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_a_socket_that_is_already_open_is_served(family, tmp_path):
    listening = socket.socket(family)
    listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
    listening.listen()
    name = listening.getsockname()
    made = Door()
    await made.server.start_socket(listening)
    async with mta_connection(Path(name) if isinstance(name, str) else name) as mta:
        assert wire.Accept() == (await mta.deliver(message())).verdict
    await made.server.drain(1)


async def test_a_connection_on_tcp_does_not_wait_for_acknowledgements():
    async with door() as made, mta_connection(made.address) as mta:
        [connection] = made.server.connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        started = time.monotonic()
        for _ in range(20):
            await mta.deliver(message())
        assert time.monotonic() - started < 0.6


async def test_a_drain_finishes_what_is_under_way_and_takes_nothing_new():
    made = Door(scorer=WordScorer(slow_seconds=0.3))
    address = await made.server.start_tcp("127.0.0.1", 0)
    idle, sending, judged = [await MtaConnection.open(address) for _ in range(3)]
    await idle.deliver(message())
    await sending.envelope(b"<a@b>", [BOB])
    await judged.envelope(b"<a@b>", [BOB])
    await judged.content(message(b"XSLOW XSPAM"))
    await until(lambda: made.scorer.waiting)
    drain = asyncio.create_task(made.server.drain(10))
    assert await idle.read() is None
    with pytest.raises(OSError):
        await MtaConnection.open(address)
    await sending.content(message(b"XUNSURE"))
    assert (await sending.verdict()).added[b"X-Spam-Status"].startswith(b"Unsure")
    assert (await judged.verdict()).added[b"X-Spam-Status"].startswith(b"Yes")
    assert await sending.read() is None
    assert await judged.read() is None
    async with asyncio.timeout(2):
        await drain
    for mta in (idle, sending, judged):
        await mta.close(polite=False)


async def test_a_drain_past_its_deadline_defers_what_is_still_judged_and_closes_the_rest():
    made = Door(scorer=WordScorer(slow_seconds=30))
    address = await made.server.start_tcp("127.0.0.1", 0)
    sending, judged = [await MtaConnection.open(address) for _ in range(2)]
    await sending.envelope(b"<a@b>", [BOB])
    await judged.envelope(b"<a@b>", [BOB])
    await judged.content(message(b"XSLOW"))
    await until(lambda: made.scorer.waiting)
    await made.server.drain(0.2)
    assert wire.Tempfail() == (await judged.verdict()).verdict
    assert await sending.read() is None
    assert 1 == made.scorer.cancelled
    assert set() == made.server.judging
    for mta in (sending, judged):
        await mta.close(polite=False)


async def test_a_drain_under_load_loses_no_message():
    """Every message is either answered, or its connection closed before it began or ended."""
    made = Door(scorer=WordScorer(slow_seconds=0.01))
    address = await made.server.start_tcp("127.0.0.1", 0)
    answered, unanswered = [], []

    async def client(number):
        mta = await MtaConnection.open(address, fragments=random.Random(number))
        try:
            while True:
                answered.append((await mta.deliver(message(b"XSLOW"))).verdict)
        except (EOFError, OSError):
            unanswered.append(number)
        finally:
            await mta.close(polite=False)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(client(number))
        await until(lambda: len(answered) > 100)
        await made.server.drain(5)
    assert {wire.Accept()} == set(answered)
    assert 20 == len(unanswered)
    assert len(answered) == len(made.scorer.scored) == made.count("messages")


@pytest.mark.parametrize("seed", range(5))
async def test_many_connections_with_random_pieces_each_get_their_verdicts(seed):
    """Twenty connections at once; what each is told depends on its own messages only."""
    generator = random.Random(seed)
    async with door(Policy()) as made:

        async def client(number):
            fragments = random.Random(seed * 100 + number)
            async with mta_connection(made.address, fragments=fragments) as mta:
                for _ in range(6):
                    word = fragments.choice([b"XSPAM", b"", b"XUNSURE", b"XCRASH"])
                    if fragments.random() < 0.2:
                        await mta.envelope(b"<a@b>", [BOB])
                        await mta.send(wire.Abort())
                    body = b"x" * fragments.randrange(200_000)
                    answer = await mta.deliver(message(word, body=body))
                    expected = {b"XSPAM": None, b"": b"No", b"XUNSURE": b"Unsure"}
                    status = answer.added.get(b"X-Spam-Status")
                    assert expected.get(word, b"Unknown") == (status and status.split(b",")[0])

        async with asyncio.TaskGroup() as group:
            for number in range(generator.randint(10, 20)):
                group.create_task(client(number))
    assert 0 == made.count("milter_protocol_errors")


async def test_more_connections_than_allowed_are_closed_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr("spamguard.frontends.milter.MAX_CONNECTIONS", 2)
    async with door() as made, AsyncExitStack() as stack:
        first, _ = [await stack.enter_async_context(mta_connection(made.address)) for _ in "12"]
        reader, writer = await asyncio.open_connection(*made.address)
        assert b"" == await reader.read()
        writer.close()
        assert 1 == made.count("milter_refused")
        answer = await first.deliver(message(b"XSPAM"))
        assert answer.added[b"X-Spam-Flag"] == b"YES"
