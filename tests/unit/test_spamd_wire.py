"""The spamd codec: bytes to requests in pieces of any size, and answers by the client's version."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.errors import PeerProtocolError
from spamguard.wire import spamd as wire
from spamguard.wire.spamd import Judgement, Method, Request, RequestReader

MAIL = b"Subject: x\r\n\r\nhello\r\n"
LIMIT = 10_000
SPAM = Judgement(is_spam=True, points=7.3, required=5.0)
HAM = Judgement(is_spam=False, points=0.2, required=5.0)


def read(data, *, pieces=None, eof=True, limit=LIMIT):
    reader = RequestReader(limit)
    for piece in pieces or [data]:
        reader.receive_data(piece)
        if (request := reader.next_request()) is not None:
            return request
    if eof:
        reader.receive_eof()
    return reader.next_request()


# What spamc 4.0.1, Exim 4.96 and aiospamc 1.2.0 send, then what the protocol allows besides.
REQUESTS = [
    (
        b"CHECK SPAMC/1.5\r\nUser: ann\r\nContent-length: 20\r\n\r\n" + MAIL,
        Request(method=Method.CHECK, version=(1, 5), user="ann", message=MAIL[:20]),
    ),
    (
        b"REPORT SPAMC/1.2\r\nUser: nobody\r\nContent-length: 21\r\n\r\n" + MAIL,
        Request(method=Method.REPORT, version=(1, 2), user="nobody", message=MAIL),
    ),
    (b"PING SPAMC/1.2\r\n\r\n", Request(method=Method.PING, version=(1, 2))),
    (b"PING SPAMC/1.5\n", Request(method=Method.PING, version=(1, 5))),
    (b"SKIP SPAMC/1.2\r\n", Request(method=Method.SKIP, version=(1, 2))),
    (
        b"TELL SPAMC/1.5\r\nMessage-class: spam\r\nSet: local, remote\r\n"
        b"Content-length: 21\r\nUser: ann\r\n\r\n" + MAIL,
        Request(
            method=Method.TELL,
            version=(1, 5),
            user="ann",
            message=MAIL,
            message_class="spam",
            to_set=frozenset({"local", "remote"}),
        ),
    ),
    (
        b"TELL SPAMC/1.5\r\nRemove:local\r\n\r\n" + MAIL,
        Request(method=Method.TELL, version=(1, 5), message=MAIL, to_remove=frozenset({"local"})),
    ),
    (
        b"HEADERS SPAMC/1.4\nX-New: ignored\ncontent-LENGTH: 21\n\n" + MAIL,
        Request(method=Method.HEADERS, version=(1, 4), message=MAIL),
    ),
    (
        b"PROCESS SPAMC/1.5\r\nCompress: zlib\r\n\r\n" + zlib.compress(MAIL),
        Request(method=Method.PROCESS, version=(1, 5), message=MAIL),
    ),
    (b"CHECK SPAMC/1.5\r\n\r\n", Request(method=Method.CHECK, version=(1, 5))),
    (b"CHECK SPAMC/1.5\r\n", Request(method=Method.CHECK, version=(1, 5))),
]


@pytest.mark.parametrize(("data", "expected"), REQUESTS)
def test_a_request_is_read(data, expected):
    assert expected == read(data)


@pytest.mark.parametrize(("data", "expected"), REQUESTS)
def test_byte_by_byte_gives_the_same_as_all_at_once(data, expected):
    assert expected == read(data, pieces=[bytes([byte]) for byte in data])


def test_with_a_length_the_end_of_the_connection_is_not_waited_for():
    assert read(b"CHECK SPAMC/1.5\r\nContent-length: 21\r\n\r\n" + MAIL, eof=False) is not None


def test_without_a_length_the_message_ends_with_the_connection():
    assert read(b"CHECK SPAMC/1.5\r\n\r\n" + MAIL, eof=False) is None


def test_a_user_with_control_characters_is_none():
    request = read(b"CHECK SPAMC/1.5\r\nUser: a\x1b[2J\r\n\r\n")
    assert request.user == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CHECK\r\n\r\n",
        b"check SPAMC/1.5\r\n\r\n",
        b"CHECK SPAMC/1.5\r\nno colon\r\n\r\n",
        b"CHECK SPAMC/1.5\r\nContent-length: -1\r\n\r\n",
        b"CHECK SPAMC/1.5\r\nContent-length: \xd9\xa3\r\n\r\n",
        b"CHECK SPAMC/1.5\r\nContent-length: 99\r\n\r\n" + MAIL,
        b"CHECK SPAMC/1.5\r\nContent-length: 10001\r\n\r\n",
        b"CHECK SPAMC/1.5\r\n\r\n" + b"x" * (LIMIT + 1),
        b"CHECK SPAMC/1.5\r\nX: " + b"x" * wire.MAX_HEAD_BYTES,
        b"CHECK SPAMC/1.5\r\nCompress: br\r\n\r\nx",
        b"CHECK SPAMC/1.5\r\nCompress: zlib\r\n\r\nnot compressed",
        b"CHECK SPAMC/1.5\r\nCompress: zlib\r\n\r\n" + zlib.compress(MAIL)[:-6],
    ],
)
def test_what_is_no_request_is_the_peers_error(data):
    with pytest.raises(PeerProtocolError):
        read(data)


def test_a_compression_bomb_is_stopped_at_the_limit():
    bomb = zlib.compress(bytes(200_000_000), 9)
    assert len(bomb) < 200_000
    with pytest.raises(PeerProtocolError, match="once decompressed"):
        read(b"CHECK SPAMC/1.5\r\nCompress: zlib\r\n\r\n" + bomb, limit=1_000_000)


def test_a_header_without_end_is_refused_before_it_ends():
    with pytest.raises(PeerProtocolError):
        read(b"CHECK SPAMC/1.5\r\nX: " + b"x" * wire.MAX_HEAD_BYTES, eof=False)


@given(st.binary(max_size=200), st.sampled_from([b"", b"CHECK SPAMC/1.5\r\n", b"TELL SPAMC/1.2\n"]))
@settings(max_examples=300)
def test_any_bytes_give_a_request_or_the_peers_error(data, start):
    try:
        assert read(start + data) is not None
    except PeerProtocolError:
        pass


def answer(method, version, judgement=SPAM, body=b"body"):
    return wire.encode_judgement(Request(method=method, version=version), judgement, body)


@pytest.mark.parametrize(
    ("method", "version", "expected"),
    [
        (Method.CHECK, (1, 5), b"Spam: True ; 7.3 / 5.0\r\n\r\n"),
        (Method.CHECK, (1, 2), b"Spam: True ; 7.3 / 5.0\r\n\r\n"),
        (Method.REPORT, (1, 5), b"Content-length: 4\r\nSpam: True ; 7.3 / 5.0\r\n\r\nbody"),
        (Method.REPORT, (1, 2), b"Spam: True ; 7.3 / 5.0\r\n\r\nbody"),  # Exim
        (Method.REPORT_IFSPAM, (1, 3), b"Content-length: 4\r\nSpam: True ; 7.3 / 5.0\r\n\r\nbody"),
        (Method.SYMBOLS, (1, 5), b"Content-length: 4\r\nSpam: True ; 7.3 / 5.0\r\n\r\nbody"),
        (Method.SYMBOLS, (1, 2), b"Spam: True ; 7.3 / 5.0\r\n\r\nbody\r\n"),
        (Method.PROCESS, (1, 3), b"Content-length: 4\r\nSpam: True ; 7.3 / 5.0\r\n\r\nbody"),
        (Method.PROCESS, (1, 2), b"Content-length: 4\r\n\r\nbody"),
        (Method.PROCESS, (1, 0), b"\r\nbody"),
        (Method.HEADERS, (1, 4), b"Content-length: 4\r\nSpam: True ; 7.3 / 5.0\r\n\r\nbody"),
    ],
)
def test_an_answer_looks_as_the_clients_version_expects(method, version, expected):
    assert b"SPAMD/1.1 0 EX_OK\r\n" + expected == answer(method, version)


def test_ham_is_false():
    assert b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 0.2 / 5.0\r\n\r\n" == answer(
        Method.CHECK, (1, 5), HAM
    )


def test_the_other_answers():
    assert wire.encode_pong() == b"SPAMD/1.5 0 PONG\r\n"
    assert wire.encode_failure(75) == b"SPAMD/1.1 75 EX_TEMPFAIL\r\n"
    assert (
        wire.encode_told(did_set=True)
        == b"SPAMD/1.1 0 EX_OK\r\nDidSet: local\r\nContent-length: 0\r\n\r\n"
    )
    assert b"DidRemove: local\r\n" in wire.encode_told(did_remove=True)
    assert wire.encode_told() == b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n"
