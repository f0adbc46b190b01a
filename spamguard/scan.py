"""Scoring messages from files, for `spamguard scan`: no daemon, the same scorers.

Sources are files, directories, mbox files, Maildirs and standard input. A message that cannot
be read or scored is reported as unscored; the others go on.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spamguard.errors import ScoringError
from spamguard.model.pool import ScorerPool
from spamguard.model.store import ModelVersion
from spamguard.observe import Metrics
from spamguard.verdict import Label, Score, Thresholds, judge

DEADLINE_SECONDS = 30.0
STANDARD_INPUT = "-"
_AHEAD_PER_WORKER = 4  # messages read while others are scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One message: its name, and how to read it."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `scan` says of one message.

    Attributes:
        path: its name; for a message of an mbox ``FILE#NUMBER``.
        label: ham, unsure, spam or unscored.
        spam_probability: 0 to 1, or None when unscored.
        model_version: which model.
        truncated: whether the model saw only a part.
        milliseconds: in the scorer, or None when unscored.
        error: why it is unscored, or "".
    """

    path: str
    label: Label
    spam_probability: float | None
    model_version: str
    truncated: bool
    milliseconds: float | None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the documented JSON line."""
        fields = {
            "path": self.path,
            "label": str(self.label),
            "spam_probability": self.spam_probability,
            "model_version": self.model_version,
            "truncated": self.truncated,
            "milliseconds": None if self.milliseconds is None else round(self.milliseconds, 2),
        }
        return {**fields, "error": self.error} if self.error else fields


def find_sources(paths: Iterable[str]) -> list[Source]:
    """Return the messages below the given paths, in order.

    Directories are walked; where one holds ``.eml`` files only those count.
    """
    sources: list[Source] = []
    for name in paths:
        path = Path(name)
        if name == STANDARD_INPUT:
            sources.append(Source(name="-", read=sys.stdin.buffer.read))
        elif path.is_dir():
            sources += _directory(path)
        else:
            sources += _file(path)
    return sources


def _directory(path: Path) -> Iterator[Source]:
    if (path / "cur").is_dir() and (path / "new").is_dir():
        files = sorted(f for part in ("new", "cur") for f in (path / part).iterdir())
        yield from (Source(name=str(f), read=f.read_bytes) for f in files if f.is_file())
        return
    entries = sorted(path.iterdir())
    has_eml = any(entry.suffix == ".eml" for entry in entries)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _directory(entry)
        elif entry.is_file() and (not has_eml or entry.suffix == ".eml"):
            yield from _file(entry)


def _file(path: Path) -> Iterator[Source]:
    try:
        with path.open("rb") as stream:
            is_mbox = stream.read(5) == b"From " and path.suffix != ".eml"
    except OSError:
        is_mbox = False  # reading it will say why
    if not is_mbox:
        yield Source(name=str(path), read=path.read_bytes)
        return
    for number, (start, end) in enumerate(_mbox_messages(path), start=1):
        yield Source(name=f"{path}#{number}", read=partial(_read_part, path, start, end))


def _mbox_messages(path: Path) -> Iterator[tuple[int, int]]:
    """Yield where each message of an mbox begins and ends, without its "From " line.

    Offsets and not messages: an mbox can be larger than the memory (`mailbox.mbox` keeps the
    file open for as long as anybody might read).
    """
    with path.open("rb") as stream:
        start, position, is_after_blank = -1, 0, True
        for line in stream:
            if is_after_blank and line.startswith(b"From "):
                if start >= 0:
                    yield start, position
                start = position + len(line)
            position += len(line)
            is_after_blank = line in {b"\n", b"\r\n"}
        yield start, position


def _read_part(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


async def scan(
    sources: Iterable[Source],
    version: ModelVersion,
    *,
    workers: int,
    thresholds: Thresholds | None = None,
) -> AsyncIterator[Result]:
    """Score messages on ``workers`` processes; yield results in the order of the sources.

    Raises:
        ModelError: the model cannot be used.
    """
    pool = ScorerPool(
        version,
        workers=workers,
        max_waiting=1_000_000,
        hard_limit_seconds=DEADLINE_SECONDS * 2,
        metrics=Metrics(),
    )
    await pool.start()
    try:
        pending: list[asyncio.Task[Result]] = []
        for source in sources:
            pending.append(asyncio.create_task(_scan_one(pool, source, thresholds)))
            if len(pending) >= workers * _AHEAD_PER_WORKER:
                yield await pending.pop(0)
        for task in pending:
            yield await task
    finally:
        await pool.stop()


async def _scan_one(pool: ScorerPool, source: Source, thresholds: Thresholds | None) -> Result:
    error: Exception
    try:
        raw = await asyncio.to_thread(source.read)
        score = await pool.score(raw, timeout_seconds=DEADLINE_SECONDS, thresholds=thresholds)
    except (OSError, ScoringError) as caught:
        error = caught
    else:
        return _result(source, score, thresholds or pool.thresholds)
    return Result(
        path=source.name,
        label=Label.UNSCORED,
        spam_probability=None,
        model_version=pool.version.name,
        truncated=False,
        milliseconds=None,
        error=str(error),
    )


def _result(source: Source, score: Score, thresholds: Thresholds) -> Result:
    return Result(
        path=source.name,
        label=judge(score, thresholds, "").label,
        spam_probability=round(score.spam_probability, 6),
        model_version=score.model_version,
        truncated=score.truncated,
        milliseconds=score.milliseconds,
    )
