"""The units under a real systemd, in a copy of this machine that is thrown away.

Namespaces of its own for processes, mounts and control groups; the root is an overlay, so that
nothing written there (users, units, state) reaches this machine. The network is shared: servers
of the test reach the daemon on loopback. There is no journal: units log to a file.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.support.daemons import wait_for
from tests.support.programs import cannot_run, require_program

ROOT = Path(__file__).resolve().parents[2]
LOG = "/run/spamguard.log"
# What the units order themselves by; of the machine's own units none is left.
_TARGETS = (
    "sysinit basic sockets timers multi-user shutdown network-online nss-lookup time-sync paths"
)

# Arguments: a directory for the overlay, Python (its prefix and the program's name), the folder
# of its packages, the project. A virtual environment is built anew: that of the tests can lie, or
# have its Python, where ProtectHome hides it.
_BOOT = r"""
set -eu
new=$1 prefix=$2 python=$3 packages=$4 project=$5
mount --make-rprivate /
mount -t tmpfs tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" "$new/root"
cd "$new/root"
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
venv=opt/spamguard/venv
mkdir -p opt/python opt/spamguard/bin opt/spamguard/lib/spamguard run/old
mkdir -p $venv/bin "$venv/lib/$python/site-packages"
mount --bind "$prefix" opt/python
mount --bind "$packages" "$venv/lib/$python/site-packages"
mount --bind "$project/spamguard" opt/spamguard/lib/spamguard
ln -s "/opt/python/bin/$python" $venv/bin/python
printf 'home = /opt/python/bin\n' >$venv/pyvenv.cfg
# Only our units, and no generators: nothing of this machine shall start.
rm -rf etc/systemd/system; mkdir etc/systemd/system
mount -t tmpfs tmpfs usr/lib/systemd/system
mount -t tmpfs tmpfs usr/lib/systemd/system-generators
for target in $TARGETS; do
  printf '[Unit]\nDescription=%s\n' "$target" >"usr/lib/systemd/system/$target.target"
done
cp "$project"/deploy/systemd/* etc/systemd/system/
mkdir etc/systemd/system/spamguard.service.d
printf '[Service]\nStandardOutput=append:%s\nStandardError=append:%s\n' "$LOG" "$LOG" \
  >etc/systemd/system/spamguard.service.d/log.conf
cat >opt/spamguard/bin/spamguard <<'SCRIPT'
#!/bin/sh
# A Python may look for its library under a path that the sandbox hides.
export LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=/opt/spamguard/lib exec /opt/spamguard/venv/bin/python -m spamguard "$@"
SCRIPT
chmod 755 opt/spamguard/bin/spamguard
pivot_root . run/old
cd /
umount -l /run/old
mount -t tmpfs -o mode=1777 tmpfs /tmp
useradd --system --home-dir /var/lib/spamguard --shell /usr/sbin/nologin spamguard
export container=spamguard-tests
exec /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no
"""


class Machine:
    """One boot of it.

    Attributes:
        root: its files, seen from outside.
    """

    def __init__(self):
        for program in ("unshare", "nsenter", "pivot_root", "systemctl"):
            require_program(program)
        self._process = None
        self.root = None

    def start(self):
        overlay = Path(tempfile.mkdtemp(prefix="sg-"))
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        try:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts",
                 "--ipc", "bash", "-c", _BOOT, "bash", str(overlay), sys.base_prefix, python,
                 sysconfig.get_path("purelib"), str(ROOT)],
                env={**os.environ, "TARGETS": _TARGETS, "LOG": LOG},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            wait_for(self._is_up, what="systemd")
        finally:
            shutil.rmtree(overlay, ignore_errors=True)  # a mount point, in its namespace alone
        return self

    def _is_up(self):
        if self._process.poll() is not None:
            reason = self._process.stderr.read().decode().strip().splitlines()[-1:]
            cannot_run(f"no machine can be made here: {reason}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        if not children.strip():
            return False
        self._pid = int(children.split()[0])
        self.root = Path(f"/proc/{self._pid}/root")
        return self.run("systemctl", "is-system-running").stdout.strip() == "running"

    def run(self, *command, seconds=120, **options):
        """Run a command there; return what `subprocess.run` does."""
        return subprocess.run(
            ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup",
             *command],
            capture_output=True, text=True, timeout=seconds, check=False, cwd="/", **options,
        )  # fmt: skip

    def systemctl(self, *arguments):
        """Run systemctl; raise what it says when it fails."""
        answer = self.run("systemctl", "--no-pager", *arguments)
        if answer.returncode:
            raise RuntimeError(f"systemctl {' '.join(arguments)}: {answer.stderr}{self.log()}")
        return answer.stdout

    def show(self, unit, key):
        return self.run("systemctl", "show", "--value", f"--property={key}", unit).stdout.strip()

    def log(self):
        path = self.root / LOG.lstrip("/")
        return path.read_text(errors="replace") if path.exists() else ""

    def write(self, path, text, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def drop_in(self, unit, text):
        """Add settings to a unit, as `systemctl edit` does."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.systemctl("daemon-reload")

    def use_sockets(self, *, milter, smtp):
        """Have the socket units listen on ports of the test's own."""
        for unit, port in (("spamguard.socket", milter), ("spamguard-smtp.socket", smtp)):
            self.drop_in(unit, f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")

    def stop(self):
        """Switch it off: with its first process all others are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process.stderr.close()
