"""SMTP smuggling: what we send ends once, for every server, whatever the message holds."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.errors import DeliveryError, PeerProtocolError
from spamguard.next_hop import Connection
from spamguard.wire.smtp import decode_data, encode_data, parse_path

# Every pair of line ends that some server has taken for the end of data.
_END_OF_DATA = re.compile(rb"(?:\A|\r\n|\r|\n)\.(?=\r\n|\r|\n)")
_SMUGGLED = b"MAIL FROM:<ceo@bank.example>\r\nRCPT TO:<you@test.example>\r\nDATA\r\n"


@pytest.mark.parametrize("before", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\0\n", b""])
@pytest.mark.parametrize("after", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\0\n"])
def test_no_dot_between_line_ends_of_any_kind_ends_the_data(before, after):
    encoded = encode_data(b"Subject: x\r\n\r\ntext" + before + b"." + after + _SMUGGLED)
    assert len(_END_OF_DATA.findall(encoded)) == 1
    assert encoded.endswith(b"\r\n.\r\n")


@settings(max_examples=500)
@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\0", b" "]), max_size=20))
def test_in_whatever_order_dots_and_line_ends_come_there_is_one_end(pieces):
    encoded = encode_data(b"".join(pieces))
    assert len(_END_OF_DATA.findall(encoded)) == 1
    assert encoded[-3:] == b".\r\n"


@given(st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\xff", b"\0"]), max_size=20))
def test_a_message_with_proper_line_ends_arrives_byte_for_byte(pieces):
    raw = b"".join(pieces) + b"\r\n"
    assert raw == decode_data(encode_data(raw)[: -len(b".\r\n")])


@pytest.mark.parametrize("address", ['"a\rb"@c.example', '"a\nb"@c.example', '"a\r\nDATA"@c'])
async def test_a_line_break_in_an_address_never_reaches_the_next_hop(address):
    path, _ = parse_path(f"TO:<{address}>", "TO:")
    connection = Connection(None, None, 1)
    with pytest.raises(DeliveryError) as caught:
        await connection.commands(f"RCPT TO:<{path}>")
    assert caught.value.reply.startswith("501 ")


@pytest.mark.parametrize(
    "argument", ["FROM:<a@b> SIZE=1\rRCPT TO:<x>", "FROM:<a\r\n@b>", "FROM:<a@b>\rDATA"]
)
def test_a_line_break_in_a_command_does_not_become_part_of_another(argument):
    try:
        path, parameters = parse_path(argument, "FROM:")
    except PeerProtocolError:
        return
    assert not re.search(r"[\r\n]", path + "".join(parameters))
