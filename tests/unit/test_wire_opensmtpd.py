"""OpenSMTPD's filter protocol, line by line, as its manual page and two versions write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.errors import PeerProtocolError
from spamguard.wire.opensmtpd import FilterProtocol, encode_message

SESSION, TOKEN = b"7641df9771b4ed00", b"1ef1c203cc576e5d"


def line(kind, *fields, version=b"0.6"):
    return b"|".join([kind, version, b"1576146008.006099", b"smtp-in", *fields]) + b"\n"


def report(event, *values, session=SESSION):
    return line(b"report", event, session, *values)


def data(text, session=SESSION):
    return line(b"filter", b"data-line", session, TOKEN, text)


def begun(**options):
    protocol = FilterProtocol(options.get("max_message_bytes", 10_000))
    for told in (
        report(b"link-connect", b"mx.sender.example", b"pass", b"192.0.2.7:33174", b"192.0.2.1:25"),
        report(b"link-identify", b"EHLO", b"mx.sender.example"),
        report(b"tx-begin", b"1ef1c203"),
        report(b"tx-mail", b"1ef1c203", b"ok", b"ann@sender.example"),
        report(b"tx-rcpt", b"1ef1c203", b"ok", b"bob@here.example"),
        report(b"tx-rcpt", b"1ef1c203", b"permfail", b"nobody@here.example"),
    ):
        assert (b"", None) == protocol.receive(told)
    return protocol


def send(protocol, *texts):
    """Return what was written at once, and the request at the end."""
    written, request = b"", None
    for text in (*texts, b"."):
        answer, request = protocol.receive(data(text))
        written += answer
    return written, request


def test_it_registers_once_smtpd_is_ready():
    protocol = FilterProtocol(1000)
    for told in (b"config|smtpd-version|6.8.0\n", b"config|smtp-session-timeout|300\n"):
        assert (b"", None) == protocol.receive(told)
    answer, _ = protocol.receive(b"config|ready\n")
    assert answer.endswith(b"register|ready\n")
    assert b"register|filter|smtp-in|data-line\n" in answer


def test_a_message_comes_with_its_envelope_and_without_doubled_dots():
    written, request = send(begun(), b"Subject: x", b"", b"..dot", b"end")
    assert (b"", b"Subject: x\r\n\r\n.dot\r\nend\r\n") == (written, request.raw)
    session = request.session
    assert ("192.0.2.7", "mx.sender.example") == (session.client_ip, session.client_name)
    assert ("ann@sender.example", ["bob@here.example"]) == (
        session.reverse_path,
        session.recipients,
    )
    assert ("mx.sender.example", "1ef1c203") == (session.helo, session.queue_id)


@pytest.mark.parametrize(
    ("source", "address"),
    [(b"[2001:db8::7]:25", "2001:db8::7"), (b"unix:/run/smtpd.sock", ""), (b"192.0.2.7:1", "192.0.2.7")],
)  # fmt: skip
def test_addresses_of_both_families(source, address):
    protocol = FilterProtocol(1000)
    protocol.receive(report(b"link-connect", b"<unknown>", b"fail", source, b"192.0.2.1:25"))
    _, request = send(protocol)
    assert (address, "") == (request.session.client_ip, request.session.client_name)


@pytest.mark.parametrize("values", [(b"bob", b"pass"), (b"pass", b"bob")])
def test_the_login_is_known_in_the_order_of_any_version(values):
    protocol = begun()
    protocol.receive(report(b"link-auth", *values))
    protocol.receive(report(b"link-auth", b"eve", b"fail"))
    _, request = send(protocol)
    assert "bob" == request.session.user


def test_the_answer_doubles_dots_and_ends_with_one():
    _, request = send(begun(), b"Subject: x")
    head = b"filter-dataline|" + SESSION + b"|" + TOKEN + b"|"
    assert b"".join(head + text + b"\n" for text in (b"A: b", b"", b"..", b".")) == encode_message(
        request, b"A: b\r\n\r\n.\r\n"
    )


def test_a_commit_is_answered_with_the_refusal_of_its_message_alone():
    protocol = begun()
    _, request = send(protocol, b"Subject: x")
    request.session.refusal = "550 5.7.1 refused"
    commit = line(b"filter", b"commit", SESSION, TOKEN)
    head = b"filter-result|" + SESSION + b"|" + TOKEN + b"|"
    assert (head + b"reject|550 5.7.1 refused\n", None) == protocol.receive(commit)
    protocol.receive(report(b"tx-begin", b"2ef1c203"))
    assert (head + b"proceed\n", None) == protocol.receive(commit)


def test_nothing_of_a_transaction_is_in_the_next():
    protocol = begun()
    protocol.receive(data(b"half a message"))
    protocol.receive(report(b"tx-begin", b"2ef1c203"))
    _, request = send(protocol, b"whole")
    assert (b"whole\r\n", []) == (request.raw, request.session.recipients)
    assert ("", "2ef1c203") == (request.session.reverse_path, request.session.queue_id)


def test_sessions_are_kept_apart():
    protocol = begun()
    protocol.receive(data(b"one"))
    protocol.receive(data(b"two", session=b"other"))
    _, request = protocol.receive(data(b"."))
    assert b"one\r\n" == request.raw


def test_a_message_that_is_too_large_goes_back_as_it_came():
    protocol = begun(max_message_bytes=20)
    texts = (b"Subject: large", b"..dots stay", b"more")
    written, request = send(protocol, *texts)
    head = b"filter-dataline|" + SESSION + b"|" + TOKEN + b"|"
    assert (b"".join(head + text + b"\n" for text in (*texts, b".")), None) == (written, request)
    _, request = send(protocol, b"small")
    assert b"small\r\n" == request.raw


def test_a_session_that_is_gone_is_answered_no_more():
    protocol = begun()
    _, request = send(protocol, b"Subject: x")
    assert protocol.knows(request)
    protocol.receive(report(b"link-disconnect"))
    assert not protocol.knows(request)


@pytest.mark.parametrize("wrong", [b"\n", b"filter|0.6\n", b"filter|0.6|1|smtp-in|helo|s|t|x\n"])
def test_other_lines_are_errors(wrong):
    with pytest.raises(PeerProtocolError, match="not a line of the filter protocol"):
        FilterProtocol(1000).receive(wrong)


@given(
    st.lists(st.binary(max_size=30).filter(lambda text: not set(text) & set(b"\r\n")), max_size=8)
)
def test_what_is_not_changed_comes_back_to_the_byte(texts):
    doubled = [b"." + text if text.startswith(b".") else text for text in texts]
    _, request = send(begun(), *doubled)
    head = b"filter-dataline|" + SESSION + b"|" + TOKEN + b"|"
    expected = b"".join(head + text + b"\n" for text in (*doubled, b"."))
    assert expected == encode_message(request, request.raw)


@given(st.binary(max_size=80))
def test_nonsense_is_an_error_of_its_own_class_at_worst(nonsense):
    try:
        FilterProtocol(1000).receive(nonsense)
    except PeerProtocolError:
        pass
