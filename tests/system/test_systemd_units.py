"""The systemd units: read by systemd itself, and as tight as they say."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import require_program

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
MAX_EXPOSURE = 1.5  # of 10; systemd-analyze's own scale
# Hands mail to the MTA's own sendmail, which needs the rights of its group; no mail passes here.
EXPOSED = "spamguard-notify@.service"


@pytest.fixture
def units(tmp_path):
    """The units with a program that exists: `verify` looks for it."""
    require_program("systemd-analyze")
    for path in UNITS.iterdir():
        text = path.read_text().replace("/opt/spamguard/bin/spamguard", "/bin/true")
        (tmp_path / path.name).write_text(text)
    return tmp_path


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(units):
    answer = run("systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir())))
    complaints = [
        line
        for line in answer.stderr.splitlines()
        # What the machine lacks is not the unit's fault.
        if any(path.name in line for path in units.iterdir()) and "Failed to" not in line
    ]
    assert [] == complaints


@pytest.mark.parametrize("unit", sorted({p.name for p in UNITS.glob("*.service")} - {EXPOSED}))
def test_a_service_is_exposed_little(units, unit, capsys):
    answer = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(units / unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer.stdout)
    assert found, answer.stderr
    with capsys.disabled():
        print(f"\n{found.group()}, at most {MAX_EXPOSURE}")
    assert float(found.group(1)) <= MAX_EXPOSURE
