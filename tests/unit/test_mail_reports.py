"""Mail to a report address: attachments, ARF, redirected mail and inline forwards."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.errors import ReportError
from spamguard.feedback import mail_reports
from spamguard.feedback.forwards import find_forward
from spamguard.feedback.mail_reports import MAX_REPORTS, read_reports
from spamguard.message import fingerprint_of, parse_message
from spamguard.report import ReportSource
from spamguard.verdict import Label

ORIGINAL = (
    b"Received: from relay.example by mx.test.example; Mon, 23 Nov 2026 09:00:00 +0000\r\n"
    b"X-SpamGuard-ID: 0123456789abcdef01234\r\nFrom: Nadia <nadia@shop.example>\r\n"
    b"To: bob@test.example\r\nSubject: Cheap watches\r\nMessage-ID: <w1@shop.example>\r\n\r\n"
    b"Buy a watch today.\r\n"
)
SECOND = ORIGINAL.replace(b"watches", b"clocks").replace(b"w1@", b"w2@")


def read(raw, *, label=Label.SPAM, reporter="bob@test.example", **options):
    return read_reports(raw, label=label, reporter=reporter, **options)


def multipart(*parts, kind="mixed", head=b""):
    pieces = b"".join(b"--b1\r\n" + part + b"\r\n" for part in parts)
    return (
        b"From: Bob <bob@test.example>\r\nTo: spam@test.example\r\nSubject: Fwd: junk\r\n"
        + head
        + b'MIME-Version: 1.0\r\nContent-Type: multipart/%s; boundary="b1"\r\n\r\n' % kind.encode()
        + pieces
        + b"--b1--\r\n"
    )


NOTE = b"Content-Type: text/plain\r\n\r\nPlease look\r\nat this."


def attached(raw, kind=b"message/rfc822", head=b""):
    return b"Content-Type: %s\r\n%s\r\n%s" % (kind, head, raw)


def as_base64(raw, kind=b"message/rfc822"):
    head = b"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment\r\n"
    return attached(base64.encodebytes(raw).replace(b"\n", b"\r\n"), kind, head)


# -- attachments -----------------------------------------------------------------------------


def test_an_attached_message_is_reported_byte_for_byte():
    [report] = read(multipart(NOTE, attached(ORIGINAL)))
    assert ORIGINAL == report.raw
    assert (Label.SPAM, "bob@test.example", ReportSource.MAIL, True) == (
        report.label,
        report.reporter,
        report.source,
        report.is_original,
    )
    assert "Please look at this." == report.comment


def test_several_attached_messages_are_as_many_reports():
    reports = read(multipart(NOTE, attached(ORIGINAL), attached(SECOND)), label=Label.HAM)
    assert [ORIGINAL, SECOND] == [report.raw for report in reports]
    assert [Label.HAM] * 2 == [report.label for report in reports]


@pytest.mark.parametrize(
    "part",
    [
        as_base64(ORIGINAL),
        as_base64(ORIGINAL, b"application/octet-stream; name=Watches.EML"),
        as_base64(ORIGINAL, b"text/plain; name*=UTF-8''watches%2Eeml"),
        attached(ORIGINAL, b"message/global"),
        attached(b"\r\n" + ORIGINAL),
    ],
    ids=["base64", "octet-stream", "text", "global", "blank line first"],
)
def test_mail_programs_attach_messages_in_many_ways(part):
    [report] = read(multipart(NOTE, part))
    assert ORIGINAL == report.raw


def test_a_digest_holds_messages_that_nobody_declares():
    reports = read(multipart(b"\r\n" + ORIGINAL, b"\r\n" + SECOND, kind="digest"))
    assert [ORIGINAL, SECOND] == [report.raw for report in reports]


def test_a_report_that_is_one_attached_message_and_nothing_else():
    [report] = read(b"From: bob@test.example\r\nContent-Type: message/rfc822\r\n\r\n" + ORIGINAL)
    assert ORIGINAL == report.raw


def test_a_message_attached_to_the_reported_one_stays_in_it():
    inner = multipart(NOTE, attached(SECOND)).replace(b"b1", b"b2")
    [report] = read(multipart(attached(inner)))
    assert inner == report.raw


def test_a_signed_report_is_read_through_its_signature():
    mixed = multipart(NOTE, attached(ORIGINAL)).replace(b"b1", b"b2")
    signature = b"Content-Type: application/pgp-signature\r\n\r\n-----"
    [report] = read(multipart(mixed[mixed.index(b"MIME-Version") :], signature, kind="signed"))
    assert ORIGINAL == report.raw


def test_a_redirected_message_is_the_report():
    raw = b"Resent-From: bob@test.example\r\nResent-To: spam@test.example\r\n" + ORIGINAL
    [report] = read(raw)
    assert (raw, True) == (report.raw, report.is_original)


# -- RFC 5965 --------------------------------------------------------------------------------


def arf(kind, *, user=b"", original=None, head=b""):
    fields = b"User-Agent: Dovecot/2.3\r\nVersion: 0.1\r\nFeedback-Type: %s\r\n" % kind
    if user:
        fields += b"Dovecot-Reporting-User: %s\r\n" % user
    return multipart(
        b"Content-Type: text/plain\r\n\r\nThis is a report.",
        b"Content-Type: message/feedback-report\r\n\r\n" + fields,
        original or attached(ORIGINAL),
        kind="report; report-type=feedback-report",
        head=head,
    )


@pytest.mark.parametrize(
    ("kind", "address", "expected"),
    [
        (b"abuse", Label.SPAM, Label.SPAM),
        (b"abuse", Label.HAM, Label.SPAM),
        (b"not-spam", Label.SPAM, Label.HAM),
        (b"Fraud; x=1", Label.HAM, Label.SPAM),
        (b"other", Label.HAM, Label.HAM),
    ],
)
def test_the_feedback_type_is_stronger_than_the_address(kind, address, expected):
    [report] = read(arf(kind), label=address)
    assert (expected, ORIGINAL) == (report.label, report.raw)


@pytest.mark.parametrize("user", [b"Carla@Test.Example", b"<carla@test.example>"])
def test_dovecot_names_the_reporting_user_when_it_may(user):
    raw = arf(b"abuse", user=user)
    [believed] = read(raw, reporter="", may_name_reporter=True)
    [unbelieved] = read(raw, reporter="bob@test.example")
    assert "carla@test.example" == believed.reporter
    assert "bob@test.example" == unbelieved.reporter


def test_a_report_that_nobody_can_be_credited_with_is_refused():
    with pytest.raises(ReportError, match="nobody to credit"):
        read(arf(b"abuse"), reporter="", may_name_reporter=True)


def test_a_report_with_headers_alone_is_no_original():
    head = attached(ORIGINAL.partition(b"\r\n\r\n")[0] + b"\r\n", b"text/rfc822-headers")
    [report] = read(arf(b"abuse", original=head))
    assert not report.is_original
    assert "<w1@shop.example>" == parse_message(report.raw).message_id


# -- inline forwards -------------------------------------------------------------------------

TEXT = "Buy a watch today.\n\nIt is cheap: ten only."
NADIA, BOB = "Nadia <nadia@shop.example>", "Bob <bob@test.example>"
FORWARDS = {
    "gmail": f"Look\n\n---------- Forwarded message ---------\nFrom: {NADIA}\n"
    f"Date: Mon, 23 Nov 2026 at 10:00\nSubject: Cheap watches\nTo: {BOB}\nCc: Eve <eve@x.example>"
    f"\n\n\n{TEXT}\n",
    "gmail de": "---------- Weitergeleitete Nachricht ---------\nVon: "
    f"{NADIA}\nDate: Mo., 23. Nov. 2026 um 10:00 Uhr\nSubject: Cheap watches\nTo: {BOB}\n\n{TEXT}",
    "thunderbird": "-------- Forwarded Message --------\nSubject: \tCheap watches\n"
    f"Date: \tMon, 23 Nov 2026 10:00:00 +0000\nFrom: \t{NADIA}\nReply-To: \tnadia@shop.example\n"
    f"To: \t{BOB}\n\n\n\n{TEXT}\n",
    "thunderbird de": "-------- Weitergeleitete Nachricht --------\nBetreff: \tCheap watches\n"
    f"Datum: \tMon, 23 Nov 2026\nVon: \t{NADIA}\nAn: \t{BOB}\n\n{TEXT}",
    "outlook": "From: Nadia [mailto:nadia@shop.example]\nSent: Monday, November 23, 2026 10:00\n"
    f"To: {BOB}\nSubject: Cheap watches\nImportance: High\n\n{TEXT}",
    "outlook bold": "FYI\n________________________________\n*From:* Nadia <nadia@shop.example>\n"
    f"*Sent:* Monday 10:00\n*To:* {BOB}\n*Subject:* Cheap watches\n\n{TEXT}",
    "outlook de": "-----Ursprüngliche Nachricht-----\nVon: "
    f"{NADIA} \nGesendet: Montag, 23. November 2026 10:00\nAn: {BOB}\nBetreff: Cheap watches\n\n"
    f"{TEXT}",
    "outlook fr": f"De : {NADIA}\nEnvoyé : lundi 23 novembre 2026 10:00\nÀ\xa0: {BOB}\n"
    f"Objet : Cheap watches\n\n{TEXT}",
    "outlook zh": f"发件人: {NADIA}\n发送时间: 2026年11月23日\n收件人: {BOB}\n主题：Cheap watches\n\n{TEXT}",
    "outlook ja": f"差出人: {NADIA}\n送信日時: 2026年11月23日\n宛先: {BOB}\n件名: Cheap watches\n\n{TEXT}",
    "outlook es": f"De: {NADIA}\nEnviado el: lunes\nPara: {BOB}\nAsunto: Cheap watches\n\n{TEXT}",
    "apple": "See below\n\nBegin forwarded message:\n\n"
    + "\n".join(
        f"> {line}".rstrip()
        for line in (
            f"From: {NADIA}\nSubject: Cheap watches\nDate: 23 November 2026\nTo: {BOB}\n\n{TEXT}"
        ).split("\n")
    ),
    "apple it": f"Inizio messaggio inoltrato:\n\n> Da: {NADIA}\n> Oggetto: Cheap watches\n"
    f"> Data: 23 novembre 2026\n> A: {BOB}\n> \n> " + TEXT.replace("\n", "\n> "),
    "yahoo": f"----- Forwarded Message -----From: x\n\nFrom: {NADIA}\nTo: {BOB}\n"
    f"Sent: Monday, 23 November 2026\nSubject: Cheap watches\n\n{TEXT}",
    "mutt": f"----- Forwarded message from {NADIA} -----\n\nDate: Mon, 23 Nov 2026\nFrom: {NADIA}\n"
    f"To: {BOB}\nSubject: Cheap\n\twatches\nUser-Agent: Mutt/2.2\n\n{TEXT}\n\n"
    "----- End forwarded message -----\n\n-- \nBob",
    "kmail": f"----------  Forwarded Message  ----------\n\nSubject: Cheap watches\nDate: Monday\n"
    f"From: {NADIA}\nTo: {BOB}\n\n{TEXT}\n-----------------------------------------\n",
    "roundcube nl": "-------- Oorspronkelijke bericht --------\nOnderwerp: Cheap watches\n"
    f"Datum: 23-11-2026\nAfzender: {NADIA}\nOntvanger: {BOB}\n\n{TEXT}",
    "mail.ru": "-------- Пересланное сообщение --------\n"
    f"От кого: {NADIA}\nКому: {BOB}\nДата: понедельник\nТема: Cheap watches\n\n{TEXT}",
    "pl": f"---- Wiadomość ----\nOd: {NADIA}\nData: poniedziałek\nTemat: Cheap watches\nDo: {BOB}\n\n{TEXT}",
    "crlf": f"From: {NADIA}\r\nDate: x\r\nSubject: Cheap watches\r\n\r\n"
    + TEXT.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_inline_forwards_of_mail_programs_are_found(name):
    found = find_forward(FORWARDS[name])
    assert found is not None
    message = parse_message(found.as_message())
    assert ("Nadia", "nadia@shop.example") == message.address("from")
    assert "Cheap watches" == message.header("subject")
    assert fingerprint_of("Cheap watches", TEXT) == message.fingerprint


def inline(text, *, kind=b"text/plain", head=b""):
    return (
        b"From: bob@test.example\r\nSubject: Fwd: Cheap watches\r\n"
        + head
        + b"Content-Type: "
        + kind
        + b"; charset=utf-8\r\n\r\n"
        + text.encode()
    )


def test_an_inline_forward_is_no_original_and_keeps_the_comment():
    [report] = read(inline(FORWARDS["gmail"]))
    assert (False, "Look") == (report.is_original, report.comment)


def test_a_forward_in_html_alone_is_found():
    rows = "".join(
        f"<tr><th>{name}: </th><td>{value}</td></tr>"
        for name, value in (
            ("Subject", "Cheap watches"),
            ("Date", "Monday"),
            ("From", "Nadia &lt;nadia@shop.example&gt;"),
        )
    )
    page = f"<p>Look</p><table>{rows}</table><p>Buy a <b>watch</b> today.</p>"
    [report] = read(inline(page, kind=b"text/html"))
    message = parse_message(report.raw)
    assert ("Nadia", "nadia@shop.example") == message.address("from")
    assert ("Cheap watches", "Buy a watch today.") == (
        message.header("subject"),
        message.text.strip(),
    )


def test_the_forwarded_message_id_is_taken_from_references():
    head = b"References: <a@x.example> <w1@shop.example>\r\n"
    [report] = read(inline(FORWARDS["gmail"], head=head))
    assert "<w1@shop.example>" == parse_message(report.raw).message_id


def test_a_forged_field_cannot_break_out_of_its_line():
    text = "From: a\x0bX-Evil: 1 <n@x.example>\nDate: x\nSubject: a\x85b\u2028X: y\n\nz"
    [report] = read(inline(text))
    names = [name for name, _ in parse_message(report.raw).headers]
    assert ["from", "date", "subject"] == [
        n for n in names if not n.startswith(("mime", "content"))
    ]


@pytest.mark.parametrize(
    "text",
    [
        "This is spam, please look.",
        "From: me\nThe rest is missing",
        "To: do today\nDate: tomorrow\n\nbuy milk",
        "",
    ],
)
def test_a_text_without_a_forward_is_refused_with_what_to_do(text):
    with pytest.raises(ReportError, match="forward it as an attachment"):
        read(inline(text))


def test_outlooks_own_format_is_named_in_the_refusal():
    part = as_base64(b"\xd0\xcf\x11\xe0", b'application/vnd.ms-outlook; name="Cheap.msg"')
    with pytest.raises(ReportError, match=r"attach it as \.eml"):
        read(multipart(NOTE, part))


# -- bounds ----------------------------------------------------------------------------------


def test_too_many_messages_in_one_mail_are_refused_as_a_whole():
    assert MAX_REPORTS == len(read(multipart(*[attached(ORIGINAL)] * MAX_REPORTS)))
    with pytest.raises(ReportError, match="report fewer at a time"):
        read(multipart(*[attached(ORIGINAL)] * (MAX_REPORTS + 1)))


def test_a_mail_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(mail_reports, "MAX_BYTES", 1000)
    with pytest.raises(ReportError, match="larger than"):
        read(multipart(attached(ORIGINAL * 4)))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" * 3000,
        multipart(*[b"\r\n"] * 20_000),
        inline("From: x\n" * 100_000),
        inline("From: x\nDate: y\n" * 50_000),
        inline("> " * 100_000 + "From: x"),
        inline("From" + " " * 200_000 + ":"),
        inline("Cc: x\n" * 50_000 + "From: y"),
    ],
    ids=["nested", "empty parts", "from", "pairs", "quotes", "blanks", "others"],
)
def test_hostile_reports_cost_little(raw):
    with pytest.raises(ReportError):
        read(raw)


_WORDS = st.sampled_from(
    [
        *(line.encode() for line in "\n".join(FORWARDS.values()).split("\n")),
        *multipart(NOTE, attached(ORIGINAL), as_base64(SECOND)).split(b"\r\n"),
        *arf(b"not-spam", user=b"x\xff").split(b"\r\n"),
        b"Content-Type: multipart/digest; boundary=b1",
        b"Resent-To: x",
        b"",
        b"> ",
    ]
)


@given(st.lists(st.one_of(_WORDS, _WORDS, st.binary(max_size=30)), max_size=40))
def test_nothing_but_a_refusal_is_ever_raised(lines):
    try:
        reports = read(b"\r\n".join(lines), may_name_reporter=True)
    except ReportError as error:
        assert str(error).isprintable()
    else:
        assert 1 <= len(reports) <= MAX_REPORTS
        assert all(isinstance(parse_message(report.raw).fingerprint, str) for report in reports)
