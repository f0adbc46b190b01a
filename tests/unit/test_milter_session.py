"""The filter's side of a milter connection: what may come when, what may go when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.errors import LocalProtocolError, PeerProtocolError
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter import encode
from spamguard.wire.milter_packets import ActionFlags, StepFlags
from spamguard.wire.milter_session import FilterSession

NO_REPLIES = StepFlags(0xFF080)  # all NO_REPLY_* flags
QUIET = NO_REPLIES | StepFlags.SKIP | StepFlags.HEADER_LEADING_SPACE
EVERYTHING = ActionFlags(0x1FF)
MACROS = ((0, b"j"), (5, b"i"))
CONNECT = wire.Connect(hostname=b"c", family=b"4", address=b"192.0.2.7")
MAIL, RCPT = wire.Mail(path=b"<a@b>"), wire.Rcpt(path=b"<c@d>")
HEADER = wire.Header(name=b"Subject", value=b" x")


def session(offered_steps=QUIET, offered_actions=EVERYTHING, *, version=6):
    made = FilterSession(actions=EVERYTHING, steps=QUIET, macros=MACROS)
    offer = wire.Negotiate(version=version, actions=offered_actions, steps=offered_steps)
    made.receive_data(encode(offer))
    made.answer_offer(made.next_event())
    return made


def feed(made, *packets):
    """Give packets to a session, answering where a reply is due, but for the last."""
    made.receive_data(b"".join(map(encode, packets)))
    for number, packet in enumerate(packets, 1):
        assert packet == made.next_event()
        if made.is_reply_due and number < len(packets):
            made.send([wire.Continue()])
    return made


@pytest.mark.parametrize("version", [2, 3, 4, 6, 7])
def test_the_answer_to_an_offer_is_a_part_of_it(version):
    made = FilterSession(actions=ActionFlags(0x11F), steps=QUIET, macros=MACROS)
    offer = wire.Negotiate(version=version, actions=ActionFlags(0x3), steps=StepFlags(0x481))
    made.receive_data(encode(offer))
    answer = made.answer_offer(made.next_event())
    expected = wire.Negotiate(
        version=min(6, version), actions=ActionFlags(0x3), steps=StepFlags(0x480)
    )
    assert encode(expected) == answer


def test_macro_lists_are_sent_when_they_were_offered():
    made = FilterSession(actions=ActionFlags(0x11F), steps=QUIET, macros=MACROS)
    made.receive_data(encode(wire.Negotiate(version=6, actions=EVERYTHING, steps=StepFlags(0))))
    expected = wire.Negotiate(
        version=6, actions=ActionFlags(0x11F), steps=StepFlags(0), macros=MACROS
    )
    assert encode(expected) == made.answer_offer(made.next_event())


@pytest.mark.parametrize("version", [0, 1])
def test_an_older_protocol_is_refused(version):
    made = FilterSession(actions=EVERYTHING, steps=QUIET)
    made.receive_data(
        encode(wire.Negotiate(version=version, actions=EVERYTHING, steps=StepFlags(0)))
    )
    with pytest.raises(PeerProtocolError):
        made.next_event()


def test_a_second_negotiation_is_a_peer_error():
    made = session()
    made.receive_data(encode(wire.Negotiate(version=6, actions=EVERYTHING, steps=QUIET)))
    with pytest.raises(PeerProtocolError):
        made.next_event()


@pytest.mark.parametrize("packet", [CONNECT, MAIL, wire.Abort(), wire.Macros(stage=b"C")])
def test_nothing_comes_before_the_negotiation(packet):
    made = FilterSession(actions=EVERYTHING, steps=QUIET)
    made.receive_data(encode(packet))
    with pytest.raises(PeerProtocolError):
        made.next_event()


ORDERS = [
    [CONNECT, wire.Helo(text=b"h"), MAIL, RCPT, wire.Data(), HEADER, wire.EndOfHeaders()],
    [CONNECT, MAIL, RCPT, MAIL, RCPT],
    [CONNECT, wire.Helo(text=b"h"), wire.Helo(text=b"h"), wire.Unknown(text=b"x"), MAIL],
    [CONNECT, MAIL, wire.EndOfBody()],
    [CONNECT, MAIL, wire.Abort(), MAIL, RCPT],
    [CONNECT, MAIL, HEADER, wire.EndOfHeaders(), wire.Body(chunk=b"x"), wire.Abort(), MAIL],
    [CONNECT, MAIL, wire.QuitNewConnection(), CONNECT, MAIL],
    [CONNECT, MAIL, HEADER, wire.EndOfBody(chunk=b"x"), wire.Abort(), MAIL, RCPT],
    [CONNECT, MAIL, wire.EndOfBody(), wire.Quit()],
    [CONNECT, wire.Abort(), wire.Abort(), wire.Quit()],
    [wire.Abort(), CONNECT],
]


@pytest.mark.parametrize("packets", ORDERS)
@pytest.mark.parametrize("steps", [QUIET, StepFlags(0)], ids=["quiet", "answered"])
def test_an_order_that_mtas_use_is_taken(packets, steps):
    feed(session(steps), *packets)


@pytest.mark.parametrize(
    "packets",
    [
        [CONNECT, CONNECT],
        [CONNECT, RCPT],
        [CONNECT, HEADER],
        [CONNECT, wire.EndOfHeaders()],
        [CONNECT, wire.Body(chunk=b"x")],
        [CONNECT, wire.EndOfBody()],
        [CONNECT, MAIL, HEADER, RCPT],
        [CONNECT, MAIL, HEADER, MAIL],
        [CONNECT, MAIL, wire.EndOfHeaders(), HEADER],
        [CONNECT, MAIL, wire.Body(chunk=b"x"), wire.EndOfHeaders()],
        [CONNECT, MAIL, wire.Abort(), RCPT],
        [CONNECT, wire.QuitNewConnection(), wire.QuitNewConnection(), CONNECT, RCPT],
        [CONNECT, wire.Continue()],
        [CONNECT, wire.ReplyCode(text=b"550 5.7.1 x")],
    ],
)
def test_an_order_that_makes_no_sense_is_a_peer_error(packets):
    *before, last = packets
    made = feed(session(), *before)
    made.receive_data(encode(last))
    with pytest.raises(PeerProtocolError):
        made.next_event()


@pytest.mark.parametrize("follower", [MAIL, HEADER, wire.EndOfBody()])
def test_nothing_but_an_end_comes_while_a_verdict_is_due(follower):
    made = feed(session(), CONNECT, MAIL, wire.EndOfBody())
    made.receive_data(encode(follower))
    with pytest.raises(PeerProtocolError):
        made.next_event()


@pytest.mark.parametrize("end", [wire.Abort(), wire.QuitNewConnection(), wire.Quit()])
def test_an_end_while_a_verdict_is_due_leaves_nothing_to_answer(end):
    made = feed(session(), CONNECT, MAIL, wire.EndOfBody(), end)
    with pytest.raises(LocalProtocolError):
        made.send([wire.Accept()])


@pytest.mark.parametrize(
    ("flag", "packets"),
    [
        (StepFlags.NO_REPLY_CONNECT, [CONNECT]),
        (StepFlags.NO_REPLY_HELO, [wire.Helo(text=b"h")]),
        (StepFlags.NO_REPLY_MAIL, [MAIL]),
        (StepFlags.NO_REPLY_RCPT, [MAIL, RCPT]),
        (StepFlags.NO_REPLY_DATA, [MAIL, wire.Data()]),
        (StepFlags.NO_REPLY_HEADER, [MAIL, HEADER]),
        (StepFlags.NO_REPLY_END_OF_HEADERS, [MAIL, wire.EndOfHeaders()]),
        (StepFlags.NO_REPLY_BODY, [MAIL, wire.Body(chunk=b"x")]),
    ],
)
def test_an_event_is_answered_unless_its_flag_was_negotiated(flag, packets):
    assert not feed(session(flag), *packets).is_reply_due
    assert feed(session(QUIET & ~flag), *packets).is_reply_due


def test_a_reply_to_nothing_is_our_error():
    with pytest.raises(LocalProtocolError):
        feed(session(), CONNECT).send([wire.Continue()])


@pytest.mark.parametrize(
    "reply", [wire.Accept(), wire.Reject(), wire.InsertHeader(index=0, name=b"a", value=b"b")]
)
def test_nothing_is_decided_before_the_end_of_a_message(reply):
    with pytest.raises(LocalProtocolError):
        feed(session(StepFlags(0)), CONNECT, MAIL).send([reply])


def test_a_recipient_can_be_refused_and_the_next_one_comes():
    made = feed(session(QUIET & ~StepFlags.NO_REPLY_RCPT), CONNECT, MAIL, RCPT)
    refusal = wire.ReplyCode(text=b"550 5.7.1 not you")
    assert encode(refusal) == made.send([refusal])
    assert not made.is_reply_due
    feed(made, RCPT)
    assert made.is_reply_due


@pytest.mark.parametrize("reply", [wire.Accept(), wire.Discard(), wire.Tempfail()])
def test_a_recipient_is_answered_for_itself_alone(reply):
    made = feed(session(QUIET & ~StepFlags.NO_REPLY_RCPT), CONNECT, MAIL, RCPT)
    with pytest.raises(LocalProtocolError):
        made.send([reply])


def test_a_second_verdict_is_our_error():
    made = feed(session(), CONNECT, MAIL, wire.EndOfBody())
    with pytest.raises(LocalProtocolError):
        made.send([wire.Accept(), wire.Accept()])


@pytest.mark.parametrize(
    ("flag", "edit"),
    [
        (ActionFlags.ADD_HEADERS, wire.AddHeader(name=b"a", value=b"b")),
        (ActionFlags.ADD_HEADERS, wire.InsertHeader(index=0, name=b"a", value=b"b")),
        (ActionFlags.CHANGE_HEADERS, wire.ChangeHeader(index=1, name=b"a", value=b"")),
        (ActionFlags.ADD_RECIPIENTS, wire.AddRecipient(text=b"<a@b>")),
        (ActionFlags.DELETE_RECIPIENTS, wire.DeleteRecipient(text=b"<a@b>")),
        (ActionFlags.QUARANTINE, wire.Quarantine(text=b"why")),
    ],
)
def test_an_edit_needs_its_flag(flag, edit):
    packets = (CONNECT, MAIL, wire.EndOfBody())
    expected = encode(edit) + encode(wire.Accept())
    assert expected == feed(session(QUIET, flag), *packets).send([edit, wire.Accept()])
    with pytest.raises(LocalProtocolError):
        feed(session(QUIET, EVERYTHING & ~flag), *packets).send([edit])


def test_skip_answers_a_body_only_where_it_was_offered():
    packets = (CONNECT, MAIL, wire.Body(chunk=b"x"))
    feed(session(StepFlags.SKIP), *packets).send([wire.Skip()])
    with pytest.raises(LocalProtocolError):
        feed(session(StepFlags(0)), *packets).send([wire.Skip()])


def test_progress_leaves_the_verdict_due():
    made = feed(session(), CONNECT, MAIL, wire.EndOfBody())
    made.send([wire.Progress(), wire.Progress()])
    assert made.is_reply_due


# One SMTP session with two messages, as Postfix 3.7 tells it with milter_protocol=6 (without the
# length before each packet) after negotiation: macros come even where we said no event.
POSTFIX_SAYS = [
    b"DCj\0mx.test.example\0{client_addr}\x00127.0.0.1\0{client_name}\0localhost\0",
    b"Clocalhost\x004\x9cX127.0.0.1\0",
    b"DH{client_addr}\x00127.0.0.1\0",
    b"Hclient.example\0",
    b"DM",
    b"M<alice@example.org>\0BODY=8BITMIME\0SIZE=310\0",
    b"DR",
    b"R<bob@test.example>\0ORCPT=rfc822;bob@test.example\0",
    b"DT" + b"i\x004hG2Rz1tXz\0",
    b"DLi\x004hG2Rz1tXz\0",
    b"LFrom\0 Alice <alice@example.org>\0",
    b"DLi\x004hG2Rz1tXz\0",
    b"LSubject\0 one\n two\0",
    b"DNi\x004hG2Rz1tXz\0",
    b"N",
    b"DBi\x004hG2Rz1tXz\0",
    b"DEi\x004hG2Rz1tXz\0",
    b"EHello\r\n",
    b"A",
    b"DM{auth_authen}\0alice\0",
    b"M<>\0",
    b"DR",
    b"R<bob@test.example>\0",
    b"A",
    b"Q",
]


def test_a_session_of_postfix_is_understood():
    made = session()
    made.receive_data(b"".join(len(p).to_bytes(4, "big") + p for p in POSTFIX_SAYS))
    events = []
    while (event := made.next_event()) is not None:
        events.append(event)
        if isinstance(event, wire.EndOfBody):
            assert b"\0\0\0\1a" == made.send([wire.Accept()])
        assert not made.is_reply_due
    assert [p[:1] for p in POSTFIX_SAYS] == [event.code for event in events]
    assert wire.Header(name=b"Subject", value=b" one\n two") in events


@given(st.lists(st.sampled_from([p for order in ORDERS for p in order]), max_size=25))
@settings(max_examples=300, deadline=None)
def test_any_order_of_packets_gives_nothing_but_peer_errors(packets):
    made = session()
    made.receive_data(b"".join(map(encode, packets)))
    try:
        while made.next_event() is not None:
            if made.is_reply_due:
                made.send([wire.Progress(), wire.Continue()])
    except PeerProtocolError:
        pass
