"""Forged and injected header fields: ours are ours alone, and nothing of a sender's leaves its line."""

from email.parser import BytesHeaderParser
from email.policy import SMTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.filter import Outcome
from spamguard.frontends.milter_transaction import Transaction, replies_for
from spamguard.frontends.spamd import _body
from spamguard.message import Envelope, edit_headers, parse_message
from spamguard.verdict import (
    OUR_HEADERS,
    Action,
    Disposition,
    Label,
    Policy,
    Score,
    SenderList,
    Verdict,
    apply_lists,
    decide,
    headers_for,
)
from spamguard.wire.milter_packets import ActionFlags, ChangeHeader, Header, StepFlags
from spamguard.wire.spamd import Method, Request

OURS = {name.lower() for name in OUR_HEADERS}


def names_for_every_reader(raw):
    """Return the field names that readers find who differ in what ends a line."""
    seen = {name for name, _ in parse_message(raw).headers}
    for policy in (SMTP, None):
        parser = BytesHeaderParser(policy=policy) if policy else BytesHeaderParser()
        seen |= {name.strip().lower() for name in parser.parsebytes(raw)}
    return seen


@pytest.mark.parametrize("ours", OUR_HEADERS)
@pytest.mark.parametrize(
    "forged",
    [
        b"Subject: hi\r%s: NO\r\n\r\nbody", b"Subject: hi\r\n a\r%s : NO\r\n\r\nbody",
        b"From a b\r%s: NO\r\nSubject: hi\r\n\r\nbody", b"Subject: hi\r\r%s: NO\n\nbody",
        b"%s: NO\rSubject: hi\r\n\r\nbody", b"A: b\rB: c\r%s: 1\r%s: 2\r\n\r\n",
        b"\r%s: NO\r\n\r\nbody", b"Subject: hi\r\n\r%s: NO\r\n\r\nbody",
    ],
)  # fmt: skip
def test_a_forged_field_behind_a_bare_cr_is_found_by_no_reader(ours, forged):
    raw = forged.replace(b"%s", ours.lower().encode())
    assert not OURS & names_for_every_reader(edit_headers(raw, delete=OUR_HEADERS))


_LINES = st.lists(
    st.sampled_from(
        [b"X-Spam-Flag: YES", b"x-spamguard-id : 1", b"Subject: s", b" fold", b"\tX-Spam-Score: 1",
         b"\r", b"\n", b"\r\n", b"\r\n", b"junk", b"From a", b"\0", b"\xff", b":", b"X-Spam-Flag"]
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=500)
@given(_LINES)
def test_in_whatever_order_line_ends_and_fields_come_none_of_ours_is_left(pieces):
    cleaned = edit_headers(b"".join(pieces), delete=OUR_HEADERS)
    assert not OURS & names_for_every_reader(cleaned)


@settings(max_examples=300)
@given(_LINES, st.binary(max_size=50))
def test_cleaning_changes_nothing_below_the_header_section(pieces, body):
    raw = (
        b"A: 1\r\n" + b"".join(p for p in pieces if p not in {b"\n", b"\r\n", b"\r"}) + b"\r\n\r\n"
    )
    assert edit_headers(raw + body, delete=OUR_HEADERS).endswith(b"\r\n\r\n" + body)


def test_a_bare_cr_that_hides_nothing_stays():
    raw = b"Subject: a\rb\rX-Other: c\r\n\r\nX\rX-Spam-Flag: YES"
    assert edit_headers(raw, delete=OUR_HEADERS) == raw


def test_the_milter_mends_a_field_in_which_one_of_ours_is_hidden():
    transaction = Transaction(path=b"<>", macros={})
    for name, value in [
        (b"X-A", b" 1"), (b"x-a", b" 2\rX-Spam-Flag: NO"), (b"Subject", b" s\rX-Spam-Score: 0"),
    ]:  # fmt: skip
        transaction.add_header(Header(name=name, value=value), b"", 1000)
    action = Action(disposition=Disposition.TAG, subject_prefix="[S] ")
    replies = replies_for(
        action, transaction, actions=ActionFlags(0x1FF), steps=StepFlags.HEADER_LEADING_SPACE
    )
    assert [
        ChangeHeader(index=2, name=b"x-a", value=b" 2 X-Spam-Flag: NO"),
        ChangeHeader(index=1, name=b"Subject", value=b" s X-Spam-Score: 0"),
        ChangeHeader(index=1, name=b"Subject", value=b" [S] s X-Spam-Score: 0"),
    ] == [reply for reply in replies if isinstance(reply, ChangeHeader)]


# -- what we write -------------------------------------------------------------------------------

_HOSTILE = st.text(st.sampled_from("a.\r\n\t :\0\x1b\x85\u2028\u202e\ud800é@-"), max_size=40)


def verdict_of(reason):
    return Verdict(
        id="1",
        label=Label.SPAM,
        spam_probability=0.99,
        model_version="m-1",
        reason=reason,
    )


@given(_HOSTILE)
def test_no_reason_breaks_out_of_its_field(reason):
    for _, value in headers_for(verdict_of(reason), Policy()):
        assert value.isascii()
        assert value.isprintable()


@given(_HOSTILE, _HOSTILE)
def test_a_senders_domain_in_a_reason_cannot_break_out_of_a_report_to_spamc(label, reverse_path):
    domain = f"{label}.evil.example"
    policy = Policy(
        deny=SenderList(
            from_domains=frozenset({"evil.example"}),
            reverse_paths=frozenset({f"@{reverse_path.lower()}"}),
        )
    )
    envelope = Envelope(frontend="spamd", reverse_path=f"a@{reverse_path}", recipients=())
    score = Score(spam_probability=0.5, model_version="m", fingerprint="f", from_domain=domain)
    verdict = apply_lists(verdict_of("model"), score, envelope, policy)
    assert verdict.reason.startswith("deny list: ")
    outcome = Outcome(verdict=verdict, action=decide(verdict, envelope, policy))
    text = _body(Request(method=Method.REPORT, version=(1, 5)), outcome)
    # Exim puts it into a header field as it is.
    assert all(line.isascii() and line.isprintable() for line in text.decode().split("\r\n"))


@pytest.mark.parametrize("value", ["a\r\nX-Spam-Flag: NO", "a\rb", "\u2028", "\x85"])
def test_a_subject_with_our_mark_stays_one_field(value):
    raw = f"Subject: {value}\r\n\r\nbody".encode()
    marked = edit_headers(raw, delete=OUR_HEADERS, subject_prefix="[SPAM] ")
    assert not OURS & names_for_every_reader(marked)
    assert marked.startswith(b"Subject: [SPAM] ")
