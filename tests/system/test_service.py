"""The daemon as a service manager sees it: readiness, reload, watchdog, sockets it is given."""

import contextlib
import os
import signal
import socket
import struct
import time

import pytest

from tests.support.daemons import free_port, wait_for
from tests.support.managed import Managed
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


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


def test_a_passed_socket_keeps_room_for_those_who_wait(tmp_path, settings):
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    with Managed(tmp_path, sockets=(server,), names=("milter",), **settings) as daemon:
        daemon.hear_until("READY")
        info = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (backlog,) = struct.unpack_from("I", info, 28)  # tcpi_sacked, of one that listens
        assert 512 == backlog
    server.close()


@pytest.mark.parametrize("kind", ["datagram", "connected", "file"])
def test_what_does_not_listen_is_one_clear_message(tmp_path, settings, kind):
    kinds = {"datagram": socket.SOCK_DGRAM}
    pair = socket.socketpair(socket.AF_UNIX, kinds.get(kind, socket.SOCK_STREAM))
    file = (tmp_path / "file").open("w")
    passed = file if kind == "file" else pair[0]
    daemon = Managed(tmp_path, sockets=(passed,), names=("milter",), **settings)
    try:
        assert os.EX_CONFIG == daemon.start().process.wait(30)
    finally:
        for each in (*pair, file, daemon.channel):
            each.close()
    text = daemon.log.read_text()
    assert "LISTEN_FDS: 'milter'" in text
    assert "Traceback" not in text


def test_a_socket_for_no_door_is_one_clear_message(tmp_path, settings):
    other = socket.create_server(("127.0.0.1", 0))
    daemon = Managed(tmp_path, sockets=(other,), names=("imap",), **settings)
    try:
        assert daemon.start().process.wait(30) == os.EX_CONFIG
    finally:
        other.close()
        daemon.channel.close()
    text = daemon.log.read_text()
    assert "FileDescriptorName=imap: expected one of milter, smtp, lmtp, spamd, http" in text
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
