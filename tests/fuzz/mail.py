"""Fuzz targets that read a message: each takes any bytes and asserts what must hold of them."""

import os.path
import re
from email.parser import BytesHeaderParser

from spamguard import html, message
from spamguard.disguise import undisguise
from spamguard.errors import ReportError
from spamguard.feedback.forwards import find_forward
from spamguard.feedback.mail_reports import MAX_COMMENT_CHARS, MAX_REPORTS, read_reports
from spamguard.handover import MAX_RECIPIENTS, read_envelope
from spamguard.message import Envelope, edit_headers, leaves, parse_message
from spamguard.model_input import MAX_TEXT_CHARS, build_model_input
from spamguard.verdict import (
    OUR_HEADERS,
    Label,
    Policy,
    Score,
    SenderList,
    Verdict,
    apply_lists,
    authenticated_domains,
    decide,
)

NOTES_CHARS = 1000  # of a model input: what stands above the body


def parser(data: bytes) -> None:
    """Parsing is bounded and gives text that everything behind it can store and send."""
    parsed = parse_message(data)
    assert parsed == parse_message(data)
    assert len(parsed.headers) <= message.MAX_HEADER_FIELDS + 1
    assert len(parsed.links) <= message.MAX_LINKS
    assert len(parsed.attachment_types) <= message.MAX_ATTACHMENTS
    assert len(parsed.text) <= message.MAX_TEXT_CHARS + message.MAX_PARTS * message.MAX_FIELD_BYTES
    assert len(parsed.html_text) <= html.MAX_TEXT_CHARS
    for name, value in parsed.headers:
        assert name.isascii()
        assert "\n" not in value
        parsed.header(name).encode()
    for text in (parsed.text, parsed.html_text, parsed.message_id, *parsed.attachment_types):
        text.encode()
    for link in parsed.links:
        assert " " not in link.domain.encode().decode()
    assert len(leaves(data)) <= message.MAX_PARTS


def model_input(data: bytes) -> None:
    """Whatever a part holds, the model gets a bounded text that a tokenizer can read."""
    kind, _, body = data.partition(b"\n")
    head = b"From: Ann <ann@a.example>\r\nContent-Type: text/%s; charset=utf-8\r\n" % (
        b"html" if kind.startswith(b"h") else b"plain"
    )
    found = build_model_input(parse_message(head + b"Subject: " + kind + b"\r\n\r\n" + body))
    assert len(found.text) <= MAX_TEXT_CHARS + NOTES_CHARS
    found.text.encode()
    text = body.decode("utf-8", "replace")
    plain, words = undisguise(text[:4000])
    assert words >= 0
    # NFKC makes at most 18 characters of one (Unicode UAX 15).
    assert len(plain) <= 18 * len(text)


def headers(data: bytes) -> None:
    """What is added is the only difference, and no reader finds a forged field of ours."""
    added = edit_headers(data, add=[("X-Mine", "1")])
    same = edit_headers(data)
    line_end = b"\n" if data.find(b"\r\n") < 0 and b"\n" in data else b"\r\n"
    assert same == added.replace(b"X-Mine: 1" + line_end, b"", 1)
    # Where the empty line before the body is missing, it is put there.
    start = len(os.path.commonprefix([same, data]))
    assert data in {same, same[:start] + same[start + len(line_end) :]}
    cleaned = edit_headers(data, delete=OUR_HEADERS)
    assert cleaned == edit_headers(cleaned, delete=OUR_HEADERS)
    assert len(cleaned) <= len(data) + len(line_end)
    ours = {name.lower() for name in OUR_HEADERS}
    assert not ours & {name for name, _ in parse_message(cleaned).headers}
    # Python's reader takes a bare CR for a line end, others only a line feed.
    assert not ours & {name.strip().lower() for name in BytesHeaderParser().parsebytes(cleaned)}
    marked = edit_headers(data, subject_prefix="[SPAM] ")
    assert len(marked) <= len(data) + len(b"Subject: [SPAM] \r\n\r\n")


def addresses(data: bytes) -> None:
    """Whoever a message says it is from, nothing that we write of it leaves its line."""
    parsed = parse_message(b"From: " + data.replace(b"\n", b" ") + b"\r\nReply-To: " + data)
    name, address = parsed.address("from")
    name.encode()
    address.encode()
    domain = parsed.from_domain
    results = (f"mx.example; dmarc=pass header.from={domain}", data.decode("utf-8", "replace"))
    authenticated_domains(results, frozenset({"mx.example"}))
    policy = Policy(deny=SenderList(from_domains=frozenset({domain, "example"})))
    envelope = Envelope(frontend="fuzz", reverse_path=address, recipients=())
    score = Score(
        spam_probability=0.5,
        model_version="m",
        fingerprint=parsed.fingerprint,
        from_domain=domain,
        authentication_results=results,
    )
    verdict = apply_lists(Verdict(id="1", label=Label.HAM), score, envelope, policy)
    for _, value in decide(verdict, envelope, policy).add_headers:
        assert value.isascii()
        assert value.isprintable()
    reverse_path, recipients = read_envelope(data)
    assert not re.search(r"[\r\n]", reverse_path)
    assert len(recipients) <= MAX_RECIPIENTS


def reports(data: bytes) -> None:
    """A mail to a report address gives reports or one documented refusal."""
    try:
        found = read_reports(data, label=Label.SPAM, reporter="ann@a.example")
    except ReportError as error:
        str(error).encode()
        return
    assert 0 < len(found) <= MAX_REPORTS
    for report in found:
        assert report.reporter == "ann@a.example"
        assert len(report.comment) <= MAX_COMMENT_CHARS
        assert len(report.raw) <= len(data) or not report.is_original
        report.comment.encode()


def forwards(data: bytes) -> None:
    """A text that claims to be a forward becomes a message with these fields and no others."""
    found = find_forward(data.decode("utf-8", "replace"))
    if found is None:
        return
    known = {"from", "date", "to", "subject", "mime-version", "content-type"}
    parsed = parse_message(found.as_message("<1@a.example>"))
    names = {name for name, _ in parsed.headers}
    assert names <= known | {"message-id", "content-transfer-encoding"}
    assert not set(parsed.defects) & {"header", "charset"}


def repeated(data: bytes) -> None:
    """A long message made of one piece again and again costs no more than any other.

    The input is head, piece and tail, one a line after the kind of part; the piece is repeated
    up to 512 KB, which is what is looked at of a message.
    """
    kind, head, piece, tail = [*data.split(b"\xff"), b"", b"", b"", b""][:4]
    if not piece:
        return
    body = head + piece * (message.MAX_PARSED_BYTES // len(piece)) + tail
    content_type = {b"h": b"text/html", b"m": b"multipart/mixed; boundary=b"}.get(kind[:1])
    if content_type:
        body = b"Content-Type: " + content_type + b"; charset=utf-8\r\n\r\n" + body
    parsed = parse_message(body)
    build_model_input(parsed)
    edit_headers(body, delete=OUR_HEADERS)
    find_forward(parsed.text)
