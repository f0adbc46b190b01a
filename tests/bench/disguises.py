"""The disguises that the bench puts on spam: raw message to raw message, still read by people.

Each function takes a message and a generator of its own and returns the disguised message, or
the same one where it has nothing to disguise (a Chinese text has no Latin look-alikes). They are
written from what spammers do, not from what `model_input` undoes: some look-alikes here are not
in its table. Links stay as they are: a disguise that breaks them earns nothing.
"""

import base64
import email
import email.policy
import html
import re
from email.header import Header

from spamguard.message import parse_message
from tests.bench.mail import SAMPLES

_POLICY = email.policy.compat32.clone(max_line_length=0)
# Tags, comments, styles and entities are not text; nor are links in plain text.
_MARKUP = re.compile(
    r"(<!--.*?-->|<(?:style|script|title)\b.*?</(?:style|script|title)\s*>|<[^>]*>|&[#\w]{2,12};)",
    re.DOTALL | re.IGNORECASE,
)
_LINK = re.compile(r"((?:https?://|www\.)\S+|\S+@\S+\.\S+)")
_WORD = re.compile(r"[^\W\d_]{4,}")
_BODY = re.compile(r"<body\b[^>]*>", re.IGNORECASE)


# -- taking a message apart and putting it together ----------------------------------------------


def rewritten(raw, *, text=None, page=None, words=None):
    """Return the message with its plain text, its HTML, or the words of both and Subject changed.

    Args:
        text, page: str -> str, for the source of text/plain and text/html parts.
        words: str -> str, for visible text between tags and links.
    """
    message = email.message_from_bytes(raw, policy=_POLICY)
    if words:
        text, page = _outside(_LINK, words), _outside(_MARKUP, words)
        if subject := parse_message(raw).header("subject"):
            message.replace_header("subject", _header(words(subject)))
    for part in message.walk():
        if part.is_multipart() or part.get_content_disposition() == "attachment":
            continue
        source = _source(part)
        change = page if is_page(part, source) else text
        if change and part.get_content_maintype() == "text":
            changed = change(source)
            if changed != source:
                _replace(part, source, changed)
    return message.as_bytes(policy=_POLICY)


def is_page(part, source):
    is_html = part.get_content_type() == "text/html"
    return is_html or ("content-type" not in part and source.lstrip()[:5].lower() == "<html")


def _header(value):
    return value if value.isascii() else Header(value, "utf-8", maxlinelen=10_000).encode()


def _source(part):
    data = part.get_payload(decode=True) or b""
    for codec in (part.get_content_charset() or "utf-8", "utf-8", "cp1252"):
        try:
            return data.decode(codec)
        except (LookupError, UnicodeDecodeError):
            continue
    return data.decode("latin-1")


def _replace(part, before, source):
    subtype = "html" if is_page(part, before) else part.get_content_subtype()
    for name in ("content-type", "content-transfer-encoding"):
        del part[name]
    part["Content-Type"] = f'text/{subtype}; charset="utf-8"'
    part["Content-Transfer-Encoding"] = "base64"
    encoded = base64.encodebytes(source.encode("utf-8", "replace")).decode("ascii")
    part.set_payload(encoded)


def _outside(pattern, change):
    """Apply a change to what the pattern does not match."""

    def changed(source):
        pieces = pattern.split(source)
        return "".join(change(p) if n % 2 == 0 else p for n, p in enumerate(pieces))

    return changed


def _each_word(raw, generator, change, share=1.0):
    def one(match):
        return change(match.group()) if generator.random() < share else match.group()

    return rewritten(raw, words=lambda piece: _WORD.sub(one, piece))


# -- letters -------------------------------------------------------------------------------------

_LATIN_LOOK_ALIKES = {
    "a": "аɑα", "c": "сϲ", "d": "ԁ", "e": "еҽ", "g": "ɡց", "h": "һհ", "i": "іı", "j": "ј", "k": "κк",
    "l": "ӏ", "n": "ո", "o": "оοօ", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕꜱ", "t": "тτ", "u": "υս",
    "v": "νѵ", "w": "ԝѡ", "x": "хχ", "y": "уγ", "z": "ᴢ",
    "A": "АΑᎪ", "B": "ВΒᏴ", "C": "СᏟ", "D": "Ꭰ", "E": "ЕΕᎬ", "G": "Ԍ", "H": "НΗᎻ", "I": "ІΙ", "J": "ЈᎫ",
    "K": "КΚᏦ", "L": "ᏞⅬ", "M": "МΜᎷ", "N": "Νɴ", "O": "ОΟՕ", "P": "РΡᏢ", "R": "Ꮢ", "S": "ЅᏚ", "T": "ТΤᎢ",
    "V": "ᏙѴ", "W": "ᎳԜ", "X": "ХΧ", "Y": "ҮΥ", "Z": "ΖᏃ",
}  # fmt: skip
_CYRILLIC_LOOK_ALIKES = dict(zip("аеорсухіАЕОРСУХІВНКМТ", "aeopcyxiAEOPCYXIBHKMT", strict=True))


def look_alikes(raw, generator):
    """Half of the letters that have a look-alike in another script."""

    def change(word):
        table = _CYRILLIC_LOOK_ALIKES if re.search("[\u0400-\u04ff]", word) else _LATIN_LOOK_ALIKES
        return "".join(
            generator.choice(table[c]) if c in table and generator.random() < 0.5 else c
            for c in word
        )

    return _each_word(raw, generator, change)


def _between_letters(raw, generator, choices, share=0.5):
    def change(word):
        out = word[0]
        for character in word[1:]:
            out += (generator.choice(choices) if generator.random() < share else "") + character
        return out

    return _each_word(raw, generator, change)


def zero_width(raw, generator):
    """Characters without width between half of the letters."""
    return _between_letters(raw, generator, "\u200b\u200c\u200d\u2060\ufeff\u2063\u180e")


def soft_hyphens(raw, generator):
    """A soft hyphen between half of the letters."""
    return _between_letters(raw, generator, "\u00ad")


def combining(raw, generator):
    """Marks on half of the letters: strokes, dots, accents that no language writes there."""
    marks = "\u0301\u0300\u0308\u0323\u0331\u0335\u0336\u0337\u0338\u034f\u0307\u20e3"
    return _between_letters(raw, generator, marks)


def fullwidth(raw, generator):
    """Fullwidth forms of every word."""
    return _each_word(raw, generator, lambda word: _shifted(word, 0xFEE0))


def _shifted(word, offset):
    return "".join(chr(ord(c) + offset) if c.isascii() and c.isalpha() else c for c in word)


_STYLES = (0x1D400, 0x1D468, 0x1D4D0, 0x1D5A0, 0x1D5D4, 0x1D670)  # bold, italic, script, sans …


def styled(raw, generator):
    """Mathematical, circled or squared letters for every word."""
    start = generator.choice((*_STYLES, 0x24B6, 0x1F130))

    def one(c):
        if not (c.isascii() and c.isalpha()):
            return c
        if start == 0x1F130:
            return chr(start + ord(c.upper()) - 65)
        return chr(start + ord(c) - (71 if c.islower() else 65))

    return _each_word(raw, generator, lambda word: "".join(map(one, word)))


_LEET = {
    "a": "4@", "e": "3€", "i": "1!", "l": "1|", "o": "0", "s": "5$", "t": "7", "b": "8", "g": "9",
}  # fmt: skip


def leet(raw, generator):
    """Digits and signs for two thirds of the letters that have one, in half of the words."""

    def change(word):
        return "".join(
            generator.choice(_LEET[c.lower()])
            if c.lower() in _LEET and generator.random() < 0.67
            else c
            for c in word
        )

    return _each_word(raw, generator, change, 0.5)


def spaced(raw, generator):
    """Half of the words with their letters set apart, by one separator a message."""
    separator = generator.choice(" .-_*")
    return _each_word(raw, generator, separator.join, 0.5)


def reversed_letters(raw, generator):
    """Half of the words backwards, behind a right-to-left override."""
    return _each_word(raw, generator, lambda word: f"\u202e{word[::-1]}\u202c", 0.5)


def accents(raw, generator):
    """Accents of real languages where they do not belong, on half of the vowels and more."""
    table = {"a": "àáâãäå", "e": "èéêë", "i": "ìíîï", "o": "òóôõö", "u": "ùúûü", "c": "ç", "n": "ñ",
             "y": "ýÿ", "s": "š", "z": "ž"}  # fmt: skip

    def change(word):
        return "".join(
            generator.choice(table[c]) if c in table and generator.random() < 0.5 else c
            for c in word
        )

    return _each_word(raw, generator, change)


# -- encodings -----------------------------------------------------------------------------------


def odd_base64(raw, generator):
    """Base64 in pieces with padding between them, foreign characters, lines of any length."""
    return _encoded(raw, "Base64 ", lambda data: _odd_base64(data, generator))


def _odd_base64(data, generator):
    out, position = "", 0
    while position < len(data):
        size = generator.choice((19, 20, 21, 40, 57))
        out += base64.b64encode(data[position : position + size]).decode()
        out += generator.choice(("\r\n", "\r\n", " \r\n", "\t\r\n", "!\r\n", "\r\n\r\n", ""))
        position += size
    return out.rstrip("=\r\n") + "\r\n"


def odd_quoted_printable(raw, generator):
    """Every character encoded, in lower case, with soft line breaks inside words and blanks after."""

    def encode(data):
        out = ""
        for number, byte in enumerate(data):
            out += f"={byte:02x}" if byte != 10 else "\r\n"
            if number % 17 == 16:
                out += generator.choice(("=\r\n", "= \r\n", "=\n"))
        return out

    return _encoded(raw, "quoted-PRINTABLE", encode)


def utf16(raw, generator):
    """UTF-16 in base64."""
    return _encoded(
        raw, "base64", lambda data: base64.encodebytes(data.decode().encode("utf-16")).decode(), "utf-16"
    )  # fmt: skip


def split_subject(raw, generator):
    """The Subject in one encoded word a letter, in turns base64 and quoted-printable."""
    message = email.message_from_bytes(raw, policy=_POLICY)
    words = []
    for number, letter in enumerate(parse_message(raw).header("subject")[:60]):
        data = letter.encode()
        q = "".join(f"={byte:02X}" for byte in data)
        words.append(
            f"=?utf-8?q?{q}?=" if number % 2 else f"=?UTF-8?B?{base64.b64encode(data).decode()}?="
        )
    if not words:
        return raw
    message.replace_header("subject", "\n ".join(words))
    return message.as_bytes(policy=_POLICY)


def _encoded(raw, name, encode, charset="utf-8"):
    message = email.message_from_bytes(raw, policy=_POLICY)
    for part in message.walk():
        source = "" if part.is_multipart() else _source(part)
        if part.get_content_maintype() != "text" or not source:
            continue
        subtype = "html" if is_page(part, source) else part.get_content_subtype()
        for field in ("content-type", "content-transfer-encoding"):
            del part[field]
        part["Content-Type"] = f"text/{subtype}; charset={charset}"
        part["Content-Transfer-Encoding"] = name
        part.set_payload(encode(source.encode("utf-8", "replace")))
    return message.as_bytes(policy=_POLICY)


# -- HTML ----------------------------------------------------------------------------------------


def as_page(raw):
    """Return the message with an HTML part: plain text becomes one."""
    message = email.message_from_bytes(raw, policy=_POLICY)
    leaves = [part for part in message.walk() if part.get_content_maintype() == "text"]
    if any(is_page(part, _source(part)) for part in leaves):
        return raw

    def page(source):
        linked = re.sub(
            r"(https?://[^\s<>\"]+)", r'<a href="\1">\1</a>', html.escape(source, quote=False)
        )
        return "<html><body>" + linked.replace("\n", "<br>\n") + "</body></html>"

    for part in leaves:
        source = _source(part)
        _replace(part, source, page(source))
        part.replace_header("Content-Type", 'text/html; charset="utf-8"')
    return message.as_bytes(policy=_POLICY)


def _page_words(raw, generator, change, share=1.0):
    def one(match):
        return change(match.group()) if generator.random() < share else match.group()

    page = _outside(_MARKUP, lambda piece: _WORD.sub(one, piece))
    return rewritten(as_page(raw), page=page)


def comments(raw, generator):
    """Comments of three forms inside every word."""

    def change(word):
        at = generator.randrange(1, len(word))
        middle = generator.choice(
            ("<!-- order -->", "<!---->", "<!x>", "<!-- a > b -->", "<?php x?>")
        )
        return word[:at] + middle + word[at:]

    return _page_words(raw, generator, change)


def split_tags(raw, generator):
    """Words over several elements: inline, empty, and blocks that are displayed inline."""
    seams = (
        "</span><span>", "<b></b>", "<wbr>", "<i></i>", '<font size="3"></font>',
        '<span style="display:inline-block"></span>',
    )  # fmt: skip

    def change(word):
        at = generator.randrange(1, len(word))
        if generator.random() < 0.3:
            style = generator.choice(("display:inline", "float:left", "display: inline-block"))
            first, second = word[:at], word[at:]
            return f'<div style="{style}">{first}</div><div style="{style}">{second}</div>'
        return word[:at] + generator.choice(seams) + word[at:]

    return _page_words(raw, generator, change)


def entities(raw, generator):
    """Every letter as an entity: decimal, hexadecimal, with leading zeros, without semicolon."""

    def change(word):
        forms = ("&#{};", "&#x{:x};", "&#{:07d};", "&#X{:X};")
        out = "".join(generator.choice(forms).format(ord(c)) for c in word[:-1])
        return out + f"&#{ord(word[-1])};"

    return _page_words(raw, generator, change)


def hidden_letters(raw, generator):
    """Letters that nobody sees inside every word."""
    styles = (
        "display:none", "font-size:0", "font-size:0.01px;line-height:0", "visibility:hidden;font-size:1px",
        "position:absolute;left:-9999px", "opacity:0;font-size:0px",
    )  # fmt: skip

    def change(word):
        at = generator.randrange(1, len(word))
        noise = "".join(generator.choice("abcdefghiklmnoprstu") for _ in range(3))
        style = generator.choice(styles)
        return f'{word[:at]}<span style="{style}">{noise}</span>{word[at:]}'

    return _page_words(raw, generator, change)


def css_reversed(raw, generator):
    """Half of the words backwards, turned by `unicode-bidi` or <bdo>."""

    def change(word):
        if generator.random() < 0.5:
            return f'<bdo dir="rtl">{word[::-1]}</bdo>'
        return f'<span style="unicode-bidi:bidi-override;direction:rtl">{word[::-1]}</span>'

    return _page_words(raw, generator, change, 0.5)


def honest_words(generator, words):
    """Return about so many words of the honest samples, in sentences."""
    pieces = []
    for path in sorted(SAMPLES.glob("ham-*.eml")):
        message = parse_message(path.read_bytes())
        pieces += [
            line for line in (message.html_text or message.text).split("\n") if len(line) > 40
        ]
    generator.shuffle(pieces)
    out = []
    while sum(len(p.split()) for p in out) < words:
        out.append(pieces[len(out) % len(pieces)])
    return "\n".join(out)


_HIDING = {
    "display:none": '<div style="display:none">{}</div>',
    "font-size:0": '<div style="font-size:0;line-height:0">{}</div>',
    "font-size:1px": '<div style="font-size:1px;color:#fefefe">{}</div>',
    "white on white": '<div style="color:#ffffff">{}</div>',
    "off-screen": '<div style="position:absolute;left:-9999px;top:-9999px">{}</div>',
    "hidden attribute": "<div hidden>{}</div>",
    "no height": '<div style="height:0;overflow:hidden">{}</div>',
    "transparent": '<div style="color:rgba(255,255,255,0)">{}</div>',
    "CSS class": "<style>.k{{display:none}}</style><div class=k>{}</div>",
}  # fmt: skip


def _stuffed(style):
    def stuff(raw, generator):
        hidden = _HIDING[style].format(html.escape(honest_words(generator, 250)))

        def page(source):
            matched = _BODY.search(source)
            at = matched.end() if matched else 0
            return source[:at] + hidden + source[at:]

        return rewritten(as_page(raw), page=page)

    stuff.__doc__ = f"250 honest words before the text, hidden by {style}."
    return stuff


# -- form ----------------------------------------------------------------------------------------


def _preamble(empty_lines):
    def put_before(raw, generator):
        honest = honest_words(generator, 600)

        def page(source):
            matched = _BODY.search(source)
            at = matched.end() if matched else 0
            before = f"<p>{html.escape(honest)}</p>" + "<br>" * empty_lines
            return source[:at] + before + source[at:]

        return rewritten(
            raw, text=lambda source: honest + "\n" * (empty_lines + 1) + source, page=page
        )

    put_before.__doc__ = f"600 honest words, visible, {empty_lines} lines above the text."
    return put_before


def _appendix(empty_lines):
    def put_behind(raw, generator):
        honest = honest_words(generator, 600)

        def page(source):
            at = source.lower().rfind("</body")
            at = len(source) if at < 0 else at
            return (
                source[:at] + "<br>" * empty_lines + f"<p>{html.escape(honest)}</p>" + source[at:]
            )

        return rewritten(
            raw, text=lambda source: source + "\n" * (empty_lines + 1) + honest, page=page
        )

    put_behind.__doc__ = f"600 honest words, visible, {empty_lines} lines below the text."
    return put_behind


def image_only(raw, generator):
    """One picture with a link for the whole text; Subject and sender stay."""
    message = email.message_from_bytes(raw, policy=_POLICY)
    links = [link.domain for link in parse_message(raw).links if link.domain]
    target = links[0] if links else "pictures-of-offers.example"
    kept = [(n, v) for n, v in message.items() if not n.lower().startswith(("content-", "mime-"))]
    page = f'<html><body><a href="http://{target}/c"><img src="http://{target}/i.png" width="600"></a></body></html>'
    head = "".join(f"{name}: {value}\n" for name, value in kept)
    head += "MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n"
    return head.encode("utf-8", "surrogateescape") + page.encode("utf-8", "replace")


DISGUISES = {
    "look-alike letters": look_alikes,
    "zero-width characters": zero_width,
    "soft hyphens": soft_hyphens,
    "combining characters": combining,
    "accents": accents,
    "fullwidth letters": fullwidth,
    "mathematical letters": styled,
    "leetspeak": leet,
    "letters apart": spaced,
    "right-to-left override": reversed_letters,
    "turned by CSS": css_reversed,
    "odd base64": odd_base64,
    "odd quoted-printable": odd_quoted_printable,
    "UTF-16": utf16,
    "Subject in pieces": split_subject,
    "comments in words": comments,
    "words over tags": split_tags,
    "letters as entities": entities,
    "hidden letters in words": hidden_letters,
    **{f"stuffing, {style}": _stuffed(style) for style in _HIDING},
    "honest words far above": _preamble(40),
    "honest words far below": _appendix(60),
    "honest words above": _preamble(1),
    "honest words below": _appendix(1),
    "image and link only": image_only,
}
