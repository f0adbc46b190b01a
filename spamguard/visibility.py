"""Which elements of an HTML mail no reader sees: the rules of CSS that hide words.

Spam hides honest words from its readers and shows them to filters ("stuffing"), or breaks its
own words with letters that nobody sees. Newsletters hide a line of preview text in the same
ways. Both go: what the model reads is what a person sees. This is no CSS engine: inline styles,
the attributes of old HTML, and plain class or id rules; in doubt text counts as visible.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_NODES = 2000  # styled elements looked at
MAX_RULES = 20  # of style sheets; a page that hides words needs one
MAX_SHEET_CHARS = 32 * 1024
MAX_KNOWN_CHARS = 400  # of a style that is remembered; longer ones are rare
MAX_ANCESTORS = 12  # looked at for a background
# Newsletters hide a line of preview; what stuffs a mail with honest words needs more letters.
MIN_STUFFING_LETTERS = 200
_MAX_COUNTED_CHARS = 5000
MAX_TURNED_CHARS = 1000  # a disguised phrase, not a letter in Hebrew
_NEAR = 10  # of 255: colours that the eye does not tell apart

_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|mso-hide\s*:\s*all"
    r"|max-height\s*:\s*0|opacity\s*:\s*0(?:\.0+)?\s*(?:;|$|!)|text-indent\s*:\s*-\d{3}"
    r"|clip\s*:\s*rect\(\s*0|(?<![-\w])color\s*:\s*transparent",
    re.IGNORECASE,
)
_TINY = re.compile(
    r"font-size\s*:\s*(?:0(?:\.0\d*)?(?:px|pt|em|rem|%)?|[01](?:\.\d+)?px|1pt)\s*(?:;|$|!)",
    re.IGNORECASE,
)
_FONT_SIZE = re.compile(r"(?<![-\w])font(?:-size)?\s*:", re.IGNORECASE)
_OVERFLOW = re.compile(r"overflow\s*:\s*hidden", re.IGNORECASE)
_NO_ROOM = re.compile(
    r"(?<![-\w])(?:height|width)\s*:\s*[01](?:px|pt|em|%)?\s*(?:;|$|!)", re.IGNORECASE
)
_OUTSIDE = re.compile(
    r"(?<![-\w])(?:left|top|right|bottom|margin-left|margin-top)\s*:\s*-\d{3}", re.IGNORECASE
)
_POSITIONED = re.compile(r"position\s*:\s*(?:absolute|fixed)|margin-(?:left|top)", re.IGNORECASE)
_TURNED = re.compile(r"unicode-bidi\s*:\s*(?:bidi|isolate)-override", re.IGNORECASE)
_NO_LETTERS = re.compile(r"[\W\d_]+")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff]")
_BACKWARDS = re.compile(r"direction\s*:\s*rtl", re.IGNORECASE)

# A first look at a style: without any of these it hides nothing.
_ANY_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*[01]|max-height\s*:\s*0"
    r"|opacity\s*:\s*0|mso-hide|text-indent\s*:\s*-|overflow\s*:\s*hidden"
    r"|(?:left|top|right|bottom)\s*:\s*-\d{3}|clip\s*:\s*rect|bidi-override|transparent"
    r"|(?<![-\w])color\s*:\s*(?:white|\#f|\#[ef]{3}|rgba?\()",
    re.IGNORECASE,
)
_COLOR = re.compile(r"(?<![-\w])color\s*:\s*([^;!\"]{1,40})", re.IGNORECASE)
_BACKGROUND = re.compile(r"background(?:-color|-image)?\s*:\s*([^;!\"]{1,200})", re.IGNORECASE)
_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}
_WHITE = (255, 255, 255)
_RGB = re.compile(
    r"rgba?\(\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})(?:[\s,/]+([\d.]+%?))?", re.IGNORECASE
)

_SELECTED = "[style], [hidden], font[color], bdo"
_BRACE = re.compile(r"[{}]")
_SELECTOR = re.compile(r"(?:[a-z][a-z0-9]{0,9})?[.#][a-z_][\w-]{0,40}", re.IGNORECASE | re.ASCII)


def drop_hidden(tree: LexborHTMLParser) -> bool:
    """Remove what no reader sees; say whether it was so much that it is there for filters.

    Args:
        tree: with its style sheets; changed in place.
    """
    letters = 0
    backgrounds: _Backgrounds = {}
    gone: set[int] = set()  # elements inside removed ones: their memory is not theirs any more

    def remove(node: LexborNode) -> None:
        gone.update(inner.mem_id for inner in node.css(_SELECTED))
        node.decompose(recursive=True)

    style_sheet = "\n".join(sheet.text() for sheet in tree.css("style"))
    has_sheet_backgrounds = "background" in style_sheet
    for node in tree.css(_SELECTED)[:MAX_NODES]:
        if node.mem_id in gone or node.tag in {"body", "html"}:
            continue
        attributes = node.attributes
        style = attributes.get("style") or ""
        if not (_look(style).may_hide or "hidden" in attributes or node.tag in {"font", "bdo"}):
            continue
        if _is_hidden(node, style, backgrounds, has_sheet_backgrounds=has_sheet_backgrounds):
            letters += _letters(node.text())
            remove(node)
        elif _TINY.search(style):
            letters += _drop_tiny(node)
        elif _is_turned(node, style):
            text = node.text()
            if len(text) <= MAX_TURNED_CHARS and not _RIGHT_TO_LEFT.search(text):
                node.insert_before(f"\u202e{text}\u202c")  # as plain text would say it
                remove(node)
    for selector in _hiding_selectors(style_sheet):
        nodes = tree.css(selector)[:MAX_NODES]
        by_sheet = sum(_letters(node.text()) for node in nodes)
        if by_sheet < MIN_STUFFING_LETTERS:
            continue  # a preview, or a part for other screens
        letters += by_sheet
        gone.clear()
        for node in nodes:
            if node.mem_id not in gone:
                gone.update(inner.mem_id for inner in node.css(selector))
                node.decompose(recursive=True)
    return letters >= MIN_STUFFING_LETTERS


class _Look(NamedTuple):
    """What a style declares.

    Attributes:
        may_hide: whether it is worth a second look; without it the style hides nothing.
        hides: whether it hides its element whatever the colours and the size of letters.
    """

    may_hide: bool
    hides: bool


def _look(style: str) -> _Look:
    return (_known_look if len(style) <= MAX_KNOWN_CHARS else _first_look)(style)


def _first_look(style: str) -> _Look:
    return _Look(
        may_hide=_ANY_HIDING.search(style) is not None,
        hides=bool(
            _HIDING.search(style)
            or (_OVERFLOW.search(style) and _NO_ROOM.search(style))
            or (_POSITIONED.search(style) and _OUTSIDE.search(style))
        ),
    )


# A page says the same style a hundred times, and the mailings of one service share theirs.
_known_look = functools.lru_cache(maxsize=1024)(_first_look)


def _letters(text: str) -> int:
    return len(_NO_LETTERS.sub("", text[:_MAX_COUNTED_CHARS]))


def _is_hidden(
    node: LexborNode, style: str, backgrounds: "_Backgrounds", *, has_sheet_backgrounds: bool
) -> bool:
    if "hidden" in node.attributes or _look(style).hides:
        return True
    color = _text_color(node, style)
    return color is not None and _is_unseen(
        node, color, backgrounds, has_sheet_backgrounds=has_sheet_backgrounds
    )


def _drop_tiny(root: LexborNode) -> int:
    """Remove text too small to read; return how many letters.

    Descendants that set a size of their own stay: newsletters set a size of 0 on a cell to
    close the gaps between the boxes in it.
    """
    letters = 0
    stack = [root]
    doomed = []
    while stack:
        for child in stack.pop().iter(include_text=True):
            if child.tag == "-text":
                letters += _letters(child.text_content or "")
                doomed.append(child)
                continue
            style = child.attributes.get("style") or ""
            if child.tag == "font" or (_FONT_SIZE.search(style) and not _TINY.search(style)):
                continue
            if "class" in child.attributes:
                continue  # a style sheet may give it a size
            stack.append(child)
    for text in doomed:
        text.decompose()
    return letters


def _is_turned(node: LexborNode, style: str) -> bool:
    """Whether the element's letters are shown from right to left."""
    if node.tag == "bdo":
        return (node.attributes.get("dir") or "").lower() == "rtl"
    return bool(_TURNED.search(style) and _BACKWARDS.search(style))


# -- colours -------------------------------------------------------------------------------------

_Color = tuple[int, int, int]
# By element: read once each, since thousands may stand on one whose style is long.
_Backgrounds = dict[int, tuple[str, bool]]
_PICTURE = "picture"


def _text_color(node: LexborNode, style: str) -> _Color | None:
    """Return the text's own colour where it may not be seen: near white, or transparent."""
    matched = _COLOR.search(style)
    value = matched.group(1) if matched else ""
    if not value and node.tag == "font":
        value = node.attributes.get("color") or ""
    if not value:
        return None
    rgb = _RGB.match(value.strip())
    if rgb and rgb.group(4) and not rgb.group(4).strip("0.%"):
        return _WHITE  # transparent: like paper
    color = _color(value)
    return color if color and min(color) >= 255 - _NEAR else None


def _is_unseen(
    node: LexborNode, color: _Color, backgrounds: _Backgrounds, *, has_sheet_backgrounds: bool
) -> bool:
    """Whether text of that colour stands on a background like it.

    The background is that of the element or of its next few ancestors, white where none of
    them sets one.
    """
    current: LexborNode | None = node
    for _ in range(MAX_ANCESTORS):
        if current is None or current.tag in {"html", "-undef", "-document"}:
            return True
        if current.mem_id not in backgrounds:
            backgrounds[current.mem_id] = _own_background(current)
        value, is_of_sheet = backgrounds[current.mem_id]
        if value == _PICTURE:
            return False
        if value and value.strip().lower() not in {"none", "transparent", "inherit", "initial"}:
            behind = _color(value)
            return behind is not None and _is_near(behind, color)
        if has_sheet_backgrounds and is_of_sheet:
            return False
        current = current.parent
    return False  # too deep to tell: in doubt it is seen


def _own_background(node: LexborNode) -> tuple[str, bool]:
    """Return an element's background as written, and whether a style sheet may set one."""
    attributes = node.attributes
    if attributes.get("background"):
        return _PICTURE, False
    matched = _BACKGROUND.search(attributes.get("style") or "")
    value = attributes.get("bgcolor") or (matched.group(1) if matched else "")
    return value, "class" in attributes or "id" in attributes


def _color(value: str) -> _Color | None:
    """Read a colour; None for what is none, or is one of the names we do not know."""
    word = value.strip().lower().split()[0] if value.strip() else ""
    if word in _NAMED:
        return _NAMED[word]
    if matched := _RGB.match(value.strip()):
        return (int(matched.group(1)), int(matched.group(2)), int(matched.group(3)))
    digits = word.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(d + d for d in digits)
    try:
        number = int(digits, 16) if len(digits) == 6 else -1
    except ValueError:
        return None
    return None if number < 0 else (number >> 16, number >> 8 & 255, number & 255)


def _is_near(one: _Color, other: _Color) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _NEAR


def _hiding_selectors(style_sheet: str) -> list[str]:
    """Return the selectors (one class or id) that a style sheet hides on every screen."""
    selectors: list[str] = []
    for names, block in _top_rules(_without_comments(style_sheet[:MAX_SHEET_CHARS])):
        if _hides(block):
            selectors += filter(_SELECTOR.fullmatch, map(str.strip, names.split(",")))
    return list(dict.fromkeys(selectors))[:MAX_RULES]


def _hides(block: str) -> bool:
    return _first_look(block).hides or _TINY.search(block) is not None


def _top_rules(sheet: str) -> Iterator[tuple[str, str]]:
    """Yield (selectors, declarations) outside @media and its like: those are for some screens."""
    depth = start = 0
    names = ""
    for brace in _BRACE.finditer(sheet):
        if brace.group() == "{":
            if depth == 0:
                names, start = sheet[start : brace.start()], brace.end()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                names = names.rpartition(";")[2].strip()
                if not names.startswith("@"):
                    yield names, sheet[start : brace.start()]
                start = brace.end()


def _without_comments(sheet: str) -> str:
    """Remove comments in one pass; a regular expression would read on from every "/*"."""
    kept, rest = [], sheet
    while rest:
        before, _, rest = rest.partition("/*")
        kept.append(before)
        rest = rest.partition("*/")[2]
    return "".join(kept)
