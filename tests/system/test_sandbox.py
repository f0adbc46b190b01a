"""The units' sandbox, tried: the engine and the training under the same system call filter.

What a container allows differs, so the filter is not asked of systemd but built from its own
lists and loaded by libseccomp, in a process that then becomes spamguard.
"""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import cannot_run, require_program

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"

# Argument: JSON of the system calls that are allowed, "mdwe" or "", and a command.
_CONFINE = """
import ctypes, errno, json, os, sys
calls, mdwe, *command = sys.argv[1:]
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
if mdwe and prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, Linux 6.3
    sys.exit(77)
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
refuse = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO
context = ctypes.c_void_p(seccomp.seccomp_init(refuse))
for name in json.loads(calls):
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert seccomp.seccomp_rule_add(context, 0x7FFF0000, number, 0) == 0  # SCMP_ACT_ALLOW
assert seccomp.seccomp_load(context) == 0
os.execv(command[0], command)
"""


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


def calls_of(group):
    """Return the system calls of one of systemd's groups."""
    listing = subprocess.run(
        [require_program("systemd-analyze"), "syscall-filter", "--no-pager", group],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    names = re.findall(r"^\s+([@\w-]+)\s*$", listing, re.MULTILINE)
    return set().union(*(calls_of(n) if n.startswith("@") else {n} for n in names))


def allowed_by(unit):
    """Return the system calls that a unit's SystemCallFilter lines leave."""
    allowed = calls_of("@default")  # systemd allows it always
    for line in re.findall(r"^SystemCallFilter=(.*)$", (UNITS / unit).read_text(), re.MULTILINE):
        for group in line.removeprefix("~").split():
            allowed = allowed - calls_of(group) if line[0] == "~" else allowed | calls_of(group)
    return sorted(allowed)


def confined(unit, *command, mdwe=False):
    try:
        import ctypes

        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        cannot_run("libseccomp.so.2 is not installed (apt-get install libseccomp2)")
    answer = subprocess.run(
        [sys.executable, "-c", _CONFINE, json.dumps(allowed_by(unit)), "mdwe" if mdwe else "",
         sys.executable, *command],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    if mdwe and answer.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    return answer


def test_the_filter_is_in_force():
    script = "import os; os.chroot('/')"
    answer = confined("spamguard.service", "-c", script)
    assert answer.returncode == 1
    assert f"[Errno {errno.EPERM}]" in answer.stderr


@pytest.mark.parametrize("mdwe", [False, True], ids=["", "and MemoryDenyWriteExecute"])
def test_the_engine_judges_under_the_services_filter(mdwe):
    sample = next((ROOT / "sample_mail").glob("spam-*.eml"))
    answer = confined(
        "spamguard.service", "-m", "spamguard", "-c", os.devnull, "scan", "--json", str(sample),
        mdwe=mdwe,
    )  # fmt: skip
    assert answer.stderr == ""
    assert json.loads(answer.stdout.splitlines()[0])["model_version"]


def test_scorer_processes_start_and_judge_under_the_services_filter():
    script = (
        "import asyncio\n"
        "from spamguard.model.pool import ScorerPool\n"
        "from spamguard.model.channel import WARM_UP_MESSAGE\n"
        "from spamguard.model.store import SHIPPED, ModelVersion\n"
        "from spamguard.observe import Metrics\n"
        "async def main():\n"
        "    pool = ScorerPool(ModelVersion.read(SHIPPED), workers=1, max_waiting=1,\n"
        "                      hard_limit_seconds=20, metrics=Metrics())\n"
        "    await pool.start()\n"
        "    print((await pool.score(WARM_UP_MESSAGE, timeout_seconds=20)).model_version)\n"
        "    await pool.stop()\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    answer = confined("spamguard.service", "-c", script)
    assert answer.stderr == ""
    assert answer.stdout.strip()


def test_torch_computes_gradients_under_the_retrainings_filter():
    script = (
        "import torch\n"
        "layer = torch.nn.TransformerEncoderLayer(32, 4, batch_first=True)\n"
        "with torch.autocast('cpu', torch.bfloat16):\n"
        "    layer(torch.ones(8, 16, 32)).float().sum().backward()\n"
        "print(layer.linear1.weight.grad.shape)\n"
    )
    answer = confined("spamguard-retrain.service", "-c", script)
    assert "torch.Size" in answer.stdout, answer.stderr
