"""The container image: built by the documented command, started as it says, asked as it says.

By Buildah, whose builder is Podman's, in a Debian of its own. The base image stands in a registry that
cannot be reached here: Debian with its own Python takes its place.
"""

import json
from pathlib import Path

import pytest

from tests.support.clean_debian import TRUST_INDEX, copy_source, run_in_clean_debian
from tests.support.exim import documented

ROOT = Path(__file__).resolve().parents[2]
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

$TRUST_INDEX
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
buildah run "$made" -- spamguard scan --pipe <sample_mail/spam-advance-fee.eml | grep ^X-Spam-Flag
"""


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


def test_the_image_is_built_starts_as_its_user_and_judges(tmp_path):
    copy_source(tmp_path)
    build = documented("### Container").splitlines()[0]
    assert build.startswith("podman build ")
    build = build.replace("podman build", "buildah bud --pull=never --network=host --layers=false")
    base = (ROOT / "deploy" / "Containerfile").read_text().partition("\nFROM ")[2].split()[0]
    script = _SCRIPT.replace("$BASE", base).replace("$BUILD", build)
    printed = run_in_clean_debian(script.replace("$TRUST_INDEX", TRUST_INDEX), tmp_path)
    image, end = json.JSONDecoder().raw_decode(printed)
    status, _ = json.JSONDecoder().raw_decode(printed[end:].lstrip())
    config = image["Docker"]["config"]
    assert ("spamguard", ["spamguard"], ["serve"]) == (
        config["User"], config["Entrypoint"], config["Cmd"]
    )  # fmt: skip
    assert ["CMD", "spamguard", "status", "--json"] == config["Healthcheck"]["Test"]
    assert ["0.0.0.0:11332"] == status["listening"]["milter"]
    assert ["spamguard", "X-Spam-Flag: YES"] == printed.splitlines()[-2:]
