"""A private Exim on an unprivileged loopback port, with the very lines of deploy/README.md."""

import re
import subprocess
from pathlib import Path

from tests.support.daemons import free_port, wait_for
from tests.support.debian import need_user, unpacked

README = Path(__file__).resolve().parents[2] / "deploy" / "README.md"
USER = "Debian-exim"


def documented(heading, number=0):
    """Return a block of code below a heading of deploy/README.md."""
    section = README.read_text().split(f"\n{heading}\n", 1)[1]
    section = re.split(r"\n#{2,4} ", section, maxsplit=1)[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)[number]


class Exim:
    """`exim4 -bd` with the `spam` condition, relaying to a mailbox.

    Args:
        directory: below /tmp itself; Exim's processes must be able to search its parents.
        spamd: what takes the place of the documented address.
        mailbox: where accepted mail goes.
    """

    def __init__(self, directory: Path, spamd: str, mailbox):
        self.directory = directory
        self.port = free_port()
        self._spamd = spamd
        self._mailbox = mailbox
        self._process = None

    def start(self):
        package = unpacked("exim4-daemon-heavy")
        need_user(USER)
        self.directory.chmod(0o777)
        main, acl = documented("### Exim").split("\n\n", 1)
        config = self.directory / "exim.conf"
        config.write_text(f"""\
exim_path = {package.path("usr/sbin/exim4")}
exim_user = {USER}
exim_group = {USER}
never_users =
deliver_drop_privilege = true
keep_environment = LD_LIBRARY_PATH
spool_directory = {self.directory}/spool
log_file_path = {self.directory}/%slog
pid_file_path = {self.directory}/exim.pid
primary_hostname = mx.test.example
tls_advertise_hosts =
{main.replace("/run/spamguard/spamd.sock", self._spamd)}
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
begin acl
acl_rcpt:
  accept
acl_data:
{acl}
  accept
begin routers
everything:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = onward
begin transports
onward:
  driver = smtp
  port = {self._mailbox.port}
  hosts_try_fastopen =
""")
        config.chmod(0o644)
        self._process = subprocess.Popen(
            [package.path("usr/sbin/exim4"), "-C", str(config), "-bdf", "-odb"]
            + ["-oX", f"127.0.0.1.{self.port}"],
            env=package.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._listens, what=f"exim listening, see {self.directory}")
        return self

    def _listens(self):
        import socket

        if self._process.poll() is not None:
            raise RuntimeError(f"exim ended: {self.logged()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def logged(self):
        logs = sorted(self.directory.glob("*log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
