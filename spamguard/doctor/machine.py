"""What the doctor looks at on this machine: files, database, model, disk, clock, versions.

Nothing is changed; a temporary file without a name is made in the state directory.
"""

import ctypes
import os
import platform
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import spamguard
from spamguard.config import Config
from spamguard.database import examine
from spamguard.doctor.findings import Finding, error, note, ok, warning
from spamguard.doors import read_tokens
from spamguard.errors import ConfigError, ModelError, StoreError
from spamguard.model.store import FORMAT, ModelStore

MEGABYTE = 1024 * 1024
FULL_BYTES = 100 * MEGABYTE  # below, a retraining or a burst of held mail fills the rest
SCARCE_BYTES = 1024 * MEGABYTE  # a retraining's files and a day of quarantine of a busy site
SCARCE_INODES = 10_000  # each held message is a file
AHEAD_SECONDS = 60  # how far in the future a file may be: another machine's clock, roughly
SKEW_SECONDS = 2.0
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_TIMEX_BYTES = 512  # struct timex is 208 on 64 bits; all zero asks and sets nothing


def settings_file(path: Path) -> Iterator[Finding]:
    """Look at who may write the configuration."""
    if not path.is_file():  # /dev/null says as much
        yield note("configuration", "no file: the defaults are in force", "spamguard config init")
        return
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o022:
        yield warning("configuration", f"{path}: others may write it", f"chmod go-w {path}")
    else:
        yield ok("configuration", f"{path} is valid")


def secrets(config: Config) -> Iterator[Finding]:
    """Look at the file of the HTTP door's tokens."""
    if not config.http.token_file:
        return
    try:
        count = len(read_tokens(config.http.token_file))
    except ConfigError as problem:
        yield error("permissions", str(problem), f"chmod 0600 {config.http.token_file}")
    else:
        yield ok("permissions", f"{count} tokens, readable to their owner alone")


def state(config: Config) -> Iterator[Finding]:
    """Look at the state directory: there, private, one owner, writable."""
    directory = config.paths.state
    try:
        status = directory.stat()
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        yield error("permissions", f"{directory} is not there", "start spamguard: it makes it")
        return
    except OSError as problem:
        yield error(
            "permissions",
            f"{directory}: {problem.strerror}",
            "run the doctor as root, or as its user",
        )
        return
    owner = _name_of(status.st_uid)
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield warning(
            "permissions", f"{directory}: others may look into it", f"chmod 0700 {directory}"
        )
    foreign = [entry.name for entry in entries if entry.lstat().st_uid != status.st_uid]
    if foreign:
        yield error(
            "permissions",
            f"{directory}: not {owner}'s: {', '.join(foreign)}",
            f"chown -R {owner}: {directory}",
        )
    elif stat.S_IMODE(status.st_mode) & 0o077 == 0:
        yield ok("permissions", f"{directory} is {owner}'s alone")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def database(config: Config) -> Iterator[Finding]:
    """Have SQLite check the database."""
    path = config.paths.database
    if not path.exists():
        yield error("database", f"{path} is not there", "start spamguard: it makes it")
        return
    try:
        problems = examine(path)
    except StoreError as problem:
        yield error("database", str(problem), "see whether the disk is well; restore a backup")
        return
    if problems:
        shown = "; ".join(problems[:3])
        yield error("database", f"{path}: {shown}", "stop spamguard, restore the last backup")
    else:
        yield ok("database", f"{path} is whole")


def model(config: Config) -> Iterator[Finding]:
    """Compare the files of the version in use with their checksums."""
    try:
        wanted = ModelStore(config.paths.models).get(config.model.version)
        wanted.verify()
    except ModelError as problem:
        yield error("model", str(problem), "spamguard models rollback, or install it again")
    else:
        yield ok("model", f"{wanted.name} is intact, format {FORMAT}")


def disk(config: Config) -> Iterator[Finding]:
    """Look at the space and the number of files that the state directory may still take."""
    directory = config.paths.state
    if not directory.is_dir():
        return
    free = shutil.disk_usage(directory).free
    counts = os.statvfs(directory)
    found = f"{free / MEGABYTE:,.0f} MB free at {directory}"
    if free < FULL_BYTES:
        yield error("disk", found, "make room: held and reported mail cannot be kept without it")
    elif free < SCARCE_BYTES:
        yield warning("disk", found, "make room, or lower quarantine.retention_days")
    elif counts.f_files and counts.f_favail < SCARCE_INODES:
        yield warning("disk", f"{counts.f_favail} files (inodes) left at {directory}", "make room")
    else:
        yield ok("disk", found)


def time_of_day(config: Config, *, clock: Callable[[], float]) -> Iterator[Finding]:
    """Look for signs that the clock was, or is, wrong."""
    directory = config.paths.state
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        return
    with tempfile.TemporaryFile(dir=directory) as probe:
        skew = os.fstat(probe.fileno()).st_mtime - clock()
    now = clock()
    ahead = [p.name for p in directory.iterdir() if p.lstat().st_mtime > now + AHEAD_SECONDS]
    if abs(skew) > SKEW_SECONDS:
        yield warning(
            "clock",
            f"new files in {directory} are dated {skew:+.0f} s off",
            "set this machine's clock, or the file server's",
        )
    elif ahead:
        yield warning(
            "clock",
            f"from the future: {', '.join(sorted(ahead)[:3])}",
            "the clock was ahead: mail of that time expires late; set it (NTP) and touch the files",
        )
    elif _adjtimex() == _UNSYNCHRONISED:
        yield note("clock", "the kernel knows of no time source", "run chrony or timesyncd")
    else:
        yield ok("clock", "steady, files agree with it")


def _adjtimex() -> int:
    """Ask the kernel whether its clock follows a source; -1 where it does not say."""
    function = getattr(ctypes.CDLL(None), "adjtimex", None)
    return int(function(ctypes.create_string_buffer(_TIMEX_BYTES))) if function else -1


def versions() -> Iterator[Finding]:
    """Say what runs here."""
    try:
        engine = version("onnxruntime")
    except PackageNotFoundError:
        yield error("versions", "onnxruntime is not installed", "install SpamGuard again")
        return
    yield ok(
        "versions",
        f"SpamGuard {spamguard.__version__}, Python {platform.python_version()},"
        f" onnxruntime {engine}",
    )
