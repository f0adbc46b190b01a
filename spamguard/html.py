"""HTML mail to what its reader sees: visible text, links, and whether text was hidden.

Parsing is lexbor's (selectolax). Its cost is quadratic in depth and in unclosed formatting
elements, so pages beyond what mail programs write are stripped of tags by a regular
expression instead, and that is noted.
"""

import re
from collections import Counter
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

from spamguard.visibility import drop_hidden

MAX_OPEN_ELEMENTS = 512  # real newsletters nest 60 tables deep at most
MAX_OPEN_FORMATTING = 64  # <b>, <font> … left open; each costs every later paragraph
MAX_TEXT_CHARS = 64 * 1024
MAX_NODES = 2000  # links looked at
SHORT_TEXT_CHARS = 200  # below this the images' alt texts are read too

# A line break in the text for each of these; inline tags and comments inside a word vanish.
_BLOCK = re.compile(
    r"<(?=/?(?:address|article|aside|blockquote|br|center|dd|div|dl|dt|footer|form|h[1-6]|header"
    r"|hr|img|li|main|nav|ol|option|p|pre|section|table|tbody|td|tfoot|th|thead|tr|ul)\b)",
    re.IGNORECASE,
)
# A block that is displayed inline and holds a piece of a word is no line of its own.
_PIECE = re.compile(
    r"<(div|p|h[1-6]|li)\s[^<>]{0,40}style\s*=\s*[\"']\s*(?:display\s*:\s*inline(?:-block)?"
    r"|float\s*:\s*left)\s*;?\s*[\"']\s*>([^\s<>]{1,20})</\1>",
    re.IGNORECASE,
)
# So many empty lines that no reader scrolls past them; they stay in the text as `GAP`.
GAP = "\ue000"  # for private use (Unicode 23.5): no letter of any text
_EMPTY_LINES = re.compile(
    r"(?:<(?:br|p|div)\b[^<>]{0,60}+>(?:\s|&nbsp;|\xa0|</(?:p|div)>)*+){20,}+", re.IGNORECASE
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_ANY_TAG = re.compile(r"<[^<>]{0,2000}>")
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_CLOSE_THEMSELVES = frozenset("p li td tr th option dd dt".split())
_FORMATTING = frozenset("a b big code em font i nobr s small strike strong tt u".split())
_BLANKS = re.compile(r"[ \t\r\f\v\xa0]+")
# White space in the sense of \s that is none of these and no line feed.
_ODD_BLANK = re.compile("[\x1c-\x1f\x85\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_BLANK_LINES = re.compile(r"(?<!\s)\s*\n\s*")  # once a run of blanks, not once a blank

# scheme, userinfo, then the host; RFC 3986 section 3.2. Backslashes count as slashes, as in
# browsers (WHATWG URL), since disguised links use them.
_HOST = re.compile(
    r"^\s*(?:[a-z][a-z0-9+.-]*:)?[/\\]{2,}(?:[^/\\?#\s@]*@)?([^/\\?#\s:]+)", re.IGNORECASE
)
_SHOWN = re.compile(
    r"^\W{0,3}(?:https?://)?(?:www\.)?((?:[\w-]{1,63}\.){1,5}[a-z]{2,18})(?:[/?#:\s]|\W{0,3}$)",
    re.IGNORECASE,
)
# Second-level names under which country registries sell third-level domains.
_SECOND_LEVEL = frozenset("ac co com edu gob gov gouv ltd mil ne net nom or org plc sch".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link: where it goes, and the domain its text shows when it shows one.

    Attributes:
        domain: host of the target in lower case, or "" when there is none.
        shown_domain: host that the anchor text spells out, or "".
    """

    domain: str
    shown_domain: str

    @property
    def is_mismatch(self) -> bool:
        """Whether the text shows another organisation's domain than the target's."""
        return bool(self.shown_domain and self.domain) and (
            registered_domain(self.shown_domain) != registered_domain(self.domain)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was read of the HTML parts of one message."""

    text: str
    links: tuple[Link, ...] = ()
    hidden_text: bool = False
    defects: tuple[str, ...] = ()
    truncated: bool = False


EMPTY = Page(text="")


def extract(source: str) -> Page:
    """Return visible text and links of HTML source; never raises, bounded."""
    if _is_pathological(source):
        text = _tidy(_ANY_TAG.sub(" ", _without_comments(source)))
        return Page(text=text[:MAX_TEXT_CHARS], defects=("html-nesting",), truncated=True)
    if "inline" in source or "float" in source:
        source = _PIECE.sub(r"<span>\2</span>", source)
    source = _EMPTY_LINES.sub(f"<br>{GAP}<br>", source)
    tree = LexborHTMLParser(_BLOCK.sub("\n<", source))
    root = tree.body or tree.root
    if root is None:
        return EMPTY
    hidden = drop_hidden(tree)
    tree.strip_tags(["script", "style", "noscript", "template", "title", "svg", "object"])
    links = []
    for anchor in tree.css("a[href]")[:MAX_NODES]:
        domain = domain_of(anchor.attributes.get("href") or "")
        if domain:
            shown = _SHOWN.match(anchor.text().strip()[:200])
            links.append(Link(domain=domain, shown_domain=shown.group(1).lower() if shown else ""))
    text = _tidy(root.text())
    if len(text) < SHORT_TEXT_CHARS:
        alts = (image.attributes.get("alt") or "" for image in tree.css("img[alt]")[:20])
        text = _tidy("\n".join([text, *alts]))
    cut = len(text) > MAX_TEXT_CHARS
    return Page(
        text=text[:MAX_TEXT_CHARS],
        links=tuple(dict.fromkeys(links)),
        hidden_text=hidden,
        truncated=cut,
    )


def domain_of(url: str) -> str:
    """Return the host of a URL in lower case, or "" for mailto:, relative and broken ones."""
    matched = _HOST.match(url[:2000])
    return matched.group(1).lower().strip(".") if matched else ""


def registered_domain(host: str) -> str:
    """Return the part of a host that is registered: the last two labels, or three.

    A guess without the public suffix list: three labels where a country code follows one of
    the usual second-level names (``co.uk``, ``com.br``). Numeric hosts are returned whole.
    """
    labels = host.split(".")
    if len(labels) < 3 or labels[-1].isdigit():
        return host
    keep = 3 if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-keep:])


def _is_pathological(source: str) -> bool:
    """Whether too much is open at once. An end tag closes nothing but an element of its name."""
    if source.count("<") <= MAX_OPEN_ELEMENTS:
        return False
    open_tags: Counter[str] = Counter()
    open_elements = open_formatting = 0
    for slash, name in _TAG.findall(source):
        tag = name.lower()
        if tag in _VOID or tag in _CLOSE_THEMSELVES:
            continue
        if slash and not open_tags[tag]:
            continue
        step = -1 if slash else 1
        open_tags[tag] += step
        if tag in _FORMATTING:
            open_formatting += step
            if open_formatting > MAX_OPEN_FORMATTING:
                return True
        else:
            open_elements += step
            if open_elements > MAX_OPEN_ELEMENTS:
                return True
    return False


def _without_comments(source: str) -> str:
    """Remove comments in one pass; one that does not end takes the rest with it."""
    before, *commented = source.split("<!--")
    return before + " ".join(piece.partition("-->")[2] for piece in commented)


def _tidy(text: str) -> str:
    """Make one blank of several, and one line break of those with blanks around them."""
    if _ODD_BLANK.search(text):
        return _BLANK_LINES.sub("\n", _BLANKS.sub(" ", text)).strip()
    return plain_blanks(text, "\t\r\f\v\xa0").strip()


def plain_blanks(text: str, blanks: str) -> str:
    """Make one blank of each run of blanks, and one line feed of each run that has some.

    What regular expressions do blank by blank a search for what is not yet so does at once.

    Args:
        text: with no white space but these, the blank and the line feed.
        blanks: other characters that count as a blank.
    """
    for blank in blanks:
        text = text.replace(blank, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    while "\n\n" in text:
        text = text.replace("\n\n", "\n")
    return text
