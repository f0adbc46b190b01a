"""The real clients of SpamAssassin, spamc, Exim and aiospamc, against a real daemon."""

import json
import re
import smtplib
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.support.daemons import Daemon, wait_for
from tests.support.debian import unpacked
from tests.support.exim import Exim, documented
from tests.support.mail import HAM, SPAM, UNSURE, message
from tests.support.postfix import Mailbox
from tests.support.python_packages import installed_apart
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def daemon(open_directory):
    root = open_directory / "spamguard"
    root.mkdir()
    root.chmod(0o755)
    made = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "spamd.listen": [f"unix:{root}/spamd.sock", "127.0.0.1:0"],
            "spamd.socket_mode": "0666",
            "spamd.allow_tell": True,
            "policy.subject_prefix": "[SPAM] ",
            "policy.spam": "tag",
        },
    )
    with made:
        yield made


class Spamc:
    def __init__(self, daemon):
        self.package = unpacked("spamc")
        self.socket = daemon.directory / "spamd.sock"
        _, _, port = daemon.status()["listening"]["spamd"][1].rpartition(":")
        self.tcp = ("-d", "127.0.0.1", "-p", port)

    def __call__(self, *options, raw=b"", where=None):
        where = where or ("-U", str(self.socket))
        return subprocess.run(
            [self.package.path("usr/bin/spamc"), *where, *options],
            input=raw,
            capture_output=True,
            timeout=60,
            check=False,
            env=self.package.environment,
        )


@pytest.fixture(scope="module")
def spamc(daemon):
    return Spamc(daemon)


def test_the_documented_spamc_commands_work(spamc):
    lines = [line.partition("#")[0] for line in documented("### spamc and other clients of SpamAssassin", 1).splitlines()]  # fmt: skip
    program = spamc.package.path("usr/bin/spamc")
    folder = spamc.socket.parent
    (folder / "mail").write_bytes(message(f"{SPAM} documented"))
    codes = []
    for line in lines:
        line = line.replace("spamc -U", f"{program} -U", 1)
        line = line.replace("/run/spamguard/spamd.sock", str(spamc.socket))
        codes.append(subprocess.run(line, shell=True, cwd=folder, timeout=60).returncode)
    assert codes == [0, 1, 0]
    assert b"X-Spam-Flag: YES" in (folder / "mail-with-our-header-fields").read_bytes()


@pytest.mark.parametrize("where", ["unix", "tcp"])
@pytest.mark.parametrize(("word", "code"), [(SPAM, 1), (HAM, 0), (UNSURE, 0)])
def test_spamc_check_ends_with_the_verdict(spamc, where, word, code):
    done = spamc("-c", raw=message(word), where=spamc.tcp if where == "tcp" else None)
    assert done.returncode == code
    points, limit = map(float, done.stdout.split(b"/"))
    assert limit == 5.0
    assert (points >= 5.0) == (code == 1)


def test_spamc_gets_the_message_with_our_header_fields_and_every_other_byte(spamc):
    raw = message(f"{SPAM} gr\u00fc\u00df dich").replace(b"\r\n", b"\n")
    done = spamc("--no-safe-fallback", raw=raw)
    assert done.returncode == 0
    assert done.stdout.startswith(b"X-Spam-Flag: YES\n")
    assert b"\nSubject: [SPAM] A test\n" in done.stdout
    assert done.stdout.partition(b"\n\n")[2] == raw.partition(b"\n\n")[2]


def test_spamc_headers_keeps_the_body(spamc):
    raw = message(HAM).replace(b"\r\n", b"\n")
    done = spamc("--headers", raw=raw)
    assert b"X-Spam-Status: No" in done.stdout
    assert done.stdout.partition(b"\n\n")[2] == raw.partition(b"\n\n")[2]


def test_spamc_shows_symbols_and_reports(spamc):
    assert b"SPAMGUARD_SPAM" in spamc("-y", raw=message(SPAM)).stdout
    assert b"judged this message ham" in spamc("-R", raw=message(HAM)).stdout
    assert b"judged this message spam" in spamc("-r", raw=message(SPAM)).stdout
    assert b"judged" not in spamc("-r", raw=message(HAM)).stdout


def test_spamc_finds_the_daemon_alive(spamc):
    assert b"SPAMD" in spamc("-K").stdout


def test_spamc_learns_and_forgets(spamc, daemon):
    raw = message(f"{HAM} to be learned")
    user = ("-u", "ann@test.example")
    assert b"successfully un/learned" in spamc("-L", "spam", *user, raw=raw).stdout
    assert b"already un/learned" in spamc("-L", "spam", *user, raw=raw).stdout
    assert b"successfully un/learned" in spamc("-L", "forget", *user, raw=raw).stdout
    with closing(sqlite3.connect(daemon.state / "spamguard.db")) as database:
        rows = database.execute(
            "select label, source from corrections where reporter = 'ann@test.example' order by id"
        ).fetchall()
    assert rows == [("spam", "spamd"), ("undo", "spamd")]


def test_spamc_passes_mail_on_unchanged_when_no_verdict_comes(open_directory):
    root = open_directory / "slow"
    root.mkdir()
    settings = {
        "model.version": str(write_toy_model(root / "toy")),
        "spamd.listen": [f"unix:{root}/spamd.sock", "127.0.0.1:0"],
        "model.deadline_seconds": 0.00001,
    }
    raw = message(SPAM)
    with Daemon(root, **settings) as slow:
        spamc = Spamc(slow)
        done = spamc(raw=raw)
        strict = spamc("-x", raw=raw)
        told = spamc("-L", "spam", raw=raw)
    assert (done.returncode, done.stdout) == (0, raw)
    assert (strict.returncode, strict.stdout) == (74, b"")
    assert (told.returncode, told.stdout) == (74, b"")


@pytest.fixture(scope="module")
def exim(open_directory, daemon):
    mailbox = Mailbox()
    root = open_directory / "exim"
    root.mkdir()
    made = Exim(root, f"{daemon.directory}/spamd.sock", mailbox)
    made.mailbox = mailbox
    mailbox.start()
    try:
        yield made.start()
    finally:
        made.stop()
        mailbox.stop()


def through_exim(exim, raw, recipients=("bob@test.example",)):
    before = len(exim.mailbox.messages)
    with smtplib.SMTP("127.0.0.1", exim.port, timeout=60) as client:
        client.sendmail("ann@sender.example", recipients, raw)
    return exim.mailbox.wait(before + 1)[-1][2]


def verdicts_on(daemon, raw):
    message_id = re.search(rb"Message-ID: (.*)\r", raw).group(1).decode()
    with closing(sqlite3.connect(daemon.state / "spamguard.db")) as database:
        query = "select count(*) from verdicts where message_id = ?"
        return database.execute(query, [message_id]).fetchone()[0]


def test_exim_adds_what_its_spam_condition_found(exim):
    delivered = through_exim(exim, message(SPAM))
    assert b"X-Spam-Flag: YES" in delivered
    assert b"X-Spam-Score: 10.0" in delivered
    assert b"X-Spam-Report: SpamGuard judged this message spam" in delivered
    delivered = through_exim(exim, message(HAM))
    assert b"X-Spam-Flag" not in delivered
    assert b"X-Spam-Report: SpamGuard judged this message ham" in delivered
    assert "cannot parse" not in exim.logged()


def test_exims_recipients_may_correct_what_was_judged(exim, spamc, daemon):
    to = ("carol@test.example", "dave@test.example")
    raw = message(f"{SPAM} for carol")
    through_exim(exim, raw, to)
    wait_for(lambda: verdicts_on(daemon, raw), what="the verdict on record")
    for reporter, standing in (("dave@test.example", "counted"), ("eve@test.example", "review")):
        spamc("-L", "ham", "-u", reporter, raw=raw)
        listed = daemon.run("corrections", "list", "--json").stdout
        rows = [json.loads(line) for line in listed.splitlines()]
        (row,) = [row for row in rows if row["reporter"] == reporter]
        assert row["standing"] == standing


def test_exim_accepts_mail_while_the_daemon_is_away(exim, daemon):
    daemon.stop()
    try:
        delivered = through_exim(exim, message(SPAM))
    finally:
        daemon.start()
    assert b"X-Spam-Flag" not in delivered


AIOSPAMC = """
import asyncio, json, sys
import aiospamc
from aiospamc import ActionOption, MessageClassOption

async def main():
    port, mail = int(sys.argv[1]), sys.stdin.buffer.read()
    here = {"host": "127.0.0.1", "port": port}
    answers = {
        "ping": str((await aiospamc.ping(**here)).message),
        "check": (await aiospamc.check(mail, **here)).headers.spam.value,
        "compressed": (await aiospamc.check(mail, compress=True, **here)).headers.spam.value,
        "symbols": (await aiospamc.symbols(mail, **here)).body.decode(),
        "report": (await aiospamc.report(mail, **here)).body.decode(),
        "ifspam": (await aiospamc.report_if_spam(mail, **here)).body.decode(),
        "process": (await aiospamc.process(mail, **here)).body.decode(),
        "headers": (await aiospamc.headers(mail, **here)).body.decode(),
        "told": str((await aiospamc.tell(mail, MessageClassOption.spam,
            set_action=ActionOption(local=True, remote=False), user="zoe", **here)).headers),
    }
    print(json.dumps(answers, default=str))

asyncio.run(main())
"""


def test_aiospamc_understands_every_answer(daemon):
    folder = installed_apart("aiospamc==1.2.0", "loguru==0.7.3", "certifi")
    _, _, port = daemon.status()["listening"]["spamd"][1].rpartition(":")
    done = subprocess.run(
        [sys.executable, "-c", AIOSPAMC, port],
        input=message(SPAM),
        capture_output=True,
        timeout=60,
        env={"PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = json.loads(done.stdout)
    assert answers["ping"] == "PONG"
    assert answers["check"] is True
    assert answers["compressed"] is True
    assert answers["symbols"] == "SPAMGUARD_SPAM"
    assert "judged this message spam" in answers["report"]
    assert "judged this message spam" in answers["ifspam"]
    assert "X-Spam-Flag: YES" in answers["process"]
    assert "X-Spam-Flag: YES" in answers["headers"]
    assert "DidSet" in answers["told"]
