"""The daemon as a service manager sees it: readiness, reload, watchdog, sockets it is given."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.daemons import Daemon, free_port, wait_for
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(120)

# Takes the place of the manager between fork and exec: descriptors from 3 on, and LISTEN_PID.
_LAUNCH = """
import fcntl, os, sys
passed = [int(number) for number in sys.argv[1].split(",") if number]
passed = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in passed]  # out of the way
for place, number in enumerate(passed, start=3):
    os.dup2(number, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


class Managed(Daemon):
    """A daemon with a manager's socket, and descriptors that the manager opened."""

    def __init__(self, directory, *, sockets=(), names=(), watchdog_seconds=0.0, **settings):
        super().__init__(directory, **settings)
        self.sockets = sockets
        self.names = names
        self.watchdog_seconds = watchdog_seconds
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(f"\0spamguard-test-{os.getpid()}-{id(self)}")
        self.heard = []

    def command(self, *arguments):
        if arguments != ("serve",):
            return super().command(*arguments)
        numbers = ",".join(str(s.fileno()) for s in self.sockets)
        return [sys.executable, "-c", _LAUNCH, numbers, *super().command(*arguments)[1:]]

    def start(self):
        address = self.channel.getsockname().decode().replace("\0", "@", 1)
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        if self.names:
            environment["LISTEN_FDNAMES"] = ":".join(self.names)
        if self.watchdog_seconds:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog_seconds * 1e6))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve"),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[s.fileno() for s in self.sockets],
            )
        return self

    def hear(self, seconds=30):
        """Return the next message to the manager, as a dict."""
        self.channel.settimeout(seconds)
        text = self.channel.recv(4096).decode()
        self.heard.append(dict(line.partition("=")[::2] for line in text.splitlines()))
        return self.heard[-1]

    def hear_until(self, key, seconds=30):
        deadline = time.monotonic() + seconds
        while key not in (said := self.hear(max(0.1, deadline - time.monotonic()))):
            pass
        return said

    def __exit__(self, *error):
        super().__exit__(*error)
        self.channel.close()


@pytest.fixture
def settings(tmp_path):
    return {"model.version": str(write_toy_model(tmp_path / "toy"))}


def greeting(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        return client.recv(4)


def test_readiness_is_told_once_messages_are_judged_and_doors_are_open(tmp_path, settings):
    with Managed(tmp_path, **settings) as daemon:
        assert daemon.hear() == {"READY": "1", "STATUS": "model toy-1"}
        assert daemon.status()["scorers"]
        assert greeting(daemon.smtp_port) == b"220 "


def test_a_reload_is_told_from_begin_to_end_and_a_stop_too(tmp_path, settings):
    with Managed(tmp_path, **settings) as daemon:
        daemon.hear_until("READY")
        before = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        begun = daemon.hear_until("RELOADING")
        assert before <= int(begun["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert daemon.hear()["READY"] == "1"
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.hear_until("STOPPING")["STATUS"]
        assert daemon.process.wait(30) == 0


def test_the_watchdog_is_fed_while_messages_are_judged_and_no_longer(tmp_path, settings):
    limits = {"model.deadline_seconds": 30, "model.hard_limit_seconds": 60}
    with Managed(tmp_path, watchdog_seconds=1, **settings, **limits) as daemon:
        daemon.hear_until("READY")
        for _ in range(3):
            daemon.hear_until("WATCHDOG", seconds=1)
        scorers = daemon.status()["scorers"]
        for process in scorers:
            os.kill(process, signal.SIGSTOP)
        time.sleep(1)
        daemon.channel.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:  # fed before they were stopped
                daemon.channel.recv(4096)
        with pytest.raises(TimeoutError):
            daemon.hear_until("WATCHDOG", seconds=2)
        for process in scorers:
            os.kill(process, signal.SIGCONT)
        daemon.hear_until("WATCHDOG")


def test_passed_sockets_are_used_in_place_of_the_configured_ones(tmp_path, settings):
    port, path = free_port(), tmp_path / "smtp.sock"
    tcp = socket.create_server(("127.0.0.1", port))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    unix.listen()
    settings["milter.listen"] = [f"127.0.0.1:{port}"]
    settings["smtp.listen"] = []
    with Managed(tmp_path, sockets=(tcp, unix), names=("milter", "smtp"), **settings) as daemon:
        daemon.hear_until("READY")
        listening = daemon.status()["listening"]
        assert listening == {"milter": [f"127.0.0.1:{port}"], "smtp": [f"unix:{path}"]}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert client.recv(4) == b"220 "
        daemon.stop()
        assert path.exists()  # the manager's, for who comes after us
        with socket.create_connection(("127.0.0.1", port)):
            pass  # waits there
    tcp.close()
    unix.close()


def test_a_socket_for_no_door_is_one_clear_message(tmp_path, settings):
    other = socket.create_server(("127.0.0.1", 0))
    daemon = Managed(tmp_path, sockets=(other,), names=("imap",), **settings)
    try:
        assert daemon.start().process.wait(30) == os.EX_CONFIG
    finally:
        other.close()
        daemon.channel.close()
    text = daemon.log.read_text()
    assert "FileDescriptorName=imap: expected one of milter, smtp, spamd, http" in text
    assert "Traceback" not in text


def test_children_do_not_inherit_what_is_the_services_own(tmp_path, settings):
    server = socket.create_server(("127.0.0.1", 0))
    with Managed(tmp_path, sockets=(server,), names=("milter",), **settings) as daemon:
        daemon.hear_until("READY")
        (scorer,) = wait_for(lambda: daemon.status()["scorers"], what="a scorer")
        with open(f"/proc/{scorer}/environ", "rb") as variables:
            names = {pair.partition(b"=")[0] for pair in variables.read().split(b"\0")}
        assert not names & {b"NOTIFY_SOCKET", b"LISTEN_FDS", b"LISTEN_PID", b"WATCHDOG_USEC"}
    server.close()
