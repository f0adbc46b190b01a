"""The units as they ship, under a real systemd: sandbox, reload, watchdog, failure, sockets."""

import json
import shlex
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from spamguard.wire.milter import encode
from tests.support.daemons import free_port, wait_for
from tests.support.machine import Machine
from tests.support.milter_mta import POSTFIX_OFFER

pytestmark = pytest.mark.timeout(150)
UNIT = "spamguard.service"
MANUAL = Path(__file__).resolve().parents[2] / "deploy" / "README.md"
CONFIG = "/etc/spamguard/spamguard.toml"


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture
def machine():
    made = Machine()
    try:
        made.start()
        made.port, made.smtp_port = free_port(), free_port()
        configure(made)
        yield made
    finally:
        made.stop()


def configure(machine, more=""):
    machine.write(
        CONFIG,
        f'[milter]\nlisten = ["127.0.0.1:{machine.port}"]\n[smtp]\nlisten = []\n'
        f"[model]\nworkers = 1\n{more}",
    )


def negotiate(port, *, seconds=60):
    """Speak as an MTA does at first; return whether the filter answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(encode(POSTFIX_OFFER))
        return connection.recv(100)[4:5] == POSTFIX_OFFER.code


def greet(port, *, seconds=60):
    """Connect as a mail client does; return whether the filter greeted."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        return connection.recv(4) == b"220 "


def as_service(machine, *command):
    """Run a command as the service's user, in its view of the file system."""
    return machine.run(
        "nsenter", f"--target={machine.show(UNIT, 'MainPID')}", "--mount",
        "setpriv", "--reuid=spamguard", "--regid=spamguard", "--clear-groups", *command,
    )  # fmt: skip


def test_the_service_starts_in_its_sandbox_and_says_nothing_but_that_it_is_ready(machine):
    machine.systemctl("start", UNIT)
    assert "active" == machine.show(UNIT, "ActiveState")
    assert machine.show(UNIT, "StatusText").startswith("model ")
    (line,) = machine.log().splitlines()
    assert line.startswith("info spamguard.daemon ready")
    assert negotiate(machine.port)
    status = machine.run("cat", f"/proc/{machine.show(UNIT, 'MainPID')}/status").stdout
    fields = dict(line.partition(":\t")[::2] for line in status.splitlines())
    expected = {"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
    assert expected == {key: fields[key].strip() for key in expected}
    assert machine.run("stat", "-c", "%U %a", "/var/lib/spamguard").stdout == "spamguard 700\n"
    assert "model" in as_service(machine, "/opt/spamguard/bin/spamguard", "status").stdout


def test_the_sandbox_lets_nothing_be_written_but_state_and_sockets(machine):
    machine.systemctl("start", UNIT)
    writable = ["/var/lib/spamguard", "/run/spamguard", "/tmp"]
    for path in (*writable, "/etc/spamguard", "/opt", "/usr", "/var/log", "/dev", "/proc/sys"):
        done = as_service(machine, "touch", f"{path}/try")
        assert (path in writable) == (done.returncode == 0), path
    assert not (machine.root / "tmp/try").exists()  # a /tmp of its own
    assert as_service(machine, "ls", "/home").returncode  # ProtectHome


def test_a_reload_takes_effect_and_a_wrong_configuration_changes_nothing(machine):
    machine.systemctl("start", UNIT)
    process = machine.show(UNIT, "MainPID")
    configure(machine, '[policy]\nspam = "tag"\n')
    machine.systemctl("reload", UNIT)
    wait_for(lambda: "reloaded" in machine.log(), what="a reload")
    configure(machine, '[policy]\nspam = "explode"\n')
    with pytest.raises(RuntimeError, match="policy.spam = 'explode'"):
        machine.systemctl("reload", UNIT)
    configure(machine, 'version = "/nowhere"\n[policy]\nspam = "reject"\n')
    with pytest.raises(RuntimeError, match="/nowhere/manifest.json"):
        machine.systemctl("reload", UNIT)
    wait_for(lambda: machine.show(UNIT, "SubState") == "running", what="the end of the reload")
    assert process == machine.show(UNIT, "MainPID")
    assert negotiate(machine.port)


def test_the_doctor_says_when_the_service_is_not_there_after_a_reboot(machine):
    def said():
        answer = machine.run("/opt/spamguard/bin/spamguard", "doctor", "--json")
        findings = json.loads(answer.stdout)["findings"]
        return [(f["severity"], f["found"]) for f in findings if f["check"] == "service"]

    assert [("warning", "does not start at boot")] == said()
    machine.systemctl("enable", UNIT)
    assert [("ok", "starts at boot")] == said()
    machine.systemctl("disable", UNIT)
    machine.systemctl("enable", "spamguard.socket")
    assert [("ok", "starts at boot")] == said()


def test_at_boot_the_mail_server_waits_for_the_filter(machine):
    machine.write(
        "/etc/systemd/system/postfix.service",
        "[Service]\nType=oneshot\n"
        f"ExecStart=/bin/sh -c 'systemctl is-active {UNIT} >/run/at-start'\n",
    )
    wanted = f"[Unit]\nWants=postfix.service {UNIT}\nAfter=postfix.service {UNIT}\n"
    machine.write("/etc/systemd/system/both.target", wanted)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "both.target")
    assert "active\n" == (machine.root / "run/at-start").read_text()


def test_a_daemon_that_judges_no_more_is_started_anew_by_the_watchdog(machine):
    machine.drop_in(UNIT, "[Service]\nWatchdogSec=2s\n")
    configure(machine, "hard_limit_seconds = 3000\n")
    machine.systemctl("start", UNIT)
    process = machine.show(UNIT, "MainPID")
    time.sleep(3)
    assert process == machine.show(UNIT, "MainPID")  # while it judges it stays
    children = machine.run(
        "pgrep", "--parent", process, "-f", "spamguard.model.scorer"
    ).stdout.split()
    assert children
    machine.run("kill", "-STOP", *children)
    wait_for(lambda: machine.show(UNIT, "NRestarts") == "1", what="a restart")
    wait_for(lambda: machine.show(UNIT, "SubState") == "running", what="the next daemon")
    assert process != machine.show(UNIT, "MainPID")
    assert "self-check failed" in machine.log()
    assert negotiate(machine.port)


def test_a_wrong_configuration_is_not_tried_again_and_the_postmaster_hears_of_it(machine):
    machine.write("/usr/sbin/sendmail", '#!/bin/sh\n{ echo "$@"; cat; } >/tmp/mail\n', mode=0o755)
    machine.drop_in("spamguard-notify@.service", "[Service]\nPrivateTmp=no\n")
    machine.run("groupadd", "--system", "systemd-journal")
    configure(machine, '[policy]\nspam = "explode"\n')
    with pytest.raises(RuntimeError, match="policy.spam = 'explode'"):
        machine.systemctl("start", UNIT)
    assert "78" == machine.show(UNIT, "ExecMainStatus")
    mail = machine.root / "tmp/mail"
    wait_for(lambda: mail.exists() and "Subject:" in mail.read_text(), what="mail")
    assert mail.read_text().startswith(
        "-i postmaster\nTo: postmaster\nSubject: spamguard.service failed"
    )
    assert ("0", "failed") == (machine.show(UNIT, "NRestarts"), machine.show(UNIT, "ActiveState"))


def test_a_taken_port_is_tried_until_it_is_free(machine):
    with socket.create_server(("127.0.0.1", machine.port)):
        with pytest.raises(RuntimeError, match="address already in use"):
            machine.systemctl("start", UNIT)
        assert "71" == machine.show(UNIT, "ExecMainStatus")
    wait_for(lambda: machine.show(UNIT, "SubState") == "running", what="the next try")
    assert negotiate(machine.port)


def test_a_killed_daemon_is_started_anew_and_its_scorers_are_gone(machine):
    machine.systemctl("start", UNIT)
    machine.systemctl("kill", "--kill-who=main", f"--signal={signal.SIGKILL.value}", UNIT)
    wait_for(lambda: machine.show(UNIT, "NRestarts") == "1", what="a restart")
    wait_for(lambda: machine.show(UNIT, "SubState") == "running", what="the next daemon")
    found = machine.run("pgrep", "--full", "spamguard.model.scorer").stdout.split()
    assert 1 == len(found)


def test_restarts_behind_the_socket_units_refuse_nobody(machine, capsys):
    machine.use_sockets(milter=machine.port, smtp=machine.smtp_port)
    machine.systemctl("start", UNIT)
    for line in lines_of_manual("### Restart without a refusal"):
        machine.systemctl(*line)
    answers, is_over = [], threading.Event()

    def ask(meet, port):
        while not is_over.is_set():
            try:
                answers.append(meet(port))
            except OSError as error:
                answers.append(error)
            time.sleep(0.02)

    doors = [(negotiate, machine.port), (negotiate, machine.port), (greet, machine.smtp_port)]
    threads = [threading.Thread(target=ask, args=door) for door in doors]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            machine.systemctl("restart", UNIT)
            time.sleep(0.3)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    with capsys.disabled():
        print(f"\n{len(answers)} connections over 3 restarts, {answers.count(True)} answered")
    assert len(answers) > 20
    assert {True} == set(answers)


def test_a_wrong_configuration_behind_the_socket_unit_ends_in_refusals_and_can_be_mended(machine):
    machine.use_sockets(milter=machine.port, smtp=machine.smtp_port)
    machine.drop_in(UNIT, "[Unit]\nStartLimitBurst=3\n")  # instead of half a minute
    machine.systemctl("start", "spamguard.socket")
    configure(machine, '[policy]\nspam = "explode"\n')
    with socket.create_connection(("127.0.0.1", machine.port)):
        wait_for(lambda: is_refused(machine.port), seconds=90, what="a refusal")
    assert "service-start-limit-hit" == machine.show("spamguard.socket", "Result")
    configure(machine)
    for line in lines_of_manual("### When it does not start"):
        machine.systemctl(*line)
    assert negotiate(machine.port)


def test_the_retraining_unit_runs_in_its_sandbox_and_its_timer_has_a_next_time(machine):
    machine.systemctl("start", UNIT)
    machine.systemctl("start", "spamguard-retrain.service")
    assert "success" == machine.show("spamguard-retrain.service", "Result")
    machine.systemctl("start", "spamguard-retrain.timer")
    assert machine.show("spamguard-retrain.timer", "NextElapseUSecRealtime")


def is_refused(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def lines_of_manual(heading):
    """Return the arguments of systemctl in the first block of commands under a heading."""
    section = MANUAL.read_text().partition(heading)[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
