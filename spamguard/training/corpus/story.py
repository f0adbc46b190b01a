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
# What stands around a text, by language, alternatives behind "||": in the mail that firms send,
# and in people's.
_FRAGMENTS: Final = {
    "unsubscribe": {
        "en": "Unsubscribe||If you no longer wish to receive these e-mails, unsubscribe here.",
        "de": "Abmelden||Wenn Sie keine E-Mails mehr erhalten möchten, klicken Sie hier.",
        "fr": "Se désabonner||Pour ne plus recevoir nos messages, cliquez ici.",
        "es": "Darse de baja||Si no desea recibir más correos, haga clic aquí.",
        "it": "Annulla iscrizione||Per non ricevere altre e-mail clicchi qui.",
        "pt": "Cancelar inscrição||Se não quiser receber mais e-mails, clique aqui.",
        "nl": "Afmelden||Wilt u geen e-mails meer ontvangen? Meld u hier af.",
        "pl": "Wypisz się||Aby zrezygnować z otrzymywania wiadomości, kliknij tutaj.",
        "ru": "Отписаться||Чтобы не получать рассылку, нажмите здесь.",
        "tr": "Abonelikten çık||Bu e-postaları almak istemiyorsanız buraya tıklayın.",
        "ja": "配信停止はこちら",
        "zh": "退订",
        "ko": "수신거부",
        "sv": "Avregistrera",
        "ar": "إلغاء الاشتراك",
    },
    "because": {
        "en": "You receive this mail because you are a customer.||Sent to {email}.",
        "de": "Sie erhalten diese E-Mail, weil Sie Kunde sind.||Gesendet an {email}.",
        "fr": "Vous recevez cet e-mail car vous êtes client.||Envoyé à {email}.",
        "es": "Recibe este correo por ser cliente.||Enviado a {email}.",
        "it": "Ricevi questa e-mail perché sei cliente.",
        "pt": "Você recebeu este e-mail porque é cliente.",
        "nl": "U ontvangt deze e-mail omdat u klant bent.",
        "pl": "Otrzymujesz tę wiadomość jako klient.",
        "ru": "Вы получили это письмо, так как являетесь клиентом.",
        "ja": "本メールはご登録の皆様にお送りしています。",
        "zh": "您收到此邮件是因为您是我们的客户。",
        "ko": "본 메일은 회원님께 발송되었습니다.",
    },
    "no-reply": {
        "en": "Please do not reply to this e-mail.||This mailbox is not monitored.",
        "de": "Bitte antworten Sie nicht auf diese E-Mail.||Automatisch erzeugte Nachricht.",
        "fr": "Merci de ne pas répondre à ce message.",
        "es": "No responda a este mensaje.",
        "it": "Non rispondere a questo messaggio.",
        "pt": "Não responda a esta mensagem.",
        "nl": "Reageren op deze e-mail is niet mogelijk.",
        "pl": "Prosimy nie odpowiadać na tę wiadomość.",
        "ru": "Пожалуйста, не отвечайте на это письмо.",
        "ja": "このメールは送信専用です。",
        "zh": "此邮件由系统自动发送，请勿回复。",
        "ko": "본 메일은 발신전용입니다.",
    },
    "browser": {
        "en": "View in browser||Having trouble reading this? View it online.",
        "de": "Im Browser ansehen",
        "fr": "Voir dans le navigateur",
        "es": "Ver en el navegador",
        "it": "Visualizza nel browser",
        "pt": "Ver no navegador",
        "nl": "Bekijk in browser",
        "pl": "Zobacz w przeglądarce",
        "ru": "Открыть в браузере",
    },
    "legal": {
        "en": "Privacy policy · Terms · Contact||Registered in England. All rights reserved.",
        "de": "Impressum · Datenschutz · AGB||Geschäftsführer: {name}, HRB {number}",
        "fr": "Mentions légales · Confidentialité",
        "es": "Aviso legal · Privacidad",
        "it": "Privacy · Termini · P. IVA {number}",
        "pt": "Privacidade · Termos · CNPJ {number}",
        "nl": "Privacy · Voorwaarden · KvK {number}",
        "pl": "Polityka prywatności · Regulamin",
        "ru": "Политика конфиденциальности",
        "ja": "プライバシーポリシー | 特定商取引法に基づく表記",
        "zh": "隐私政策 | 服务条款",
        "ko": "개인정보처리방침 | 이용약관",
    },
    "navigation": {
        "en": "Home | Shop | Sale | Help||New in · Women · Men · Kids · Home",
        "de": "Neu | Damen | Herren | Sale | Hilfe",
        "fr": "Nouveautés | Femme | Homme | Soldes",
        "es": "Inicio | Tienda | Ofertas | Ayuda",
        "it": "Novità | Donna | Uomo | Saldi",
        "pt": "Início | Loja | Ofertas | Ajuda",
        "ja": "トップ | 新着 | ランキング | ヘルプ",
        "zh": "首页 | 新品 | 优惠 | 帮助",
    },
    "rows": {
        "en": "Item  Qty  Price\n{product}  1  {amount}\nTotal  {amount}",
        "de": "Artikel  Menge  Preis\n{product}  1  {amount}\nSumme  {amount}",
        "fr": "Article  Qté  Prix\n{product}  1  {amount}\nTotal  {amount}",
        "es": "Artículo  Cant.  Precio\n{product}  1  {amount}\nTotal  {amount}",
        "ja": "商品名  数量  金額\n{product}  1  {amount}\n合計  {amount}",
        "zh": "商品  数量  金额\n{product}  1  {amount}\n合计  {amount}",
    },
    "details": {
        "en": "Reference: {number}\nDate: {date}\nAmount: {amount}",
        "de": "Vorgang: {number}\nDatum: {date}\nBetrag: {amount}",
        "fr": "Référence : {number}\nDate : {date}\nMontant : {amount}",
        "es": "Referencia: {number}\nFecha: {date}\nImporte: {amount}",
        "pt": "Referência: {number}\nData: {date}\nValor: {amount}",
        "it": "Riferimento: {number}\nData: {date}\nImporto: {amount}",
        "ru": "Номер: {number}\nДата: {date}\nСумма: {amount}",
        "ja": "番号：{number}\n日付：{date}",
    },
    "wrote": {
        "en": "On {date} {name} wrote:\n> ok, thanks\n> {first}",
        "de": "Am {date} schrieb {name}:\n> alles klar, danke\n> {first}",
        "fr": "Le {date}, {name} a écrit :\n> d'accord, merci\n> {first}",
        "es": "El {date}, {name} escribió:\n> de acuerdo, gracias\n> {first}",
        "it": "Il {date} {name} ha scritto:\n> va bene, grazie\n> {first}",
        "pt": "Em {date}, {name} escreveu:\n> ok, obrigado\n> {first}",
        "nl": "Op {date} schreef {name}:\n> prima, dank je\n> {first}",
        "ru": "{date}, {name} пишет:\n> хорошо, спасибо\n> {first}",
        "ja": "{date} {name}:\n> 了解です\n> {first}",
    },
    "forwarded": {
        "en": "---------- Forwarded message ---------\nFrom: {name}\nDate: {date}",
        "de": "-------- Weitergeleitete Nachricht --------\nVon: {name}\nDatum: {date}",
        "fr": "---------- Message transféré ---------\nDe : {name}\nDate : {date}",
        "es": "---------- Mensaje reenviado ---------\nDe: {name}\nFecha: {date}",
    },
    "phone": {
        "en": "Sent from my iPhone||Sent from my phone, please excuse typos",
        "de": "Von meinem iPhone gesendet",
        "fr": "Envoyé de mon iPhone",
        "es": "Enviado desde mi iPhone",
        "it": "Inviato da iPhone",
        "pt": "Enviado do meu iPhone",
        "nl": "Verstuurd vanaf mijn iPhone",
        "ja": "iPhoneから送信",
        "zh": "发自我的iPhone",
    },
    "confidential": {
        "en": "This e-mail is confidential and intended for the addressee alone.",
        "de": "Diese E-Mail enthält vertrauliche Informationen.",
        "fr": "Ce message est confidentiel.",
        "es": "Este mensaje es confidencial.",
        "pt": "Esta mensagem é confidencial.",
        "it": "Questo messaggio è riservato.",
    },
    "outside": {
        "en": "[EXTERNAL] This message comes from outside.||CAUTION: external sender",
        "de": "[EXTERN] Diese E-Mail kommt von außerhalb.",
    },
    "scanned": {"en": "Virus-free. Checked by antivirus software."},
    "printing": {"en": "Please consider the environment before printing this e-mail."},
    "copyright": {"en": "© 2026 {firm}||© {firm}, {city}. All rights reserved.||(c) 2025 {firm}"},
    "social": {"en": "Facebook | Instagram | X | LinkedIn||Follow us: Facebook Instagram YouTube"},
    "stores": {"en": "App Store | Google Play"},
    "address": {"en": "{firm}, {city}||{firm} · {phone} · {city}"},
    "brand": {"en": "{firm}"},
    "picture": {"en": "[{firm}]||[logo]||{product}"},
    "signature": {"en": "--\n{sender}||--\n{sender}\n{phone}||{sender}\n{firm}\n{phone}"},
    "ruler": {"en": "----------------------------------------||========================||* * *"},
    "number": {"en": "#{number}||Ref. {number}"},
}
# Each layout is what stands before and after the text. Firms' and people's own; honest mail and
# fraud draw from the same.
FIRM_LAYOUTS: Final = tuple(
    line.split()
    for line in (
        "BODY",
        "brand BODY",
        "picture BODY",
        "BODY copyright",
        "BODY unsubscribe",
        "BODY no-reply",
        "BODY address",
        "BODY legal",
        "brand BODY copyright",
        "brand BODY no-reply copyright",
        "brand BODY unsubscribe address",
        "brand BODY because unsubscribe",
        "browser BODY unsubscribe",
        "browser brand BODY because unsubscribe address",
        "browser picture BODY social unsubscribe",
        "browser navigation BODY social legal unsubscribe",
        "navigation BODY unsubscribe",
        "picture navigation BODY stores copyright legal unsubscribe",
        "picture BODY picture address",
        "brand BODY rows copyright",
        "BODY rows",
        "brand number BODY rows no-reply",
        "BODY details",
        "brand BODY details no-reply",
        "details BODY address",
        "picture details BODY legal",
        "ruler BODY ruler unsubscribe",
        "brand ruler BODY ruler address",
        "number BODY no-reply",
        "BODY signature confidential",
        "BODY signature printing confidential",
        "outside BODY signature",
        "outside brand BODY copyright",
        "BODY scanned",
        "BODY stores social copyright",
        "picture BODY because legal copyright",
        "brand BODY social stores because unsubscribe legal copyright",
    )
)
PERSON_LAYOUTS: Final = tuple(
    line.split()
    for line in (
        "BODY",
        "BODY",
        "BODY signature",
        "BODY phone",
        "BODY wrote",
        "BODY signature wrote",
        "BODY phone wrote",
        "forwarded BODY",
        "outside BODY signature",
        "BODY signature confidential",
        "BODY signature scanned",
        "BODY signature printing",
        "BODY ruler signature",
    )
)
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
        hidden_text=is_html and draw.chance(0.02 if label == "ham" else 0.08),
        is_html=is_html,
        layout=_layout(draw, language, is_firm=is_firm),
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


def _layout(draw: _Draw, language: str, *, is_firm: bool) -> tuple[str, ...]:
    """Return the parts around BODY, in the text's language where there are some."""
    parts = []
    for name in draw.one(FIRM_LAYOUTS if is_firm else PERSON_LAYOUTS):
        if name == "BODY":
            parts.append(name)
        else:
            known = _FRAGMENTS[name]
            parts.append(draw.one(known.get(language, known["en"]).split("||")))
    return tuple(parts)
