"""SMTP's bytes: what is sent ends where we say it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.errors import PeerProtocolError
from spamguard.wire.smtp import decode_data, encode_data, parse_path, parse_reply

_PIECES = st.lists(
    st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"..", b"x", b"\r\n.\r\n"]), max_size=20
)


@given(_PIECES)
def test_encoded_data_ends_with_its_only_end_of_data(pieces):
    encoded = encode_data(b"".join(pieces))
    assert encoded.endswith(b".\r\n")
    assert encoded == b".\r\n" or encoded.endswith(b"\r\n.\r\n")
    assert encoded.find(b"\r\n.\r\n") in {-1, len(encoded) - 5}
    assert b"\n.\n" not in encoded
    assert not encoded.startswith(b".\r\n") or encoded == b".\r\n"


@given(st.binary(max_size=300).map(lambda b: b.translate(None, b"\r\n").replace(b"|", b"\r\n")))
def test_what_is_encoded_is_decoded_to_the_same_message(raw):
    encoded = encode_data(raw)
    assert encoded.endswith(b".\r\n")
    decoded = decode_data(encoded[:-3])
    assert decoded == raw + (b"" if raw.endswith(b"\r\n") or not raw else b"\r\n")


@pytest.mark.parametrize(
    ("argument", "path", "parameters"),
    [
        ("FROM:<a@b.example>", "a@b.example", ()),
        ("from: <a@b.example> SIZE=1 BODY=8BITMIME", "a@b.example", ("SIZE=1", "BODY=8BITMIME")),
        ("FROM:<>", "", ()),
        ('FROM:<"a b>c"@d.example>', '"a b>c"@d.example', ()),
        ("FROM:<@relay:a@b.example>", "@relay:a@b.example", ()),
        ("FROM:<ä@b.example> SMTPUTF8", "ä@b.example", ("SMTPUTF8",)),
    ],
)
def test_paths_are_taken_as_the_mta_gave_them(argument, path, parameters):
    assert (path, parameters) == parse_path(argument, "FROM:")


@pytest.mark.parametrize(
    "argument", ["", "FROM:", "FROM:a@b", "TO:<a@b>", "FROM:<a@b", "FROM:<a b>"]
)
def test_what_is_no_path_is_refused(argument):
    with pytest.raises(PeerProtocolError, match="expected FROM:<address>"):
        parse_path(argument, "FROM:")


def test_replies_are_complete_at_their_last_line():
    assert parse_reply([b"250-a\r\n"]) is None
    reply = parse_reply([b"250-a\r\n", b"250 b\r\n"])
    assert (reply.code, reply.lines, str(reply)) == (250, ("a", "b"), "250-a\r\n250 b")
    assert parse_reply([b"354\r\n"]).code == 354


@pytest.mark.parametrize("lines", [[b"hello\r\n"], [b"250-a\r\n", b"251 b\r\n"], [b"99 x\r\n"]])
def test_what_is_no_reply_is_refused(lines):
    with pytest.raises(PeerProtocolError):
        parse_reply(lines)
