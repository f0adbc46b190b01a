"""What a message is: its envelope, and what can be read of its bytes.

`parse_message` never raises and its cost is bounded whatever the bytes are: it looks at the
first `MAX_PARSED_BYTES`, at so many header fields, parts and levels, and says in `defects`
what it left out. MIME structure is split here and not by `email.parser`, whose cost grows
with depth times lines and which raises RecursionError on deep nesting; header parameters,
encoded words, addresses and transfer encodings are the standard library's.

What the model reads of all this is `model_input.py`; how HTML becomes text is `html.py`.
"""

import binascii
import email.header
import email.message
import email.utils
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from spamguard import html
from spamguard.charsets import codec_of

# Limits. Each bounds the work that one message can cause; typical mail is far below.
MAX_PARSED_BYTES = 512 * 1024  # text stands before attachments in practice
MAX_HEADER_BYTES = 64 * 1024  # of one header section; the largest honest ones are near 20 KB
MAX_HEADER_FIELDS = 400
MAX_FIELD_BYTES = 2048  # of one field's value: names, subjects, parameters fit ten times
MAX_PARTS = 100  # leaves and multiparts together
MAX_DEPTH = 16  # nested multiparts and attached messages
MAX_TEXT_CHARS = 64 * 1024  # of plain text kept, over all parts
MAX_HTML_CHARS = 256 * 1024  # of HTML source read, over all parts
MAX_LINKS = 64
MAX_BASE64_PIECES = 20_000  # of one part; a padding after each line of 16 bytes fits
MAX_ATTACHMENTS = 16

# Begins where a word begins: else a long word without "@" costs the square of its length.
_BARE_ADDRESS = re.compile(r"(?<![^\s<>,;\"])[^\s<>,;\"]+@[^\s<>,;\"]+")
_URL = re.compile(r"\bhttps?://[^\s<>\"')\]]{4,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The SMTP side of a message, as far as the frontend was told.

    Attributes:
        frontend: which door it came through: milter, smtp, scan.
        reverse_path: MAIL FROM without angle brackets; "" is the null reverse path.
        recipients: RCPT TO without angle brackets, in order.
        queue_id: the MTA's id, or "".
        client_ip: the SMTP client's address, or None when the MTA did not say.
        client_name: its name, or "".
        helo: what it said at HELO, or "".
        authenticated_user: the SASL login, or "".
        received_at: seconds since the epoch.
    """

    frontend: str
    reverse_path: str
    recipients: tuple[str, ...]
    queue_id: str = ""
    client_ip: str | None = None
    client_name: str = ""
    helo: str = ""
    authenticated_user: str = ""
    received_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMessage:
    """What could be read of a message. All text is decoded; nothing is normalised yet.

    Attributes:
        fingerprint: hash of the content, see `fingerprint_of`.
        message_id: the Message-ID field, or "".
        headers: (lower-case name, unfolded value) of the top header section, in order.
        text: text/plain parts, joined.
        html_text: visible text of the text/html parts, joined.
        links: links of HTML and plain text, in order, without repeats.
        attachment_types: file extensions or MIME subtypes of what is attached.
        hidden_text: whether so much HTML text was found that no reader sees that it is no preview.
        defects: short words for what is wrong with the form or was left out.
        truncated: whether any limit cut something off.
    """

    fingerprint: str
    message_id: str
    headers: tuple[tuple[str, str], ...]
    text: str
    html_text: str
    links: tuple[html.Link, ...]
    attachment_types: tuple[str, ...]
    hidden_text: bool
    defects: tuple[str, ...]
    truncated: bool

    def header(self, name: str) -> str:
        """Return the first field of that name with encoded words decoded, or ""."""
        return next((decode_words(v) for n, v in self.headers if n == name), "")

    def address(self, name: str) -> tuple[str, str]:
        """Return (display name, address) of the first address in a field, or ("", "")."""
        return _first_address(next((v for n, v in self.headers if n == name), ""))

    @property
    def from_domain(self) -> str:
        """Domain of the From address in lower case, or ""."""
        return domain_of_address(self.address("from")[1])

    @property
    def authentication_results(self) -> tuple[str, ...]:
        """The topmost Authentication-Results fields, at most four."""
        return tuple(v for n, v in self.headers if n == "authentication-results")[:4]


@functools.lru_cache(maxsize=4)  # a message's From is asked for three times
def _first_address(value: str) -> tuple[str, str]:
    try:
        display_name, address = email.utils.parseaddr(value)
    except RecursionError:  # it goes into "((((" one call deeper for each
        display_name, address = "", ""
    if "@" not in address and "@" in value:  # e.g. an unquoted comma or colon in the name
        found = _BARE_ADDRESS.search(value)
        address = found.group() if found else ""
        display_name = display_name or value.partition("<")[0]
    return decode_words(display_name).strip(' "'), address


@dataclass(slots=True)
class _Findings:
    """What the walk over the parts has gathered so far."""

    text: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    attachment_types: list[str] = field(default_factory=list)
    defects: dict[str, None] = field(default_factory=dict)  # an ordered set
    text_chars: int = 0
    html_chars: int = 0
    parts: int = 0
    truncated: bool = False

    def cut(self, defect: str) -> None:
        self.defects[defect] = None
        self.truncated = True


def parse_message(raw: bytes) -> ParsedMessage:
    """Read a message as far as its limits allow. Never raises; see the module's text."""
    found = _Findings()
    if len(raw) > MAX_PARSED_BYTES:
        found.cut("large")
    head = raw[:MAX_PARSED_BYTES]
    if b"\0" in head:
        found.defects["nul"] = None
        head = head.replace(b"\0", b"")
    fields, body = _split_section(head, found)
    if not fields:
        found.defects["no-header"] = None
    _walk(fields, body, found)

    plain = "\n".join(found.text)
    page = html.extract("\n".join(found.html)) if found.html else html.EMPTY
    for defect in page.defects:
        found.defects[defect] = None
    links = list(page.links)
    urls = itertools.islice(_urls(plain[:MAX_TEXT_CHARS]), max(0, MAX_LINKS - len(links)))
    links += [html.Link(domain=html.domain_of(url), shown_domain="") for url in urls]
    subject = next((v for n, v in fields if n == "subject"), "")
    visible = page.text or plain
    return ParsedMessage(
        fingerprint=fingerprint_of(subject, visible) if visible.strip() else _raw_hash(raw),
        message_id=next((v.strip() for n, v in fields if n == "message-id"), "")[:250],
        headers=tuple(fields),
        text=plain,
        html_text=page.text,
        links=tuple(dict.fromkeys(links))[:MAX_LINKS],
        attachment_types=tuple(dict.fromkeys(found.attachment_types))[:MAX_ATTACHMENTS],
        hidden_text=page.hidden_text,
        defects=tuple(found.defects),
        truncated=found.truncated or page.truncated,
    )


def _urls(text: str) -> Iterator[str]:
    """Yield the URLs of a plain text, in order.

    They are looked for from each "://", which is found at once; for the pattern alone each
    letter may be the beginning.
    """
    place = text.find("://")
    while place >= 0:
        for start in (place - 5, place - 4):  # of "https", "http"
            if start >= 0 and (matched := _URL.match(text, start)):
                yield matched.group()
                place = matched.end() - 1
                break
        place = text.find("://", place + 1)


def domain_of_address(address: str) -> str:
    """Return the domain of a mail address in lower case, or "" when there is none."""
    return address.rpartition("@")[2].lower().strip(".> ") if "@" in address else ""


_ASCII = re.compile(r"[\x00-\x7f]+")
_NOT_LETTER = re.compile(r"[\W\d_]+")
_MAX_NOT_LETTERS = 32  # different ones, each removed by itself: more than the quotes of a language
_ASCII_NOT_LETTERS = bytes(n for n in range(128) if not chr(n).isalpha())


def fingerprint_of(subject: str, text: str) -> str:
    """Return 32 hex digits naming the content: letters only, case and layout ignored.

    Two deliveries of one mailing share it even when amounts, dates or numbers differ.
    """
    content = f"{subject}\n{text}"
    if not content.isascii():
        others = set(filter(_NOT_LETTER.match, set(_ASCII.sub("", content))))
        if len(others) > _MAX_NOT_LETTERS:
            content = _NOT_LETTER.sub("", content)
        else:
            for other in others:
                content = content.replace(other, "")
    # Of what is ASCII this leaves the same as the pattern would, in a tenth of the time.
    letters = (
        content.casefold().encode("utf-8", "surrogatepass").translate(None, _ASCII_NOT_LETTERS)
    )
    return hashlib.sha256(letters).hexdigest()[:32]


def _raw_hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]


# -- structure -------------------------------------------------------------------------------

_LF = 0x0A
_EMPTY_LINE = re.compile(rb"\n\r*+\n")
_FIELD_NAME = re.compile(rb"[!-9;-~]{1,200}[ \t]*:")  # RFC 5322 section 2.2: printable but ":"


def _split_section(data: bytes, found: _Findings) -> tuple[list[tuple[str, str]], bytes]:
    """Split data into header fields (lower-case name, unfolded value) and body.

    The first line that is neither a field nor a continuation ends the header section, as
    mail readers do it; an mbox "From " line before the first field is skipped.
    """
    fields: list[tuple[str, str]] = []
    name, value, size = "", b"", 0
    position = 0
    if data.startswith((b"From ", b">From ")):
        position = data.find(b"\n") + 1 or len(data)
    empty_line = _EMPTY_LINE.search(data, position)
    lines = data[position : empty_line.start() if empty_line else len(data)].split(b"\n")
    for whole_line in lines:
        line = whole_line.rstrip(b"\r")
        if not line:
            position += len(whole_line) + 1
            break
        if line[:1] in b" \t" and name:
            if len(value) < MAX_FIELD_BYTES:
                value += b" " + line.strip()
        elif matched := _FIELD_NAME.match(line, 0, 210):
            if name:
                fields.append((name, _field_text(value, found)))
            name = matched.group()[:-1].rstrip().decode("ascii").lower()
            value = line[matched.end() :].strip()
        else:
            if name or fields:
                found.defects["header"] = None
            break
        size += len(whole_line)
        position += len(whole_line) + 1
        if size > MAX_HEADER_BYTES or len(fields) >= MAX_HEADER_FIELDS:
            found.cut("header-size")
            position = _end_of_section(data, position)
            break
    else:
        position = empty_line.end() if empty_line else len(data)
    if name:
        fields.append((name, _field_text(value, found)))
    return fields, data[position:]


def _end_of_section(data: bytes, position: int) -> int:
    """Return where the body begins when the rest of the header section is skipped."""
    matched = re.compile(rb"\r?\n\r?\n").search(data, max(0, position - 2))
    return matched.end() if matched else len(data)


def _field_text(value: bytes, found: _Findings) -> str:
    if len(value) > MAX_FIELD_BYTES:
        found.defects["field-size"] = None  # DKIM and References do this; the text is whole
        value = value[:MAX_FIELD_BYTES]
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        pass
    try:
        return value.decode("utf-8")  # RFC 6532
    except UnicodeDecodeError:
        found.defects["raw-8bit-header"] = None
        return value.decode("latin-1")


def _walk(fields: list[tuple[str, str]], body: bytes, found: _Findings) -> None:
    """Visit the parts depth first, in order, with an explicit stack."""
    stack: list[tuple[list[tuple[str, str]], bytes, int]] = [(fields, body, 0)]
    while stack:
        fields, body, depth = stack.pop()
        found.parts += 1
        if found.parts > MAX_PARTS:
            found.cut("parts")
            return
        part = _part_header(fields)
        content_type = part.get_content_type()
        if content_type.startswith("multipart/"):
            boundary = _parameter(part, "boundary").rstrip()
            pieces = _split_parts(body, boundary, found) if boundary else []
            if not pieces:
                found.defects["boundary"] = None
                _leaf(part, "text/plain", body, found)
            elif depth >= MAX_DEPTH:
                found.cut("depth")
            else:
                sections = (_split_section(piece, found) for piece in pieces)
                stack.extend(reversed([(f, b, depth + 1) for f, b in sections]))
        elif content_type == "message/rfc822" and depth < MAX_DEPTH:
            found.attachment_types.append("message")
            inner, inner_body = _split_section(_decode_transfer(part, body, found), found)
            subject = next((decode_words(v) for n, v in inner if n == "subject"), "")
            found.text.append(subject)
            stack.append((inner, inner_body, depth + 1))
        else:
            _leaf(part, content_type, body, found)


def _part_header(fields: Iterable[tuple[str, str]]) -> email.message.Message:
    """Let the standard library read the parameters of the three fields that matter."""
    part = email.message.Message()
    for name in ("content-type", "content-disposition", "content-transfer-encoding"):
        value = next((v for n, v in fields if n == name), None)
        if value is not None:
            part[name] = value
    return part


def _parameter(part: email.message.Message, name: str, field: str = "content-type") -> str:
    """Return a parameter of a field, or "" where there is none that can be read."""
    try:
        value = part.get_param(name, "", field)
    except (ValueError, LookupError, TypeError):
        # TypeError: "name*" beside "name*0*"; email.utils cannot sort them.
        return ""
    if isinstance(value, tuple):  # RFC 2231 section 4: charset, language, octets
        charset, _, octets = value
        codec = codec_of(charset or "us-ascii") or "latin-1"
        return octets.encode("latin-1", "replace").decode(codec, "replace")
    return value


def _split_parts(body: bytes, boundary: str, found: _Findings) -> list[bytes]:
    """Split at the delimiter lines of RFC 2046 section 5.1.1, leaving out the preamble."""
    delimiter = b"--" + boundary.encode("utf-8", "replace")
    pieces: list[bytes] = []
    start, place = -1, 0
    while (found_at := body.find(delimiter, place)) >= 0:
        place = found_at + 1
        before = _line_break_before(body, found_at)
        matched = _DELIMITER_END.match(body, found_at + len(delimiter))
        if matched is None or before < 0 or before < start:
            continue
        if start >= 0:
            pieces.append(_without_line_break(body[start:before]))
        start = place = matched.end()
        if matched.group(1):
            return pieces
        if len(pieces) >= MAX_PARTS:
            found.cut("parts")
            return pieces
    if start >= 0:  # the closing delimiter is missing: cut off, or forgotten
        pieces.append(_without_line_break(body[start:]))
        found.defects["unclosed"] = None
    return pieces


_DELIMITER_END = re.compile(rb"(--)?[ \t]*+(?=\r?\n|\Z)")


def _line_break_before(body: bytes, place: int) -> int:
    """Return where the line break before a place begins, -1 where there is none; 0 has none."""
    if place == 0:
        return 0
    if body[place - 1] != _LF:
        return -1
    return place - 2 if body[place - 2 : place - 1] == b"\r" else place - 1


def _without_line_break(piece: bytes) -> bytes:
    """Drop the line break that ends the delimiter line."""
    return piece[2:] if piece.startswith(b"\r\n") else piece[1:]


def _filename(part: email.message.Message) -> str:
    found = _parameter(part, "filename", "content-disposition") or _parameter(part, "name")
    return found.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One part that holds no others; an attached message counts as such.

    Attributes:
        content_type: in lower case.
        filename: as its sender named it, or "".
        body: with the transfer encoding undone.
    """

    content_type: str
    filename: str
    body: bytes


def leaves(raw: bytes) -> list[Leaf]:
    """Return the parts of a message in order, at most `MAX_PARTS`, never raising.

    Unlike `parse_message` this reads bytes of any number and leaves attached messages whole:
    for who wants the attachments themselves.
    """
    found = _Findings()
    kept: list[Leaf] = []
    stack = [(*_split_section(raw, found), 0, "text/plain")]
    while stack and found.parts < MAX_PARTS:
        fields, body, depth, default = stack.pop()
        found.parts += 1
        part = _part_header(fields)
        part.set_default_type(default)
        content_type = part.get_content_type()
        is_multipart = content_type.startswith("multipart/") and depth < MAX_DEPTH
        boundary = _parameter(part, "boundary").rstrip() if is_multipart else ""
        if pieces := _split_parts(body, boundary, found) if boundary else []:
            # RFC 2046 section 5.1.5: what a digest does not declare is a message.
            inner = "message/rfc822" if content_type == "multipart/digest" else "text/plain"
            sections = (_split_section(piece, found) for piece in pieces)
            stack.extend(reversed([(f, b, depth + 1, inner) for f, b in sections]))
        else:
            data = _decode_transfer(part, body, found)
            kept.append(Leaf(content_type=content_type, filename=_filename(part), body=data))
    return kept


def _leaf(part: email.message.Message, content_type: str, body: bytes, found: _Findings) -> None:
    disposition = (part.get_content_disposition() or "").lower()
    filename = _filename(part)
    is_text = content_type in {"text/plain", "text/html", "text/calendar"} or (
        content_type.startswith(("text/", "message/")) and not filename
    )
    if disposition == "attachment" or not is_text or filename:
        extension = filename.rpartition(".")[2].lower()
        subtype = content_type.partition("/")[2]
        kind = extension if 0 < len(extension) <= 5 and extension.isalnum() else subtype
        found.attachment_types.append(kind[:16])
        if disposition == "attachment" or not is_text:
            return
    room = MAX_HTML_CHARS - found.html_chars
    if content_type != "text/html":
        room = MAX_TEXT_CHARS - found.text_chars
    if room <= 0:
        found.cut("text-size")
        return
    # Four encoded bytes at most for one character that is kept (base64 of UTF-16; RFC 2045).
    if len(body) > 4 * room:
        body = body[: 4 * room]
        found.cut("text-size")
    text = _decode_charset(part, _decode_transfer(part, body, found), found)
    if len(text) > room:
        text = text[:room]
        found.cut("text-size")
    if content_type == "text/html" or ("content-type" not in part and _LOOKS_LIKE_HTML.match(text)):
        found.html.append(text)
        found.html_chars += len(text)
    else:
        found.text.append(text)
        found.text_chars += len(text)


# A body that nothing declares, but which is HTML: corpora without headers, careless senders.
_LOOKS_LIKE_HTML = re.compile(
    r"\s*<(?:!doctype|html|head|body|div|table|center|style|meta)\b", re.IGNORECASE
)
_NOT_BASE64 = bytes(set(range(256)) - set(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
))  # fmt: skip


_PADDED_BREAK = re.compile(rb"=[ \t]{1,80}(?=\r?\n)")
_PADDING = re.compile(rb"=[=\s]*")


def _decode_transfer(part: email.message.Message, body: bytes, found: _Findings) -> bytes:
    encoding = str(part.get("content-transfer-encoding", "")).strip().lower()
    if encoding == "quoted-printable":
        # Blanks behind a soft line break are the transport's (RFC 2045 section 6.7, rule 3).
        return binascii.a2b_qp(_PADDED_BREAK.sub(b"=", body) if b"= " in body else body)
    if encoding == "base64":
        # Tolerant as mail readers are: other characters are skipped (RFC 2045 section 6.8).
        clean = body.translate(None, _NOT_BASE64)
        if len(clean) < 0.9 * len(body.translate(None, b"\r\n= \t")):
            found.defects["base64"] = None
        # Padding in the middle ends a piece and not the text: mail readers go on behind it.
        is_whole = b"=" not in body.rstrip(b"\r\n\t =")
        pieces = [clean] if is_whole else _PADDING.split(body, MAX_BASE64_PIECES)
        return b"".join(map(_decode_piece, pieces[:MAX_BASE64_PIECES]))
    return body


def _decode_piece(piece: bytes) -> bytes:
    clean = piece.translate(None, _NOT_BASE64)
    if len(clean) % 4 == 1:
        clean = clean[:-1]  # six bits are no byte
    return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4))


def _decode_charset(part: email.message.Message, data: bytes, found: _Findings) -> str:
    declared = _parameter(part, "charset")
    codec = codec_of(declared)
    if declared and not codec:
        found.defects["charset"] = None
    if codec not in {"", "ascii", "utf_8"}:
        try:
            return data.decode(codec)
        except ValueError:
            found.defects["charset"] = None
    return _guess_charset(data, codec, found)


def _guess_charset(data: bytes, declared: str, found: _Findings) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # cut inside the last character
            return data.decode("utf-8", "ignore")
        found.defects["charset"] = None
    for codec in (declared, "iso2022_jp" if b"\x1b$" in data else ""):
        if codec not in {"", "ascii", "utf_8"}:
            return data.decode(codec, "replace")
    return data.decode("cp1252", "replace")


def decode_words(value: str) -> str:
    """Decode the encoded words of a header value (RFC 2047); broken ones stay as they are."""
    if "=?" not in value:
        return value
    try:
        chunks = email.header.decode_header(value[:MAX_FIELD_BYTES])
    except (email.errors.HeaderParseError, ValueError, binascii.Error):
        return value
    words = []
    for chunk, charset in chunks:
        if isinstance(chunk, str):
            words.append(chunk)
            continue
        words.append(chunk.decode(codec_of(charset or "utf-8") or "latin-1", "replace"))
    return "".join(words)


# -- editing ---------------------------------------------------------------------------------


def edit_headers(
    raw: bytes,
    *,
    delete: Iterable[str] = (),
    add: Iterable[tuple[str, str]] = (),
    subject_prefix: str = "",
) -> bytes:
    """Return the message with header fields changed and every other byte as it was.

    One byte more may change: see `without_hidden`.

    Args:
        raw: the whole message.
        delete: names of fields to remove from the top header section, wherever they stand.
        add: (name, value) pairs to put before the first field, in this order; one line each.
        subject_prefix: put before the Subject's value; a message without Subject gets one.
    """
    line_end = b"\n" if raw.find(b"\r\n") < 0 and b"\n" in raw else b"\r\n"
    names = {name.lower().encode() for name in delete}
    new = b"".join(f"{name}: {value}".encode() + line_end for name, value in add)
    prefix = subject_prefix.encode()
    kept: list[bytes] = []
    position, drop, has_subject = 0, False, False
    while position < len(raw):
        end = raw.find(b"\n", position) + 1 or len(raw)
        line = without_hidden(raw[position:end], names)
        if line[:1] in (b" ", b"\t") and (kept or drop):
            if not drop:
                kept.append(line)
        elif matched := _FIELD_NAME.match(line[:210]):
            name = matched.group()[:-1].rstrip().lower()
            drop = name in names
            if name == b"subject" and prefix and not has_subject:
                has_subject = True
                line = matched.group() + b" " + prefix + line[matched.end() :].lstrip(b" \t")
            if not drop:
                kept.append(line)
        elif position == 0 and line.startswith(b"From "):
            new = line + new  # an mbox line stays first
        else:
            break
        position = end
    if prefix and not has_subject:
        kept.append(b"Subject: " + prefix.rstrip() + line_end)
    rest = raw[position:]
    if rest and not rest.startswith((b"\r\n", b"\n")):
        rest = line_end + rest  # a body without the empty line before it
    return new + b"".join(kept) + rest


def without_hidden(line: bytes, names: Iterable[bytes]) -> bytes:
    """Return header lines without fields of these names that a bare CR hides in them.

    Some readers take a CR for a line end, Python's email package for one, and would find a forged
    field of ours behind it. RFC 5322 section 2.2 forbids it; it becomes a blank where it matters.
    """
    if b"\r" not in line.rstrip(b"\r\n"):
        return line
    hidden = rb"\r(?=(?:" + b"|".join(map(re.escape, names)) + rb")[ \t]*:)"
    return re.sub(hidden, b" ", line, flags=re.IGNORECASE) if names else line
