"""The lines that `spamguard setup` prints, in a real mail server that delivers by them.

Postfix is in test_doctor.py, Exim in test_spamd_clients.py, the milter in test_postfix.py.
"""

import shlex
import smtplib
import subprocess

import pytest

from tests.support.daemons import Daemon, free_port, wait_for
from tests.support.debian import need_user, unpacked
from tests.support.mail import HAM, SPAM, message
from tests.support.postfix import Mailbox
from tests.support.programs import require_program
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


class OpenSmtpd:
    """`smtpd -d` with a spool of its own: its paths are fixed, so it sees another /var.

    Args:
        directory: below /tmp itself.
        lines: what setup printed.
        mailbox: where the administrator's own action hands mail over.
    """

    def __init__(self, directory, lines, mailbox):
        self.port = free_port()
        self.log = directory / "smtpd.log"
        config = directory / "smtpd.conf"
        config.write_text(
            f"listen on 127.0.0.1 port {self.port}\n"
            f'action "local" relay host "smtp://127.0.0.1:{mailbox.port}"\n'
            f"{lines}"
        )
        self._program = directory / "smtpd.sh"
        package = unpacked("opensmtpd")
        for name in ("opensmtpd", "opensmtpq"):
            need_user(name)
        self._program.write_text(
            "set -e\n"
            "for folder in /var/lib /var/spool; do mount -t tmpfs -o mode=755 none $folder; done\n"
            "mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd\n"
            "chmod 711 /var/spool/smtpd\n"
            f"exec {shlex.join([package.path('usr/sbin/smtpd'), '-d', '-F', '-f', str(config)])}\n"
        )
        self._environment = package.environment
        self._process = None

    def start(self):
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [require_program("unshare"), "--mount", "sh", str(self._program)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        wait_for(self._answers, what=f"smtpd listening: {self.log.read_text()}")
        return self

    def _answers(self):
        try:
            smtplib.SMTP("127.0.0.1", self.port, timeout=5).quit()
        except OSError:
            assert self._process.poll() is None, self.log.read_text()
            return False
        return True

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


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
    lines = daemon.run("setup", "opensmtpd").stdout.decode()
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
