"""`spamguard serve` as a process: start, status, reload, promotion, refusals, stop."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from spamguard.model.store import ModelStore
from tests.support.daemons import Daemon, free_port, wait_for
from tests.support.http_client import ask
from tests.support.mail import HAM, SPAM, message
from tests.support.toy_model import write_toy_model

EX_CONFIG, EX_IOERR, EX_OSERR, EX_UNAVAILABLE = 78, 74, 71, 69


@pytest.fixture
def daemon(tmp_path):
    write_toy_model(tmp_path / "state" / "models" / "toy-1")
    (tmp_path / "state" / "models" / "current").write_text("toy-1\n")
    with Daemon(tmp_path) as running:
        yield running


def test_status_tells_model_scorers_and_listeners(daemon):
    answer = daemon.status()
    assert answer["model"] == "toy-1"
    assert len(answer["scorers"]) == 1
    assert answer["listening"]["milter"] == [f"127.0.0.1:{daemon.milter_port}"]
    shown = daemon.run("status")
    assert shown.returncode == 0
    assert b"toy-1" in shown.stdout


def test_status_without_a_daemon_says_so(tmp_path):
    answer = Daemon(tmp_path).run("status")
    assert answer.returncode == EX_UNAVAILABLE
    assert b"no daemon answers" in answer.stderr
    assert b"Traceback" not in answer.stderr


def test_sigterm_ends_it_with_0_and_leaves_no_process(daemon):
    (scorer,) = daemon.status()["scorers"]
    assert daemon.stop() == 0
    wait_for(lambda: not os.path.exists(f"/proc/{scorer}"), what="the scorer gone")


def test_a_killed_daemon_takes_its_scorers_with_it(daemon):
    (scorer,) = daemon.status()["scorers"]
    daemon.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{scorer}"), what="the scorer gone")
    daemon.start()
    assert daemon.status()["model"] == "toy-1"


def test_promoting_a_version_switches_the_running_daemon(daemon):
    models = daemon.state / "models"
    write_toy_model(models / "toy-2", name="toy-2")
    ModelStore(models).promote("toy-2")
    wait_for(lambda: daemon.status()["model"] == "toy-2", what="toy-2 serving")


def test_a_rollback_takes_effect_within_five_seconds(daemon):
    models = daemon.state / "models"
    write_toy_model(models / "toy-2", name="toy-2")
    ModelStore(models).promote("toy-1")
    ModelStore(models).promote("toy-2")
    wait_for(lambda: daemon.status()["model"] == "toy-2", what="toy-2 serving")
    assert daemon.status()["watched"] == "toy-2"
    started = time.monotonic()
    answer = daemon.run("models", "rollback", "--reason", "test")
    assert answer.returncode == 0, answer.stderr
    wait_for(lambda: daemon.status()["model"] == "toy-1", what="toy-1 serving again")
    # From the moment `current` is replaced; starting the command is Python's own time.
    assert time.monotonic() - started < 5
    assert daemon.status()["watched"] is None


def test_a_corrupt_promotion_leaves_the_old_model_serving(daemon):
    models = daemon.state / "models"
    path = write_toy_model(models / "toy-3", name="toy-3")
    (path / "calibration.json").write_text("{}")
    part = models / "current.part"
    part.write_text("toy-3\n")
    part.replace(models / "current")
    wait_for(lambda: daemon.status()["counters"].get("reload_failures"), what="a failed reload")
    assert daemon.status()["model"] == "toy-1"
    assert "SHA-256" in daemon.log.read_text()


@pytest.fixture
def with_file(tmp_path):
    """A daemon with a configuration file, which reads that again."""
    write_toy_model(tmp_path / "state" / "models" / "toy-1")
    (tmp_path / "state" / "models" / "current").write_text("toy-1\n")
    daemon = Daemon(tmp_path, **{"http.listen": [f"127.0.0.1:{free_port()}"]})
    daemon.file = tmp_path / "spamguard.toml"
    daemon.file.write_text('[policy]\nspam = "tag"\n')
    command = daemon.command("serve")
    command[command.index(os.devnull)] = str(daemon.file)
    daemon.command = lambda *arguments: [*command[: command.index("serve")], *arguments]
    with daemon:
        yield daemon


def disposition_of_spam(daemon):
    port = int(daemon.settings["http.listen"][0].rpartition(":")[2])
    answer = ask(port, "POST", "/v1/check?from=a@b.example&ip=192.0.2.7", message(SPAM))
    return json.loads(answer.body)["disposition"]


def test_reload_applies_policy_and_names_what_needs_a_restart(with_file):
    settings = '[policy]\nspam = "reject"\n[milter]\nsocket_mode = "0600"\n'
    with_file.file.write_text(f"max_message_bytes = 1000000\n{settings}")
    for _ in range(2):  # it is still so the second time
        answer = with_file.run("reload")
        assert answer.returncode == 0, answer.stderr
        wanted = b"needs a restart to take effect: milter.socket_mode, max_message_bytes\n"
        assert answer.stdout.endswith(wanted)
    assert "settings=milter.socket_mode,max_message_bytes" in with_file.log.read_text()
    assert "reject" == disposition_of_spam(with_file)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[policy]\nspam = "explode"', b"policy.spam = 'explode'"),
        ('[policy]\nspam = "reject"\n[model]\nversion = "/nowhere"', b"/nowhere"),
    ],
    ids=["settings", "model"],
)
def test_a_reload_that_does_not_work_changes_nothing(with_file, settings, said):
    with_file.file.write_text(settings)
    answer = with_file.run("reload")
    assert EX_CONFIG == answer.returncode
    assert said in answer.stderr
    with_file.process.send_signal(signal.SIGHUP)
    wait_for(lambda: said.decode() in with_file.log.read_text(), what="a failed reload")
    assert "tag" == disposition_of_spam(with_file)
    assert with_file.status()["counters"]["reload_failures"]


def test_half_an_edit_keeps_no_promotion_from_taking_effect(with_file):
    with_file.file.write_text('[policy]\nspam = "quara')
    models = with_file.state / "models"
    write_toy_model(models / "toy-2", name="toy-2")
    ModelStore(models).promote("toy-2")
    wait_for(lambda: with_file.status()["model"] == "toy-2", what="toy-2 serving")


def test_a_promotion_applies_no_settings_that_were_not_reloaded(with_file):
    with_file.file.write_text('[policy]\nspam = "reject"\n')
    models = with_file.state / "models"
    write_toy_model(models / "toy-2", name="toy-2")
    ModelStore(models).promote("toy-2")
    wait_for(lambda: with_file.status()["model"] == "toy-2", what="toy-2 serving")
    assert "tag" == disposition_of_spam(with_file)


def test_status_by_somebody_else_says_who_may_ask(daemon):
    daemon.control.chmod(0)
    no_privilege = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override", "--")
    answer = subprocess.run(
        [*no_privilege, *daemon.command("status")], capture_output=True, timeout=60, check=False
    )
    assert 77 == answer.returncode
    assert b"run it as root, or as the daemon's user" in answer.stderr


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"model.version": "no-such"}, EX_CONFIG, "no-such/manifest.json: No such file"),
        ({"policy.spam": "explode"}, EX_CONFIG, "policy.spam = 'explode'"),
        ({"paths.state": "/proc/nowhere"}, EX_IOERR, "/proc/nowhere"),
        ({"milter.listen": ["192.0.2.1:1"]}, EX_OSERR, "milter.listen = '192.0.2.1:1'"),
    ],
)
def test_what_cannot_work_is_refused_at_start(tmp_path, settings, code, words):
    version = {"model.version": str(write_toy_model(tmp_path / "toy"))}
    daemon = Daemon(tmp_path, **{**version, **settings})
    ended = subprocess.run(daemon.command("serve"), capture_output=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()


def test_two_daemons_cannot_share_a_state_directory(daemon):
    second = Daemon(daemon.directory)
    ended = subprocess.run(second.command("serve"), capture_output=True, timeout=60, check=False)
    assert ended.returncode == EX_IOERR
    assert b"another daemon uses this state directory" in ended.stderr


def test_the_daemon_never_imports_torch():
    code = (
        "import sys, spamguard.daemon, spamguard.cli, spamguard.model.scorer, spamguard.scan;"
        "bad = {'torch', 'transformers', 'onnx', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_state_and_sockets_are_private(daemon):
    assert (daemon.state / "spamguard.db").stat().st_mode & 0o077 == 0
    assert daemon.control.stat().st_mode & 0o077 == 0
    assert (daemon.state / "quarantine").stat().st_mode & 0o077 == 0


def test_unix_sockets_get_their_mode_and_replace_a_stale_one(tmp_path):
    model = write_toy_model(tmp_path / "toy")
    path = tmp_path / "milter.sock"
    with Daemon(
        tmp_path,
        **{
            "model.version": str(model),
            "milter.listen": [f"unix:{path}"],
            "milter.socket_mode": "0666",
            "smtp.listen": [],
        },
    ) as daemon:
        assert path.stat().st_mode & 0o777 == 0o666
        daemon.kill()
        daemon.start()
        assert daemon.status()["listening"] == {"milter": [f"unix:{path}"]}


# -- the command line beside the daemon ------------------------------------------------------


@pytest.fixture
def offline(tmp_path):
    model = write_toy_model(tmp_path / "toy")
    return Daemon(tmp_path, **{"model.version": str(model), "model.workers": 2})


def test_scan_prints_one_json_line_a_message_in_order(offline, tmp_path):
    folder = tmp_path / "mail"
    folder.mkdir()
    for number in range(30):
        text = SPAM if number % 3 == 0 else HAM
        (folder / f"{number:02d}.eml").write_bytes(message(text))
    ended = offline.run("scan", "--json", str(folder), "-", input=message(SPAM))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0
    assert [line["path"] for line in lines[:2]] == [str(folder / "00.eml"), str(folder / "01.eml")]
    assert [line["label"] for line in lines] == ["spam", "ham", "ham"] * 10 + ["spam"]
    assert set(lines[0]) == {
        "path",
        "label",
        "spam_probability",
        "model_version",
        "truncated",
        "milliseconds",
    }


def test_scan_reports_what_it_cannot_read_and_ends_with_75(offline, tmp_path):
    good = tmp_path / "good.eml"
    good.write_bytes(message(HAM))
    ended = offline.run("scan", "--json", str(tmp_path / "missing.eml"), str(good))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 75
    assert [line["label"] for line in lines] == ["unscored", "ham"]
    assert "No such file" in lines[0]["error"]


def test_scan_shows_a_table(offline, tmp_path):
    path = tmp_path / "spam.eml"
    path.write_bytes(message(SPAM))
    ended = offline.run("scan", str(path))
    assert ended.returncode == 0
    assert b"1 spam" in ended.stdout


def test_config_check_names_every_mistake_at_once(tmp_path):
    path = tmp_path / "spamguard.toml"
    path.write_text('[policy]\nspam = "hold"\nunsur = "tag"\n[model]\nworkers = -1\n')
    ended = subprocess.run(
        [sys.executable, "-m", "spamguard", "-c", str(path), "config", "check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == EX_CONFIG
    for words in ("policy.spam = 'hold'", "did you mean policy.unsure", "model.workers = -1"):
        assert words in ended.stderr
    assert ended.stderr.count(str(path)) == 3


def test_config_init_writes_a_file_that_checks_and_never_overwrites(tmp_path):
    path = tmp_path / "etc" / "spamguard.toml"
    command = [sys.executable, "-m", "spamguard", "config", "init", str(path)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    assert (
        subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == EX_IOERR
    )
    shown = subprocess.run(
        [sys.executable, "-m", "spamguard", "-c", str(path), "config", "show"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert json.loads(shown.stdout)["policy"]["spam"] == "quarantine"


def test_models_list_and_show(offline):
    assert b"toy-1" in offline.run("models", "show").stdout
    assert offline.run("models", "list").returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(offline, shell):
    assert b"_SPAMGUARD_COMPLETE" in offline.run("completion", shell).stdout


def test_a_wrong_option_ends_with_64_and_no_traceback(offline):
    ended = offline.run("scan", "--nonsense", "x")
    assert ended.returncode == 64
    assert b"Traceback" not in ended.stderr


def test_starting_takes_no_longer_than_a_few_seconds(tmp_path):
    # The target is two seconds on an idle machine (tests/bench); this catches a forgotten import.
    started = time.monotonic()
    with Daemon(tmp_path, **{"model.version": str(write_toy_model(tmp_path / "toy"))}):
        assert time.monotonic() - started < 20


def test_what_came_of_a_retraining_stands_in_the_status(daemon):
    answer = daemon.run("retrain")
    assert 0 == answer.returncode, answer.stderr
    assert "nothing to learn yet" in daemon.status()["retraining"]["result"]
    assert b"nothing to learn yet" in daemon.run("status").stdout
