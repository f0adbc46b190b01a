"""A Debian with nothing on it: what a package needs and does not say shows there."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.debian import CACHE, unpacked
from tests.support.programs import cannot_run, require_program

MIRROR = "http://deb.debian.org/debian"

ROOT = Path(__file__).resolve().parents[2]
# The package index of this machine may be behind a certificate of its own. Part of a script, for
# what `copy_source` has copied.
TRUST_INDEX = r"""
if test -e /tmp/given/certificates; then
  install -D -m 644 /tmp/given/certificates /etc/ssl/certs/ca-certificates.crt
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >/etc/pip.conf
fi
"""

# An overlay that is thrown away with its namespace: what is installed is gone afterwards.
_RUN = r"""
set -eu
new=$1 debian=$2 given=$3 script=$4
mount --make-rprivate /
mount -t tmpfs tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay overlay -o "lowerdir=$debian,upperdir=$new/upper,workdir=$new/work" "$new/root"
mount --rbind /proc "$new/root/proc"
mount --rbind /dev "$new/root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$new/root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$new/root/run"
cp -r "$given" "$new/root/tmp/given"
cp -L /etc/resolv.conf "$new/root/etc/resolv.conf"
chroot "$new/root" /usr/bin/env -i DEBIAN_FRONTEND=noninteractive \
  PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$script"
"""


def _root() -> Path:
    """Return the folder of a minimal installation of this machine's release, made once."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    root = CACHE / f"debian-{release}"
    if root.is_dir():
        return root
    package = unpacked("debootstrap")
    CACHE.mkdir(exist_ok=True, mode=0o755)
    made = Path(tempfile.mkdtemp(dir=CACHE))
    made.chmod(0o755)
    command = [package.path("usr/sbin/debootstrap"), "--variant=minbase", release, made, MIRROR]
    environment = {
        **package.environment,
        "DEBOOTSTRAP_DIR": package.path("usr/share/debootstrap"),
        "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{package.path('usr/bin')}",  # wget is there
    }
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=400, env=environment)
        shutil.rmtree(made / "var/cache/apt/archives", ignore_errors=True)
        made.rename(root)
    except (OSError, subprocess.SubprocessError) as error:
        cannot_run(f"no clean Debian {release} can be made here: {error}")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return root


def copy_source(folder: Path) -> None:
    """Copy what is installed from the tree, and some mail."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("spamguard", "deploy", "sample_mail"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        shutil.copy(certificates, folder / "certificates")


def in_clean_debian(script: str, given: Path, overlay: Path | str) -> list[object]:
    """Return the command that runs a script as root of a clean Debian.

    Args:
        script: for sh; the network is this machine's, so that apt-get works.
        given: a folder, of which a copy is /tmp/given there.
        overlay: an empty folder.
    """
    return [
        require_program("unshare"), "--mount", "--pid", "--fork", "--kill-child",
        "bash", "-c", _RUN, "bash", overlay, _root(), given, script,
    ]  # fmt: skip


def run_in_clean_debian(script: str, given: Path) -> str:
    """Run a script there; return what it printed."""
    with tempfile.TemporaryDirectory(prefix="sg-") as overlay:
        answer = subprocess.run(
            in_clean_debian(script, given, overlay),
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    if "Operation not permitted" in answer.stderr and not answer.stdout:
        cannot_run(f"no namespace can be made here: {answer.stderr}")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
