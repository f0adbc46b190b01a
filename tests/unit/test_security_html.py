"""HTML bombs: pages whose cost would grow with the square of their length."""

import time

import pytest

from spamguard import html
from spamguard.message import MAX_HTML_CHARS, parse_message
from spamguard.model_input import build_model_input


def filled(piece, head="", tail=""):
    """Return a page of the piece again and again, as long as is looked at."""
    room = MAX_HTML_CHARS - len(head) - len(tail)
    return head + piece * (room // len(piece)) + tail


BOMBS = {
    "blanks of another script": filled("\u2003", "x", "y"),
    "blanks and line breaks": filled("\u2003\n\u3000", "x"),
    "end tags that close nothing": filled("<div></x>"),
    "end tags in attributes": filled('<div a="</div>">'),
    "end tags that a table shields": filled("<div><table></div></table>"),
    "formatting closed by other names": filled("<p>x", "".join(f"<b id={n}></i>" for n in range(5000))),
    "formatting closed in attributes": filled(
        "<p>x", "".join(f'<b id={n} a="</b>">' for n in range(5000))
    ),
    "comments that do not end": filled("<!--", "<div>" * 600),
    "angle brackets": filled("<"),
    "white text on one long style": filled(
        "<font color=white>x</font>", f'<div style="{"b" * 150_000}">'
    ),
    "white text on a dozen long styles": filled(
        "<font color=white>x</font>", f'<div style="{"b" * 15_000}">' * 11
    ),
    "tiny in tiny": filled("x<br>", '<div style="font-size:0">' * 500),
    "hidden in hidden": filled("x<br>", '<div style="display:none">' * 500),
    "turned in turned": filled("x y ", "<bdo dir=rtl>" * 500),
    "classes of one sheet": filled(
        "1 2 ",
        "<style>" + "".join(f".c{n}{{display:none}}" for n in range(20)) + "</style>"
        + '<div class="{}">'.format(" ".join(f"c{n}" for n in range(20))) * 300,
    ),
    "links in links": filled("word ", '<a href="//x.example"><div>' * 500),
    "a style of blanks": filled(" ", '<div style="display:', '">x</div>'),
    "styles of blanks": filled('<p style="font-size:                              ">'),
    "attributes": filled(" a=1", "<div", ">x"),
    "empty lines one too few": filled("<br>" * 19 + "x"),
    "entities": filled("&#x202e;&nbsp;"),
    "sheets": filled("<style>a{color:red}</style>"),
    "comments in a sheet": filled("/**/", "<style>", "</style>"),
    "options": filled("<option><select>"),
    "svg": filled("<svg><desc>"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_an_html_bomb_is_read_within_a_second(name):
    started = time.process_time()
    page = html.extract(BOMBS[name])
    assert time.process_time() - started < 1.0
    assert len(page.text) <= html.MAX_TEXT_CHARS


@pytest.mark.parametrize("name", BOMBS)
def test_an_html_bomb_in_a_mail_is_read_within_two_seconds(name):
    raw = b"Content-Type: text/html; charset=utf-8\r\n\r\n" + BOMBS[name].encode()
    started = time.process_time()
    build_model_input(parse_message(raw))
    assert time.process_time() - started < 2.0


def test_words_behind_comments_are_read_where_tags_are_stripped():
    page = html.extract("<div>" * 600 + "<!-- a --> b > c --> hello <!-- <!-- x --> pills <!-- y")
    assert page.text.split() == ["b", ">", "c", "-->", "hello", "pills"]


@pytest.mark.parametrize(
    "selector", ["2.a", "9#b", "h1.a", "-.a", ".a-", "._", "#__", "..a", "a..b"]
)
def test_no_selector_of_a_style_sheet_stops_the_parser(selector):
    source = f"<style>{selector}{{display:none}}</style><p class=a id=b>cheap pills</p>"
    assert "cheap pills" in html.extract(source).text
