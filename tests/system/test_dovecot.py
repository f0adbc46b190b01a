"""Moves in a real Dovecot become corrections, by the program and by mail."""

import json
import shlex
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, wait_for
from tests.support.dovecot import Dovecot, Mailbox
from tests.support.mail import SPAM, message
from tests.support.postfix import Mailbox as NextHop
from tests.support.postfix import Postfix
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def directory():
    # Under /tmp itself: Dovecot's and Postfix's processes must be able to search every parent.
    made = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(directory):
    root = directory / "spamguard"
    root.mkdir()
    made = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "reports.drop_directory": str(root / "drop"),
            "reports.spam_addresses": ["spam@test.example"],
            "reports.ham_addresses": ["ham@test.example"],
            "reports.networks": ["127.0.0.0/8"],
        },
    )
    with made:
        yield made


@pytest.fixture(scope="module")
def dovecot(directory, daemon):
    root = directory / "dovecot"
    root.mkdir()
    made = Dovecot(
        root,
        "90-spamguard.conf",
        replace=(
            ("user = spamguard", "user = root"),
            ("/var/lib/spamguard/drop", str(daemon.directory / "drop")),
            ("/opt/spamguard/bin/spamguard", str(root / "lib" / "spamguard")),
        ),
    )
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def by_mail(directory, daemon):
    """A Dovecot that mails its reports to a Postfix with the milter."""
    hop = NextHop()
    hop.start()
    mta = directory / "postfix"
    mta.mkdir()
    postfix = Postfix(
        mta,
        milter=f"inet:127.0.0.1:{daemon.milter_port}",
        filter_port=daemon.smtp_port,
        mailbox=hop,
    )
    root = directory / "dovecot-by-mail"
    root.mkdir()
    made = Dovecot(
        root,
        "90-spamguard-by-mail.conf",
        replace=(
            ("127.0.0.1:25", f"127.0.0.1:{postfix.milter_port}"),
            ("@example.org", "@test.example"),
        ),
    )
    try:
        postfix.start()
        made.start()
        made.delivered = hop.messages
        yield made
    finally:
        made.stop()
        postfix.stop()
        hop.stop()


@pytest.fixture
def user(request):
    """Each test has a user of its own."""
    return f"{request.node.name.split('[')[0].removeprefix('test_')[:30]}@test.example"


def mail_to(user, text=SPAM):
    return message(f"{text} for {user}", to=user)


def rows(daemon, user):
    with closing(sqlite3.connect(daemon.state / "spamguard.db")) as database:
        return database.execute(
            "SELECT label, source FROM corrections WHERE reporter = ? ORDER BY id", [user]
        ).fetchall()


def wait_for_rows(daemon, user, *expected, seconds=10):
    wait_for(
        lambda: [tuple(row) for row in rows(daemon, user)] == list(expected),
        seconds=seconds,
        what=f"{expected}, not {rows(daemon, user)}",
    )


def stays(daemon, user, *expected):
    time.sleep(1.0)
    assert list(expected) == rows(daemon, user)


def test_a_move_into_junk_is_a_correction_within_a_second(dovecot, daemon, user):
    with Mailbox(dovecot, user) as mailbox:
        mailbox.put("INBOX", mail_to(user))
        started = time.monotonic()
        mailbox.move("INBOX", "Junk")
        moved = time.monotonic() - started
        wait_for_rows(daemon, user, ("spam", "imap"))
        seconds = time.monotonic() - started
        print(f"move {moved * 1000:.0f} ms, row after {seconds * 1000:.0f} ms")
        assert seconds < 1
        assert (0, 1) == (mailbox.count("INBOX"), mailbox.count("Junk"))


def test_moving_back_is_ham_and_the_newer_word(dovecot, daemon, user):
    with Mailbox(dovecot, user) as mailbox:
        mailbox.put("INBOX", mail_to(user))
        mailbox.move("INBOX", "Junk")
        mailbox.move("Junk", "INBOX")
        wait_for_rows(daemon, user, ("spam", "imap"), ("ham", "imap"))
    listed = daemon.run("corrections", "list", "--json", "--reporter", user).stdout
    newest, oldest = map(json.loads, listed.splitlines())
    assert ("ham", "superseded") == (newest["label"], oldest["standing"])


def test_reporting_twice_is_one_row(dovecot, daemon, user):
    with Mailbox(dovecot, user) as mailbox:
        for _ in range(2):
            mailbox.put("INBOX", mail_to(user))
            mailbox.move("INBOX", "Junk")
        wait_for_rows(daemon, user, ("spam", "imap"))
        stays(daemon, user, ("spam", "imap"))
        assert 2 == mailbox.count("Junk")


def test_a_message_appended_to_junk_is_spam(dovecot, daemon, user):
    with Mailbox(dovecot, user) as mailbox:
        mailbox.put("Junk", mail_to(user))
        wait_for_rows(daemon, user, ("spam", "imap"))


@pytest.mark.parametrize("folder", ["Trash", "Deleted Items", "Junk.old"])
def test_throwing_junk_away_is_no_ham(dovecot, daemon, user, folder):
    user = folder.replace(" ", "-").lower() + user
    with Mailbox(dovecot, user) as mailbox:
        mailbox.ok("create", f'"{folder}"')
        mailbox.put("Junk", mail_to(user))
        wait_for_rows(daemon, user, ("spam", "imap"))
        mailbox.move("Junk", f'"{folder}"')
        stays(daemon, user, ("spam", "imap"))


def test_expunging_and_reading_are_no_reports(dovecot, daemon, user):
    with Mailbox(dovecot, user) as mailbox:
        mailbox.put("Junk", mail_to(user))
        wait_for_rows(daemon, user, ("spam", "imap"))
        mailbox.ok("select", "Junk")
        mailbox.ok("fetch", "1", "(BODY[])")
        mailbox.ok("store", "1", "+FLAGS", "\\Deleted")
        mailbox.ok("expunge")
        mailbox.put("INBOX", mail_to(user, "another"))
        stays(daemon, user, ("spam", "imap"))


def test_a_record_that_fails_does_not_block_the_move_and_loses_nothing(dovecot, daemon, user):
    corrections = daemon.state / "corrections"
    kept = corrections.with_name("corrections.away")
    corrections.mkdir(exist_ok=True)
    corrections.rename(kept)
    corrections.write_text("no directory")  # root may write anywhere but into a file
    try:
        with Mailbox(dovecot, user) as mailbox:
            mailbox.put("INBOX", mail_to(user))
            started = time.monotonic()
            mailbox.move("INBOX", "Junk")
            assert time.monotonic() - started < 1
            assert 1 == mailbox.count("Junk")
        wait_for(lambda: daemon.status()["counters"].get("report_failures"), what="a failure")
        assert [] == rows(daemon, user)
    finally:
        corrections.unlink()
        kept.rename(corrections)
    wait_for_rows(daemon, user, ("spam", "imap"), seconds=40)


def test_without_a_drop_directory_the_program_runs_spamguard_report(dovecot, daemon, user):
    program, command = (dovecot.directory / "lib" / n for n in ("spamguard-report", "spamguard"))
    text = program.read_text()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(daemon.command())} "$@"\n')
    command.chmod(0o755)
    try:
        program.write_text(text.replace(str(daemon.directory / "drop"), "/nowhere"))
        with Mailbox(dovecot, user) as mailbox:
            mailbox.put("INBOX", mail_to(user))
            mailbox.move("INBOX", "Junk")
            wait_for_rows(daemon, user, ("spam", "imap"), seconds=30)
            command.write_text("#!/bin/sh\nexit 74\n")
            mailbox.move("Junk", "INBOX")
            assert 1 == mailbox.count("INBOX")
        wait_for(lambda: "report ended with 74" in dovecot.logged(), what="the log tells")
    finally:
        program.write_text(text)


def test_dovecot_reports_by_mail_with_the_imap_user_as_reporter(by_mail, daemon, user):
    with Mailbox(by_mail, user) as mailbox:
        mailbox.put("INBOX", mail_to(user))
        mailbox.move("INBOX", "Junk")
        wait_for_rows(daemon, user, ("spam", "mail"))
        mailbox.move("Junk", "INBOX")
        wait_for_rows(daemon, user, ("spam", "mail"), ("ham", "mail"))
        mailbox.move("INBOX", "Junk")
        mailbox.ok("create", "Trash")
        mailbox.move("Junk", "Trash")
        wait_for_rows(daemon, user, ("spam", "mail"), ("ham", "mail"), ("spam", "mail"))
        stays(daemon, user, ("spam", "mail"), ("ham", "mail"), ("spam", "mail"))
    assert [] == by_mail.delivered


def test_dovecots_log_tells_of_no_errors(dovecot, by_mail):
    for server in (dovecot, by_mail):
        lines = [
            line for line in server.logged().splitlines() if "Error" in line or "Fatal" in line
        ]
        assert [] == [line for line in lines if "ended with 74" not in line]
