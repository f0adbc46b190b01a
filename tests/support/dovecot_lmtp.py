"""A private Dovecot that takes mail by LMTP into Maildirs, with a user whose quota is used up."""

import socket
import subprocess
from pathlib import Path

from tests.support.daemons import free_port, wait_for
from tests.support.dovecot import MAIL_USER
from tests.support.programs import require_program


class DovecotLmtp:
    """`dovecot` with bob and eve, and full, who has no room left.

    Args:
        directory: below /tmp itself; Dovecot's processes must be able to search its parents.
    """

    def __init__(self, directory: Path):
        require_program("dovecot")
        self.directory = directory
        self.port = free_port()
        self.log = directory / "dovecot.log"
        self._process = None

    def start(self):
        for name in ("run", "state", "mail"):
            (self.directory / name).mkdir()
        (self.directory / "mail").chmod(0o777)
        home = self.directory / "mail"
        users = self.directory / "users"
        users.write_text(
            f"bob@test.example:::::::\neve@test.example:::::::\n"
            f"full@test.example:::::{home}/full::userdb_quota_rule=*:bytes=100\n"
        )
        config = self.directory / "dovecot.conf"
        config.write_text(f"""\
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.log}
protocols = lmtp
ssl = no
listen = 127.0.0.1
default_internal_user = dovecot
default_login_user = dovenull
first_valid_uid = 1
mail_uid = {MAIL_USER}
mail_gid = {MAIL_USER}
mail_location = maildir:{home}/%n
mail_plugins = quota
plugin {{
  quota = count:used
  quota_rule = *:storage=1G
  quota_vsizes = yes
}}
passdb {{
  driver = passwd-file
  args = username_format=%u {users}
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {users}
  default_fields = home={home}/%n
}}
service lmtp {{
  inet_listener lmtp {{
    port = {self.port}
  }}
}}
service stats {{
  chroot =
}}
""")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [require_program("dovecot"), "-F", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, what=f"dovecot listening, see {self.log}")
        return self

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def mail(self, user):
        """Return the messages of a user."""
        return [path.read_bytes() for path in (self.directory / "mail" / user).glob("new/*")]

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
