"""What the model reads: disguises undone and noted, leaks kept out, bounded."""

import time

import pytest

from spamguard.disguise import undisguise
from spamguard.html import domain_of, extract, registered_domain
from spamguard.message import parse_message
from spamguard.model_input import MAX_TEXT_CHARS, build_model_input


def text_of(*headers, body="hello", content_type="text/plain; charset=utf-8"):
    head = "\r\n".join([*headers, f"Content-Type: {content_type}"])
    return build_model_input(parse_message(f"{head}\r\n\r\n{body}".encode())).text


@pytest.mark.parametrize(
    ("hidden", "plain"),
    [
        ("V I A G R A now", "VIAGRA now"),
        ("F-R-E-E", "FREE"),
        ("cl1ck here", "click here"),
        ("p@ssw0rd", "password"),
        ("рaypal ассount", "paypal account"),
        ("𝗙𝗿𝗲𝗲 𝗺𝗼𝗻𝗲𝘆", "Free money"),
        ("Ｆｒｅｅ", "Free"),
        ("V̷i̷a̷g̷r̷a̷", "Viagra"),
        ("pa\u200bss\u2060word", "password"),
        ("a\u202eb", "ab"),
    ],
)
def test_disguises_are_undone(hidden, plain):
    assert plain == undisguise(hidden)[0]


@pytest.mark.parametrize(
    "text",
    [
        "Привет, обновление Windows готово",
        "Καλημέρα σας",
        "Straße, café, naïve, Ærø",
        "U.S.A. and e.g. this",
        "order A1B2C3, sha1 0a3f9c, mp3, i18n, B2B",
        "家族と 2026 年",
        "ज़रूरी सूचना",
    ],
)
def test_honest_text_is_left_alone(text):
    assert undisguise(text) == (text, 0)


def test_disguised_words_are_noted_for_the_model():
    assert "disguised words" in text_of("Subject: рaypal ассount", "From: a@b.example")
    assert "disguised words" not in text_of("Subject: paypal account", "From: a@b.example")


@pytest.mark.parametrize(
    ("headers", "note"),
    [
        (["From: A <a@x.example>", "Reply-To: b@y.test"], "replies go to y.test"),
        (['From: "service@bank.example" <a@x.test>'], "name shows another address"),
    ],
)
def test_who_really_writes_is_noted(headers, note):
    assert note in text_of(*headers)


def test_links_that_show_another_domain_are_noted():
    page = '<p>Log in at <a href="https://evil.test/x">https://www.bank.example/login</a></p>'
    text = text_of("From: Bank <a@bank.example>", body=page, content_type="text/html")
    assert "link text shows another domain" in text
    assert "links to evil.test" in text


def test_what_tells_the_source_and_not_the_intent_stays_out():
    text = text_of(
        "From: A <a@x.example>", "To: secretrecipient@here.example", "Subject: s",
        "Date: Mon, 23 Nov 2026 10:00:00 +0000", "Message-ID: <uniqueid@x.example>",
        "Received: from relayname by mx", "In-Reply-To: <other@x.example>", "X-Mailer: Mailer9000",
    )  # fmt: skip
    for leak in ("secretrecipient", "2026", "uniqueid", "relayname", "Mailer9000", "other@"):
        assert leak not in text


def test_addresses_numbers_and_rulers_cost_little():
    text = text_of(
        "From: a@x.example", body="see https://a.b.example/path?x=1 or call 0800-123456 ====="
    )
    assert "b.example" in text
    assert "path" not in text
    assert "123456" not in text
    assert "=====" not in text


def test_long_text_keeps_head_and_tail_and_says_so():
    body = "start " + "word " * 6_000 + "the end"
    built = build_model_input(parse_message(b"Subject: s\r\n\r\n" + body.encode()))
    assert built.truncated
    assert len(built.text) < MAX_TEXT_CHARS + 500
    assert "start" in built.text
    assert built.text.endswith("the end")


HONEST = "we met the neighbours in the garden and talked about the summer " * 20
PITCH = "win the lottery today, send your bank details to claim it"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (f"{PITCH}{chr(10) * 30}{HONEST}", "text/plain"),
        (f"{HONEST}{(' ' + chr(13) + chr(10)) * 30}{PITCH}", "text/plain"),
        (f"<p>{PITCH}</p>{'<br>' * 30}<p>{HONEST}</p>", "text/html"),
        (f"<p>{HONEST}</p>{'<p>&nbsp;</p> ' * 30}<p>{PITCH}</p>", "text/html"),
    ],
)
def test_of_texts_far_apart_each_is_shown(body, content_type):
    text = text_of("Subject: s", body=body, content_type=f"{content_type}; charset=utf-8")
    subject, first, second = text.split("\n")
    assert subject == "s"
    assert {first, second} == {PITCH, HONEST[:120].strip()}


@pytest.mark.parametrize("gap", ["\n" * 8, "\n" * 40 + "page 2" + "\n" * 40])
def test_empty_lines_alone_cost_no_text(gap):
    text = text_of("Subject: s", body=f"{HONEST}{gap}")
    assert text.count("neighbours") == 20


def test_the_worst_text_is_read_within_half_a_second():
    for body in (
        "a " * 300_000,
        "а" * 300_000,
        "1a" * 300_000,
        "\u200b" * 300_000,
        "@a." * 200_000,
        "\n" * 19 + "a\n" * 100_000,
        "\n " * 300_000,
    ):
        message = parse_message(b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body.encode())
        started = time.process_time()
        build_model_input(message)
        assert time.process_time() - started < 0.5


# -- html ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Via<!-- x -->gra</p>", "Viagra"),
        ("<p>V<b>i</b>ag<i></i>ra</p>", "Viagra"),
        ("<td>one</td><td>two</td>", "one\ntwo"),
        ("a<br>b", "a\nb"),
        ("<style>x{}</style><script>y</script>z", "z"),
        ("<title>t</title><p>b", "b"),
        ('<img alt="Click to win">', "Click to win"),
    ],
)
def test_visible_text_is_what_a_reader_sees(page, text):
    assert text == extract(page).text


@pytest.mark.parametrize(
    "hiding",
    [
        'style="display:none"', 'style="display : none;"', "hidden", 'style="font-size:0px"',
        'style="visibility:hidden"', 'style="max-height:0;overflow:hidden"', 'style="opacity:0"',
        'style="color:#ffffff"',
    ],
)  # fmt: skip
def test_hidden_text_is_left_out_and_noted(hiding):
    good = "good words that nobody ever sees " * 10
    page = extract(f"<p>seen</p><div {hiding}>{good}</div>")
    assert page.text == "seen"
    assert page.hidden_text
    body = f"<p>seen</p><div {hiding}>{good}</div>"
    assert "invisible filler" in text_of("Subject: s", body=body, content_type="text/html")


def test_white_text_on_its_own_background_is_visible():
    page = extract(
        '<table bgcolor="#003366"><td><span style="color:#fff">Sale today</span></td></table>'
    )
    assert page.text == "Sale today"
    assert not page.hidden_text


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/x", "a.example"),
        ("HTTP://A.Example:8080", "a.example"),
        ("//a.example", "a.example"),
        ("https:\\\\a.example\\x", "a.example"),
        ("https://bank.example@evil.test/", "evil.test"),
        ("https://[::1", "["),
        ("mailto:a@b.example", ""),
        ("/relative", ""),
        ("javascript:alert(1)", ""),
    ],
)
def test_a_links_host_is_where_it_goes(url, host):
    assert host == domain_of(url)


@pytest.mark.parametrize(
    ("host", "registered"),
    [
        ("a.b.example", "b.example"),
        ("www.shop.co.uk", "shop.co.uk"),
        ("x.y.com.br", "y.com.br"),
        ("example", "example"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_registered_domains(host, registered):
    assert registered == registered_domain(host)
