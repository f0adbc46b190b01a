"""Debian programs that cannot be installed beside each other, or that would start services.

A package and what it needs beyond this machine is downloaded and unpacked, never installed, into
a folder of its own that is kept for the next run.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import cannot_run

CACHE = Path("/var/tmp/spamguard-tests")  # searchable for the users that servers run as
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "usr/lib/rspamd")


@dataclass(frozen=True)
class Unpacked:
    """One package's files."""

    root: Path

    def path(self, name):
        return str(self.root / name.lstrip("/"))

    @property
    def environment(self):
        """Return what its programs need to find their libraries."""
        found = ":".join(str(self.root / folder) for folder in _LIBRARIES)
        return {**os.environ, "LD_LIBRARY_PATH": found}


def unpacked(package: str) -> Unpacked:
    """Return the files of a Debian package; see `cannot_run`."""
    try:
        return _unpack(package)
    except (OSError, subprocess.SubprocessError) as error:
        cannot_run(f"the Debian package {package} cannot be had here: {error}")


def _unpack(package):
    simulated = _run("apt-get", "-s", "--no-install-recommends", "install", package)
    wanted = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", simulated, re.MULTILINE)
    versions = dict(wanted)
    if package not in versions:  # it is installed after all
        return Unpacked(Path("/"))
    root = CACHE / f"{package}_{versions[package].replace(':', '-')}"
    if root.is_dir():
        return Unpacked(root)
    CACHE.mkdir(exist_ok=True, mode=0o755)
    made = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        downloads = made / "downloads"
        downloads.mkdir()
        _run("apt-get", "download", *(f"{n}={v}" for n, v in wanted), cwd=downloads)
        for archive in sorted(downloads.glob("*.deb")):
            _run("dpkg", "-x", str(archive), str(made))
        shutil.rmtree(downloads)
        made.chmod(0o755)
        made.rename(root)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Unpacked(root)


def _run(*command, cwd=None):
    return subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, text=True, timeout=600
    ).stdout


def need_user(name: str) -> None:
    """Have a system user that a package's own script would have made; skip without the right to."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        if os.geteuid() != 0:
            cannot_run(f"the user {name} is missing, and only root can make it")
        _run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
