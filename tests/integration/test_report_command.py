"""`spamguard report` as a process, on a real database."""

import json
import sqlite3

import pytest

from spamguard import database
from tests.support.daemons import Daemon
from tests.support.mail import HAM, SPAM, message

EX_USAGE, EX_DATAERR, EX_IOERR, EX_TEMPFAIL = 64, 65, 74, 75


@pytest.fixture
def site(tmp_path):
    return Daemon(tmp_path)  # never started: the command needs none


def rows(site):
    listed = site.run("corrections", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    return [(row["label"], row["reporter"], row["source"], row["standing"]) for row in found]


def test_standard_input_is_reported_for_somebody_else(site):
    options = ("--reporter", "Carla@test.example", "--source", "imap")
    answer = site.run("report", "spam", *options, "-", input=message(SPAM))
    assert (0, b"-: correction 1: counted\n") == (answer.returncode, answer.stdout)
    assert [("spam", "carla@test.example", "imap", "counted")] == rows(site)


def test_files_mailboxes_and_maildirs_are_reported_once_each(site, tmp_path):
    (tmp_path / "a.eml").write_bytes(message(SPAM))
    mailbox = b"".join(
        b"From x Mon Nov 23 10:00:00 2026\n" + message(f"{text} {SPAM}") + b"\n"
        for text in ("one", "two")
    )
    (tmp_path / "box").write_bytes(mailbox)
    for part in ("new", "cur"):
        (tmp_path / "md" / part).mkdir(parents=True)
    (tmp_path / "md" / "cur" / "1:2,S").write_bytes(message(f"three {SPAM}"))
    paths = [str(tmp_path / name) for name in ("a.eml", "box", "md")]
    for _ in range(2):
        answer = site.run("report", "spam", *paths)
        assert (0, 4) == (answer.returncode, len(answer.stdout.splitlines())), answer.stderr
    assert 4 == len(rows(site))


def test_a_report_is_taken_back(site):
    site.run("report", "ham", "--reporter", "bob", "-", input=message(HAM))
    answer = site.run("report", "--undo", "ham", "--reporter", "bob", "-", input=message(HAM))
    assert (0, b"-: taken back\n") == (answer.returncode, answer.stdout)
    assert {"undone"} == {standing for *_, standing in rows(site)}
    answer = site.run("report", "--undo", "ham", "--reporter", "bob", "-", input=message(HAM))
    assert (0, b"-: nothing to take back\n") == (answer.returncode, answer.stdout)


def test_what_is_no_message_ends_with_65_and_the_others_are_recorded(site, tmp_path):
    (tmp_path / "empty.eml").write_bytes(b"\n")
    (tmp_path / "good.eml").write_bytes(message(SPAM))
    paths = [str(tmp_path / name) for name in ("empty.eml", "missing.eml", "good.eml")]
    answer = site.run("report", "spam", *paths)
    assert EX_DATAERR == answer.returncode
    assert b"empty.eml: the report holds no message" in answer.stderr
    assert b"missing.eml: No such file or directory" in answer.stderr
    assert b"Traceback" not in answer.stderr
    assert 1 == len(rows(site))


def test_an_empty_directory_ends_with_65(site, tmp_path):
    (tmp_path / "nothing").mkdir()
    answer = site.run("report", "spam", str(tmp_path / "nothing"))
    assert EX_DATAERR == answer.returncode
    assert b"no messages" in answer.stderr


def test_a_record_that_cannot_be_written_ends_with_74(site):
    site.settings["paths.state"] = "/proc/nowhere"
    answer = site.run("report", "spam", "-", input=message(SPAM))
    assert EX_IOERR == answer.returncode
    assert b"Traceback" not in answer.stderr


def test_a_label_that_is_none_ends_with_64(site):
    assert EX_USAGE == site.run("report", "maybe", "-", input=b"x").returncode


def test_a_locked_database_is_busy_and_not_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "spamguard.db"
    database.migrate(path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(database.StoreBusyError, match="locked") as caught,
        database.write_transaction(path),
    ):
        pass
    holder.close()
    assert EX_TEMPFAIL == caught.value.exit_code
