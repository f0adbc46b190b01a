"""Asking a mail server's own programs: found on the system's path, bounded, no shell."""

import shutil
import subprocess

from spamguard.errors import MailServerError

_SECONDS = 30  # they read files and print: milliseconds
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def find(program: str) -> str | None:
    """Return a program's path, whatever PATH this process was given."""
    return shutil.which(program, path=_SYSTEM_PATH)


def run(program: str, *arguments: str) -> str:
    """Run a program, return what it printed.

    Raises:
        MailServerError: it is not installed, or fails; the text is its last line.
    """
    path = find(program)
    if path is None:
        raise MailServerError(f"{program}: not found: is the mail server installed here?")
    try:
        done = subprocess.run(  # noqa: S603 - an absolute path, no shell
            [path, *arguments],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": _SYSTEM_PATH, "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise MailServerError(f"{program}: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MailServerError(f"{program}: {error}") from error
    return done.stdout.decode("utf-8", "replace")
