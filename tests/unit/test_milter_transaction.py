"""One message at the milter door: what the filter is told, and which replies render an action."""

import pytest

from spamguard.frontends import milter_transaction as door
from spamguard.message import Envelope
from spamguard.verdict import Action, Disposition
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter_packets import ActionFlags, StepFlags

ALL = ActionFlags(0x1FF)
LEADING_SPACE = StepFlags.HEADER_LEADING_SPACE
LIMIT = 10_000


def transaction(*fields, body=b"Hello\r\n", limit=LIMIT):
    made = door.Transaction(path=b"<alice@example.org>", macros={b"i": b"4Q"})
    made.add_recipient(b"<bob@test.example>")
    for name, value in fields:
        made.add_header(wire.Header(name=name, value=value), b"", limit)
    made.add_body(body, limit)
    return made


def replies(action, made, actions=ALL, steps=LEADING_SPACE):
    return door.replies_for(action, made, actions=actions, steps=steps)


def test_the_raw_message_is_byte_for_byte_what_the_client_sent():
    made = transaction((b"Subject", b" a\n\tb"), (b"X-\xe4", b"c"), (b"X-Empty", b""))
    assert b"Subject: a\r\n\tb\r\nX-\xe4:c\r\nX-Empty:\r\n\r\nHello\r\n" == bytes(made.raw)


def test_a_blank_that_the_mta_removed_is_put_back():
    made = transaction()
    made = door.Transaction(path=b"<>", macros={})
    made.add_header(wire.Header(name=b"A", value=b"b"), b" ", LIMIT)
    made.add_body(b"", LIMIT)
    assert b"A: b\r\n\r\n" == bytes(made.raw)


def test_a_message_without_body_ends_with_the_empty_line():
    made = transaction((b"A", b" b"), body=b"")
    made.add_body(b"", LIMIT)
    assert b"A: b\r\n\r\n" == bytes(made.raw)


@pytest.mark.parametrize(("limit", "is_cut"), [(10, True), (14, True), (15, False), (16, False)])
def test_only_a_message_over_the_limit_is_cut(limit, is_cut):
    made = transaction((b"A", b" b"), limit=limit)
    assert b"A: b\r\n\r\nHello\r\n"[:limit] == bytes(made.raw)
    assert is_cut == made.is_cut


def test_the_envelope_says_what_the_mta_said():
    client = door.Client(
        hostname=b"client.example",
        address=b"192.0.2.7",
        helo=b"helo.example",
        macros={b"client_addr": b"203.0.113.1"},
    )
    made = transaction()
    made.add_recipient(b"<j\xc3\xb6rg@test.example>")
    made.macros[b"auth_authen"] = b"alice"
    expected = Envelope(
        frontend="milter",
        reverse_path="alice@example.org",
        recipients=("bob@test.example", "jörg@test.example"),
        queue_id="4Q",
        client_ip="192.0.2.7",
        client_name="client.example",
        helo="helo.example",
        authenticated_user="alice",
        received_at=17.0,
    )
    assert expected == door.envelope_of(client, made, 17.0)


@pytest.mark.parametrize(
    ("address", "macro", "expected"),
    [
        (b"IPv6:2001:DB8::1", b"", "2001:db8::1"),
        (b"", b"192.0.2.9", "192.0.2.9"),
        (b"", b"unknown", None),
        (b"\xff", b"", None),
    ],
)
def test_a_client_address_is_an_address_or_none(address, macro, expected):
    client = door.Client(address=address, macros={b"client_addr": macro})
    assert expected == door.envelope_of(client, transaction(), 0.0).client_ip


@pytest.mark.parametrize("name", [b"unknown", b"[192.0.2.7]"])
def test_a_client_without_a_name_has_none(name):
    assert "" == door.envelope_of(door.Client(hostname=name), transaction(), 0.0).client_name


def test_the_null_reverse_path_is_empty():
    made = door.Transaction(path=b"<>", macros={})
    assert "" == door.envelope_of(door.Client(), made, 0.0).reverse_path


def test_an_address_that_is_not_utf8_can_be_had_back():
    made = door.Transaction(path=b"<\xe4@example.org>", macros={})
    path = door.envelope_of(door.Client(), made, 0.0).reverse_path
    assert b"\xe4@example.org" == path.encode("utf-8", "surrogateescape")


def test_our_headers_stand_on_top_in_their_order():
    action = Action(disposition=Disposition.TAG, add_headers=(("X-A", "1"), ("X-B", "2")))
    expected = [
        wire.InsertHeader(index=0, name=b"X-B", value=b" 2"),
        wire.InsertHeader(index=0, name=b"X-A", value=b" 1"),
        wire.Accept(),
    ]
    assert expected == replies(action, transaction())


def test_the_mta_writes_the_blank_where_leading_space_was_not_negotiated():
    action = Action(disposition=Disposition.TAG, add_headers=(("X-A", "1"),))
    first = replies(action, transaction(), steps=StepFlags(0))[0]
    assert wire.InsertHeader(index=0, name=b"X-A", value=b"1") == first


def test_forged_headers_are_deleted_from_the_last_one_down():
    made = transaction((b"X-SPAM-FLAG", b" NO"), (b"A", b""), (b"x-spam-flag", b" no"))
    action = Action(disposition=Disposition.DELIVER)
    expected = [
        wire.ChangeHeader(index=2, name=b"X-Spam-Flag", value=b""),
        wire.ChangeHeader(index=1, name=b"X-Spam-Flag", value=b""),
        wire.Accept(),
    ]
    assert expected == replies(action, made)


def test_a_subject_prefix_goes_before_the_first_subject():
    made = transaction((b"subject", b"  a\n b"), (b"Subject", b" c"))
    action = Action(disposition=Disposition.TAG, subject_prefix="[SPAM] ")
    expected = wire.ChangeHeader(index=1, name=b"Subject", value=b" [SPAM] a\n b")
    assert [expected, wire.Accept()] == replies(action, made)


def test_a_message_without_subject_gets_one():
    action = Action(disposition=Disposition.TAG, subject_prefix="[SPAM] ")
    expected = wire.AddHeader(name=b"Subject", value=b" [SPAM]")
    assert [expected, wire.Accept()] == replies(action, transaction())


def test_a_nul_in_the_subject_is_not_sent_back():
    made = transaction((b"Subject", b" a\0b"))
    action = Action(disposition=Disposition.TAG, subject_prefix="! ")
    assert b" ! ab" == replies(action, made)[0].value


def test_a_held_message_is_discarded_without_edits():
    action = Action(disposition=Disposition.QUARANTINE, add_headers=(("X-A", "1"),))
    assert [wire.Discard()] == replies(action, transaction((b"X-Spam-Flag", b" NO")))


@pytest.mark.parametrize("disposition", [Disposition.REJECT, Disposition.DEFER])
def test_a_refusal_is_the_reply_and_nothing_else(disposition):
    action = Action(
        disposition=disposition, smtp_reply="550 5.7.1 100 %", add_headers=(("A", "1"),)
    )
    assert [wire.ReplyCode(text=b"550 5.7.1 100 %")] == replies(action, transaction())


def test_redirecting_replaces_all_recipients_as_they_were_written():
    made = transaction()
    made.add_recipient(b"<\xff@test.example>")
    action = Action(disposition=Disposition.REDIRECT, redirect_to="spam@test.example")
    expected = [
        wire.DeleteRecipient(text=b"<bob@test.example>"),
        wire.DeleteRecipient(text=b"<\xff@test.example>"),
        wire.AddRecipient(text=b"<spam@test.example>"),
        wire.Accept(),
    ]
    assert expected == replies(action, made)


@pytest.mark.parametrize("allowed", [ActionFlags(0), *ActionFlags])
def test_no_edit_is_made_that_the_mta_does_not_allow(allowed):
    action = Action(
        disposition=Disposition.REDIRECT,
        redirect_to="spam@test.example",
        add_headers=(("X-A", "1"),),
        subject_prefix="! ",
    )
    made = transaction((b"Subject", b" a"), (b"X-Spam-Flag", b" NO"))
    needed = {
        wire.InsertHeader: ActionFlags.ADD_HEADERS,
        wire.ChangeHeader: ActionFlags.CHANGE_HEADERS,
    }
    *edits, verdict = replies(action, made, actions=allowed)
    assert wire.Accept() == verdict
    assert {allowed} >= {needed[type(edit)] for edit in edits}
