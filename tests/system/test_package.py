"""The Debian package: built by its one command, installed by dpkg into a copy of this machine."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.programs import cannot_run, require_program

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)

# An overlay that is thrown away with its namespace: nothing is installed here.
_INSTALL = r"""
set -eu
new=$1 package=$2 script=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" "$new/root"
mount --rbind /proc "$new/root/proc"
mount --rbind /dev "$new/root/dev"
mount -t tmpfs tmpfs "$new/root/tmp"
cp "$package" "$new/root/tmp/spamguard.deb"
cp -r "$4" "$new/root/tmp/mail"
chroot "$new/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$script"
"""


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, built from a copy of the tree as `make deb` does."""
    require_program("dpkg-deb")
    folder = tmp_path_factory.mktemp("package")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    built = subprocess.run(
        [ROOT / "deploy/debian/build", folder],
        capture_output=True, text=True, timeout=500, check=False, env=environment,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.splitlines()[-1])


def installed(package, script):
    """Run a script where the package is; return what it printed."""
    for program in ("unshare", "dpkg"):
        require_program(program)
    with tempfile.TemporaryDirectory(prefix="sg-") as overlay:
        answer = subprocess.run(
            ["unshare", "--mount", "bash", "-c", _INSTALL, "bash", overlay, str(package), script,
             str(ROOT / "sample_mail")],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    if "Operation not permitted" in answer.stderr and not answer.stdout:
        cannot_run(f"no namespace can be made here: {answer.stderr}")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_package_says_what_it_needs_and_brings_units_page_and_completion(package):
    control = subprocess.run(
        ["dpkg-deb", "--field", package], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(
        r"^Depends: python3 \(>= 3\.\d+\), python3 \(<< 3\.\d+\)", control, re.MULTILINE
    )
    listing = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True
    ).stdout
    for unit in (ROOT / "deploy" / "systemd").iterdir():
        assert f"./lib/systemd/system/{unit.name}\n" in listing
    for path in (
        "usr/share/man/man8/spamguard.8.gz",
        "usr/share/bash-completion/completions/spamguard",
        "etc/spamguard/spamguard.toml",
    ):
        assert f"./{path}\n" in listing
    assert "./usr/bin/spamguard -> /opt/spamguard/bin/spamguard\n" in listing
    assert "/torch/" not in listing
    owners = {line.split()[1] for line in listing.splitlines()}
    assert owners == {"root/root"}


def test_it_installs_judges_a_message_and_leaves_nothing_when_purged(package):
    printed = installed(
        package,
        "dpkg -i /tmp/spamguard.deb >&2\n"
        "id -u spamguard >/dev/null\n"
        "cd / && spamguard --version\n"
        "spamguard config check\n"
        "spamguard scan /tmp/mail/spam-advance-fee.eml /tmp/mail/ham-french.eml --json\n"
        "man -w spamguard\n"
        "if grep -rIl /tmp/ /opt/spamguard/bin; then exit 9; fi\n"
        "dpkg -P spamguard >&2\n"
        "test ! -e /opt/spamguard && test ! -e /etc/spamguard && test ! -e /usr/bin/spamguard\n"
        "echo purged\n",
    )
    assert re.search(r"spamguard, version \d", printed)
    assert printed.count('"model_version"') == 2
    assert "/usr/share/man/man8/spamguard.8.gz" in printed
    assert printed.splitlines()[-1] == "purged"
