"""Logs an administrator can grep and a machine can parse, and the counters behind `status`.

One line an event: ``key=value`` pairs (logfmt) on a terminal and in the journal, JSON on
request. Nothing here ever gets a message body or a password; the log context carries ids, and of
addresses only the domain is written unless the administrator wants more.
"""

import bisect
import collections
import contextvars
import gc
import itertools
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_CONTEXT: contextvars.ContextVar[dict[str, object] | None] = contextvars.ContextVar(
    "spamguard_log_context", default=None
)

GC_THRESHOLD = 10_000  # objects; 700 by default, which is one message

# Attributes that every LogRecord has; whatever else is on it came in by `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# The local part of an address, wherever it stands in a text. It begins where a word begins, so
# that a long word without "@" is read once.
_LOCAL_PART = re.compile(r"(?<![^\s<>()\[\],;])[^\s<>()\[\],;]+@")
_NO_ADDRESS = frozenset({"message_id"})  # looks like one, and is what mail is looked for by

# syslog(3)'s numbers, by which `journalctl --priority` chooses (sd-daemon(3)).
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add ``fields`` to every log line written inside the block, in this task only."""
    token = _CONTEXT.set({**(_CONTEXT.get() or {}), **fields})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def without_local_parts(text: str) -> str:
    """Return a text with ``*`` in place of what stands before the @ of addresses."""
    return _LOCAL_PART.sub("*@", text) if "@" in text else text


class _Formatter(logging.Formatter):
    """What both formats share: the fields, and which part of an address is shown.

    Args:
        addresses: whether addresses are written in full.
    """

    def __init__(self, *, addresses: bool = False) -> None:
        super().__init__()
        self._shown = str if addresses else without_local_parts

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        fields = {**(_CONTEXT.get() or {}), **extra}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
        return {
            key: self._shown(value) if isinstance(value, str) and key not in _NO_ADDRESS else value
            for key, value in fields.items()
        }

    def _traceback(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.levelno < logging.ERROR:
            return ""
        return self._shown(self.formatException(record.exc_info))


class LogfmtFormatter(_Formatter):
    """``level event key=value …``; values with blanks or controls are JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record as one line; line feeds inside values cannot forge a second one."""
        pairs = [f"{key}={_logfmt(value)}" for key, value in self._fields(record).items()]
        message = _one_line(self._shown(record.getMessage()))
        line = " ".join([record.levelname.lower(), record.name, message, *pairs])
        if traceback := self._traceback(record):
            # Indented, since an exception's text can carry lines out of a hostile message.
            line += "".join(f"\n    {_one_line(text)}" for text in traceback.split("\n"))
        return line


class JsonFormatter(_Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record as one JSON line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self._shown(record.getMessage()),
            **self._fields(record),
        }
        if traceback := self._traceback(record):
            event["traceback"] = traceback
        return json_line(event)


def json_line(value: object) -> str:
    """Return a value as JSON on one line, readable, and escaped where a terminal would obey it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(value, default=str)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _logfmt(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
    is_whole = not (" " in text or '"' in text or "=" in text)
    plain = text.isprintable() and text and is_whole
    # Controls of every kind are escaped: some terminals obey those above 0x7f as well.
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def journal_prefix(level: int) -> str:
    """Return what tells the journal how bad a line on standard error is; "" elsewhere."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return ""  # closed, or no file
    is_journal = os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return f"<{_PRIORITIES.get(level, 3)}>" if is_journal else ""


class _StandardError(logging.StreamHandler[TextIO]):
    """Standard error, with priorities where it is the journal."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = journal_prefix(record.levelno)
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def set_up_logging(
    level: str = "info", log_format: str = "logfmt", *, addresses: bool = False
) -> None:
    """Send the log of ours and of our libraries to standard error.

    Args:
        level: debug, info, warning or error.
        log_format: logfmt or json.
        addresses: whether addresses of senders, recipients and users are written in full.
    """
    # What no line of ours shows need not be found out for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _StandardError(sys.stderr)
    formatter = JsonFormatter if log_format == "json" else LogfmtFormatter
    handler.setFormatter(formatter(addresses=addresses))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("spamguard").setLevel(level.upper())


def settle() -> None:
    """Let the garbage collector pass over what stays: modules, the model, settings.

    Called once all of that is there. It was gone through again and again, tens of milliseconds
    each time, while messages waited.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


# Upper ends of the histogram's buckets, in seconds: from a linear model alone to the deadline.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)


class Metrics:
    """Counters since the start, by name and one label, for `spamguard status` and /metrics.

    Only the event loop's thread writes, so there is no lock.
    """

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._latencies_ms: collections.deque[float] = collections.deque(maxlen=2048)
        self._buckets = [0] * len(LATENCY_BUCKETS)
        self._latency_seconds = 0.0

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add ``by`` to the counter ``name`` (``name.label`` when a label is given)."""
        self._counts[f"{name}.{label}" if label else name] += by

    def observe_latency(self, milliseconds: float) -> None:
        """Remember how long one message took: percentiles of the last 2,048, and the histogram."""
        self._latencies_ms.append(milliseconds)
        self._buckets[bisect.bisect_left(LATENCY_BUCKETS, milliseconds / 1000)] += 1
        self._latency_seconds += milliseconds / 1000

    def latency_histogram(self) -> tuple[list[tuple[float, int]], float]:
        """Return (upper end in seconds, messages up to it) for each bucket, and all seconds."""
        counts = itertools.accumulate(self._buckets)
        return list(zip(LATENCY_BUCKETS, counts, strict=True)), self._latency_seconds

    def snapshot(self) -> dict[str, float]:
        """Return all counters and, once a message was seen, latency percentiles in ms."""
        values: dict[str, float] = dict(sorted(self._counts.items()))
        if self._latencies_ms:
            ordered = sorted(self._latencies_ms)
            for percent in (50, 95, 99):
                index = min(len(ordered) - 1, len(ordered) * percent // 100)
                values[f"latency_ms.p{percent}"] = round(ordered[index], 2)
        return values
