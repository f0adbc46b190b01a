"""curl and the real rspamc against a real daemon, by the very lines of deploy/README.md."""

import json
import sqlite3
import subprocess
from contextlib import closing

import pytest

from tests.support.daemons import Daemon
from tests.support.debian import unpacked
from tests.support.exim import documented
from tests.support.http_client import ask
from tests.support.mail import HAM, SPAM, message
from tests.support.programs import require_program
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def site(open_directory):
    """A daemon, and the documented commands with its paths and port."""
    require_program("curl")
    require_program("openssl")
    root = open_directory
    replaced = {"/etc/spamguard": str(root), "/run/spamguard": str(root)}
    setup, *rest = documented("### HTTP", 1).splitlines()
    for old, new in replaced.items():
        setup = setup.replace(old, new)
    subprocess.run(setup.replace("chown spamguard", "chown root"), shell=True, check=True)
    daemon = Daemon(
        root,
        **{
            "model.version": str(write_toy_model(root / "toy")),
            "http.listen": ["127.0.0.1:0", f"unix:{root}/http.sock"],
            "http.token_file": str(root / "http.tokens"),
            "policy.spam": "reject",
            "policy.local_networks": [],
        },
    )
    with daemon:
        endpoint = daemon.status()["listening"]["http"][0]
        daemon.endpoint = endpoint
        daemon.port = int(endpoint.rpartition(":")[2])
        daemon.token = (root / "http.tokens").read_text().strip()
        replaced["127.0.0.1:11335"] = endpoint
        daemon.replaced = replaced
        daemon.documented = rest
        yield daemon


def run(site, line, raw, *, first="", environment=None):
    for old, new in site.replaced.items():
        line, first = line.replace(old, new), first.replace(old, new)
    (site.directory / "mail").write_bytes(raw)
    return subprocess.run(
        f"{first}\n{line}",
        shell=True,
        cwd=site.directory,
        capture_output=True,
        timeout=60,
        env=environment,
    )


def corrections(site):
    with closing(sqlite3.connect(site.state / "spamguard.db")) as database:
        return database.execute("select label, reporter, source from corrections").fetchall()


def test_the_documented_curl_commands_work(site):
    first, check, report, by_socket = site.documented
    raw = message(f"{SPAM} by curl")
    answer = json.loads(run(site, check, raw, first=first).stdout)
    assert (answer["label"], answer["disposition"]) == ("spam", "reject")
    answer = json.loads(run(site, report, raw, first=first).stdout)
    assert answer["is_new"] is True
    assert ("spam", "bob@example.org", "http") in corrections(site)
    answer = json.loads(run(site, by_socket, message(HAM)).stdout)
    assert (answer["label"], answer["disposition"]) == ("ham", "deliver")


@pytest.fixture(scope="module")
def rspamc(site):
    package = unpacked("rspamd")
    check, learn, stat = documented("### rspamd's clients").splitlines()
    environment = {**package.environment, "TOKEN": site.token}

    def call(line, raw=b""):
        program = package.path("usr/bin/rspamc")
        return run(site, line.replace("rspamc", program, 1), raw, environment=environment)

    call.check, call.learn, call.stat = check, learn, stat
    return call


def test_rspamc_shows_the_verdict(rspamc):
    done = rspamc(rspamc.check, message(f"{SPAM} rspamc"))
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert "Spam: true" in text
    assert "Score: 10.00 / 5.00" in text
    assert "SPAMGUARD_SPAM" in text
    assert "Spam: false" in rspamc(rspamc.check, message(HAM)).stdout.decode()


def test_rspamc_passes_the_envelope(rspamc):
    line = rspamc.check.replace(" mail", " --from a@b.example -r c@d.example -i 192.0.2.7 mail")
    assert "Action: reject" in rspamc(line, message(SPAM)).stdout.decode()
    line = line.replace(" mail", " -u ann mail")
    assert "Action: add header" in rspamc(line, message(SPAM)).stdout.decode()


def test_rspamc_adds_header_fields_to_mail(rspamc):
    done = rspamc(rspamc.check.replace(" mail", " -m mail"), message(SPAM))
    assert b"X-Spam-Symbols: SPAMGUARD_SPAM" in done.stdout
    assert done.stdout.endswith(SPAM.encode() + b"\r\n")


def test_rspamc_learns(rspamc, site):
    raw = message(f"{SPAM} learned by rspamc")
    done = rspamc(rspamc.learn, raw)
    assert b"success = true" in done.stdout
    assert ("spam", "bob@example.org", "http") in corrections(site)
    assert b"already learned" in rspamc(rspamc.learn, raw).stdout


def test_rspamc_without_the_token_learns_nothing(rspamc, site):
    before = corrections(site)
    rspamc(rspamc.learn.replace('"$TOKEN"', "wrong"), message(f"{HAM} wrong token"))
    assert corrections(site) == before


def test_rspamc_shows_counters(rspamc):
    text = rspamc(rspamc.stat).stdout.decode()
    assert "Messages scanned: " in text
    assert "Messages with action reject" in text


def test_a_stopping_daemon_is_not_ready_and_a_restarted_one_is(site):
    assert ask(site.port, "GET", "/readyz").status == 200
    assert ask(site.port, "GET", "/metrics").status == 401
    headers = {"Authorization": f"Bearer {site.token}"}
    body = ask(site.port, "GET", "/metrics", headers=headers).body.decode()
    assert "spamguard_messages_total" in body
    assert site.stop() == 0
    assert not (site.directory / "http.sock").exists()
    assert "Traceback" not in site.log.read_text()


def test_a_token_file_that_others_can_read_is_a_configuration_error(site):
    site.stop()
    (site.directory / "http.tokens").chmod(0o644)
    done = site.run("serve")
    assert done.returncode == 78
    assert b"mode 0644, expected 0600" in done.stderr
