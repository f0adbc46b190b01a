"""A real Cyrus that takes LMTP on loopback; its paths are fixed, so it has a Debian of its own."""

import subprocess
import tempfile
from pathlib import Path

from tests.support.clean_debian import in_clean_debian
from tests.support.daemons import free_port
from tests.support.exim import documented

_SCRIPT = r"""
apt-get -qq update >&2
apt-get -qq install --no-install-recommends cyrus-imapd >&2
cat >/etc/imapd.conf <<END
configdirectory: /var/lib/cyrus
partition-default: /var/spool/cyrus/mail
admins: cyrus
autocreate_users: bob eve
autocreate_post: yes
autocreate_quota: 0
proc_path: /run/cyrus/proc
mboxname_lockpath: /run/cyrus/lock
END
cat >/etc/cyrus.conf <<END
START {
  recover cmd="/usr/sbin/cyrus ctl_cyrusdb -r"
}
SERVICES {
  SERVICE
}
END
install -d -o cyrus -g mail /run/cyrus /run/cyrus/proc /run/cyrus/lock
/usr/sbin/cyrmaster -D >&2 &
until bash -c 'exec 3<>/dev/tcp/127.0.0.1/PORT' 2>/dev/null; do sleep 0.1; done
echo ready
read -r _ || true
find /var/spool/cyrus/mail -name '[0-9]*.' -exec cat {} \; -exec echo END-OF-MAIL \;
"""


class Cyrus:
    """`cyrmaster` with mailboxes for bob and eve alone."""

    def __init__(self, directory: Path):
        self.port = free_port()
        self._log = directory / "cyrus.log"
        self._given = directory / "given"
        self._given.mkdir()
        self._overlay = tempfile.TemporaryDirectory(prefix="sg-")
        self._process = None

    def start(self):
        service = documented("### LMTP: between the mail server and the mailboxes", 2)
        script = _SCRIPT.replace("SERVICE\n", service.replace("2003", "PORT"))
        script = script.replace("PORT", str(self.port))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                in_clean_debian(script, self._given, self._overlay.name),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"cyrus ended: {self._log.read_text(errors='replace')[-2000:]}")
        return self

    def stop(self):
        """End it; return every message that is in a mailbox."""
        printed, _ = self._process.communicate(b"\n", timeout=60)
        self._overlay.cleanup()
        return printed.split(b"END-OF-MAIL\n")[:-1]
