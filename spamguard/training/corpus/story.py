"""Who writes a training text, from where, and how it is laid out: drawn to fit its label.

Honest firms write from their own domain or a known mail service and link there; fraud comes
from look-alikes, cracked sites and free mailboxes and links elsewhere, but now and then all of
it fits, and now and then honest mail has a foreign Reply-To: neither side is given away by one
mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from spamguard.html import Link

_T = TypeVar("_T")

# Services that everybody gets mail from, honest and forged. Names and domains are facts.
BRANDS: Final = tuple(
    tuple(pair.split("="))
    for pair in (
        "PayPal=paypal.com Netflix=netflix.com Amazon=amazon.com DHL=dhl.com UPS=ups.com "
        "FedEx=fedex.com Microsoft=microsoft.com Apple=apple.com Google=google.com "
        "LinkedIn=linkedin.com Facebook=facebookmail.com Instagram=instagram.com "
        "WhatsApp=whatsapp.com Spotify=spotify.com Dropbox=dropbox.com DocuSign=docusign.net "
        "Adobe=adobe.com Zoom=zoom.us Booking.com=booking.com Airbnb=airbnb.com "
        "eBay=ebay.com Vinted=vinted.com Zalando=zalando.de IKEA=ikea.com Lidl=lidl.de "
        "Santander=santander.com ING=ing.com HSBC=hsbc.com Revolut=revolut.com N26=n26.com "
        "Coinbase=coinbase.com Binance=binance.com Kraken=kraken.com Stripe=stripe.com "
        "GitHub=github.com Slack=slack.com Notion=notion.so Hetzner=hetzner.com "
        "OVHcloud=ovhcloud.com GoDaddy=godaddy.com Ionos=ionos.com Strato=strato.de "
        "Vodafone=vodafone.com Orange=orange.fr Telekom=telekom.de Swisscom=swisscom.ch "
        "PostNord=postnord.com PostNL=postnl.nl Correos=correos.es GLS=gls-group.com "
        "Rakuten=rakuten.co.jp Mercari=mercari.com Docomo=docomo.ne.jp Alipay=alipay.com "
        "Allegro=allegro.pl InPost=inpost.pl MercadoLibre=mercadolibre.com Nubank=nubank.com.br "
        "Norton=norton.com McAfee=mcafee.com Disney+=disneyplus.com Steam=steampowered.com"
    ).split()
)
_FIRM_FIRST = (
    "North Harbor Alder Bright Cedar Delta Elm Falcon Granit Helio Iris Juniper Kestrel Lumen "
    "Maple Nova Orion Pine Quartz River Sable Tern Umbra Vela Willow Xenon Yarrow Zephyr"
).split()
_FIRM_LAST = (
    "Works Logistics Media Labs Market Health Energy Travel Books Tools Garden Motors Studio "
    "Foods Systems Partners Trade Home Bank Insurance Group Digital Solutions Shop Club"
).split()
_GIVEN = {
    "de": "Anna Jonas Lena Paul Miriam Stefan Katrin Uwe",
    "fr": "Camille Lucas Chloé Hugo Manon Étienne Aïcha Benoît",
    "es": "Lucía Mateo Carmen Javier Paula Andrés Rocío Diego",
    "pt": "Ana João Beatriz Tiago Mariana Rafael Inês Bruno",
    "it": "Giulia Marco Chiara Luca Francesca Davide Elisa Paolo",
    "nl": "Sanne Daan Femke Bram Lotte Joris Anouk Sven",
    "pl": "Agnieszka Piotr Kasia Marek Ewa Tomasz Zofia Jan",
    "ru": "Анна Иван Мария Сергей Ольга Дмитрий Елена Павел",
    "uk": "Оксана Андрій Ірина Тарас Наталя Богдан Леся Юрій",
    "ja": "健太 美咲 大輔 由美 翔太 恵子 拓也 彩",
    "zh": "王伟 李娜 张敏 刘洋 陈静 杨帆 赵磊 黄丽",
    "ko": "민수 지은 현우 수진 영호 미영 준호 서연",
    "ar": "أحمد فاطمة محمد ليلى خالد مريم يوسف سارة",
    "el": "Μαρία Γιώργος Ελένη Νίκος Κατερίνα Δημήτρης Σοφία Πέτρος",
    "he": "נועה דוד יעל משה תמר איתן רחל יוסי",
    "hi": "राहुल प्रिया अमित नेहा विजय अंजलि संजय कविता",
    "tr": "Elif Mehmet Ayşe Can Zeynep Emre Fatma Burak",
    "sv": "Elsa Oskar Maja Lars Karin Johan Sofia Nils",
    "fi": "Aino Mikko Leena Jukka Sari Pekka Hanna Ville",
    "hu": "Anna Péter Eszter László Katalin Gábor Réka Zoltán",
    "cs": "Jana Petr Lucie Tomáš Eva Jiří Tereza Martin",
}
_GIVEN_DEFAULT = "Emma James Olivia Noah Sarah Daniel Grace Thomas Priya Kwame Fiona Raj"
_FAMILY = {
    "de": "Becker Hoffmann Krüger Lang Vogel Winter",
    "fr": "Moreau Lefèvre Garnier Roux Diallo Lambert",
    "es": "García Romero Navarro Molina Castro Vega",
    "it": "Rossi Conti Greco Marino Ferri Gallo",
    "ru": "Иванова Смирнов Кузнецова Попов Орлова Волков",
    "pl": "Nowak Wójcik Lewandowska Mazur Krawczyk Zając",
    "ja": "佐藤 鈴木 高橋 田中 渡辺 中村",
    "zh": "公司 经理 老师 先生 女士 主任",
}
_FAMILY_DEFAULT = "Carter Hughes Novak Silva Mensah Patel Brandt Lindqvist Okafor Reyes Doyle Kim"
_CITIES = (
    "London Berlin Paris Madrid Lisboa Roma Amsterdam Warszawa Praha Stockholm Helsinki Wien "
    "Zürich Dublin Boston Chicago Toronto Sydney Mumbai Lagos Nairobi 東京 上海 서울 Москва Київ "
    "Istanbul Αθήνα Jakarta Hanoi"
).split()
_CURRENCY = {
    "en": "$ £",
    "ja": "¥",
    "zh": "¥ 元",
    "pl": "zł",
    "cs": "Kč",
    "sv": "kr",
    "da": "kr",
    "nb": "kr",
    "hu": "Ft",
    "ru": "₽ руб.",
    "uk": "грн",
    "tr": "TL",
    "ko": "원",
    "pt": "R$ €",
    "he": "₪",
    "hi": "₹",
    "id": "Rp",
    "vi": "₫",
    "ro": "lei",
}
_PRODUCTS = (
    "Aero 300|desk lamp|Premium plan|running shoes|Pro licence|coffee grinder|Basic hosting|"
    "winter jacket|phone case|Family pack|office chair|Cloud 100 GB|water filter|e-bike|tablet"
).split("|")
_FREE_MAIL = "gmail.com outlook.com yahoo.com hotmail.com gmx.de web.de mail.ru icloud.com".split()
_MAIL_SERVICES = "list-manage.com sendgrid.net mailchi.mp hubspotemail.net brevo.com".split()
_SHORTENERS = "bit.ly tinyurl.com t.ly rb.gy cutt.ly is.gd".split()
_FREE_SITES = "web.app weebly.com pages.dev r2.dev blogspot.com firebaseapp.com glitch.me".split()
_CHEAP = "top xyz shop online site icu click info live store club buzz".split()
_HONEST = "com com com net org de fr co.uk eu io es it nl pl se com.br co.jp".split()
_CRACKED = (
    "stmarysparish.org gardencafe.com.br villa-lago.it autodoktor.pl sunrise-school.ac.in "
    "dentalplus.mx nordhaus-bau.de atelier-rive.fr kopi-utara.co.id greenfarm.co.za"
).split()
_WORDS = "account secure login service update billing support verify notice info mail my".split()
_FOOTERS = {
    "en": "Unsubscribe|Manage preferences|You receive this mail because you are a customer.|"
    "© 2026 {firm}. All rights reserved.|Privacy policy · Terms|View in browser|"
    "Please do not reply to this e-mail.",
    "de": "Abmelden|Sie erhalten diese E-Mail, weil Sie Kunde sind.|Impressum · Datenschutz|"
    "© 2026 {firm}|Im Browser ansehen|Bitte antworten Sie nicht auf diese E-Mail.",
    "fr": "Se désabonner|Vous recevez cet e-mail car vous êtes client.|Mentions légales|"
    "© 2026 {firm}|Voir dans le navigateur|Merci de ne pas répondre à ce message.",
    "es": "Darse de baja|Recibe este correo por ser cliente.|Aviso legal · Privacidad|"
    "© 2026 {firm}|Ver en el navegador|No responda a este mensaje.",
    "it": "Annulla iscrizione|Ricevi questa e-mail perché sei cliente.|Privacy|© 2026 {firm}",
    "pt": "Cancelar inscrição|Você recebeu este e-mail porque é cliente.|© 2026 {firm}|Privacidade",
    "ja": "配信停止はこちら|このメールは送信専用です。|© 2026 {firm}|プライバシーポリシー",
    "zh": "退订|此邮件由系统自动发送，请勿回复。|© 2026 {firm}|隐私政策",
    "ru": "Отписаться|Вы получили это письмо, так как являетесь клиентом.|© 2026 {firm}",
    "pl": "Wypisz się|Otrzymujesz tę wiadomość jako klient.|© 2026 {firm}|Polityka prywatności",
}
_PHONE_SIGNATURES = ("Sent from my iPhone", "Sent from my phone", "Von meinem iPhone gesendet")
_ATTACHED = ("pdf", "pdf", "docx", "xlsx", "png", "ics", "zip", "html", "jpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One draw: values for the placeholders, sender, links and layout."""

    values: dict[str, str]
    from_name: str
    from_address: str
    reply_to: str
    links: tuple[Link, ...]
    attachments: tuple[str, ...]
    hidden_text: bool
    is_html: bool
    layout: tuple[str, ...]

    def fill(self, text: str) -> str:
        """Put the drawn values into a text's placeholders."""
        for name, value in self.values.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def lay_out(self, text: str, link: str) -> str:
        """Return the visible text in this story's layout."""
        parts = [self.fill(part) for part in self.layout]
        at = parts.index("BODY")
        body = text if not link else f"{text}\n{link}"
        return "\n".join([*parts[:at], body, *parts[at + 1 :]])


class _Draw:
    """Draws from a generator, in words."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def chance(self, share: float) -> bool:
        return bool(self._generator.random() < share)

    def number(self, low: int, high: int) -> int:
        return int(self._generator.integers(low, high))

    def one(self, choices: Sequence[_T]) -> _T:
        return choices[int(self._generator.integers(0, len(choices)))]


def draw_story(entry: dict[str, str], generator: np.random.Generator) -> Story:
    """Draw a story that fits a text's label, sender and language."""
    draw = _Draw(generator)
    language, label, sender = entry["lang"], entry["label"], entry["sender"]
    given, family = (
        (_GIVEN.get(language, _GIVEN_DEFAULT)).split(),
        (_FAMILY.get(language, _FAMILY_DEFAULT)).split(),
    )
    firm, domain = _firm(draw)
    person = f"{draw.one(given)} {draw.one(family)}"
    is_firm = sender in {"firm", "system"}
    from_domain, link_domain, shown = _domains(draw, label, firm, domain, is_firm=is_firm)
    local = draw.one(["info", "service", "no-reply", "news", "hello", "support", "billing"])
    if not is_firm:
        local = f"{draw.one(['a', 'm', 'kj', 'tom', 'lisa', 'office'])}{draw.number(1, 99)}"
    has_link = bool(entry["link"]) or "{url}" in entry["text"]
    links = []
    if has_link or (is_firm and draw.chance(0.4)):
        links.append(Link(domain=link_domain, shown_domain=shown))
    if is_firm and draw.chance(0.2):
        links.append(Link(domain=draw.one(["facebook.com", "x.com", "w3.org"]), shown_domain=""))
    foreign_reply = {"ham": 0.05, "spam": 0.25, "phish": 0.2}[label]
    reply_to = ""
    if draw.chance(foreign_reply):
        reply_to = f"reply{draw.number(1, 99)}@{draw.one(_FREE_MAIL)}"
    elif draw.chance(0.2):
        reply_to = f"contact@{from_domain}"
    is_html = is_firm or draw.chance(0.5)
    currency = draw.one(_CURRENCY.get(language, "€").split())
    values = {
        "first": draw.one(given),
        "name": f"{draw.one(given)} {draw.one(family)}",
        "sender": person,
        "firm": firm,
        "amount": f"{draw.number(3, 4000)}.{draw.number(0, 100):02d} {currency}",
        "date": f"{draw.number(1, 29)}.{draw.number(1, 13)}.2026",
        "time": f"{draw.number(0, 24)}:{draw.number(0, 60):02d}",
        "number": f"{draw.one(['', 'A-', 'INV', 'RE', '#'])}{draw.number(10_000, 99_999_999)}",
        "city": draw.one(_CITIES),
        "product": draw.one(_PRODUCTS),
        "phone": f"+{draw.number(1, 99)} {draw.number(100, 999)} {draw.number(100_000, 999_999)}",
        "code": f"{draw.number(100_000, 999_999)}",
        "days": f"{draw.number(2, 15)}",
        "email": f"{draw.one(['info', 'me', 'user', 'j.doe'])}@{draw.one(_FREE_MAIL)}",
        "url": f"https://{link_domain}/{draw.number(100, 99_999)}",
    }
    has_attachment = draw.chance(0.3 if "attach" in entry["text"].lower() else 0.06)
    return Story(
        values=values,
        from_name=_from_name(draw, firm, person, is_firm=is_firm),
        from_address=f"{local}@{from_domain}",
        reply_to=reply_to,
        links=tuple(links),
        attachments=(draw.one(_ATTACHED),) if has_attachment else (),
        hidden_text=is_html and draw.chance(0.15),
        is_html=is_html,
        layout=_layout(draw, language, is_firm=is_firm, from_name=firm),
    )


def _firm(draw: _Draw) -> tuple[str, str]:
    if draw.chance(0.5):
        name, domain = draw.one(BRANDS)
        return name, domain
    first, last = draw.one(_FIRM_FIRST), draw.one(_FIRM_LAST)
    joint = draw.one(["", "-"])
    return f"{first} {last}", f"{first}{joint}{last}.{draw.one(_HONEST)}".lower()


def _from_name(draw: _Draw, firm: str, person: str, *, is_firm: bool) -> str:
    if not is_firm:
        return draw.one([person, person, person.split(maxsplit=1)[0], ""])
    return draw.one([firm, firm, f"{firm} Team", f"{firm} Service", f"{person} | {firm}", ""])


def _domains(
    draw: _Draw, label: str, firm: str, domain: str, *, is_firm: bool
) -> tuple[str, str, str]:
    """Return the domains of sender and link, and the domain the link's text shows or ""."""
    word = "".join(c for c in firm.lower() if c.isascii() and c.isalnum())
    strange = draw.one(
        [
            f"{word}-{draw.one(_WORDS)}.{draw.one(_CHEAP)}",
            f"{draw.one(_WORDS)}-{draw.one(_WORDS)}{draw.number(1, 99)}.{draw.one(_CHEAP)}",
            draw.one(_CRACKED),
            f"{word}{draw.number(1, 999)}.{draw.one(_FREE_SITES)}",
        ]
    )
    elsewhere = draw.one([strange, strange, draw.one(_SHORTENERS), draw.one(_CRACKED)])
    own = domain if is_firm else draw.one([draw.one(_FREE_MAIL), draw.one(_FREE_MAIL), domain])
    if label == "ham":
        link = domain if draw.chance(0.8) else draw.one([*_MAIL_SERVICES, *_SHORTENERS])
        if is_firm and draw.chance(0.08):
            own = draw.one([*_MAIL_SERVICES, *_CRACKED])
        return own, link, domain if draw.chance(0.1) else ""
    if label == "phish":
        shown = domain if draw.chance(0.3) else ""
        if draw.chance(0.1):
            return own, domain if draw.chance(0.5) else elsewhere, shown
        sender = draw.one([strange, draw.one(_CRACKED), draw.one(_FREE_MAIL), strange])
        return sender, elsewhere, shown
    spammer = f"{draw.one(_FIRM_FIRST)}{draw.one(_WORDS)}.{draw.one([*_CHEAP, 'com'])}".lower()
    sender = draw.one([spammer, spammer, draw.one(_FREE_MAIL), own])
    return sender, draw.one([spammer, elsewhere, sender]), ""


def _layout(draw: _Draw, language: str, *, is_firm: bool, from_name: str) -> tuple[str, ...]:
    """Return the parts around BODY: header line, preheader, footers, signatures."""
    before: list[str] = []
    after: list[str] = []
    if is_firm:
        footers = _FOOTERS.get(language, _FOOTERS["en"]).split("|")
        if draw.chance(0.4):
            before.append(from_name)
        if draw.chance(0.15):
            before.append(draw.one(footers))
        count = draw.number(0, 4)
        after += [draw.one(footers) for _ in range(count)]
        if draw.chance(0.2):
            after.append(f"{from_name}, {draw.one(_CITIES)}")
    elif draw.chance(0.12):
        after.append(draw.one(_PHONE_SIGNATURES))
    elif draw.chance(0.08):
        after += ["On {date} {name} wrote:", "> ok", "> {first}"]
    elif draw.chance(0.05):
        before += ["---------- Forwarded message ---------", "From: {name}", "Date: {date}"]
    return (*before, "BODY", *after)
