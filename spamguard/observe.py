"""Logs an administrator can grep and a machine can parse, and the counters behind `status`.

One line an event: ``key=value`` pairs (logfmt) on a terminal and in the journal, JSON on
request. Nothing here ever gets a message body or a password; the log context carries ids.
"""

import bisect
import collections
import contextvars
import gc
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_CONTEXT: contextvars.ContextVar[dict[str, object] | None] = contextvars.ContextVar(
    "spamguard_log_context", default=None
)

GC_THRESHOLD = 10_000  # objects; 700 by default, which is one message

# Attributes that every LogRecord has; whatever else is on it came in by `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add ``fields`` to every log line written inside the block, in this task only."""
    token = _CONTEXT.set({**(_CONTEXT.get() or {}), **fields})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    fields = {**(_CONTEXT.get() or {}), **extra}
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
    return fields


class LogfmtFormatter(logging.Formatter):
    """``level event key=value …``; values with blanks or controls are JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record as one line; line feeds inside values cannot forge a second one."""
        pairs = [f"{key}={_logfmt(value)}" for key, value in _fields(record).items()]
        message = _one_line(record.getMessage())
        line = " ".join([record.levelname.lower(), record.name, message, *pairs])
        if record.exc_info and record.levelno >= logging.ERROR:
            # Indented, since an exception's text can carry lines out of a hostile message.
            traceback = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n    {_one_line(text)}" for text in traceback)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record as one JSON line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.levelno >= logging.ERROR:
            event["traceback"] = self.formatException(record.exc_info)
        return json_line(event)


def json_line(value: object) -> str:
    """Return a value as JSON on one line, readable, and escaped where a terminal would obey it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(value, default=str)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _logfmt(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    is_whole = not (" " in text or '"' in text or "=" in text)
    plain = text.isprintable() and text and is_whole
    # Controls of every kind are escaped: some terminals obey those above 0x7f as well.
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def set_up_logging(level: str = "info", log_format: str = "logfmt") -> None:
    """Send the log of ours and of our libraries to standard error.

    Args:
        level: debug, info, warning or error.
        log_format: logfmt or json.
    """
    # What no line of ours shows need not be found out for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else LogfmtFormatter())
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
