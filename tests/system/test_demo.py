"""The first of the README's two commands, as far as it runs once everything is installed."""

import subprocess
import sys
from pathlib import Path

DEMO = Path("deploy/demo.py")
SAMPLES = Path("sample_mail")


def test_the_demo_shows_what_became_of_every_sample():
    shown = subprocess.run(
        [sys.executable, DEMO, SAMPLES], capture_output=True, text=True, timeout=120, check=False
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    names = [path.name for path in sorted(SAMPLES.glob("*.eml"))]
    assert [name for name in names if name not in shown.stdout] == []
    assert "quarantine" in shown.stdout
    assert "held messages" in shown.stdout
    assert "refused" not in shown.stdout
    assert "daemon stopped with exit code 0" in shown.stdout
