"""Where text is looked at only around what a pattern must have, the pattern's whole result is had.

The model was trained on what the patterns make of a text: a shortcut may save time, not a byte.
"""

import re

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spamguard import disguise, html, message, model_input
from spamguard.campaign import simhash
from spamguard.model.linear import ngrams

# Pieces that patterns begin, end or break at, put together at random.
_PIECES = [
    "http", "https", "httpſ", "://", "www.", "wwww.", "W", "w.", "a", "b.example", "x" * 63, "y" * 61,
    "@", ".", "-", "+", "_", "/", "(", ")", "'", "#", "?", ":", "!", "|", "$", "*", "----", "====", "0",
    "12345", "1,234.56", "4", "\N{ARABIC-INDIC DIGIT ONE}", "é", "е", "中文", "\N{EM DASH}" * 4, " ", "  ",
    "\n", "\n\n", "\t", "\r", "\x1b", "\x00", "\x1c", "\x85", "\xa0", "\u2003", "\u3000", "fr3e", "v1agra", "F R E E ",
    "f-r-e-e", "A  B", "com", "İ", "\ud800",
]  # fmt: skip
texts = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)
many = settings(max_examples=300, deadline=None)


@many
@given(texts)
@example("https://www.b.example/x http://a www.b.example")
def test_urls_are_shortened_as_by_the_pattern(text):
    def domain(match):
        found = html.registered_domain(match.group(1).lower().strip("."))
        return f" {found[-40:]} "

    assert model_input._URL.sub(domain, text) == model_input._without_urls(text)


@many
@given(texts)
@example(f"{'x' * 64}@b.example {'x' * 65}@b.example a@b.example@b.example")
def test_addresses_are_shortened_as_by_the_pattern(text):
    def domain(match):
        return f"@{html.registered_domain(match.group(2).lower())[-40:]}"

    assert model_input._ADDRESS.sub(domain, text) == model_input._without_local_parts(text)


@many
@given(texts)
@example("\x1b$B4F#(B.$B$G$9!#(B..$B$*LsB+$N7o(B.\x1b$B$K$D$-$^$7$F2<5-(B..$B$h(B.$B$j")
def test_text_is_shortened_as_by_the_patterns(text):
    expected = model_input._without_local_parts(model_input._without_urls(text))
    expected = model_input._LONG_NUMBER.sub("####", expected)
    expected = model_input._LONG_RUN.sub(r"\1\1\1", expected)
    expected = model_input._LONG_WORD.sub("…", expected)
    expected = re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", expected)).strip()
    assert expected == model_input._shorten_addresses(text)


def test_every_blank_is_known():
    blanks = {chr(code) for code in range(0x110000) if re.match(r"[^\S\n ]", chr(code))}
    assert blanks == set(model_input._OTHER_BLANKS)
    assert {blank for blank in blanks if blank.isascii()} == set(model_input._ASCII_BLANKS)
    odd = {blank for blank in blanks if html._ODD_BLANK.match(blank)}
    assert odd == blanks - set("\t\r\f\v\xa0")


@many
@given(texts)
def test_blanks_of_a_page_are_tidied_as_by_the_patterns(text):
    expected = html._BLANK_LINES.sub("\n", html._BLANKS.sub(" ", text)).strip()
    assert expected == html._tidy(text)


@many
@given(texts)
@example("v1agra fr3e\tv1agra\n1a1a F R E E  N O W")
def test_disguised_words_are_found_as_by_the_patterns(text):
    joined, spaced = disguise._SPACED.subn(disguise._joined, text)
    plain = disguise._LEET_WORD.sub(disguise._without_digits, joined)
    words = disguise._LEET_WORD.finditer(joined)
    count = sum(disguise._without_digits(m) != m.group() for m in words)
    assert (plain, spaced + count) == disguise._undisguise_ascii(text, 0)


@many
@given(texts)
def test_urls_of_plain_text_are_those_of_the_pattern(text):
    assert [m.group() for m in message._URL.finditer(text)] == list(message._urls(text))


@many
@given(texts)
def test_a_fingerprint_has_the_letters_of_the_pattern(text):
    plain = message._NOT_LETTER.sub("", f"\n{text}")
    assert message.fingerprint_of("", text) == message.fingerprint_of("", plain)


@many
@given(
    st.lists(
        st.sampled_from([b"--b", b"--b--", b"--b \t", b"-", b"\r\n", b"\n", b"\r", b"x", b" "])
    ).map(b"".join)
)
@example(b"--b\r\nx\r\n--b\n--b--")
def test_parts_are_split_as_by_the_pattern(body):
    delimiter = re.compile(rb"(?:\A|\r?\n)--b(--)?[ \t]*(?=\r?\n|\Z)")
    expected, start = [], -1
    for matched in delimiter.finditer(body):
        if start >= 0:
            expected.append(message._without_line_break(body[start : matched.start()]))
        start = -1 if matched.group(1) else matched.end()
        if matched.group(1):
            break
    if start >= 0:
        expected.append(message._without_line_break(body[start:]))
    assert expected == message._split_parts(body, "b", message._Findings())


@many
@given(texts)
def test_features_are_sorted_and_distinct(text):
    found = ngrams(text)
    assert (np.unique(found) == found).all()


def test_a_simhash_does_not_depend_on_what_is_remembered():
    text = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(200))
    first = simhash(text)
    for n in range(300):
        simhash(text.replace("word", f"other{chr(97 + n % 26)}"))
    assert first == simhash(text) is not None
