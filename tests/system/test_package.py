"""The Debian package, built by its one command, and pipx, each into a Debian with nothing on it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.clean_debian import TRUST_INDEX, copy_source, run_in_clean_debian
from tests.support.exim import documented
from tests.support.programs import require_program

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)

# Every command of the page's section, and the daemon as its unit would start it: systemd itself is
# in test_units_booted.py.
_SMOKE = r"""
cd /tmp/given
apt-get -qq update >&2
apt-get -qq install --no-install-recommends ./spamguard.deb >&2
id -u spamguard >/dev/null
spamguard --version
spamguard config check
spamguard scan mail/spam-advance-fee.eml mail/ham-french.eml --json
spamguard setup systemd | grep ^ExecStart=/usr/bin/spamguard
if grep -rIl /tmp/ /opt/spamguard/bin; then exit 9; fi
zcat /usr/share/man/man8/spamguard.8.gz | head -n 1

install -d -m 700 -o spamguard -g spamguard /var/lib/spamguard
install -d -o spamguard -g spamguard /run/spamguard
cat >/etc/spamguard/spamguard.toml <<TOML
http.listen = ["unix:/run/spamguard/http.sock"]
milter.listen = ["unix:/run/spamguard/milter.sock"]
smtp.listen = []
TOML
setpriv --reuid=spamguard --regid=spamguard --clear-groups spamguard serve &
daemon=$!
for _ in $(seq 100); do
  if spamguard status --json 2>/dev/null | grep '"model"'; then break; fi
  sleep 0.2
done
spamguard scan --pipe <mail/spam-advance-fee.eml | grep ^X-Spam
kill $daemon
wait $daemon
echo "daemon ended with $?"

# An upgrade: what the administrator wrote stays, and the new one works.
dpkg --install spamguard.deb >&2
grep -q http.sock /etc/spamguard/spamguard.toml
test -f /var/lib/spamguard/spamguard.db
spamguard config check

apt-get -qq remove spamguard >&2
test -f /var/lib/spamguard/spamguard.db && test -f /etc/spamguard/spamguard.toml
apt-get -qq purge spamguard >&2
for left in /opt/spamguard /etc/spamguard /var/lib/spamguard /usr/bin/spamguard; do
  test ! -e $left
done
echo purged
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
        "usr/share/doc/spamguard/monitoring/grafana.json",
    ):
        assert f"./{path}\n" in listing
    assert "./usr/bin/spamguard -> /opt/spamguard/bin/spamguard\n" in listing
    assert "/torch/" not in listing
    owners = {line.split()[1] for line in listing.splitlines()}
    assert owners == {"root/root"}


def test_it_installs_judges_serves_and_leaves_nothing_when_purged(package, tmp_path):
    shutil.copy(package, tmp_path / "spamguard.deb")
    shutil.copytree(ROOT / "sample_mail", tmp_path / "mail")
    printed = run_in_clean_debian(_SMOKE, tmp_path)
    assert re.search(r"spamguard, version \d", printed)
    assert printed.count('"model_version"') == 2
    assert '.TH SPAMGUARD 8 "" "SpamGuard' in printed
    assert "X-Spam-Flag: YES" in printed
    assert 2 == printed.count("configuration is good")
    assert "daemon ended with 0" in printed
    assert printed.splitlines()[-1] == "purged"


_PIPX = r"""
apt-get -qq update >&2
apt-get -qq install --no-install-recommends pipx python3-venv >&2
$TRUST_INDEX
cd /tmp/given
$INSTALL >&2
cd /
spamguard scan /tmp/given/sample_mail/spam-advance-fee.eml --json
spamguard setup systemd --write >&2
grep -h ^Exec /etc/systemd/system/spamguard*.service
"""


def test_pipx_installs_it_where_the_service_sees_it(tmp_path):
    copy_source(tmp_path)
    (install,) = documented("### With pipx").splitlines()
    script = _PIPX.replace("$INSTALL", install).replace("$TRUST_INDEX", TRUST_INDEX)
    printed = run_in_clean_debian(script, tmp_path)
    assert '"label": "spam"' in printed
    assert "\nExecStart=/usr/local/bin/spamguard serve\n" in printed
    assert "\nExecStart=/usr/local/bin/spamguard retrain --scheduled\n" in printed
