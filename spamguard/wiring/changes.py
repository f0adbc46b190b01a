"""Changes to another program's files: shown as a diff, backed up, written, and taken back exactly.

What was changed stands in a record beside the backups. Undoing compares each file with what was
written: one that somebody has edited since is not touched.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spamguard.errors import MailServerError

RECORD = "spamguard-setup.json"
BACKUP_SUFFIX = ".before-spamguard"
_FORMAT = 1  # of the record


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file, before and after.

    Attributes:
        path: where it is, symbolic links resolved.
        before: its bytes, or None when it is not there yet.
        after: what it shall hold, or None when it shall go.
        mode: of a new file.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    mode: int = 0o644


def plan(wanted: Mapping[Path, bytes], *, programs: Collection[str] = ()) -> list[FileChange]:
    """Return what changes on disk; nothing when all is there.

    Args:
        wanted: every file with its content.
        programs: the names of those that are run.

    Raises:
        MailServerError: a file cannot be read.
    """
    changes = []
    for path, data in wanted.items():
        try:
            before = _read(path)
        except OSError as error:
            raise MailServerError(f"{path}: {error.strerror or error}") from error
        mode = 0o755 if path.name in programs else 0o644
        if before != data:
            changes.append(FileChange(path=path.resolve(), before=before, after=data, mode=mode))
    return changes


def diff(changes: Sequence[FileChange]) -> str:
    """Return a unified diff of all changes."""
    lines: list[str] = []
    for change in changes:
        before, after = (_lines(data) for data in (change.before, change.after))
        old, new = (
            str(change.path) if data is not None else "/dev/null"
            for data in (change.before, change.after)
        )
        lines += difflib.unified_diff(before, after, old, new, lineterm="")
    return "\n".join(lines)


def _lines(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "replace").splitlines()


def write(changes: Sequence[FileChange], directory: Path) -> None:
    """Back up and write, the record first: whatever is cut off half-way can be undone.

    Args:
        changes: the files; they must still be as they were read.
        directory: where the record goes.

    Raises:
        MailServerError: there is a record already, a file changed meanwhile, or cannot be written.
    """
    record = directory / RECORD
    if record.exists():
        raise MailServerError(f"{record}: written before; undo that first (--undo)")
    files = []
    try:
        for change in changes:
            if _read(change.path) != change.before:
                raise MailServerError(f"{change.path}: changed while it was read; try again")
            if change.before is not None:
                backup = _backup_of(change.path)
                _replace(backup, change.before, like=change.path, mode=change.mode)
            files.append(
                {
                    "path": str(change.path),
                    "before": _digest(change.before),
                    "after": _digest(change.after),
                }
            )
        text = json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n"
        _replace(record, text.encode(), like=None, mode=0o600)
        for change in changes:
            _put(change.path, change.after, mode=change.mode)
    except OSError as error:
        raise MailServerError(f"{error.filename}: {error.strerror or error}") from error


def plan_undo(directory: Path) -> list[FileChange]:
    """Return what takes the recorded changes back.

    Raises:
        MailServerError: nothing is recorded, a file or its backup was changed since.
    """
    record = directory / RECORD
    try:
        files = json.loads(record.read_text("utf-8"))["files"]
        changes = [_plan_one(file) for file in files]
    except FileNotFoundError as error:
        raise MailServerError(f"{record}: nothing to undo: setup wrote nothing here") from error
    except OSError as error:
        raise MailServerError(f"{error.filename}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MailServerError(f"{record}: expected a record of setup: {error}") from error
    return [change for change in changes if change.before != change.after]


def _plan_one(file: dict[str, str | None]) -> FileChange:
    path = Path(str(file["path"]))
    now, backup = _read(path), _backup_of(path)
    if _digest(now) == file["before"]:
        return FileChange(path=path, before=now, after=now)  # it was never written
    if _digest(now) != file["after"]:
        hint = f"what it was before setup is in {backup}" if file["before"] else "delete it by hand"
        raise MailServerError(f"{path}: edited since setup wrote it; not touched: {hint}")
    if file["before"] is None:
        return FileChange(path=path, before=now, after=None)
    kept = _read(backup)
    if _digest(kept) != file["before"]:
        raise MailServerError(f"{backup}: not what setup saved; {path} is not touched")
    return FileChange(path=path, before=now, after=kept)


def undo(changes: Sequence[FileChange], directory: Path) -> None:
    """Put the files back and forget record and backups.

    Args:
        changes: from `plan_undo`.
        directory: where the record is.

    Raises:
        MailServerError: a file cannot be written.
    """
    record = directory / RECORD
    try:
        recorded = [Path(f["path"]) for f in json.loads(record.read_text("utf-8"))["files"]]
        for change in changes:
            _put(change.path, change.after, mode=change.mode)
        for path in recorded:
            _backup_of(path).unlink(missing_ok=True)
        record.unlink()
    except OSError as error:
        raise MailServerError(f"{error.filename}: {error.strerror or error}") from error


def _put(path: Path, data: bytes | None, *, mode: int) -> None:
    if data is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data, like=path, mode=mode)


def _replace(path: Path, data: bytes, *, like: Path | None, mode: int) -> None:
    """Write a file atomically, with owner and mode of another where that exists."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        if like is not None and like.exists():
            status = like.stat()
            os.fchown(descriptor, status.st_uid, status.st_gid)
            mode = status.st_mode & 0o7777
        os.fchmod(descriptor, mode)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    part.replace(path)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _backup_of(path: Path) -> Path:
    return path.with_name(path.name + BACKUP_SUFFIX)


def _digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()
