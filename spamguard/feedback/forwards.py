"""Inline forwards: the block of From, Date, To, Subject that mail programs put above a text.

Known by these labels alone and not by the line above them ("Forwarded message", "-----Original
Message-----"), which some programs leave out and every language words differently. What is
found is what a mail program left of a message, not the message. Attached ones are
`mail_reports.py`.
"""

import re
import unicodedata
from dataclasses import dataclass

MAX_LINES = 5000  # looked at; `parse_message` bounds the characters
MAX_VALUE_CHARS = 500  # of one field; a To list may be longer and says nothing
_MAX_BLOCK_LINES = 40  # of one header block, continuations included

# What programs write for each field, as seen in English, German, French, Spanish, Portuguese,
# Italian, Dutch, the Nordic and most Slavic languages, Hungarian, Romanian, Greek, Turkish,
# Hebrew, Arabic, Vietnamese, Indonesian, Chinese, Japanese and Korean.
_LABELS = {
    "from": "From|Von|De|Da|Van|Från|Fra|Od|Lähettäjä|Feladó|De la|Kimden|Gönderen|От|От кого|Від"
    "|Від кого|Από|מאת|من|Từ|Dari|发件人|寄件者|寄件人|差出人|送信者|보낸 사람|보낸사람"
    "|Expéditeur|Remitente|Remetente|Mittente|Afzender|Avsändare|Afsender|Avsender|Nadawca"
    "|Odesílatel|Odesilatel|Odosielateľ|Šalje|Отправитель",
    "date": "Date|Sent|Sent at|Datum|Gesendet|Gesendet am|Envoyé|Envoyé le|Date d'envoi|Fecha"
    "|Enviado|Enviado el|Enviado em|Enviada em|Data|Inviato|Data invio|Verzonden|Skickat|Sendt"
    "|Dato|Wysłano|Data wysłania|Odesláno|Odoslané|Poslano|Dátum|Elküldve|Küldve|Trimis"
    "|Gönderildi|Gönderilme Tarihi|Tarih|Lähetetty|Päivämäärä|Päiväys|Дата|Отправлено|Надіслано"
    "|Ημερομηνία|Στάλθηκε|תאריך|נשלח|تاريخ|التاريخ|تاريخ الإرسال|Ngày|Đã gửi|Tanggal|Dikirim"
    "|发送时间|日期|寄件日期|傳送日期|时间|日付|日時|送信日時|날짜|보낸 날짜",
    "to": "To|An|À|A|Para|Aan|Till|Til|Do|Komu|Címzett|Către|Kime|Alıcı|Vastaanottaja|Кому|Προς"
    "|אל|إلى|Đến|Tới|Kepada|收件人|收件者|宛先|받는 사람|받는사람|Destinataire|Destinatario"
    "|Destinatário|Geadresseerde|Mottagare|Modtager|Mottaker|Prima|Za",
    "subject": "Subject|Betreff|Objet|Sujet|Asunto|Assunto|Oggetto|Onderwerp|Ämne|Emne|Temat"
    "|Předmět|Predmet|Tárgy|Subiect|Konu|Aihe|Тема|Θέμα|נושא|موضوع|الموضوع|Chủ đề|Tiêu đề"
    "|Subjek|Perihal|主题|主旨|主題|件名|제목",
}


def _label(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


_ROLES = {_label(name): role for role, names in _LABELS.items() for name in names.split("|")}

_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?){0,20}")
_QUOTE_MARK = re.compile(r"[ \t]*>[ \t]?")
# "Label: value", bold in the plain text that Outlook writes ("*From:* Ann"); French puts a
# blank before the colon, Chinese and Japanese have a wide one.
_FIELD = re.compile(
    r"[*_\u200e\u200f]{0,2}([^\W\d_][^:：*\n]{0,24}?)[*_ \t\xa0]{0,3}[:：][*_]{0,2}(.*)"
)
_MAILTO = re.compile(r"\[mailto:([^\]\s]{1,250})\]")
_END = re.compile(r"-{3,}[ \t]*end\b.{0,80}-{3,}[ \t]*|-{30,}[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """What is left of a message in a forward: values as the mail program showed them.

    Attributes:
        fields: from, date, to, subject, as far as they were there.
        text: what stood below them.
        comment: what the forwarder wrote above.
    """

    fields: dict[str, str]
    text: str
    comment: str

    def as_message(self, message_id: str = "") -> bytes:
        """Put a small message together (RFC 6532: its fields may be UTF-8)."""
        fields = [(name.title(), self.fields.get(name, "")) for name in _LABELS]
        fields += [
            ("Message-ID", message_id),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
        ]
        head = "".join(f"{name}: {_one_line(value)}\r\n" for name, value in fields if value)
        body = "\r\n".join(self.text.splitlines())
        return f"{head}\r\n{body}\r\n".encode("utf-8", "replace")


def find_forward(text: str) -> Forwarded | None:
    """Return the first message forwarded inside a text, or None.

    Args:
        text: of a message, as `parse_message` gives it, bounded.
    """
    lines = text.split("\n")[:MAX_LINES]
    for start, line in enumerate(lines):
        quote = _QUOTE.match(line)
        depth = quote.group().count(">") if quote else 0
        matched = _FIELD.fullmatch(line[quote.end() if quote else 0 :].rstrip())
        if matched is None or _label(matched[1]) not in _ROLES:
            continue
        fields, length = _read_block(
            [_unquoted(following, depth) for following in lines[start : start + _MAX_BLOCK_LINES]]
        )
        if "from" in fields and len(fields) >= 3:
            rest = [_unquoted(following, depth) for following in lines[start + length :]]
            return Forwarded(
                fields=fields,
                text="\n".join(_without_end(rest)).strip(),
                comment=_comment(lines[:start]),
            )
    return None


def _unquoted(line: str, depth: int) -> str:
    """Take off as many quote marks as the block's first line has."""
    for _ in range(depth):
        matched = _QUOTE_MARK.match(line)
        line = line[matched.end() :] if matched else line
    return line.rstrip("\r")


def _read_block(lines: list[str]) -> tuple[dict[str, str], int]:
    """Return the fields that the lines begin with and how many lines they are."""
    fields: dict[str, str] = {}
    role, length = "", 0
    for number, line in enumerate(lines):
        if not line.strip():
            return fields, number
        matched = _FIELD.fullmatch(line.strip())
        known = _ROLES.get(_label(matched[1]), "") if matched else ""
        if matched and known and known not in fields:
            role = known
            fields[role] = _value(matched[2])
        elif role and (not fields[role] or line[0] in " \t"):
            fields[role] = _value(f"{fields[role]} {line}")  # folded, or in the next table cell
        elif matched and not known:
            role = ""  # Cc, Reply-To, Importance: it belongs here when one we know follows
            continue
        else:
            return fields, length
        length = number + 1
    return fields, length


def _value(text: str) -> str:
    return _MAILTO.sub(r"<\1>", text.strip())[:MAX_VALUE_CHARS]


def _one_line(value: str) -> str:
    """Leave nothing that could end a header line."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def _without_end(lines: list[str]) -> list[str]:
    """Cut at the line with which mutt and KMail end a forward."""
    for number, line in enumerate(lines):
        if number and _END.fullmatch(line.strip()[:200]):
            return lines[:number]
    return lines


def _comment(lines: list[str]) -> str:
    """What stands above, without the separator that a program put there."""
    words = [line for line in lines if re.search(r"\w", line) and not _is_separator(line)]
    return _one_line(" ".join(words))[:MAX_VALUE_CHARS]


def _is_separator(line: str) -> bool:
    return line.lstrip(" >").startswith(("---", "___", "==="))
