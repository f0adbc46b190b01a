"""The container image: built by the documented command, started as it says, asked as it says.

By Buildah, whose builder is Podman's, in a Debian of its own. The base image stands in a registry that
cannot be reached here: Debian with its own Python takes its place.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.clean_debian import run_in_clean_debian
from tests.support.exim import documented

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
pytestmark = pytest.mark.timeout(600)

_SCRIPT = r"""
apt-get -qq update >&2
apt-get -qq install --no-install-recommends buildah python3-venv >&2
mkdir -p /etc/containers
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
cat >/etc/containers/storage.conf <<CONF
[storage]
driver = "vfs"
graphroot = "/tmp/containers"
runroot = "/run/containers"
CONF
export BUILDAH_ISOLATION=chroot
cd /tmp/given

# The package index of this machine may be behind a certificate of its own.
if test -e certificates; then
  install -D -m 644 certificates /etc/ssl/certs/ca-certificates.crt
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >/etc/pip.conf
fi
base=$(buildah from scratch)
tar -C / -cf /tmp/base.tar bin etc lib lib64 sbin usr var/lib/dpkg
buildah add -q "$base" /tmp/base.tar / >/dev/null
buildah run "$base" -- mkdir -p -m 1777 /tmp /var/tmp
buildah commit -q --rm "$base" "$BASE" >/dev/null
rm /tmp/base.tar

$BUILD >&2

made=$(buildah from --pull=never spamguard)
buildah inspect --type image spamguard
buildah run "$made" -- spamguard serve &
until buildah run "$made" -- spamguard status --json 2>/dev/null; do sleep 0.5; done
buildah run "$made" -- id -un
buildah run "$made" -- spamguard scan --pipe <mail.eml | grep ^X-Spam-Flag
"""


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


def test_the_image_is_built_starts_as_its_user_and_judges(tmp_path):
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("spamguard", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "sample_mail" / "spam-advance-fee.eml", tmp_path / "mail.eml")
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, tmp_path / "certificates")
    build = documented("### Container").splitlines()[0]
    assert build.startswith("podman build ")
    build = build.replace("podman build", "buildah bud --pull=never --network=host --layers=false")
    base = (ROOT / "deploy" / "Containerfile").read_text().partition("\nFROM ")[2].split()[0]
    printed = run_in_clean_debian(_SCRIPT.replace("$BASE", base).replace("$BUILD", build), tmp_path)
    image, end = json.JSONDecoder().raw_decode(printed)
    status, _ = json.JSONDecoder().raw_decode(printed[end:].lstrip())
    config = image["Docker"]["config"]
    assert ("spamguard", ["spamguard"], ["serve"]) == (
        config["User"], config["Entrypoint"], config["Cmd"]
    )  # fmt: skip
    assert ["CMD", "spamguard", "status", "--json"] == config["Healthcheck"]["Test"]
    assert ["0.0.0.0:11332"] == status["listening"]["milter"]
    assert ["spamguard", "X-Spam-Flag: YES"] == printed.splitlines()[-2:]
