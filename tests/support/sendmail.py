"""A private Sendmail on an unprivileged loopback port, with the line that setup printed."""

import subprocess
from pathlib import Path

from tests.support.debian import unpacked
from tests.support.smtp_program import SmtpProgram

NAME = "mx.test.example"


class Sendmail(SmtpProgram):
    """`sendmail -bD`, relaying to a mailbox.

    Args:
        directory: of the test.
        line: for sendmail.mc.
        mailbox: where accepted mail goes.
    """

    def __init__(self, directory: Path, line: str, mailbox):
        super().__init__(directory, "sendmail")
        self.directory = directory
        self._config = directory / "sendmail.cf"
        self._line = line
        self._mailbox = mailbox

    def _write_config(self):
        root, m4 = unpacked("sendmail-cf").path("usr/share/sendmail/cf"), unpacked("m4")
        directory = self.directory
        (directory / "queue").mkdir(mode=0o700)
        (directory / "switch").write_text("hosts files\naliases files\n")
        (directory / "hosts").write_text(f"127.0.0.1 {NAME} localhost\n")
        source = directory / "sendmail.mc"
        source.write_text(f"""\
OSTYPE(`linux')dnl
define(`QUEUE_DIR', `{directory}/queue')dnl
define(`STATUS_FILE', `{directory}/statistics')dnl
define(`confPID_FILE', `{directory}/sendmail.pid')dnl
define(`confDOMAIN_NAME', `{NAME}')dnl
define(`confSERVICE_SWITCH_FILE', `{directory}/switch')dnl
define(`SMART_HOST', `relay:[127.0.0.1]')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {self._mailbox.port}')dnl
undefine(`ALIAS_FILE')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`promiscuous_relay')dnl
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Port={self.port}, Addr=127.0.0.1')dnl
{self._line}
MAILER(`smtp')dnl
""")
        made = subprocess.run(
            [m4.path("usr/bin/m4"), f"-D_CF_DIR_={root}/", f"{root}/m4/cf.m4", str(source)],
            capture_output=True, text=True, timeout=60, check=True, env=m4.environment,
        )  # fmt: skip
        self._config.write_text(made.stdout)

    def start(self):
        self._write_config()
        package = unpacked("sendmail-bin")
        # It waits a minute for a host name with a dot: it gets one of its own.
        script = (
            f"hostname {NAME}\n"
            f"mount --bind {self.directory}/hosts /etc/hosts\n"
            f"exec {package.path('usr/libexec/sendmail/sendmail')} -bD -q5s -C {self._config}\n"
        )
        return self.run("--uts", "--mount", script=script, environment=package.environment)
