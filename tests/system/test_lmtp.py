"""The LMTP door between Postfix and Dovecot, by the lines of deploy/README.md, and before Cyrus."""

import json
import re
import shutil
import smtplib
import tempfile
from pathlib import Path

import pytest

from tests.support.cyrus import Cyrus
from tests.support.daemons import Daemon, free_port, wait_for
from tests.support.dovecot_lmtp import DovecotLmtp
from tests.support.exim import documented
from tests.support.mail import HAM, SPAM, message
from tests.support.postfix import Mailbox, Postfix
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)
HEADING = "### LMTP: between the mail server and the mailboxes"


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def directory():
    made = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def dovecot(directory):
    root = directory / "dovecot"
    root.mkdir()
    made = DovecotLmtp(root)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def daemon(directory, dovecot):
    root = directory / "spamguard"
    root.mkdir()
    port = free_port()
    made = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "lmtp.listen": [f"127.0.0.1:{port}"],
            "lmtp.next_hop": f"127.0.0.1:{dovecot.port}",
        },
    )
    made.lmtp_port = port
    with made:
        yield made


@pytest.fixture(scope="module")
def postfix(directory, daemon):
    lines = documented(HEADING, 1)
    transport = re.search(r"^virtual_transport = (\S+)$", lines, re.MULTILINE).group(1)
    assert transport.endswith(":10027")
    made = Postfix(
        directory / "postfix",
        milter=f"inet:127.0.0.1:{daemon.milter_port}",
        filter_port=daemon.smtp_port,
        mailbox=Mailbox(),
        relay_transport=transport.replace("10027", str(daemon.lmtp_port)),
    )
    made.directory.mkdir()
    try:
        yield made.start()
    finally:
        made.stop()


def unique(text, word):
    return message(text).replace(b"Subject: ", b"Subject: " + word.encode() + b" ", 1)


def with_word(dovecot, user, word):
    return [raw for raw in dovecot.mail(user) if word.encode() in raw]


def test_mail_from_postfix_reaches_the_mailbox_with_its_verdict(postfix, dovecot):
    with smtplib.SMTP("127.0.0.1", postfix.plain_port, timeout=60) as client:
        client.sendmail("ann@sender.example", ["bob@test.example"], unique(HAM, "wording"))
    [raw] = wait_for(lambda: with_word(dovecot, "bob", "wording"), what="delivery")
    assert b"X-Spam-Status: No" in raw


def deliver(daemon, raw, *users):
    """Return the codes for RCPT and those after the data; smtplib reads one of those alone."""
    with smtplib.LMTP("127.0.0.1", daemon.lmtp_port, timeout=60) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("ann@sender.example")
        at_rcpt = [client.rcpt(f"{user}@test.example")[0] for user in users]
        assert 354 == client.docmd("DATA")[0]
        client.send(raw + b".\r\n")
        return at_rcpt, [client.getreply()[0] for code in at_rcpt if code == 250]


def test_an_unknown_user_is_refused_at_rcpt_and_the_others_get_it(daemon, dovecot):
    raw = unique(HAM, "threefold")
    assert ([250, 550, 250], [250, 250]) == deliver(daemon, raw, "bob", "nobody", "eve")
    for user in ("bob", "eve"):
        assert 1 == len(with_word(dovecot, user, "threefold"))


def test_each_recipient_has_the_mail_stores_own_reply_to_the_data(daemon, dovecot):
    users = ("bob", "full", "eve")
    assert ([250] * 3, [250, 552, 250]) == deliver(daemon, unique(HAM, "quota"), *users)
    assert [1, 0, 1] == [len(with_word(dovecot, user, "quota")) for user in users]


def test_held_mail_is_taken_for_every_recipient_and_released_to_the_mailbox(daemon, dovecot):
    raw = unique(SPAM, "heldmail")
    assert ([250] * 2, [250] * 2) == deliver(daemon, raw, "bob", "eve")
    assert [] == with_word(dovecot, "bob", "heldmail")
    listed = daemon.run("quarantine", "list", "--json").stdout.decode()
    [held] = [line for line in listed.splitlines() if "heldmail" in line]
    released = daemon.run("quarantine", "release", json.loads(held)["id"])
    assert 0 == released.returncode, released.stderr
    for user in ("bob", "eve"):
        assert 1 == len(with_word(dovecot, user, "heldmail"))


@pytest.mark.timeout(400)
def test_cyrus_gets_its_mail_judged_and_its_own_replies_reach_the_sender(directory, tmp_path):
    cyrus = Cyrus(tmp_path).start()
    root = directory / "before-cyrus"
    root.mkdir()
    settings = {
        "model.version": str(write_toy_model(root / "toy")),
        "lmtp.listen": [f"127.0.0.1:{free_port()}"],
        "lmtp.next_hop": f"127.0.0.1:{cyrus.port}",
        "policy.spam": "tag",
    }
    with Daemon(root, **settings) as daemon:
        daemon.lmtp_port = int(settings["lmtp.listen"][0].rpartition(":")[2])
        users = ("bob", "nobody", "eve")
        assert ([250, 550, 250], [250, 250]) == deliver(daemon, unique(HAM, "threefold"), *users)
        assert ([250], [250]) == deliver(daemon, message(SPAM), "bob")
    mail = cyrus.stop()
    assert 3 == len(mail)
    assert 2 == sum(b"threefold" in raw and b"X-Spam-Status: No" in raw for raw in mail)
    assert 1 == sum(b"X-Spam-Flag: YES" in raw for raw in mail)


def test_postfix_keeps_mail_while_the_mail_store_is_away(postfix, daemon, dovecot):
    dovecot.stop()
    with smtplib.SMTP("127.0.0.1", postfix.plain_port, timeout=60) as client:
        client.sendmail("ann@sender.example", ["bob@test.example"], unique(HAM, "patience"))
    wait_for(lambda: "status=deferred" in postfix.logged(), what="deferral")
    assert 1 == postfix.queued()


def test_the_door_says_that_it_is_no_smtp(daemon):
    with smtplib.SMTP("127.0.0.1", daemon.lmtp_port, timeout=60) as client:
        assert 500 == client.ehlo()[0]
        assert 500 == client.helo()[0]


def test_the_doctor_asks_the_door(daemon):
    said = daemon.run("doctor", "--json").stdout.decode()
    assert f"lmtp answers at 127.0.0.1:{daemon.lmtp_port}" in said
