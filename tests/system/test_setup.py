"""The lines that `spamguard setup` prints, in a real mail server that delivers by them.

Postfix is in test_doctor.py, Exim in test_spamd_clients.py, Postfix's milter in test_postfix.py.
"""

import shlex
import smtplib

import pytest

from tests.support.daemons import Daemon, free_port
from tests.support.exim import documented
from tests.support.mail import HAM, SPAM, message
from tests.support.opensmtpd import OpenSmtpd
from tests.support.postfix import Mailbox
from tests.support.sendmail import Sendmail
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


def test_sendmail_asks_us_by_the_milter(open_directory):
    root = open_directory
    mailbox = Mailbox()
    daemon = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "policy.unsure": "tag",
            "policy.spam": "reject",
            "policy.local_networks": [],
        },
    )
    server = Sendmail(root, daemon.run("setup", "sendmail").stdout.decode(), mailbox)
    mailbox.start()
    forged = message(HAM).replace(b"Subject:", b"X-Spam-Flag: YES\r\nSubject:", 1)
    try:
        with daemon:
            server.start()
            with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
                client.sendmail("ann@sender.example", ["bob@test.example"], forged)
                with pytest.raises(smtplib.SMTPDataError, match="refused as spam"):
                    client.sendmail("ann@sender.example", ["bob@test.example"], message(SPAM))
                client.sendmail("ann@sender.example", ["bob@test.example"], message("maybe"))
            ham, unsure = (raw for _, _, raw in mailbox.wait(2))
        with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
            client.sendmail("ann@sender.example", ["bob@test.example"], message(SPAM))
        *_, (_, _, unjudged) = mailbox.wait(3)
    finally:
        server.stop()
        mailbox.stop()
    assert (True, False) == (b"X-Spam-Status: No" in ham, b"X-Spam-Flag" in ham)
    assert b"X-Spam-Status: Unsure" in unsure
    assert b"X-Spam" not in unjudged


def test_opensmtpd_asks_us_while_the_client_waits(open_directory):
    root = open_directory
    mailbox = Mailbox()
    port = free_port()
    daemon = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "http.listen": [f"127.0.0.1:{port}"],
            "policy.spam": "reject",
            "policy.local_networks": [],
        },
    )
    filtered, listening = documented("### OpenSMTPD", 1).splitlines()
    program = shlex.join(daemon.command()).replace('"', '\\"')
    filtered = filtered.replace("/opt/spamguard/bin/spamguard", program)
    filtered = filtered.replace("user spamguard group spamguard", "user root group root")
    own_port = free_port()
    listening = listening.replace("0.0.0.0", f"127.0.0.1 port {own_port}")
    server = OpenSmtpd(
        root,
        f'{filtered}\n{listening}\nmatch from any for domain "test.example" action "local"\n',
        mailbox,
    )
    mailbox.start()
    raw = message(HAM).replace(HAM.encode(), HAM.encode() + b"\r\n.\r\n..\r\n.end")
    try:
        with daemon:
            server.start()
            with smtplib.SMTP("127.0.0.1", own_port, timeout=60) as client:
                client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                with pytest.raises(smtplib.SMTPDataError, match="refused as spam"):
                    client.sendmail("ann@sender.example", ["bob@test.example"], message(SPAM))
            [(_, _, judged)] = mailbox.wait(1)
            said = daemon.log.read_text()
        with smtplib.SMTP("127.0.0.1", own_port, timeout=60) as client:
            client.sendmail("ann@sender.example", ["bob@test.example"], message(SPAM))
        *_, (_, _, unjudged) = mailbox.wait(2)
    finally:
        server.stop()
        mailbox.stop()
    assert b"X-Spam-Status: No" in judged
    assert judged.endswith(raw.partition(b"\r\n\r\n")[2])
    assert "from=*@sender.example" in said
    assert b"X-Spam" not in unjudged


def test_opensmtpd_has_its_mail_judged_between_two_listeners(open_directory):
    root = open_directory
    mailbox = Mailbox()
    daemon = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "smtp.next_hop": f"127.0.0.1:{free_port()}",
            "policy.spam": "tag",
        },
    )
    lines = daemon.run("setup", "opensmtpd", "--as", "relay").stdout.decode()
    server = OpenSmtpd(root, lines.replace("example.org", "test.example"), mailbox)
    mailbox.start()
    try:
        with daemon:
            server.start()
            for text in (HAM, SPAM):
                with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
                    client.sendmail("ann@sender.example", ["bob@test.example"], message(text))
            delivered = [raw for _, _, raw in mailbox.wait(2)]
    finally:
        server.stop()
        mailbox.stop()
    assert [False, True] == sorted(b"X-Spam-Flag: YES" in raw for raw in delivered)
    assert all(b"X-SpamGuard-ID" in raw for raw in delivered)
