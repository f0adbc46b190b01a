"""What the doctor finds in files, databases, sockets and real Postfix configurations."""

import json
import os
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from click.testing import CliRunner

from spamguard.cli import cli
from spamguard.config import Config
from spamguard.database import migrate
from spamguard.doctor import exim as exim_doctor
from spamguard.doctor import findings, machine, probe, service
from spamguard.doctor.findings import Severity, worst
from spamguard.doctor.mail_server import PostfixDoctor
from spamguard.doctor.probe import send_and_look
from spamguard.model.store import SHIPPED
from spamguard.wiring import programs
from spamguard.wiring.changes import write
from spamguard.wiring.lines import Way
from spamguard.wiring.lines import exim as exim_lines
from spamguard.wiring.postfix import PostfixConfig
from tests.support.daemons import free_port
from tests.support.debian import need_user, unpacked
from tests.support.postfix import Mailbox
from tests.support.programs import require_program
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def config(tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    migrate(state / "spamguard.db")
    sections = {
        "paths": {"state": state, "control_socket": tmp_path / "control.sock"},
        "model": {"version": str(write_toy_model(tmp_path / "toy"))},
    }
    return Config.model_validate(sections)


def bad(found):
    return [f for f in found if f.severity in {Severity.WARNING, Severity.ERROR}]


def the_one(found):
    (finding,) = bad(found)
    assert finding.advice
    return f"{finding.severity}: {finding.found}"


# -- findings --------------------------------------------------------------------------------


def test_the_worst_finding_makes_the_exit_code():
    found = [findings.ok("a", "b"), findings.note("a", "b")]
    assert 0 == findings.EXIT_CODES[worst([])] == findings.EXIT_CODES[worst(found)]
    found.append(findings.warning("a", "b", "c"))
    assert 1 == findings.EXIT_CODES[worst(found)]
    found.insert(0, findings.error("a", "b", "c"))
    assert 2 == findings.EXIT_CODES[worst(found)]


def run(*arguments):
    return CliRunner().invoke(cli, ["-c", os.devnull, *arguments])


def test_a_wrong_configuration_is_one_finding_a_mistake():
    done = run("--set", "model.wrokers=1", "--set", "policy.spam=burn", "doctor", "--json")
    answer = json.loads(done.stdout)
    assert (2, "error") == (done.exit_code, answer["severity"])
    assert ["configuration"] * 2 == [finding["check"] for finding in answer["findings"]]
    said = "\n".join(finding["found"] for finding in answer["findings"])
    assert "did you mean model.workers?" in said


def test_the_table_says_the_same_as_the_json(config):
    settings = ("--set", f"paths.state={config.paths.state}", "--set", "milter.listen=[]")
    settings += ("--set", f"paths.control_socket={config.paths.control_socket}")
    as_json, table = run(*settings, "doctor", "--json"), run(*settings, "doctor")
    assert as_json.exit_code == table.exit_code == 2
    assert "milter is closed" in table.stdout
    for finding in json.loads(as_json.stdout)["findings"]:
        assert finding["severity"] in table.stdout


def test_an_address_without_a_port_is_wrong_usage():
    assert "expected HOST:PORT" in run("doctor", "--smtp", "localhost").stderr


# -- the machine -----------------------------------------------------------------------------


def test_all_is_well_with_a_fresh_state_directory(config):
    for check in (machine.state, machine.database, machine.model, machine.disk):
        assert [] == [f for f in bad(check(config)) if f.check != "disk"]
    assert [] == bad(machine.time_of_day(config, clock=time.time))
    assert [] == bad(machine.versions())


def test_a_state_directory_that_others_can_read_is_noticed(config):
    config.paths.state.chmod(0o755)
    assert "warning: " in (said := the_one(machine.state(config)))
    assert "others may look into it" in said


def test_a_state_directory_that_is_not_there_is_noticed(config):
    shutil.rmtree(config.paths.state)
    assert "is not there" in the_one(machine.state(config))
    assert "is not there" in the_one(machine.database(config))
    assert [] == list(machine.disk(config)) + list(machine.time_of_day(config, clock=time.time))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_noticed(config):
    os.chown(config.paths.database, 65534, 65534)
    assert "error: " in (said := the_one(machine.state(config)))
    assert "not root's: spamguard.db" in said


def test_a_configuration_that_others_may_write_is_noticed(tmp_path):
    path = tmp_path / "spamguard.toml"
    path.write_text("")
    path.chmod(0o644)
    assert [] == bad(machine.settings_file(path))
    path.chmod(0o666)
    assert "others may write it" in the_one(machine.settings_file(path))


def test_a_token_file_that_others_can_read_is_noticed(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("x" * 32)
    tokens.chmod(0o644)
    config = Config.model_validate({"http": {"token_file": str(tokens)}})
    assert "mode 0644" in the_one(machine.secrets(config))
    tokens.chmod(0o600)
    assert [] == bad(machine.secrets(config))


def test_a_damaged_database_is_noticed(config):
    path = config.paths.database
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    assert the_one(machine.database(config)).startswith("error: ")
    path.write_bytes(b"no database at all" * 100)
    assert "file is not a database" in the_one(machine.database(config))


def test_a_database_of_a_newer_version_is_noticed(config):
    with closing(sqlite3.connect(config.paths.database)) as database:
        database.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('spamguard', 'from_the_future', '2030-01-01')"
        )
        database.commit()
    assert "newer SpamGuard (migration from_the_future)" in the_one(machine.database(config))


def test_looking_at_a_database_changes_nothing(config):
    before = {path.name: path.read_bytes() for path in config.paths.state.iterdir()}
    list(machine.database(config))
    assert before == {path.name: path.read_bytes() for path in config.paths.state.iterdir()}


def test_a_damaged_model_is_noticed(config, tmp_path):
    (tmp_path / "toy" / "linear.safetensors").write_bytes(b"x")
    assert "SHA-256" in the_one(machine.model(config))


def test_files_from_the_future_are_noticed(config):
    ahead = time.time() + 3600
    os.utime(config.paths.database, (ahead, ahead))
    assert "from the future: spamguard.db" in the_one(machine.time_of_day(config, clock=time.time))


def test_a_clock_that_disagrees_with_the_file_system_is_noticed(config):
    said = the_one(machine.time_of_day(config, clock=lambda: time.time() - 3600))
    assert "dated +3600 s off" in said


def test_a_disk_that_is_nearly_full_is_noticed(config, monkeypatch):
    monkeypatch.setattr(machine, "FULL_BYTES", 1 << 60)
    assert the_one(machine.disk(config)).startswith("error: ")


# -- the daemon ------------------------------------------------------------------------------


def test_a_daemon_that_is_not_there_is_noticed(config):
    found, status = service.daemon(config)
    assert {} == status
    assert "no answer on" in the_one(found)


def test_a_door_where_nobody_or_somebody_else_listens_is_noticed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer():
            connection, _ = other.accept()
            connection.recv(100)
            connection.sendall(b"* OK IMAP ready\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        settings = {
            "milter": {"listen": [f"unix:{tmp_path}/none.sock"]},
            "smtp": {"listen": [f"127.0.0.1:{port}"]},
        }
        found = bad(service.doors(Config.model_validate(settings), {}))
        thread.join()
    assert ["No such file" in found[0].found, "another answer" in found[1].found] == [True, True]


def test_a_socket_that_everybody_may_use_is_noticed(tmp_path):
    path = tmp_path / "milter.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o666)
        assert "every user of this machine may connect (0666)" in the_one(
            service._mode("milter", path)  # noqa: SLF001
        )
        path.chmod(0o660)
        assert [] == list(service._mode("milter", path))  # noqa: SLF001


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"version": "0.0.1"}, "runs version 0.0.1"),
        ({"model": "old"}, "judges with old"),
        ({"scorers": []}, "0 of 1 scorers"),
        ({"counters": {"messages": 100, "verdict.unscored": 2}}, "2 of 100 messages"),
        ({"counters": {"quarantine_failures": 3}}, "quarantine_failures: 3"),
    ],
)
def test_what_the_daemon_says_of_itself_is_judged(config, monkeypatch, status, said):
    import spamguard

    well = {
        "version": spamguard.__version__,
        "pid": 1,
        "model": "toy-1",
        "scorers": [1],
        "counters": {"messages": 100, "verdict.unscored": 1},
    }
    one = config.model_copy(update={"model": config.model.model_copy(update={"workers": 1})})
    monkeypatch.setattr(service, "ask", lambda *_: well)
    assert [] == bad(service.daemon(one)[0])
    monkeypatch.setattr(service, "ask", lambda *_: {**well, **status})
    assert said in the_one(service.daemon(one)[0])


# -- Postfix ---------------------------------------------------------------------------------

MASTER = """\
smtp      inet  n       -       n       -       -       smtpd
submission inet n       -       n       -       -       smtpd
smtp      unix  -       -       n       -       -       smtp
"""


@pytest.fixture
def postfix(tmp_path):
    """A Postfix that is wired as `setup` does it, ready to be spoiled."""
    require_program("postconf")

    def build(way=Way.MILTER, **sections):
        directory = tmp_path / "postfix"
        directory.mkdir()
        (directory / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {tmp_path}\nmail_owner = nobody\n"
        )
        (directory / "master.cf").write_text(MASTER)
        age(directory)
        config = Config.model_validate(sections)
        if way:
            server = PostfixConfig(directory)
            write(server.plan(server.lines(config, way)), directory)
        age(directory)
        return directory, config

    return build


def age(directory):
    """Have postconf read at once: what was just written it reads a second later."""
    for name in ("main.cf", "master.cf"):
        os.utime(directory / name, (0, 0))


def spoil(directory, main="", master=()):
    with (directory / "main.cf").open("a") as file:
        file.write(f"{main}\n")
    text = (directory / "master.cf").read_text()
    for old, new in (master,) if master else ():
        assert old in text
        text = text.replace(old, new, 1)
    (directory / "master.cf").write_text(text)
    age(directory)


def examined(directory, config):
    found = list(PostfixDoctor(config, PostfixConfig(directory)).examine())
    return [f for f in found if "does not run" not in f.found]


@pytest.mark.parametrize("way", list(Way))
def test_what_setup_wrote_is_well(postfix, way):
    sections = {"smtp": {"next_hop_timeout_seconds": 80}} if way is Way.BEFORE_QUEUE else {}
    assert [] == bad(examined(*postfix(way, **sections)))


MILTER = "smtpd_milters = { inet:127.0.0.1:11332, default_action=%s, content_timeout=%s }"


@pytest.mark.parametrize(
    ("way", "main", "master", "said"),
    [
        (None, "", (), "error: no service hands mail to SpamGuard"),
        (
            Way.MILTER,
            "",
            ("smtpd\n", "smtpd\n  -o smtpd_milters=inet:localhost:8891\n"),
            "error: smtp/inet does not hand its mail",
        ),
        (
            Way.MILTER,
            "",
            ("smtpd\n", "smtpd\n  -o receive_override_options=no_milters\n"),
            "error: smtp/inet does not hand its mail",
        ),
        (Way.MILTER, MILTER % ("reject", "30s"), (), "warning: milter_default_action is reject"),
        (Way.MILTER, MILTER % ("accept", "10s"), (), "error: milter_content_timeout 10 s, our"),
        (Way.MILTER, MILTER % ("accept", "20s"), (), "warning: milter_content_timeout 20 s"),
        (Way.MILTER, "milter_connect_timeout = 1s", (), "warning: milter_connect_timeout is 1 s"),
        (Way.MILTER, "message_size_limit = 0", (), "warning: message_size_limit 0"),
        (
            Way.MILTER,
            "",
            ("-o smtpd_milters=\n    ", ""),
            None,  # no_milters is there still
        ),
        (
            Way.CONTENT_FILTER,
            "",
            ("-o content_filter=\n", "-o content_filter=spamguard:[127.0.0.1]:10025\n"),
            "error: 127.0.0.1:10026/inet, where mail comes back, filters again",
        ),
        (Way.CONTENT_FILTER, MILTER % ("accept", "30s"), (), "judged twice"),
        (
            Way.CONTENT_FILTER,
            "",
            ("smtp_data_done_timeout=1200", "smtp_data_done_timeout=5m"),
            "warning: spamguard/unix: smtp_data_done_timeout 300 s, ours with the next hop",
        ),
        (
            Way.CONTENT_FILTER,
            "",
            ("smtp_send_xforward_command=yes", "smtp_send_xforward_command=no"),
            "warning: spamguard/unix does not tell who the client was",
        ),
        (
            Way.CONTENT_FILTER,
            "content_filter = other:[127.0.0.1]:10025",
            (),
            "error: content_filter names other, which master.cf has not",
        ),
        (
            Way.CONTENT_FILTER,
            "",
            ("127.0.0.1:10026 inet", "127.0.0.1:10027 inet"),
            "smtp.next_hop 127.0.0.1:10026: Postfix does not listen there",
        ),
        (
            Way.BEFORE_QUEUE,
            "",
            (),
            "warning: smtp/inet: smtpd_proxy_timeout 100 s, ours with the next hop at most 310 s",
        ),
    ],
)
def test_each_mistake_in_the_wiring_is_noticed(postfix, way, main, master, said):
    directory, config = postfix(way)
    spoil(directory, main, master)
    found = [f"{f.severity}: {f.found}" for f in bad(examined(directory, config))]
    assert any(said in text for text in found) if said else not found, found


def test_a_service_with_milters_of_its_own_is_pointed_to(postfix):
    directory, config = postfix()
    spoil(directory, master=("smtpd\n", "smtpd\n  -o smtpd_milters=inet:localhost:8891\n"))
    (finding,) = bad(examined(directory, config))
    assert "its own -o smtpd_milters in master.cf overrides main.cf" == finding.advice


def test_a_socket_out_of_the_chroots_sight_is_noticed(postfix, tmp_path):
    sections = {"milter": {"listen": ["unix:/run/spamguard/milter.sock"]}}
    directory, config = postfix(**sections)
    spoil(
        directory, master=("smtp      inet  n       -       n", "smtp      inet  n       -       y")
    )
    assert any("smtp/inet is chrooted" in f.found for f in bad(examined(directory, config)))


def test_a_socket_that_postfix_may_not_open_is_noticed(postfix, tmp_path):
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    path = tmp_path / "spamguard" / "milter.sock"
    path.parent.mkdir(mode=0o755)
    directory, config = postfix(milter={"listen": [f"unix:{path}"]})
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o660)
        found = [f.found for f in bad(examined(directory, config))]
        assert [f"{path} is closed to nobody"] == list(dict.fromkeys(found))
        path.chmod(0o666)
        assert [] == bad(examined(directory, config))
        path.parent.chmod(0o700)
        found = [f.found for f in bad(examined(directory, config))]
        assert [f"{path.parent} is closed to nobody"] == list(dict.fromkeys(found))


# -- Exim ------------------------------------------------------------------------------------


@pytest.fixture
def exim(tmp_path, monkeypatch):
    """Put a real Exim, whose configuration setup printed, onto the system's path."""
    package = unpacked("exim4-daemon-heavy")
    need_user("Debian-exim")

    def build(**sections):
        (tmp_path / "exim.conf").write_text(
            f"exim_user = Debian-exim\nkeep_environment =\nspool_directory = {tmp_path}\n"
            + exim_lines(Config.model_validate(sections)).partition("\n\n")[0]
        )
        libraries = package.environment["LD_LIBRARY_PATH"]
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "exim4"
        program.write_text(
            f"#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {package.path('usr/sbin/exim4')}"
            f' -C {tmp_path}/exim.conf "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setattr(programs, "_SYSTEM_PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    return build


@pytest.mark.parametrize("listen", ["127.0.0.1:1783", "[::1]:1783", "unix:/nowhere/spamd.sock"])
def test_an_exim_that_asks_us_is_well(exim, listen):
    sections = {"spamd": {"listen": [listen]}}
    exim(**sections)
    found = list(exim_doctor.examine(Config.model_validate(sections), exim_doctor.program()))
    assert ["ok"] == [f.severity for f in found], found


def test_an_exim_that_asks_another_or_nobody_is_noticed(exim):
    exim(spamd={"listen": ["127.0.0.1:1783"]})
    other = Config.model_validate({"spamd": {"listen": ["127.0.0.1:1784"]}})
    said = the_one(exim_doctor.examine(other, "exim4"))
    assert "error: spamd_address = 127.0.0.1 1783: not ours (127.0.0.1:1784)" == said
    assert "door is closed" in the_one(exim_doctor.examine(Config(), "exim4"))


def test_a_socket_that_exim_may_not_open_is_noticed(exim, tmp_path):
    path = tmp_path / "spamd.sock"
    sections = {"spamd": {"listen": [f"unix:{path}"]}}
    exim(**sections)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        said = the_one(exim_doctor.examine(Config.model_validate(sections), "exim4"))
    assert "is closed to Debian-exim" in said


# -- mail ------------------------------------------------------------------------------------


def sent(config, port):
    where = ("127.0.0.1", port)
    return list(
        send_and_look(
            "bob@test.example", server=where, database=config.paths.database, wait_seconds=1
        )
    )


def test_mail_that_does_not_pass_us_is_noticed(config):
    mailbox = Mailbox()
    mailbox.start()
    try:
        found = sent(config, mailbox.port)
    finally:
        mailbox.stop()
    assert 2 == len(mailbox.messages)
    assert 2 == sum("recorded no verdict" in f.found for f in bad(found))


def test_a_mail_server_that_is_not_there_is_named(config):
    found = bad(sent(config, free_port()))
    assert ["Connection refused" in f.found for f in found] == [True, True]


@pytest.mark.parametrize("kind", ["mbox", "maildir"])
def test_the_header_is_that_of_the_message_alone(tmp_path, kind):
    ours = b"X-SpamGuard-ID: 1\r\nMessage-ID: <one@spamguard.invalid>\r\n\r\nX: <two@a>\r\n"
    other = b"Message-ID: <two@spamguard.invalid>\n\nX-SpamGuard-ID: in a body\n"
    mailbox = tmp_path / kind
    if kind == "mbox":
        mailbox.write_bytes(b"From a Mon\n" + ours + b"\nFrom b Tue\n" + other)
    else:
        for folder, raw in (("new", ours), ("cur", other), ("tmp", b"")):
            (mailbox / folder).mkdir(parents=True)
            (mailbox / folder / "1").write_bytes(raw)
    for name, expected in (("one", "ok"), ("two", "error"), ("three", "error")):
        found = probe._arrived(mailbox, f"<{name}@spamguard.invalid>", 0)
        assert expected == found.severity, found
    assert "is not in" in found.found


def test_a_mailbox_that_never_comes_is_named(tmp_path):
    found = probe._arrived(tmp_path / "none", "<a@b>", 0)
    assert "error" == found.severity
    assert f"is not in {tmp_path}/none" in found.found


def test_the_shipped_model_calls_the_ordinary_message_ham():
    from spamguard.model.classifier import Classifier
    from spamguard.model.scorer import MessageScorer
    from spamguard.model.store import ModelVersion
    from spamguard.verdict import Label, judge

    version = ModelVersion.read(SHIPPED)
    scorer = MessageScorer(Classifier(version))
    labels = {}
    for name, text in probe._TEXTS.items():  # noqa: SLF001
        raw = probe._message("a@b.example", f"spamguard doctor: {name}", text, now=0.0)  # noqa: SLF001
        labels[name] = judge(scorer.score(raw.as_bytes()), version.thresholds, "id").label
    assert {"ordinary": Label.HAM, "GTUBE": Label.SPAM} == labels
