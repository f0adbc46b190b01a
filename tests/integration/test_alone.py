"""Steps that run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spamguard.errors import TrainingError
from spamguard.training.alone import run_alone
from tests.support.daemons import wait_for

STEPS = "tests.support.steps"
pytestmark = pytest.mark.timeout(60)


def test_a_step_returns_its_answer_from_another_process():
    said = []
    assert run_alone(STEPS, "add", 2, 3) == 5
    assert run_alone(STEPS, "count", 3, say=said.append) != os.getpid()
    assert said == ["0", "1", "2"]


def test_a_steps_error_is_raised_here():
    with pytest.raises(ValueError, match="no such luck"):
        run_alone(STEPS, "fail", "no such luck")
    with pytest.raises(MemoryError, match="7 bytes"):
        run_alone(STEPS, "run_out_of_memory")


def test_a_step_that_is_killed_is_one_clear_error():
    with pytest.raises(TrainingError, match="die ended with -9; nothing was changed"):
        run_alone(STEPS, "die")


def test_a_step_ends_with_the_run_that_is_killed(tmp_path):
    path = tmp_path / "pid"
    script = (
        "from pathlib import Path\n"
        "from spamguard.training.alone import run_alone\n"
        "if __name__ == '__main__':\n"
        f"    run_alone({STEPS!r}, 'sleep', Path({str(path)!r}))\n"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    wait_for(lambda: path.exists() and path.read_text(), what="the step at work")
    child.kill()
    child.wait(10)
    wait_for(lambda: not os.path.exists(f"/proc/{path.read_text()}"), what="the step gone")
