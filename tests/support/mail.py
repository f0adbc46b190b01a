"""Small messages for tests. The toy model (see toy_model.py) calls them by their words."""

import smtplib
import zlib

HAM = "see you at the meeting tomorrow"
SPAM = "viagra casino lottery"
UNSURE = "maybe"


def message(text, *, subject="A test", sender="ann@sender.example", to="bob@test.example"):
    return (
        f"From: Ann <{sender}>\r\nTo: {to}\r\nSubject: {subject}\r\n"
        f"Message-ID: <{zlib.crc32((text + subject).encode())}@sender.example>\r\n"
        f"Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        f"{text}\r\n"
    ).encode()


class Client(smtplib.SMTP):
    """An SMTP client that Postfix takes for one from outside (XCLIENT)."""

    def __init__(self, port):
        super().__init__("127.0.0.1", port, timeout=60)
        self.ehlo("client.example")
        code, answer = self.docmd("XCLIENT", "ADDR=198.51.100.7 NAME=client.example")
        assert code == 220, answer
        self.ehlo("client.example")


def send(port, raw, *, sender="ann@sender.example", to=("bob@test.example",), **options):
    """Send one message; return the refused recipients, raise what smtplib raises."""
    with Client(port) as client:
        return client.sendmail(sender, list(to), raw, **options)
