"""MIME bombs and tricks: what a sender declares cannot blind, stop or fill up the filter."""

import base64
import codecs
import encodings
import time
import tracemalloc

import pytest

from spamguard.charsets import codec_of
from spamguard.message import MAX_BASE64_PIECES, decode_words, leaves, parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.scorer import MessageScorer
from spamguard.model.store import SHIPPED, ModelVersion


def mail(content_type, body, *fields):
    head = [b"From: Ann <ann@a.example>", b"Content-Type: " + content_type, *fields, b"", body]
    return b"\r\n".join(head)


@pytest.fixture(scope="module")
def scorer():
    return MessageScorer(Classifier(ModelVersion.read(SHIPPED)))


# Each of these is read as text by mail programs, which do not know the name or do not care.
@pytest.mark.parametrize(
    "charset",
    ["unicode-escape", "unicode_escape", "-Unicode Escape-", "raw-unicode-escape", "utf7", "u7",
     "UTF-7", "unicode-1-1-utf-7", "rot13", "hex", "undefined", "x" * 500, "../utf-8", "\0", "é"],
)  # fmt: skip
def test_a_charset_that_gives_lone_surrogates_does_not_hide_a_message_from_the_model(
    scorer, charset
):
    text = b"Buy cheap pills now \\ud800 +2AA- today"
    named = charset.encode("utf-8")
    whole = mail(b'text/plain; charset="' + named + b'"', text, b"Subject: =?" + named + b"?q?a?=")
    assert text.decode() == parse_message(whole).text
    assert 0.0 <= scorer.score(whole).spam_probability <= 1.0


@pytest.mark.parametrize("value", ["=?unicode-escape?q?\\ud800?=", "=?utf7?q?+2AA-?="])
def test_no_encoded_word_gives_what_cannot_be_stored_or_sent(value):
    assert decode_words(value).encode()


@pytest.mark.parametrize("charset", ["punycode", "-punycode", "Punycode.", "idna", "_idna_"])
def test_codecs_whose_cost_is_the_square_of_their_input_are_refused_by_any_spelling(charset):
    assert codec_of(charset) == ""


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("UTF-8", "utf_8"), ("iso-8859-15", "iso8859_15"), ("windows-1252", "cp1252"),
     ("koi8-u", "koi8_u"), ("GB2312", "gb18030"), ("ISO-2022-JP", "iso2022_jp"),
     ("us-ascii", "ascii"), ("Shift_JIS", "shift_jis"), ("big5", "big5"), ("cp874", "cp874")],
)  # fmt: skip
def test_character_sets_of_honest_mail_are_known(charset, codec):
    assert codec_of(charset) == codec
    assert codecs.lookup(codec)


def test_charsets_that_nobody_knows_are_not_remembered():
    known = len(encodings._cache)
    for number in range(50):
        name = b"no-such-set-%d" % number
        parse_message(
            mail(
                b"text/plain; charset*=" + name + b"''utf-8; name*=" + name + b"''x",
                b"text",
                b"Subject: =?" + name + b"?q?a?=",
                b"Content-Disposition: attachment; filename*=" + name + b"''%61",
            )
        )
        parse_message(mail(b"text/plain; charset=" + name, b"\xff"))
    assert known == len(encodings._cache)


@pytest.mark.parametrize("field", [b"name", b"filename", b"charset", b"boundary"])
def test_parameters_that_the_standard_library_cannot_sort_do_not_stop_the_parser(field):
    parameters = b"; %s*=a''b; %s*0*=c; %s*1=d" % (field, field, field)
    for kind in (b"text/plain", b"multipart/mixed"):
        raw = mail(
            kind + parameters, b"cheap pills", b"Content-Disposition: attachment" + parameters
        )
        assert parse_message(raw).headers
        assert leaves(raw)


def test_padding_everywhere_does_not_take_a_hundred_times_the_memory_of_a_message():
    raw = mail(b"text/plain", b"=A" * 1_000_000, b"Content-Transfer-Encoding: base64")
    tracemalloc.start()
    try:
        leaves(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(raw) + 200 * MAX_BASE64_PIECES


BOMBS = {
    "parts in parts, each the whole body": mail(
        b"multipart/mixed; boundary=b",
        b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 9000,
    ),
    "messages in base64 in messages in base64": base64.b64encode(b"x" * 400_000),
    "quoted semicolons in parameters": mail(
        b"multipart/mixed; boundary=b",
        (b'--b\r\nContent-Type: text/plain; a="' + b';\\"' * 650 + b"\r\n\r\nx\r\n") * 100,
    ),
    "parameters in a hundred pieces": mail(
        b"multipart/mixed; boundary=b",
        b"".join(
            b"--b\r\nContent-Type: text/plain"
            + b"".join(b"; name*%d*=%%61" % number for number in range(120))
            + b"\r\n\r\nx\r\n"
            for _ in range(100)
        ),
    ),
    "encoded words of every charset": mail(
        b"text/plain", b"x", b"Subject: " + b" ".join([b"=?iso-2022-kr?b?Gw==?="] * 20_000)
    ),
    "a body that decodes to nothing": mail(
        b"text/plain", b"=\r\n" * 150_000, b"Content-Transfer-Encoding: quoted-printable"
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_mime_bomb_is_read_within_a_second(name):
    started = time.process_time()
    parse_message(BOMBS[name])
    leaves(BOMBS[name])
    assert time.process_time() - started < 1.0
