"""What tests need of the machine: missing in CI is a failure, elsewhere a skip that says why."""

import os
import shutil
from typing import NoReturn

import pytest

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")


def cannot_run(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI is set: nothing is claimed there that was not tried."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_program(name: str) -> str:
    """Return the path of a program; see `cannot_run`."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    return path or cannot_run(f"{name} is not installed (apt-get install it to run this test)")
