"""Restarts under load behind a real Postfix: nobody is refused and nothing passes unjudged.

By systemctl, with the units as they ship, under a real systemd that holds the sockets.
"""

import smtplib
import threading
import time
from collections import Counter

import pytest

from spamguard.message import parse_message
from tests.support.daemons import free_port, wait_for
from tests.support.machine import Machine
from tests.support.mail import message
from tests.support.postfix import Mailbox, Postfix

pytestmark = pytest.mark.timeout(180)

UNIT = "spamguard.service"
RATE = 20  # messages a second
SECONDS = 12
DONE_AT = ((3, "restart"), (5, "reload"), (8, "restart"))  # seconds


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the common site's fixture: this one has its own."""


@pytest.fixture
def site(open_directory):
    milter, smtp = free_port(), free_port()
    mailbox = Mailbox()
    postfix = Postfix(
        open_directory, milter=f"inet:127.0.0.1:{milter}", filter_port=smtp, mailbox=mailbox
    )
    machine = Machine()
    machine.postfix, machine.mailbox = postfix, mailbox
    mailbox.start()
    try:
        postfix.start()
        machine.start()
        machine.write(
            "/etc/spamguard/spamguard.toml",
            f'[milter]\nlisten = ["127.0.0.1:{milter}"]\n[smtp]\nlisten = ["127.0.0.1:{smtp}"]\n'
            f'next_hop = "127.0.0.1:{postfix.reinjection_port}"\n',
        )
        machine.use_sockets(milter=milter, smtp=smtp)
        machine.systemctl("start", "spamguard.socket", "spamguard-smtp.socket")
        machine.systemctl("start", UNIT)
        yield machine
    finally:
        machine.stop()
        postfix.stop()
        mailbox.stop()


class Load:
    """Sends at a steady rate, one session a message or several, and notes every reply."""

    def __init__(self, ports):
        self.ports = ports
        self.replies = Counter()
        self.slowest = 0.0
        self._lock = threading.Lock()

    def run(self):
        started, threads = time.monotonic(), []
        for number in range(RATE * SECONDS // 2):
            time.sleep(max(0, started + 2 * number / RATE - time.monotonic()))
            thread = threading.Thread(target=self._session, args=(number,))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(60)

    def _session(self, number):
        """Two messages: by two sessions, or by one with a pause in which a restart may fall."""
        port = self.ports[number % len(self.ports)]
        raw = message(f"Subject: number {number}")
        began = time.monotonic()
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                if number % 4 == 0:
                    time.sleep(0.5)
                    began = time.monotonic()
                    client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                    self._note("taken", began)
            self._note("taken", began)
            if number % 4:
                began = time.monotonic()
                with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                    client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                self._note("taken", began)
        except smtplib.SMTPException as error:
            self._note(str(error), began)

    def _note(self, reply, began):
        with self._lock:
            self.replies[reply] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


def test_restarts_by_systemd_refuse_nobody_and_judge_everything(site, capsys):
    load = Load([site.postfix.milter_port, site.postfix.proxy_port])
    sender = threading.Thread(target=load.run)
    began = time.monotonic()
    sender.start()
    for second, what in DONE_AT:
        time.sleep(max(0, began + second - time.monotonic()))
        site.systemctl(what, UNIT)
    sender.join(90)
    wait_for(lambda: site.postfix.queued() == 0, seconds=60, what="an empty queue")
    judged = Counter(
        parse_message(raw).header("x-spam-status").partition(",")[0]
        for _, _, raw in site.mailbox.messages
    )
    with capsys.disabled():
        print(
            f"\nreplies {dict(load.replies)}, slowest {load.slowest:.1f} s, judged {dict(judged)}"
        )
    assert load.replies == {"taken": RATE * SECONDS}
    assert judged == {"No": RATE * SECONDS}
