"""Parsing hostile and honest mail: bounded, never raising; and editing headers byte for byte."""

import base64
import time
from email.parser import BytesHeaderParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.message import (
    MAX_PARTS,
    decode_words,
    edit_headers,
    fingerprint_of,
    parse_message,
)

SAMPLES = Path(__file__).resolve().parents[2] / "sample_mail"


def mail(headers, body=b"", line_end=b"\r\n"):
    return line_end.join([*headers, b"", body])


def nested_multiparts(depth):
    lines = [b"Subject: deep"]
    for level in range(depth):
        lines += [b"Content-Type: multipart/mixed; boundary=b%d" % level, b"", b"--b%d" % level]
    return b"\r\n".join([*lines, b"", b"text at the bottom"])


HOSTILE = {
    "2,000 nested multiparts": nested_multiparts(2000),
    "50,000 parts": mail(
        [b"Content-Type: multipart/mixed; boundary=b"], b"--b\r\n\r\nx\r\n" * 50_000 + b"--b--"
    ),
    "20,000 recipients": mail(
        [b"To: " + b", ".join(b"u%d@example.org" % i for i in range(20_000))]
    ),
    "15,000 encoded words": mail([b"Subject: " + b" ".join([b"=?utf-8?q?spam?="] * 15_000)]),
    "100,000 header fields": mail([b"X-A: 1"] * 100_000),
    "one header of a megabyte": mail([b"Subject: " + b"x" * 1_000_000]),
    "20,000 folded lines": mail([b"Subject: a" + b"\r\n b" * 20_000]),
    "a body of one line": mail([b"Subject: s"], b"y" * 3_000_000),
    "boundaries nested in themselves": mail(
        [b"Content-Type: multipart/mixed; boundary=b"],
        b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 5_000,
    ),
    "attached messages in attached messages": b"Content-Type: message/rfc822\r\n\r\n" * 3_000,
    "20,000 nested divs": mail([b"Content-Type: text/html"], b"<div>" * 20_000 + b"x"),
    "unclosed formatting": mail(
        [b"Content-Type: text/html"],
        b"".join(b"<b id=%d>" % i for i in range(4_000)) + b"<p>x" * 20_000,
    ),
    "base64 of nothing": mail(
        [b"Content-Transfer-Encoding: base64", b"Content-Type: text/plain"], b"!" * 1_000_000
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mail_is_read_within_a_second(name):
    started = time.process_time()
    parse_message(HOSTILE[name])
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.eml")), ids=lambda path: path.stem)
def test_every_sample_is_read(path):
    message = parse_message(path.read_bytes())
    if not path.name.startswith("hostile"):
        assert message.header("from")
        assert (message.html_text or message.text).strip() or message.links


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_arbitrary_bytes_never_raise(data):
    message = parse_message(data)
    message.header("subject")
    message.address("from")


_PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"--b", b"--", b"Content-Type: multipart/mixed; boundary=b", b": ", b" ",
     b"=?utf-8?b?", b"?=", b"Content-Transfer-Encoding: base64", b"charset=utf-7", b"\0", b"\xff",
     b"Content-Type: text/html; charset=", b"<div style=display:none>", b"<a href=", b"From: "]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=60))
def test_pieces_of_mail_in_any_order_never_raise(pieces):
    message = parse_message(b"".join(pieces))
    message.header("subject")
    message.address("reply-to")


@pytest.mark.parametrize(
    ("content_type", "raw", "text"),
    [
        ("text/plain; charset=utf-8", "Grüße".encode(), "Grüße"),
        ("text/plain; charset=iso-8859-1", "Grüße".encode("latin-1"), "Grüße"),
        ("text/plain; charset=koi8-r", "Привет".encode("koi8-r"), "Привет"),
        ("text/plain; charset=gb2312", "发票".encode("gbk"), "发票"),
        ("text/plain; charset=iso-2022-jp", "日本語".encode("iso-2022-jp"), "日本語"),
        ("text/plain; charset=us-ascii", "Grüße".encode(), "Grüße"),
        ("text/plain; charset=no-such-charset", "Grüße".encode(), "Grüße"),
        ("text/plain; charset=punycode", b"abc", "abc"),
        ("text/plain", "Grüße".encode("cp1252"), "Grüße"),
    ],
)
def test_text_is_decoded_as_declared_or_as_it_must_be(content_type, raw, text):
    message = parse_message(mail([b"Content-Type: " + content_type.encode()], raw))
    assert text == message.text.strip()


@pytest.mark.parametrize(
    "body",
    [
        base64.encodebytes(b"hello world"),
        base64.b64encode(b"hello world").rstrip(b"="),
        b" aGVs*bG8gd29y\r\n\r\nbGQ= ",
        b"aGVsbG8gd29ybGQ=\r\nA",
    ],
)
def test_base64_is_read_as_mail_readers_read_it(body):
    headers = [b"Content-Type: text/plain", b"Content-Transfer-Encoding: base64"]
    assert parse_message(mail(headers, body)).text.startswith("hello world")


def test_parts_are_found_with_any_line_ends_and_without_the_last_boundary():
    for line_end in (b"\r\n", b"\n"):
        parts = line_end.join([b"pre", b"--x", b"", b"one", b"--x  ", b"", b"two"])
        message = parse_message(
            mail([b"Content-Type: multipart/mixed; boundary=x"], parts, line_end)
        )
        assert message.text.split() == ["one", "two"]
        assert "unclosed" in message.defects


def test_a_multipart_without_its_boundary_is_read_as_text():
    message = parse_message(mail([b"Content-Type: multipart/mixed; boundary=x"], b"just text"))
    assert message.text == "just text"
    assert "boundary" in message.defects


def test_attachments_are_named_not_read():
    body = b"\r\n".join(
        [
            b"--x", b"Content-Type: text/plain", b"", b"see attached",
            b"--x", b'Content-Type: application/octet-stream; name="a.PDF"',
            b"Content-Disposition: attachment", b"", b"%PDF",
            b"--x", b"Content-Type: text/html", b"Content-Disposition: attachment; filename=v.html",
            b"", b"<b>secret</b>", b"--x--",
        ]
    )  # fmt: skip
    message = parse_message(mail([b"Content-Type: multipart/mixed; boundary=x"], body))
    assert message.attachment_types == ("pdf", "html")
    assert message.text == "see attached"
    assert message.html_text == ""


def test_more_parts_than_allowed_are_left_out_and_noted():
    body = b"".join(b"--x\r\n\r\npart%d\r\n" % n for n in range(MAX_PARTS + 50)) + b"--x--"
    message = parse_message(mail([b"Content-Type: multipart/mixed; boundary=x"], body))
    assert message.truncated
    assert "parts" in message.defects
    assert "part0" in message.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?iso-8859-1?Q?a?= =?iso-8859-1?Q?b?=", "ab"),
        ("=?utf-8?b?SGFsbG8=?= du", "Hallo du"),
        ("=?utf-8?b?!!!?=", ""),
        ("=?no-such?q?a?=", "a"),
        ("plain", "plain"),
    ],
)
def test_encoded_words_are_decoded_and_broken_ones_do_no_harm(value, text):
    assert text == decode_words(value)


def test_addresses_are_found_where_the_name_is_not_quoted():
    message = parse_message(mail([b"From: Ann, Bank <ann@bank.example>"]))
    assert message.from_domain == "bank.example"
    message = parse_message(mail([b'From: "=?utf-8?q?B=C3=A4r?=" <b@x.example>']))
    assert message.address("from") == ("Bär", "b@x.example")


def test_a_fingerprint_ignores_numbers_case_and_layout():
    assert fingerprint_of("Win 100", "Click  here") == fingerprint_of("win 999", "CLICK\nHERE!")
    assert fingerprint_of("Win", "a") != fingerprint_of("Win", "b")


# -- editing ---------------------------------------------------------------------------------


def test_fields_are_removed_wherever_they_stand_with_their_continuations():
    raw = (
        b"X-Spam-Flag: YES\r\n\tmore\r\nSubject: s\r\nx-spam-flag : no\r\n\r\nX-Spam-Flag: body\r\n"
    )
    edited = edit_headers(raw, delete=["X-Spam-Flag"])
    assert edited == b"Subject: s\r\n\r\nX-Spam-Flag: body\r\n"


def test_fields_are_added_on_top_in_order_with_the_messages_line_ends():
    assert edit_headers(b"A: 1\n\nb\n", add=[("X", "1"), ("Y", "2")]) == b"X: 1\nY: 2\nA: 1\n\nb\n"
    assert edit_headers(b"A: 1\r\n\r\nb", add=[("X", "1")]) == b"X: 1\r\nA: 1\r\n\r\nb"


_FIELD_LINES = st.lists(
    st.sampled_from(
        [b"X-Spam-Flag: YES\n", b"X-Spam-Flag : YES\r\n", b"x-spam-flag:\n y\n", b"X-Spam-Flag\n",
         b"Subject: s\n", b"Subject: s\r\n", b" fold\n", b"\tX-Spam-Flag: YES\n", b"junk\n",
         b"From a@x\n", b">From a\n", b"\n", b"\r\n", b":\n", b"\0A: 1\n", b"\xff: 1\n", b" \n"]
    ),
    max_size=8,
)  # fmt: skip


@given(_FIELD_LINES)
def test_no_other_parser_finds_a_forged_field_after_it_was_removed(lines):
    edited = edit_headers(b"".join(lines), delete=["X-Spam-Flag"], add=[("X-Mine", "1")])
    seen = BytesHeaderParser().parsebytes(edited)
    assert "x-spam-flag" not in {name.strip().lower() for name in seen}
    assert seen["X-Mine"] == "1"


def test_an_mbox_line_stays_first():
    assert edit_headers(b"From a b\nA: 1\n\n", add=[("X", "1")]) == b"From a b\nX: 1\nA: 1\n\n"
    assert edit_headers(b"From a b\nFrom c d\n\n") == b"From a b\n\nFrom c d\n\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Subject: hello\r\n\r\nb", b"Subject: [S] hello\r\n\r\nb"),
        (b"A: 1\r\n\r\nb", b"A: 1\r\nSubject: [S]\r\n\r\nb"),
        (b"Subject: a\r\n b\r\n\r\n", b"Subject: [S] a\r\n b\r\n\r\n"),
    ],
)
def test_the_subject_prefix_is_put_once(raw, expected):
    assert expected == edit_headers(raw, subject_prefix="[S] ")


_LINES = st.lists(
    st.sampled_from(
        [b"A: 1", b"Subject: x", b" folded", b"\ttab", b"B : 2", b"X-Long: " + b"y" * 90]
    ),
    max_size=8,
)


@given(_LINES, st.binary(max_size=200))
def test_removing_what_was_added_gives_the_original_bytes(lines, body):
    raw = b"".join(line + b"\r\n" for line in [b"First: 1", *lines]) + b"\r\n" + body
    added = edit_headers(raw, add=[("X-Mine", "v"), ("X-Other", "w")])
    assert raw == edit_headers(added, delete=["x-mine", "X-OTHER"])


def test_base64_goes_on_behind_padding_and_quoted_printable_over_padded_line_ends():
    head = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: "
    odd = head + b"base64\r\n\r\naGVsbA==\r\nbyB3b3JsZA=\r\n"
    assert "hello world" == parse_message(odd).text
    padded = head + b"quoted-printable\r\n\r\nhel= \t\r\nlo\r\n"
    assert "hello" == parse_message(padded).text.strip()


def test_nested_comments_in_an_address_do_not_raise():
    parsed = parse_message(b"From: " + b"(" * 1900 + b" <ann@a.example>\r\n\r\nhello")
    assert parsed.from_domain == "a.example"
