"""Programs that tests start: missing in CI is a failure, elsewhere a skip that says why."""

import os
import shutil

import pytest

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")


def require_program(name: str) -> str:
    """Return the path of a program, or skip the test (fail it where CI is set)."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        reason = f"{name} is not installed (apt-get install it to run this test)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
