"""A real Postfix wired by `spamguard setup`: the doctor finds it well, and says what is missing."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, wait_for
from tests.support.mail import HAM, message, send
from tests.support.postfix import SERVICES, Mailbox, Postfix
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


class BarePostfix(Postfix):
    """One listener, and nothing of SpamGuard."""

    def _write_master(self):
        listener = f"127.0.0.1:{self.plain_port} inet n - n - - smtpd\n"
        (self.conf / "master.cf").write_text(SERVICES + listener)

    def listens(self):
        return self.is_open(self.plain_port)

    def reload(self, *, back):
        self._run("postfix", "reload")
        wait_for(lambda: self.is_open(self.reinjection_port) == back, what="postfix reloaded")


class Site:
    def __init__(self, directory):
        self.mailbox = Mailbox()
        self.daemon = Daemon(
            directory, **{"model.version": str(write_toy_model(directory / "toy"))}
        )
        self.postfix = BarePostfix(
            directory, milter="", filter_port=self.daemon.smtp_port, mailbox=self.mailbox
        )
        self.daemon.settings["smtp.next_hop"] = f"127.0.0.1:{self.postfix.reinjection_port}"

    def setup(self, *arguments):
        done = self.daemon.run("setup", "postfix", "--config-dir", self.postfix.conf, *arguments)
        assert 0 == done.returncode, done.stderr
        return done.stdout.decode()

    def doctor(self, *arguments):
        done = self.daemon.run(
            "doctor", "--json", "--postfix-config", self.postfix.conf, *arguments
        )
        answer = json.loads(done.stdout)
        return done.returncode, answer["findings"]

    def files(self):
        return {path.name: path.read_bytes() for path in self.postfix.conf.iterdir()}


@pytest.fixture(scope="module")
def site():
    # Under /tmp itself: Postfix's unprivileged processes must be able to search every parent.
    directory = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    directory.chmod(0o755)
    built = Site(directory)
    try:
        built.mailbox.start()
        built.postfix.start()
        built.daemon.start()
        yield built
    finally:
        built.daemon.stop()
        built.postfix.stop()
        built.mailbox.stop()
        shutil.rmtree(directory, ignore_errors=True)


def of(findings, *severities):
    return [f"{f['check']}: {f['found']}" for f in findings if f["severity"] in severities]


def test_without_wiring_the_doctor_says_what_is_missing(site):
    code, findings = site.doctor()
    assert 2 == code
    (found,) = of(findings, "error")
    assert found.startswith("postfix: no service hands mail to SpamGuard")
    (advice,) = [f["advice"] for f in findings if f["severity"] == "error"]
    assert "spamguard setup postfix --write" in advice


@pytest.mark.parametrize(
    ("way", "parameter"), [("milter", "smtpd_milters"), ("content-filter", "content_filter")]
)
def test_setup_wires_postfix_the_doctor_agrees_and_undo_takes_it_back(site, way, parameter):
    before = site.files()
    site.mailbox.messages.clear()
    site.setup("--as", way, "--write")
    site.postfix.reload(back=True)
    code, findings = site.doctor(
        "--send", "bob@test.example", "--smtp", f"127.0.0.1:{site.postfix.plain_port}"
    )
    assert (0, []) == (code, of(findings, "warning", "error"))
    well = of(findings, "ok")
    listener = f"127.0.0.1:{site.postfix.plain_port}/inet"
    assert f"postfix: {listener} hands its mail over by {parameter}" in well
    assert "test mail: ordinary: judged ham" in well
    assert "test mail: GTUBE: judged spam" in well
    delivered = [raw for _, _, raw in site.mailbox.wait(2)]
    flagged = [b"X-Spam-Flag: YES" in raw for raw in delivered]
    assert [False, True] == sorted(flagged)
    gtube = delivered[flagged.index(True)]
    assert b"(gtube)" in gtube

    site.setup("--undo")
    site.postfix.reload(back=False)
    assert before == site.files()
    code, findings = site.doctor()
    assert 2 == code
    assert any("no service hands mail" in found for found in of(findings, "error"))
    send(site.postfix.plain_port, message(HAM))
    assert b"X-SpamGuard-ID" not in site.mailbox.wait(3)[-1][2]


def test_our_header_field_is_looked_for_where_mail_arrives(site):
    home = site.daemon.directory / "mail"
    home.mkdir()
    shutil.chown(home, "nobody")
    site.postfix._run(
        "postconf", "-e", "relay_domains=", "virtual_mailbox_domains=test.example",
        "virtual_mailbox_limit=0", f"virtual_mailbox_base={home}",
        "virtual_mailbox_maps=static:bob/", "virtual_minimum_uid=1",
        "virtual_uid_maps=static:65534", "virtual_gid_maps=static:65534",
    )  # fmt: skip
    site.setup("--write")
    site.postfix.reload(back=True)

    def look():
        port = site.postfix.plain_port
        options = ("--send", "bob@test.example", "--smtp", f"127.0.0.1:{port}")
        return site.doctor(*options, "--mailbox", home / "bob")

    code, findings = look()
    assert (0, []) == (code, of(findings, "warning", "error"))
    assert f"test mail: it arrived in {home}/bob with X-SpamGuard-ID" in of(findings, "ok")
    (site.postfix.conf / "strip").write_text("/^X-SpamGuard-ID:/ IGNORE\n")
    site.postfix._run("postconf", "-e", f"milter_header_checks=regexp:{site.postfix.conf}/strip")
    site.postfix._run("postfix", "reload")
    code, findings = look()
    assert 2 == code
    (found,) = of(findings, "error")
    assert f"it arrived in {home}/bob without X-SpamGuard-ID" in found


def test_a_stopped_postfix_is_noticed(site):
    site.postfix.stop()
    _, findings = site.doctor()
    assert any("does not run" in found for found in of(findings, "error"))
