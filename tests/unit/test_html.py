"""Hostile HTML: depth, unclosed elements, deceiving links; what a page may cost.

What a reader sees of ordinary HTML is tested with the text the model reads.
"""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamguard.html import (
    MAX_OPEN_ELEMENTS,
    MAX_OPEN_FORMATTING,
    MAX_TEXT_CHARS,
    Link,
    extract,
    registered_domain,
)

PATHOLOGICAL = {
    "nested divs": "<div>" * 50_000 + "seen",
    "nested tables": "<table><tr><td>" * 10_000 + "seen",
    "nested spans": "<span>" * 40_000 + "seen",
    "unclosed bold": "<b>x" * 20_000 + "<p>seen" * 5_000,
    "unclosed fonts, each different": "".join(f"<font size={n}>" for n in range(9_000)) + "seen",
    "unclosed links": "<a href=x>" * 20_000 + "<p>seen",
    "tags that never end": "<div " * 50_000 + ">seen",
    "comments that never end": "seen" + "<!--" * 60_000,
    "a tag of a quarter of a megabyte": "seen<div " + "a=1 " * 60_000,
    "less-than signs alone": "seen " + "<" * 250_000,
    "unclosed mixed inside tables": "<table><b>" * 10_000 + "seen",
    "hidden inside hidden": "<div style=display:none>" * 400 + "x" + "</div>" * 400 + "seen",
    "2,000 white words": "seen" + "<i style=color:#fff>w</i>" * 9_000,
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_a_hostile_page_is_read_within_a_second(name):
    started = time.process_time()
    page = extract(PATHOLOGICAL[name][: 256 * 1024])
    assert time.process_time() - started < 1.0
    assert len(page.text) <= MAX_TEXT_CHARS


@pytest.mark.parametrize(
    "source",
    [
        "<div>" * (MAX_OPEN_ELEMENTS + 1) + "good <b>words</b>",
        "<b>" * (MAX_OPEN_FORMATTING + 1) + "<br>" * MAX_OPEN_ELEMENTS + "good words",
    ],
)
def test_deeper_than_mail_programs_write_is_stripped_of_tags_and_noted(source):
    page = extract(source)
    assert page.text.split() == ["good", "words"]
    assert page.defects == ("html-nesting",)
    assert page.truncated


def test_many_elements_that_are_closed_are_no_depth():
    page = extract("<div><b>row</b></div>" * 5_000)
    assert page.defects == ()
    assert page.text.split() == ["row"] * 5_000


def test_elements_that_close_themselves_are_no_depth():
    assert extract("<ul>" + "<li>row" * 5_000).defects == ()


def test_text_beyond_the_limit_is_cut_and_said_so():
    page = extract("<p>" + "word " * 20_000)
    assert len(page.text) == MAX_TEXT_CHARS
    assert page.truncated


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="<>/!-=\"' \n\0abdipstyle:no#%&;\u200b\ud800", max_size=300))
def test_no_source_raises(source):
    extract(source)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=30))
def test_text_without_markup_is_itself(text):
    assert text == extract(f"<p>{text}</p>").text


@pytest.mark.parametrize(
    ("target", "shown", "is_mismatch"),
    [
        ("evil.test", "bank.example", True),
        ("bank.example.evil.test", "bank.example", True),
        ("click.bank.example", "www.bank.example", False),
        ("bank.example", "bank.example", False),
        ("shop.co.uk", "other.co.uk", True),
        ("192.0.2.7", "bank.example", True),
        ("evil.test", "", False),
        ("", "bank.example", False),
    ],
)
def test_a_link_deceives_when_its_text_shows_another_organisation(target, shown, is_mismatch):
    assert is_mismatch == Link(domain=target, shown_domain=shown).is_mismatch


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://www.bank.example/login", "bank.example"),
        ("bank.example", "bank.example"),
        ("<b>www.bank.example</b>", "bank.example"),
        ("BANK.EXAMPLE", "bank.example"),
        ("bank.<i></i>example", "bank.example"),
        ("(bank.example)", "bank.example"),
        ("Click here", ""),
        ("version 1.2.3", ""),
        ("Log in at bank.example", ""),
        ("<img src=logo.png>", ""),
    ],
)
def test_the_text_of_a_link_shows_a_domain_only_when_it_begins_with_one(text, shown):
    (link,) = extract(f'<a href="https://evil.test/">{text}</a>').links
    assert shown == link.shown_domain


def test_links_are_kept_in_order_without_repeats_and_without_anchors_inside_the_page():
    page = extract(
        '<a href="https://b.example/1">x</a><a href="#top">y</a><a href="https://a.example">z</a>'
        '<a href="https://b.example/2">x</a><a name=n>no link</a>'
    )
    assert [link.domain for link in page.links] == ["b.example", "a.example"]


STUFFING = "good words nobody ever sees " * 10


@pytest.mark.parametrize(
    "hiding",
    [
        "<p style='display:none'>good words nobody ever sees</p>",
        "<div><div hidden><p>good words nobody ever sees</p></div></div>",
        "<font color=white>good words nobody ever sees</font>",
        "<font size=1 color = '#FFF'>good words nobody ever sees</font>",
        "<div style='text-indent:-9999px'>good words nobody ever sees</div>",
        "<div style='FONT-SIZE: 0 !important'>good words nobody ever sees</div>",
        "<div style='mso-hide:all'>good words nobody ever sees</div>",
        "<div style='font-size:1px;line-height:1px'>good words nobody ever sees</div>",
        "<div style='position:absolute; left:-9999px'>good words nobody ever sees</div>",
        "<div style='height:0;overflow:hidden'>good words nobody ever sees</div>",
        "<div style='color:rgba(255,255,255,0)'>good words nobody ever sees</div>",
        "<div style='color:transparent'>good words nobody ever sees</div>",
        "<table bgcolor='#ffffff'><td style='color:#fdfdfe'>good words nobody ever sees</table>",
        "<div style='background:rgb(255, 255, 255)'><i style='color:white'>good words nobody sees</i></div>",
        "<div hidden><p style='display:none'>good words <b hidden>nobody</b> ever sees</p></div>",
    ],
)
def test_hidden_words_are_neither_read_nor_overlooked(hiding):
    page = extract(f"<p>seen</p>{hiding.replace('good', STUFFING)}<p>also</p>")
    assert page.text.split() == ["seen", "also"]
    assert page.hidden_text


@pytest.mark.parametrize(
    "visible",
    [
        "<p style='font-size:0.9em'>words that everybody sees here</p>",
        "<p style='opacity:0.5'>words that everybody sees here</p>",
        "<p style='background-color:#fff'>words that everybody sees here</p>",
        "<div style='background:#036'><p style='color:#fff'>words that everybody sees here</p></div>",
        "<table bgcolor=black><td><font color=white>words that everybody sees here</font></table>",
        "<body style='color:white'>words that everybody sees here",
        "<td style='font-size:0'><div style='font-size:13px'>words that everybody sees here</div>",
        "<div style='position:absolute;left:-2px'>words that everybody sees here</div>",
        "<div style='max-width:0;overflow:hidden'>words that everybody sees here</div>",
        "<a style='background:url(b.png);color:#fff'>words that everybody sees here</a>",
        "<style>.b{background:#036}</style><a class=b style='color:#fff'>words that everybody sees here</a>",
        "<style>@media print{.k{display:none}}</style><p class=k>"
        + "words that everybody sees here",
        "<style>.k{display:none}</style><p class=k>words that everybody sees here</p>",
        "<bdo dir=ltr>words that everybody sees here</bdo>",
    ],
)
def test_styles_that_only_look_like_hiding_hide_nothing(visible):
    page = extract(visible)
    assert page.text == "words that everybody sees here"
    assert not page.hidden_text


@pytest.mark.parametrize(
    "page",
    [
        f"<style>.k{{display:none}}</style><div class=k>{STUFFING}</div><p>seen",
        f"<style>/* a */@import 'x'; b, div.k {{ left:-999px;position:absolute }}</style>"
        f"<div class=k>{STUFFING}<div class=k>{STUFFING}</div></div><p>seen",
        f"<style>@media x{{.k{{color:red}}}}#k{{font-size:0px}}</style><div id=k>{STUFFING}</div><p>seen",
    ],
)
def test_words_that_a_style_sheet_hides_are_not_read(page):
    found = extract(page)
    assert "seen" == found.text
    assert found.hidden_text


@pytest.mark.parametrize(
    "page",
    [
        "vi<!-- x -->ag<!---->ra",
        "<b>vi</b><i></i>agra",
        "vi<wbr>ag<span>ra</span>",
        "&#118;&#x69;agr&#00097;",
        "vi<span style='display:none'>xx</span>agra",
        "vi<span style='font-size:0.01px'>xx</span>agra",
        '<div style="display:inline">vi</div><div style="float: left">agra</div>',
    ],
)
def test_a_word_in_pieces_is_one_word(page):
    assert "viagra" == extract(page).text


def test_letters_that_css_turns_are_read_as_shown():
    page = "<bdo dir=rtl>arga</bdo> <i style='unicode-bidi:bidi-override;direction:rtl'>iv</i>"
    assert "\u202earga\u202c \u202eiv\u202c" == extract(page).text


@pytest.mark.parametrize(
    "source",
    [
        "<style>" + "@{" * 16_000 + "</style>",
        "<style>" + "/*" * 16_000 + "</style><p hidden>x",
        "<style>" + "a{}" * 10_000 + ".k{display:none}" * 100 + "</style>" + "<p class=k>x" * 5000,
        "<p style='font-size:0'>" + "<i>x</i>" * 20_000,
        "<p style='color:#fff'>x" * 10_000,
        "<bdo dir=rtl>x" * 60,
        ("<br>" + " " * 1000) * 19 * 10,
        ("<br>" * 19 + "x") * 3_000,
        "<div style='display:inline'" + " a" * 100_000,
    ],
)
def test_hostile_styles_cost_less_than_a_second(source):
    started = time.process_time()
    extract(source)
    assert time.process_time() - started < 1


def test_a_short_hidden_preview_is_dropped_but_is_no_deception():
    page = extract("<div style='display:none'>Your receipt</div><p>seen</p>")
    assert page.text == "seen"
    assert not page.hidden_text


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), min_size=1, max_size=6))
def test_a_registered_domain_is_an_end_of_its_host_and_its_own(labels):
    host = ".".join(labels)
    found = registered_domain(host)
    assert host == found or host.endswith(f".{found}")
    assert found == registered_domain(found)
