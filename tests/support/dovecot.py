"""A private Dovecot on an unprivileged loopback port, with the very files of deploy/dovecot.

Only what an administrator has to fit is changed in them: paths, users, addresses.
"""

import imaplib
import shutil
import subprocess
from pathlib import Path

from tests.support.daemons import free_port, wait_for
from tests.support.programs import require_program

FILES = Path(__file__).resolve().parents[2] / "deploy" / "dovecot"
MAIL_USER = "mail"  # Debian has it; any user but root


class Dovecot:
    """`dovecot` for users who need no password.

    Args:
        directory: below /tmp itself; Dovecot's processes must be able to search its parents.
        snippet: a configuration file of deploy/dovecot.
        replace: what is put in place of what in all files.
    """

    def __init__(self, directory: Path, snippet: str, *, replace=()):
        require_program("dovecot")
        require_program("sievec")
        self.directory = directory
        self.port = free_port()
        self.config = directory / "dovecot.conf"
        self.log = directory / "dovecot.log"
        self._snippet = snippet
        self._replace = {
            "/etc/dovecot/sieve": str(directory / "sieve"),
            "/usr/local/lib/spamguard": str(directory / "lib"),
            "user = vmail": f"user = {MAIL_USER}",
            **dict(replace),
        }
        self._process = None

    def _install(self, name, target):
        text = (FILES / name).read_text()
        for old, new in self._replace.items():
            text = text.replace(old, new)
        target.write_text(text)
        target.chmod((FILES / name).stat().st_mode & 0o777)

    def start(self):
        for name in ("sieve", "lib", "run", "state", "mail"):
            (self.directory / name).mkdir()
        shutil.chown(self.directory / "mail", MAIL_USER)
        for script in FILES.glob("*.sieve"):
            self._install(script.name, self.directory / "sieve" / script.name)
        self._install("spamguard-report", self.directory / "lib" / "spamguard-report")
        self._install(self._snippet, self.directory / self._snippet)
        self.config.write_text(f"""\
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.log}
protocols = imap
ssl = no
disable_plaintext_auth = no
listen = 127.0.0.1
default_internal_user = dovecot
default_login_user = dovenull
first_valid_uid = 1
mail_uid = {MAIL_USER}
mail_gid = {MAIL_USER}
mail_location = maildir:{self.directory}/mail/%u
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = home={self.directory}/mail/%u
}}
namespace inbox {{
  inbox = yes
  mailbox Junk {{
    auto = create
    special_use = \\Junk
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service stats {{
  chroot =
}}
!include {self._snippet}
""")
        for script in self._scripts():
            subprocess.run(
                ["sievec", "-c", str(self.config), str(script)],
                check=True,
                capture_output=True,
                timeout=60,
            )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [require_program("dovecot"), "-F", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, what=f"dovecot listening, see {self.log}")
        return self

    def _scripts(self):
        config = (self.directory / self._snippet).read_text()
        scripts = (self.directory / "sieve").glob("*.sieve")
        return [script for script in scripts if str(script) in config]

    def _answers(self):
        try:
            imaplib.IMAP4("127.0.0.1", self.port, timeout=5).logout()
        except OSError:
            return False
        return True

    def logged(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


class Mailbox(imaplib.IMAP4):
    """One user's mail program."""

    def __init__(self, dovecot, user):
        super().__init__("127.0.0.1", dovecot.port, timeout=30)
        self.login(user, "any")

    def ok(self, command, *arguments):
        status, answer = getattr(self, command)(*arguments)
        assert status == "OK", (command, arguments, answer)
        return answer

    def put(self, folder, raw):
        self.ok("append", folder, None, None, raw)

    def move(self, source, target, number=b"1"):
        self.ok("select", source)
        status, answer = self._simple_command("MOVE", number.decode(), target)
        assert status == "OK", answer

    def count(self, folder):
        return int(self.ok("select", folder)[0])
