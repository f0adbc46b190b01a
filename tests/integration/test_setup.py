"""`spamguard setup` on real configurations, read back by the mail servers' own programs."""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from spamguard.cli import cli
from spamguard.errors import ConfigError, SpamGuardError
from spamguard.wiring import systemd
from spamguard.wiring.changes import BACKUP_SUFFIX, RECORD
from tests.support.debian import need_user, unpacked
from tests.support.programs import require_program

pytestmark = pytest.mark.timeout(120)

MAIN = """\
# A comment that must stay.
compatibility_level = 3.6
queue_directory = /var/spool/postfix
myhostname = mx.test.example
smtpd_milters = inet:localhost:8891,
  local:opendmarc/opendmarc.sock
"""
MASTER = """\
# The world.
smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission
pickup    unix  n       -       y       60      1       pickup
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def spamguard(*arguments, **settings):
    """Run `spamguard setup` in this process: what it starts is real."""
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = ["-c", os.devnull, *options, "setup", *map(str, arguments)]
    result = CliRunner().invoke(cli, command)
    match result.exception:
        case SpamGuardError() as error:
            return Done(error.exit_code, result.stdout, f"spamguard: {error}\n")
        case None:
            return Done(0, result.stdout, result.stderr)
    raise result.exception


@pytest.fixture
def postfix(tmp_path):
    require_program("postconf")
    (tmp_path / "main.cf").write_text(MAIN)
    (tmp_path / "master.cf").write_text(MASTER)
    (tmp_path / "main.cf").chmod(0o640)
    for name in ("main.cf", "master.cf"):  # what was just written Postfix reads a second later
        os.utime(tmp_path / name, (0, 0))
    return tmp_path


def postconf(directory, *arguments):
    done = subprocess.run(
        [require_program("postconf"), "-c", str(directory), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def contents(directory):
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("way", ["milter", "content-filter", "before-queue"])
def test_printing_touches_nothing(postfix, way):
    before = contents(postfix)
    done = spamguard("postfix", "--as", way, "--config-dir", postfix)
    assert (0, "") == (done.returncode, done.stderr)
    assert "127.0.0.1:10026 inet n - n - - smtpd\n  -o content_filter=\n" in done.stdout
    assert before == contents(postfix)


def test_the_milter_is_added_and_everything_else_stays(postfix):
    done = spamguard("postfix", "--config-dir", postfix, "--write")
    assert 0 == done.returncode, done.stderr
    assert "+smtpd_milters = inet:localhost:8891, local:opendmarc" in done.stdout
    assert f"postfix -c {postfix} reload" in done.stderr
    expected = (
        "inet:localhost:8891, local:opendmarc/opendmarc.sock,"
        " { inet:127.0.0.1:11332, default_action=accept, content_timeout=30s }\n"
    )
    assert expected == postconf(postfix, "-h", "smtpd_milters")
    assert "# A comment that must stay.\n" in (postfix / "main.cf").read_text()
    assert 0o640 == (postfix / "main.cf").stat().st_mode & 0o777
    services = postconf(postfix, "-M").splitlines()
    assert ["smtp", "submission", "pickup", "127.0.0.1:10026"] == [s.split()[0] for s in services]
    assert "127.0.0.1:10026/inet/smtpd_milters =" in postconf(postfix, "-P")


def test_the_content_filter_is_a_client_and_a_listener(postfix):
    spamguard("postfix", "--as", "content-filter", "--config-dir", postfix, "--write")
    assert "spamguard:[127.0.0.1]:10025\n" == postconf(postfix, "-h", "content_filter")
    assert "spamguard/unix/smtp_data_done_timeout = 1200" in postconf(postfix, "-P")
    assert "8" == postconf(postfix, "-F", "-h", "spamguard/unix/process_limit").strip()


def test_the_proxy_filter_is_for_port_25_alone(postfix):
    spamguard("postfix", "--as", "before-queue", "--config-dir", postfix, "--write")
    assert "smtp/inet/smtpd_proxy_filter = 127.0.0.1:10025" in postconf(postfix, "-P")
    assert "submission/inet/smtpd_proxy_filter" not in postconf(postfix, "-P")


@pytest.mark.parametrize("way", ["milter", "content-filter", "before-queue"])
def test_undo_restores_every_byte(postfix, way):
    before = contents(postfix)
    assert 0 == spamguard("postfix", "--as", way, "--config-dir", postfix, "--write").returncode
    assert before != contents(postfix)
    done = spamguard("postfix", "--config-dir", postfix, "--undo")
    assert 0 == done.returncode, done.stderr
    assert before == contents(postfix)


def test_undo_leaves_a_file_alone_that_was_edited_since(postfix):
    spamguard("postfix", "--config-dir", postfix, "--write")
    with (postfix / "main.cf").open("a") as main:
        main.write("biff = no\n")
    before = contents(postfix)
    done = spamguard("postfix", "--config-dir", postfix, "--undo")
    assert 69 == done.returncode
    assert "main.cf: edited since setup wrote it; not touched" in done.stderr
    assert f"main.cf{BACKUP_SUFFIX}" in done.stderr
    assert before == contents(postfix)


def test_undo_refuses_a_backup_that_was_changed(postfix):
    spamguard("postfix", "--config-dir", postfix, "--write")
    (postfix / f"main.cf{BACKUP_SUFFIX}").write_text("")
    assert "not what setup saved" in spamguard("postfix", "--config-dir", postfix, "--undo").stderr


def test_undo_of_nothing_says_so(postfix):
    done = spamguard("postfix", "--config-dir", postfix, "--undo")
    assert (69, True) == (done.returncode, "nothing to undo" in done.stderr)


def test_what_was_cut_off_while_writing_can_be_undone(postfix):
    before = contents(postfix)
    spamguard("postfix", "--config-dir", postfix, "--write")
    shutil.copy(postfix / f"master.cf{BACKUP_SUFFIX}", postfix / "master.cf")  # was never reached
    assert 0 == spamguard("postfix", "--config-dir", postfix, "--undo").returncode
    assert before == contents(postfix)


def test_writing_twice_changes_nothing(postfix):
    spamguard("postfix", "--config-dir", postfix, "--write")
    before = contents(postfix)
    done = spamguard("postfix", "--config-dir", postfix, "--write")
    assert (0, "nothing to change: all is there\n") == (done.returncode, done.stdout)
    assert before == contents(postfix)


def test_another_way_on_top_must_be_undone_first(postfix):
    spamguard("postfix", "--config-dir", postfix, "--write")
    done = spamguard("postfix", "--as", "content-filter", "--config-dir", postfix, "--write")
    assert (69, True) == (done.returncode, "undo that first" in done.stderr)


@pytest.mark.parametrize(
    ("way", "main", "master", "said"),
    [
        ("content-filter", "content_filter = amavis:[::1]:10024", "", "can be one alone"),
        (
            "milter",
            "",
            "127.0.0.1:10026 inet n - n - - smtpd\n  -o mynetworks=10.0.0.0/8",
            "127.0.0.1:10026/inet is there already and differs",
        ),
        (
            "milter",
            "mine = inet:localhost:11332\nsmtpd_milters = $mine",
            "",
            "by way of another parameter",
        ),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_written(postfix, way, main, master, said):
    for name, text in (("main.cf", main), ("master.cf", master)):
        with (postfix / name).open("a") as file:
            file.write(f"{text}\n")
    before = contents(postfix)
    done = spamguard("postfix", "--as", way, "--config-dir", postfix, "--write")
    assert (78, True) == (done.returncode, said in done.stderr), done.stderr
    assert before == contents(postfix)


def test_a_socket_outside_of_the_chroot_is_refused(postfix):
    settings = {"milter.listen": '["unix:/run/spamguard/milter.sock"]'}
    done = spamguard("postfix", "--config-dir", postfix, **settings)
    assert (78, True) == (done.returncode, "runs in the chroot" in done.stderr)
    settings = {"milter.listen": '["unix:/var/spool/postfix/spamguard/milter.sock"]'}
    done = spamguard("postfix", "--config-dir", postfix, **settings)
    assert "unix:spamguard/milter.sock" in done.stdout


def test_a_directory_without_postfix_is_named(tmp_path):
    require_program("postconf")
    done = spamguard("postfix", "--config-dir", tmp_path)
    assert (69, f"spamguard: {tmp_path}/main.cf: not found\n") == (done.returncode, done.stderr)


def test_a_file_behind_a_link_stays_behind_it(postfix, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("etckeeper") / "main.cf"
    (postfix / "main.cf").rename(elsewhere)
    (postfix / "main.cf").symlink_to(elsewhere)
    spamguard("postfix", "--config-dir", postfix, "--write")
    assert (postfix / "main.cf").is_symlink()
    assert "11332" in elsewhere.read_text()
    assert 0 == spamguard("postfix", "--config-dir", postfix, "--undo").returncode
    assert MAIN == elsewhere.read_text()


def test_the_record_is_the_administrators_alone(postfix):
    spamguard("postfix", "--config-dir", postfix, "--write")
    record = postfix / RECORD
    assert 0o600 == record.stat().st_mode & 0o777
    names = [Path(file["path"]).name for file in json.loads(record.read_text())["files"]]
    assert ["main.cf", "master.cf"] == names


@pytest.fixture
def dovecot(tmp_path):
    for program in ("dovecot", "doveconf", "sievec"):
        require_program(program)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "dovecot.conf").write_text(
        "mail_uid = mail\nfirst_valid_uid = 1\n!include_try conf.d/*.conf\n"
    )
    return tmp_path


def test_dovecot_reads_what_was_written_and_undo_leaves_nothing(dovecot):
    where = ("--config-dir", dovecot, "--program-dir", dovecot / "lib")
    settings = {"reports.drop_directory": "/var/spool/drop here"}
    before = contents(dovecot)
    done = spamguard("dovecot", *where, "--write", **settings)
    assert 0 == done.returncode, done.stderr
    config = dovecot / "dovecot.conf"
    read = subprocess.run(["doveconf", "-n", "-c", config], capture_output=True, timeout=30)
    assert 0 == read.returncode, read.stderr
    assert f"{dovecot}/sieve/report-spam.sieve".encode() in read.stdout
    assert b"user = mail" in read.stdout
    for script in (dovecot / "sieve").iterdir():
        subprocess.run(["sievec", "-c", config, script], check=True, timeout=30)
        script.with_suffix(".svbin").unlink()
    program = dovecot / "lib" / "spamguard-report"
    assert "DROP='/var/spool/drop here'" in program.read_text()
    assert os.access(program, os.X_OK)
    subprocess.run(["sh", "-n", program], check=True, timeout=30)
    done = spamguard("dovecot", *where, "--undo")
    assert 0 == done.returncode, done.stderr
    assert before == contents(dovecot)


def test_dovecot_needs_a_drop_directory(dovecot):
    done = spamguard("dovecot", "--config-dir", dovecot)
    assert (78, True) == (done.returncode, "reports.drop_directory" in done.stderr)


def test_exim_reads_its_lines(tmp_path):
    package = unpacked("exim4-daemon-heavy")
    need_user("Debian-exim")
    done = spamguard("exim", **{"spamd.listen": '["127.0.0.1:1783"]'})
    main, acl = done.stdout.partition("\n")[2].split("\n\n", 1)
    config = tmp_path / "exim.conf"
    config.write_text(
        f"exim_user = Debian-exim\nkeep_environment =\nspool_directory = {tmp_path}\n{main}\nacl_smtp_data = acl_data\n"
        f"begin acl\nacl_data:\n{acl}\n  accept\n"
    )
    read = subprocess.run(
        [package.path("usr/sbin/exim4"), "-C", config, "-bP", "spamd_address"],
        capture_output=True,
        timeout=30,
        env=package.environment,
    )
    assert (0, b"spamd_address = 127.0.0.1 1783\n") == (read.returncode, read.stdout), read.stderr


def test_opensmtpd_reads_its_lines(tmp_path):
    package = unpacked("opensmtpd")
    for name in ("opensmtpd", "opensmtpq"):
        need_user(name)
    config = tmp_path / "smtpd.conf"
    filtered = spamguard("opensmtpd", **{"http.listen": '["127.0.0.1:11335"]'}).stdout
    filtered = filtered.replace("user spamguard group spamguard", "user opensmtpd group opensmtpd")
    listed = filtered + spamguard("opensmtpd", "--as", "relay").stdout
    config.write_text(f'action "local" maildir "{tmp_path}/%{{user.username}}"\n{listed}')
    read = subprocess.run(
        [package.path("usr/sbin/smtpd"), "-n", "-f", config],
        capture_output=True,
        timeout=30,
        env=package.environment,
    )
    assert (0, b"configuration OK\n") == (read.returncode, read.stderr)


def test_sendmails_m4_takes_its_line(tmp_path):
    package, m4 = unpacked("sendmail-cf"), unpacked("m4")
    source = tmp_path / "test.mc"
    source.write_text(
        f"OSTYPE(`linux')dnl\n{spamguard('sendmail').stdout}MAILER(`local')dnl\nMAILER(`smtp')dnl\n"
    )
    root = package.path("usr/share/sendmail/cf")
    made = subprocess.run(
        [m4.path("usr/bin/m4"), f"-D_CF_DIR_={root}/", f"{root}/m4/cf.m4", source],
        capture_output=True,
        text=True,
        timeout=30,
        env=m4.environment,
    )
    assert 0 == made.returncode, made.stderr
    shown = "Xspamguard, S=inet:11332@127.0.0.1, F=, T=C:10s;S:10s;R:30s;E:5m\n"
    assert shown in made.stdout
    assert "O InputMailFilters=spamguard\n" in made.stdout


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The program, where pip would have put it."""
    program = tmp_path / "opt" / "bin" / "spamguard"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    return program


def test_systemds_units_name_this_program_and_undo_leaves_nothing(installed, tmp_path):
    directory = tmp_path / "system"
    directory.mkdir()
    done = spamguard("systemd", "--config-dir", directory, "--write")
    assert 0 == done.returncode, done.stderr
    assert "systemctl enable --now spamguard" in done.stderr
    shipped = {path.name for path in systemd.UNITS.iterdir()}
    assert shipped | {RECORD} == {path.name for path in directory.iterdir()}
    service = (directory / "spamguard.service").read_text()
    assert f"\nExecStart={installed} serve\n" in service
    assert f"\nExecReload={installed} reload\n" in service
    verify = [require_program("systemd-analyze"), "verify", "--man=no"]
    read = subprocess.run(
        [*verify, directory / "spamguard.service"], capture_output=True, text=True, timeout=60
    )
    assert "not executable" not in read.stderr
    assert 0 == spamguard("systemd", "--config-dir", directory, "--undo").returncode
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize("home", ["/root/.local/bin/spamguard", "/home/ann/venv/bin/spamguard"])
def test_a_program_that_the_sandbox_would_hide_is_refused(home):
    with pytest.raises(ConfigError, match="ProtectHome hides it"):
        systemd.files(Path(home))


@pytest.fixture(params=["false", "true"], ids=["one file", "split"])
def exim_directory(request):
    """Debian's own configuration of Exim, and the program that puts it together."""
    package = unpacked("exim4-config")
    # Under /tmp itself: Exim reads as a user of its own, which must be able to search every parent.
    tmp_path = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    tmp_path.chmod(0o755)
    shutil.copytree(package.path("etc/exim4"), tmp_path / "exim4")
    (tmp_path / "exim4" / "update-exim4.conf.conf").write_text(
        "dc_eximconfig_configtype='internet'\ndc_other_hostnames='test.example'\n"
        "dc_local_interfaces='127.0.0.1'\ndc_localdelivery='mail_spool'\n"
        f"dc_use_split_config='{request.param}'\n"
    )
    program = Path(package.path("usr/sbin/update-exim4.conf")).read_text()
    # It looks for this one file where it is installed, whatever directory it is given.
    local = "exim4/exim4.conf.localmacros"
    program = program.replace(f'-e "/etc/{local}"', f'-e "{tmp_path}/{local}"')
    (tmp_path / "update-exim4.conf").write_text(program)
    yield tmp_path / "exim4"
    shutil.rmtree(tmp_path)


def test_exim_reads_what_was_written_and_undo_leaves_nothing(exim_directory):
    exim = unpacked("exim4-daemon-heavy")
    need_user("Debian-exim")
    where = ("exim", "--config-dir", exim_directory)
    settings = {"spamd.listen": '["unix:/run/spamguard/spamd.sock"]'}
    before = contents(exim_directory)
    done = spamguard(*where, "--write", **settings)
    assert 0 == done.returncode, done.stderr
    assert "+spamd_address = /run/spamguard/spamd.sock" in done.stdout
    assert "update-exim4.conf && systemctl restart exim4" in done.stderr
    assert "nothing to change" in spamguard(*where, "--write", **settings).stdout
    made = exim_directory.parent / "made.conf"
    script = exim_directory.parent / "update-exim4.conf"
    subprocess.run(["sh", script, "-d", exim_directory, "-o", made], check=True, timeout=60)
    read = subprocess.run(
        [exim.path("usr/sbin/exim4"), "-C", made, "-bP", "config"],
        capture_output=True, text=True, timeout=30, env=exim.environment,
    )  # fmt: skip
    assert 0 == read.returncode, read.stderr
    assert "spamd_address = /run/spamguard/spamd.sock\n" in read.stdout
    acl = read.stdout.partition("acl_check_data:")[2].partition("acl_check_")[0]
    assert "spam = nobody:true/defer_ok" in " ".join(acl.split())
    assert 0 == spamguard(*where, "--undo").returncode
    assert before == contents(exim_directory)


def test_a_last_line_without_its_end_stays_a_line_of_its_own(exim_directory):
    own = exim_directory / "exim4.conf.localmacros"
    own.write_bytes(b"MAIN_HARDCODE_PRIMARY_HOSTNAME = m\xfcnchen.example")
    settings = {"spamd.listen": '["127.0.0.1:1783"]'}
    assert 0 == spamguard("exim", "--config-dir", exim_directory, "--write", **settings).returncode
    if not (exim_directory / "conf.d/main/000_spamguard").exists():  # in one file
        assert b"m\xfcnchen.example\nspamd_address = 127.0.0.1 1783\n" in own.read_bytes()


def test_what_exim_has_already_is_named(exim_directory):
    for name in ("conf.d/main/01_mine", "exim4.conf.localmacros"):
        (exim_directory / name).write_text("spamd_address = 127.0.0.1 783\n")
    settings = {"spamd.listen": '["127.0.0.1:1783"]'}
    done = spamguard("exim", "--config-dir", exim_directory, "--write", **settings)
    assert 78 == done.returncode
    assert "spamd_address = 127.0.0.1 783: put the lines there by hand" in done.stderr


def test_an_exim_that_debian_did_not_configure_is_left_alone(exim_directory):
    (exim_directory / "exim4.conf").write_text("")
    settings = {"spamd.listen": '["127.0.0.1:1783"]'}
    done = spamguard("exim", "--config-dir", exim_directory, "--write", **settings)
    assert (69, True) == (done.returncode, "put the lines there by hand" in done.stderr)


LISTENERS = """\
# listen on 192.0.2.9
listen on socket
listen on 127.0.0.1 port 2525  # inside
listen on ::1 port 2525 \\
    tag "world"
"""


@pytest.fixture
def smtpd_directory(tmp_path):
    """Debian's own configuration of OpenSMTPD, and more listeners."""
    own = Path(unpacked("opensmtpd").path("etc/smtpd.conf")).read_text()
    own = own.replace("table aliases file:/etc/aliases", "table aliases {a = b}")
    (tmp_path / "smtpd.conf").write_text(own.replace("listen on localhost", LISTENERS))
    return tmp_path


def test_opensmtpd_reads_what_was_written_and_undo_restores_every_byte(smtpd_directory, tmp_path):
    package = unpacked("opensmtpd")
    for name in ("opensmtpd", "opensmtpq"):
        need_user(name)
    path, before = smtpd_directory / "smtpd.conf", contents(smtpd_directory)
    where = ("opensmtpd", "--config-dir", smtpd_directory)
    settings = {"http.listen": '["unix:/run/spamguard/http.sock"]'}
    done = spamguard(*where, "--write", **settings)
    assert 0 == done.returncode, done.stderr
    assert "nothing to change" in spamguard(*where, "--write", **settings).stdout
    text = path.read_text()
    assert '# listen on 192.0.2.9\nlisten on socket\nfilter "spamguard" proc-exec' in text
    assert 'listen on 127.0.0.1 port 2525 filter "spamguard"  # inside\n' in text
    assert '    tag "world" filter "spamguard"\n' in text
    assert 2 == text.count(' filter "spamguard"')
    copy = tmp_path / "copy"
    copy.write_text(text.replace("user spamguard group spamguard", "user opensmtpd"))
    read = subprocess.run(
        [package.path("usr/sbin/smtpd"), "-n", "-f", copy],
        capture_output=True, timeout=30, env=package.environment,
    )  # fmt: skip
    assert (0, b"configuration OK\n") == (read.returncode, read.stderr)
    copy.unlink()
    assert 0 == spamguard(*where, "--undo").returncode
    assert before == contents(smtpd_directory)


@pytest.mark.parametrize(
    ("listener", "code", "said"),
    [
        ('listen on 127.0.0.1 filter "rspamd"', 78, "chain the two by hand"),
        ("listen on socket", 69, "expected a line that begins with listen on"),
    ],
)
def test_what_opensmtpd_has_already_is_named(tmp_path, listener, code, said):
    (tmp_path / "smtpd.conf").write_text(f"{listener}\n")
    settings = {"http.listen": '["127.0.0.1:11335"]'}
    done = spamguard("opensmtpd", "--config-dir", tmp_path, "--write", **settings)
    assert (code, True) == (done.returncode, said in done.stderr)
    assert f"{listener}\n" == (tmp_path / "smtpd.conf").read_text()


@pytest.mark.parametrize("source", ["debian/sendmail.mc", "cf/generic-linux.mc"])
def test_sendmails_own_configurations_take_what_was_written(tmp_path, source):
    package, m4 = unpacked("sendmail-cf"), unpacked("m4")
    root = package.path("usr/share/sendmail/cf")
    path = Path(shutil.copy(f"{root}/{source}", tmp_path / "sendmail.mc"))
    before = contents(tmp_path)
    done = spamguard("sendmail", "--config-dir", tmp_path, "--write")
    assert 0 == done.returncode, done.stderr
    assert f"make -C {tmp_path} && systemctl restart sendmail" in done.stderr
    assert "nothing to change" in spamguard("sendmail", "--config-dir", tmp_path, "--write").stdout
    last = path.read_text().partition("INPUT_MAIL_FILTER(`spamguard', ")[2].splitlines()[1]
    assert last.startswith(("MAILER_DEFINITIONS", "MAILER("))
    if source.startswith("cf/"):  # Debian's needs an installed Sendmail
        made = subprocess.run(
            [m4.path("usr/bin/m4"), f"-D_CF_DIR_={root}/", f"{root}/m4/cf.m4", path],
            capture_output=True, text=True, timeout=30, env=m4.environment,
        )  # fmt: skip
        assert 0 == made.returncode, made.stderr
        assert "Xspamguard, S=inet:11332@127.0.0.1, F=" in made.stdout
    assert 0 == spamguard("sendmail", "--config-dir", tmp_path, "--undo").returncode
    assert before == contents(tmp_path)


def test_a_sendmail_without_mailers_is_named(tmp_path):
    (tmp_path / "sendmail.mc").write_text("dnl MAILER(`smtp')dnl\n")
    done = spamguard("sendmail", "--config-dir", tmp_path, "--write")
    assert (69, True) == (done.returncode, "begins with MAILER(" in done.stderr)
