"""The milter codec: objects to bytes and back, in pieces of any size, and nothing but peer errors."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.errors import LocalProtocolError, PeerProtocolError
from spamguard.wire import milter_packets as wire
from spamguard.wire.milter import MAX_PACKET_BYTES, Codec, encode
from spamguard.wire.milter_packets import ActionFlags, StepFlags

TABLE = [
    (
        wire.Negotiate(version=6, actions=ActionFlags(0x1FF), steps=StepFlags(0x1FFFFF)),
        b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff",
    ),
    (
        wire.Negotiate(
            version=6,
            actions=ActionFlags(0x100),
            steps=StepFlags(0),
            macros=((0, b"j {client_addr}"), (5, b"i"), (6, b"")),
        ),
        b"\0\0\0\x2cO\0\0\0\x06\0\0\x01\0\0\0\0\0"
        b"\0\0\0\0j {client_addr}\0\0\0\0\x05i\0\0\0\0\x06\0",
    ),
    (wire.Macros(stage=b"H"), b"\0\0\0\x02DH"),
    (
        wire.Macros(stage=b"M", values=((b"i", b"4Q"), (b"{auth_authen}", b""))),
        b"\0\0\0\x16DMi\0004Q\0{auth_authen}\0\0",
    ),
    (
        wire.Connect(hostname=b"a.example", family=b"4", port=1025, address=b"192.0.2.7"),
        b"\0\0\0\x18Ca.example\0004\x04\x01192.0.2.7\0",
    ),
    (
        wire.Connect(hostname=b"[::1]", family=b"6", port=0, address=b"IPv6:::1"),
        b"\0\0\0\x13C[::1]\0006\0\0IPv6:::1\0",
    ),
    (
        wire.Connect(hostname=b"localhost", family=b"L", address=b"/run/x"),
        b"\0\0\0\x15Clocalhost\0L\0\0/run/x\0",
    ),
    (wire.Connect(hostname=b"unknown"), b"\0\0\0\x0aCunknown\0U"),
    (wire.Helo(text=b"mail.example"), b"\0\0\0\x0eHmail.example\0"),
    (wire.Mail(path=b"<>"), b"\0\0\0\x04M<>\0"),
    (
        wire.Mail(path=b"<j\xc3\xb6rg@\xff.example>", parameters=(b"SIZE=9", b"SMTPUTF8")),
        b"\0\0\0\x23M<j\xc3\xb6rg@\xff.example>\0SIZE=9\0SMTPUTF8\0",
    ),
    (wire.Rcpt(path=b"<b@c>"), b"\0\0\0\x07R<b@c>\0"),
    (wire.Data(), b"\0\0\0\x01T"),
    (
        wire.Header(name=b"X-\xe4\xc3\xb6", value=b" a\n\tb"),
        b"\0\0\0\x0dLX-\xe4\xc3\xb6\0 a\n\tb\0",
    ),
    (wire.Header(name=b"X-Empty", value=b""), b"\0\0\0\x0aLX-Empty\0\0"),
    (wire.EndOfHeaders(), b"\0\0\0\x01N"),
    (wire.Body(chunk=b"a\0b\r\n"), b"\0\0\0\x06Ba\0b\r\n"),
    (wire.Body(chunk=b"x" * 65_535), b"\0\x01\0\0B" + b"x" * 65_535),
    (wire.EndOfBody(), b"\0\0\0\x01E"),
    (wire.EndOfBody(chunk=b"end"), b"\0\0\0\x04Eend"),
    (wire.Abort(), b"\0\0\0\x01A"),
    (wire.Quit(), b"\0\0\0\x01Q"),
    (wire.QuitNewConnection(), b"\0\0\0\x01K"),
    (wire.Unknown(text=b"XCMD"), b"\0\0\0\x06UXCMD\0"),
    (wire.Continue(), b"\0\0\0\x01c"),
    (wire.Accept(), b"\0\0\0\x01a"),
    (wire.Reject(), b"\0\0\0\x01r"),
    (wire.Tempfail(), b"\0\0\0\x01t"),
    (wire.Discard(), b"\0\0\0\x01d"),
    (wire.Skip(), b"\0\0\0\x01s"),
    (wire.Progress(), b"\0\0\0\x01p"),
    (wire.ReplyCode(text=b"550 5.7.1 100% spam"), b"\0\0\0\x16y550 5.7.1 100%% spam\0"),
    (wire.AddHeader(name=b"Subject", value=b" x"), b"\0\0\0\x0chSubject\0 x\0"),
    (wire.InsertHeader(index=0, name=b"A", value=b" b"), b"\0\0\0\x0ai\0\0\0\0A\0 b\0"),
    (wire.ChangeHeader(index=3, name=b"A", value=b""), b"\0\0\0\x08m\0\0\0\x03A\0\0"),
    (wire.AddRecipient(text=b"<a@b>"), b"\0\0\0\x07+<a@b>\0"),
    (wire.DeleteRecipient(text=b"<a@b>"), b"\0\0\0\x07-<a@b>\0"),
    (wire.Quarantine(text=b"why"), b"\0\0\0\x05qwhy\0"),
]
STREAM = b"".join(data for _, data in TABLE)


def read_all(data, sizes=None):
    """Feed data in pieces, return what was understood and the error, if any."""
    codec, packets, position = Codec(), [], 0
    sizes = iter(sizes or [len(data) or 1])
    while position < len(data):
        size = next(sizes, 1)
        codec.receive_data(data[position : position + size])
        position += size
        try:
            while (packet := codec.next_event()) is not None:
                packets.append(packet)
        except PeerProtocolError as error:
            return packets, str(error)
    return packets, None


@pytest.mark.parametrize(("packet", "data"), TABLE, ids=lambda v: type(v).__name__)
def test_a_packet_has_these_bytes(packet, data):
    assert data == encode(packet)


@pytest.mark.parametrize(("packet", "data"), TABLE, ids=lambda v: type(v).__name__)
def test_these_bytes_are_that_packet(packet, data):
    assert ([packet], None) == read_all(data)


def test_a_stream_read_byte_by_byte_is_the_same_as_at_once():
    assert ([packet for packet, _ in TABLE], None) == read_all(STREAM)
    small = b"".join(data for _, data in TABLE if len(data) < 1000)
    assert read_all(small) == read_all(small, [1] * len(small))


@given(seed=st.integers(0, 2**32), longest=st.sampled_from([2, 9, 80, 70_000]))
@settings(max_examples=40, deadline=None)
def test_a_stream_read_in_random_pieces_is_the_same_as_at_once(seed, longest):
    generator = random.Random(seed)
    chosen = b"".join(data for _, data in generator.sample(TABLE, 12))
    sizes = [generator.randint(1, longest) for _ in range(len(chosen))]
    assert read_all(chosen) == read_all(chosen, sizes)


text = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b"?"))
PACKETS = st.one_of(
    st.builds(wire.Header, name=text, value=text),
    st.builds(wire.Mail, path=text, parameters=st.lists(text, max_size=3).map(tuple)),
    st.builds(
        wire.Macros,
        stage=st.sampled_from([b"C", b"M", b"E"]),
        values=st.lists(st.tuples(text, text), max_size=3).map(tuple),
    ),
    st.builds(
        wire.Connect,
        hostname=text,
        family=st.sampled_from([b"4", b"6", b"L"]),
        port=st.integers(0, 65_535),
        address=text,
    ),
    st.builds(wire.InsertHeader, index=st.integers(0, 2**32 - 1), name=text, value=text),
    st.builds(wire.Body, chunk=st.binary(max_size=300)),
    st.builds(
        wire.Negotiate,
        version=st.integers(0, 2**32 - 1),
        actions=st.integers(0, 2**32 - 1).map(ActionFlags),
        steps=st.integers(0, 2**32 - 1).map(StepFlags),
        macros=st.lists(st.tuples(st.integers(0, 9), text), max_size=3).map(tuple),
    ),
)


@given(st.lists(PACKETS, max_size=8))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_is_read_back(packets):
    assert (packets, None) == read_all(b"".join(map(encode, packets)))


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        (MAX_PACKET_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\x01Z",
        b"\0\0\0\x01O",
        b"\0\0\0\x0bO\0\0\0\6\0\0\0\0\0\0",
        b"\0\0\0\x0fO\0\0\0\6\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\x01D",
        b"\0\0\0\x04DMi\0",
        b"\0\0\0\x05DMi\0x",
        b"\0\0\0\x01C",
        b"\0\0\0\x03Ca\0",
        b"\0\0\0\x04Ca\0X",
        b"\0\0\0\x06Ca\0004\0\1",
        b"\0\0\0\x08Ca\0004\0\1ab",
        b"\0\0\0\x01H",
        b"\0\0\0\x02Ha",
        b"\0\0\0\x01M",
        b"\0\0\0\x03M<>",
        b"\0\0\0\x01L",
        b"\0\0\0\x03LaX",
        b"\0\0\0\x02Tx",
        b"\0\0\0\x02Qx",
        b"\0\0\0\x04i\0\0\0",
        b"\0\0\0\x07i\0\0\0\0a\0",
        b"\0\0\0\x02y5",
    ],
)
def test_malformed_bytes_are_a_peer_error(data):
    packets, error = read_all(data)
    assert [] == packets
    assert error is not None


def test_a_too_long_packet_is_refused_before_it_is_collected():
    codec = Codec()
    codec.receive_data((MAX_PACKET_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(PeerProtocolError):
        codec.next_event()


def test_a_header_of_postfix_largest_default_size_passes():
    header = wire.Header(name=b"X-Long", value=b"x" * 102_400)
    assert ([header], None) == read_all(encode(header))


def test_a_nul_inside_a_header_value_passes():
    assert ([wire.Header(name=b"A", value=b"b\0c")], None) == read_all(b"\0\0\0\7LA\0b\0c\0")


@given(st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
def test_random_bytes_give_nothing_but_peer_errors(data):
    read_all(data)


@given(
    seed=st.integers(0, 2**32),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
@settings(max_examples=400, deadline=None)
def test_a_damaged_stream_gives_nothing_but_peer_errors(seed, edits):
    generator = random.Random(seed)
    data = bytearray(b"".join(d for _, d in generator.sample(TABLE, 10) if len(d) < 1000))
    for position, value in edits:
        data[position % len(data)] = value
    read_all(bytes(data))


@pytest.mark.parametrize(
    "packet",
    [
        wire.AddHeader(name=b"A", value=b"b\0c"),
        wire.AddRecipient(text=b"<a\0@b>"),
        wire.ReplyCode(text=b"250 2.0.0 fine"),
        wire.ReplyCode(text=b"550 4.7.1 classes differ"),
        wire.ReplyCode(text=b"550 no enhanced code"),
        wire.ReplyCode(text=b"550 5.7.1 two\r\nlines"),
        wire.Body(chunk=b"x" * MAX_PACKET_BYTES),
    ],
    ids=lambda packet: repr(packet)[:60],
)
def test_what_cannot_be_sent_is_a_local_error(packet):
    with pytest.raises(LocalProtocolError):
        encode(packet)
