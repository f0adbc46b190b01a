"""Report addresses behind a real Postfix: refused, recorded, never delivered on."""

import json
import smtplib
import subprocess

import pytest

from tests.support.daemons import wait_for
from tests.support.mail import HAM, SPAM, message
from tests.support.programs import require_program

INSIDE, OUTSIDE = "192.0.2.7", "198.51.100.7"
BOB, SPAM_ADDRESS = "bob@test.example", "spam@test.example"


@pytest.fixture(scope="module", autouse=True)
def _reports(site):
    site.restart_with(
        **{
            "reports.spam_addresses": [SPAM_ADDRESS],
            "reports.ham_addresses": ["ham@test.example"],
            "reports.networks": ["192.0.2.0/24"],
        }
    )


class Client(smtplib.SMTP):
    """A client that Postfix takes for one of that address and login (XCLIENT)."""

    def __init__(self, port, address, login="[UNAVAILABLE]"):
        super().__init__("127.0.0.1", port, timeout=60)
        self.ehlo("client.example")
        code, answer = self.docmd("XCLIENT", f"ADDR={address} NAME=client.example LOGIN={login}")
        assert code == 220, answer
        self.ehlo("client.example")


def forwarded(*originals):
    parts = b"".join(
        b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + original + b"\r\n"
        for original in originals
    )
    return (
        b"From: Bob <bob@test.example>\r\nTo: spam@test.example\r\nSubject: Fwd\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        + parts
        + b"--b--\r\n"
    )


def reports(site, reporter):
    listed = site.daemon.run("corrections", "list", "--json", "--reporter", reporter)
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    return [(row["label"], row["source"]) for row in found]


def test_a_stranger_is_refused_at_rcpt_and_others_get_his_mail(site):
    with Client(site.postfix.milter_port, OUTSIDE) as client:
        refused = client.sendmail("m@evil.example", [SPAM_ADDRESS, BOB], message(HAM))
    assert [SPAM_ADDRESS] == list(refused)
    code, text = refused[SPAM_ADDRESS]
    assert (550, b"5.7.1 ") == (code, text[:6])
    assert b"only logged-in users may report mail" in text
    [(_, recipients, _)] = site.mailbox.wait(1)
    assert (BOB,) == tuple(recipients)


def test_a_users_report_is_recorded_and_not_delivered(site):
    raw = forwarded(message(f"{SPAM} one"), message(f"{SPAM} two"))
    with Client(site.postfix.milter_port, OUTSIDE, login="carla") as client:
        assert {} == client.sendmail(BOB, [SPAM_ADDRESS], raw)
    assert [("spam", "mail")] * 2 == reports(site, "carla")
    assert (0, []) == (site.postfix.queued(), site.mailbox.messages)


def test_the_other_recipients_of_a_report_get_it(site):
    raw = forwarded(message(f"{SPAM} three"))
    with Client(site.postfix.milter_port, OUTSIDE, login="dora") as client:
        assert {} == client.sendmail(BOB, [BOB, SPAM_ADDRESS], raw)
    [(_, recipients, delivered)] = site.mailbox.wait(1)
    assert (BOB,) == tuple(recipients)
    assert b"Subject: " in delivered
    assert [("spam", "mail")] == reports(site, "dora")


def test_a_mail_without_a_report_is_refused_with_what_to_do(site):
    with (
        Client(site.postfix.milter_port, OUTSIDE, login="emil") as client,
        pytest.raises(smtplib.SMTPDataError) as caught,
    ):
        client.sendmail(BOB, ["ham@test.example"], message("please look"))
    assert 550 == caught.value.smtp_code
    assert b"5.6.0 no reported message found: forward it as an attachment" in (
        caught.value.smtp_error
    )


@pytest.mark.parametrize("door", ["filtered_port", "proxy_port"])
def test_the_content_filter_takes_reports_of_the_networks(site, door):
    reporter = f"{door}@test.example"
    raw = forwarded(message(f"{SPAM} {door}"))
    with Client(getattr(site.postfix, door), INSIDE) as client:
        assert {} == client.sendmail(reporter, [SPAM_ADDRESS, BOB], raw)
    wait_for(lambda: reports(site, reporter), what="the report")
    [(_, recipients, _)] = site.mailbox.wait(1)
    assert (BOB,) == tuple(recipients)
    wait_for(lambda: site.postfix.queued() == 0, what="an empty queue")


@pytest.fixture
def sendmail(site):
    """The sendmail command of a Postfix whose own mail passes the milter too."""
    site.postfix._run(
        "postconf", "-e", f"non_smtpd_milters=inet:127.0.0.1:{site.daemon.milter_port}"
    )
    site.postfix._run("postfix", "reload")

    def run(raw, *recipients):
        command = [
            require_program("sendmail"),
            "-C",
            str(site.postfix.conf),
            "-f",
            BOB,
            *recipients,
        ]
        subprocess.run(command, input=raw, check=True, timeout=60, capture_output=True)

    yield run
    site.postfix._run("postconf", "-X", "non_smtpd_milters")
    site.postfix._run("postfix", "reload")


def test_the_sendmail_command_is_refused_at_the_end_and_its_user_told(site, sendmail):
    """Postfix would defer for ever a mail of which a milter refuses a recipient."""
    sendmail(forwarded(message(f"{SPAM} four")), SPAM_ADDRESS)
    [(sender, recipients, bounce)] = site.mailbox.wait(1)
    assert ("<>", (BOB,)) == (sender, tuple(recipients))
    assert b"only logged-in users may report mail" in bounce
    wait_for(lambda: site.postfix.queued() == 0, what="an empty queue")
