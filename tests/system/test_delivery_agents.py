"""`spamguard scan --pipe` in procmail, maildrop and Sieve, by the lines of deploy/README.md."""

import shlex
import subprocess

import pytest

from tests.support.daemons import Daemon, free_port
from tests.support.exim import documented
from tests.support.mail import HAM, SPAM, message
from tests.support.programs import require_program
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(120)
HEADING = "### procmail, maildrop, Sieve"
PROGRAM = "/opt/spamguard/bin/spamguard"


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipe")
    token = root / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    made = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "http.listen": [f"127.0.0.1:{free_port()}", f"unix:{root}/http.sock"],
            "http.token_file": str(token),
        },
    )
    with made:
        yield made


@pytest.fixture
def program(daemon, tmp_path):
    """The installed program, with this daemon's settings."""
    path = tmp_path / "bin" / "spamguard-scan"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.join(daemon.command())} "$@"\n')
    path.chmod(0o755)
    return path


def judged(daemon):
    return daemon.status()["counters"].get("messages", 0)


def delivered(folder):
    return [path.read_bytes() for path in folder.glob("new/*")]


def run(*command, raw, cwd):
    done = subprocess.run(
        command, input=raw.replace(b"\r\n", b"\n"), cwd=cwd, capture_output=True, timeout=60
    )
    assert 0 == done.returncode, done.stderr + done.stdout


def test_procmail_sorts_by_our_field(daemon, program, tmp_path):
    rules = tmp_path / "procmailrc"
    rules.write_text(
        f"MAILDIR={tmp_path}\nDEFAULT={tmp_path}/inbox/\n"
        + documented(HEADING, 0).replace(PROGRAM, str(program))
    )
    for text in (HAM, SPAM):
        run(require_program("procmail"), str(rules), raw=message(text), cwd=tmp_path)
    [ham] = delivered(tmp_path / "inbox")
    [spam] = delivered(tmp_path / ".Junk")
    assert (True, True) == (b"X-Spam-Status: No" in ham, b"X-Spam-Flag: YES\n" in spam)
    assert b"\r" not in ham
    assert 2 == judged(daemon)


def test_maildrop_sorts_by_our_field(program, tmp_path):
    for folder in ("Maildir", "Maildir/.Junk"):
        for part in ("new", "cur", "tmp"):
            (tmp_path / folder / part).mkdir(parents=True)
    rules = tmp_path / "mailfilter"
    lines = documented(HEADING, 1).replace(PROGRAM, str(program))
    rules.write_text(
        f'DEFAULT="{tmp_path}/Maildir"\n'
        + lines.replace("Maildir/.Junk", f"{tmp_path}/Maildir/.Junk")
    )
    rules.chmod(0o600)
    for text in (HAM, SPAM):
        run(require_program("maildrop"), str(rules), raw=message(text), cwd=tmp_path)
    [ham] = delivered(tmp_path / "Maildir")
    [spam] = delivered(tmp_path / "Maildir" / ".Junk")
    assert (True, True) == (b"X-Spam-Status: No" in ham, b"X-Spam-Flag: YES\n" in spam)


def test_sieve_sorts_by_our_field(program, tmp_path):
    (tmp_path / "bin" / "spamguard-scan").rename(tmp_path / "bin" / "program")
    wrapper = tmp_path / "bin" / "spamguard-scan"
    wrapper.write_text(f"#!/bin/sh\nexec {tmp_path}/bin/program scan --pipe\n")
    wrapper.chmod(0o755)
    # Sieve runs for nobody with uid 0: be another user, who owns the same files.
    as_user = [require_program("unshare"), "--user", "--map-user=1000", "--map-group=1000"]
    script = tmp_path / "filter.sieve"
    script.write_text(documented(HEADING, 2))
    config = tmp_path / "dovecot.conf"
    config.write_text(f"""\
log_path = /dev/stderr
mail_uid = 1000
mail_gid = 1000
mail_location = maildir:{tmp_path}/mail
plugin {{
  sieve_plugins = sieve_extprograms
  sieve_extensions = +vnd.dovecot.filter
  sieve_filter_bin_dir = {tmp_path}/bin
}}
""")
    for text in (HAM, SPAM):
        mail = tmp_path / "mail.eml"
        mail.write_bytes(message(text))
        done = subprocess.run(
            [*as_user, require_program("sieve-test"), "-c", str(config), "-x", "+vnd.dovecot.filter", "-e",
             "-l", f"maildir:{tmp_path}/mail", str(script), str(mail)],
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr
    [ham] = delivered(tmp_path / "mail")
    [spam] = delivered(tmp_path / "mail" / ".Junk")
    assert (True, True) == (b"X-Spam-Status: No" in ham, b"X-Spam-Flag: YES" in spam)


def pipe(daemon, raw, *options):
    return daemon.run("scan", "--pipe", *options, input=raw)


def test_the_envelope_on_top_is_told_to_the_daemon(daemon):
    raw = b"Return-Path: <ann@sender.example>\r\nDelivered-To: bob@here.example\r\n" + message(HAM)
    assert b"X-Spam-Status: No" in pipe(daemon, raw).stdout
    assert "from=*@sender.example recipients=1" in daemon.log.read_text()


def test_a_door_on_tcp_is_opened_by_the_token(daemon):
    tcp = daemon.settings["http.listen"][0]
    before = judged(daemon)
    done = daemon.run("--set", f'http.listen=["{tcp}"]', "scan", "--pipe", input=message(SPAM))
    assert b"X-Spam-Flag: YES" in done.stdout
    assert before + 1 == judged(daemon)


def test_without_a_daemon_the_model_is_loaded_here(daemon):
    done = daemon.run("--set", 'http.listen=["127.0.0.1:1"]', "scan", "--pipe", input=message(SPAM))
    assert (0, True) == (done.returncode, b"X-Spam-Flag: YES" in done.stdout)


@pytest.mark.parametrize("raw", [b"", b"no header, no end", b"From x Mon\n\xff\xfe", message(HAM)])
def test_without_a_verdict_the_message_comes_out_as_it_was(daemon, raw):
    away = ("--set", 'http.listen=["127.0.0.1:1"]', "--set", "model.version=/nonexistent")
    done = daemon.run(*away, "scan", "--pipe", input=raw)
    assert (0, raw) == (done.returncode, done.stdout)
    assert b"unscored" in done.stderr
    done = daemon.run(*away, "scan", "--pipe", "--tempfail", input=raw)
    assert (75, b"") == (done.returncode, done.stdout)


def test_a_configuration_that_cannot_be_read_costs_no_message(daemon, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[nonsense")
    done = daemon.run("-c", str(wrong), "scan", "--pipe", input=message(HAM))
    assert (0, message(HAM)) == (done.returncode, done.stdout)


@pytest.mark.parametrize("wrong", [(), ("--tempfail", "-"), ("--pipe", "-"), ("--pipe", "--json")])
def test_wrong_usage_is_said(daemon, wrong):
    done = daemon.run("scan", *wrong, input=b"")
    assert (64, True) == (done.returncode, b"expected PATHS, or --pipe" in done.stderr)
