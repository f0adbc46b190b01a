"""Python packages that cannot be installed beside the rest, since their requirements differ."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.debian import CACHE
from tests.support.programs import cannot_run


def installed_apart(*requirements: str) -> Path:
    """Return a folder for PYTHONPATH with these and nothing else; see `cannot_run`."""
    name = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:16]
    folder = CACHE / f"python-{name}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(exist_ok=True, mode=0o755)
    made = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            + ["--target", str(made), *requirements],
            check=True,
            capture_output=True,
            timeout=600,
        )
        made.chmod(0o755)
        made.rename(folder)
    except (OSError, subprocess.SubprocessError) as error:
        cannot_run(f"{' '.join(requirements)} cannot be had here: {error}")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
