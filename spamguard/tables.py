"""What the command line shows people: rich tables and progress bars. No decisions in here."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from spamguard.message import parse_message
from spamguard.model_input import build_model_input
from spamguard.verdict import Label

if TYPE_CHECKING:
    from spamguard.feedback.trust import Correction
    from spamguard.model.store import ModelVersion
    from spamguard.quarantine import HeldMessage
    from spamguard.scan import Result
    from spamguard.training.evaluate import Evaluation, TradeOff
    from spamguard.training.gate import Rule
    from spamguard.training.plan import Plan

_COLOURS = {
    Label.HAM: "green",
    Label.UNSURE: "yellow",
    Label.SPAM: "red",
    Label.UNSCORED: "magenta",
}
_PREVIEW_CHARS = 2000


def _table(*columns: str, title: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(column.lstrip("#"), justify="right" if is_number else "left")
    return table


def coloured(label: str) -> Text:
    """Return a label in its colour."""
    return Text(label, style=_COLOURS.get(Label(label), ""))


class ScanTable:
    """Progress while messages are scored, then the table.

    Args:
        total: how many messages.
        visible: whether anything is shown at all.
    """

    def __init__(self, total: int, *, visible: bool) -> None:
        self._visible = visible
        self._table = _table("file", "verdict", "#score", "#ms", "note")
        self._counts: dict[str, int] = {}
        self._progress = _progress(visible=visible)
        self._task = self._progress.add_task("scoring", total=total)

    def add(self, result: "Result") -> None:
        """Add one result."""
        self._progress.advance(self._task)
        self._counts[result.label] = self._counts.get(result.label, 0) + 1
        score = "" if result.spam_probability is None else f"{result.spam_probability:.4f}"
        milliseconds = "" if result.milliseconds is None else f"{result.milliseconds:.1f}"
        note = result.error or ("first part only" if result.truncated else "")
        self._table.add_row(
            _text(result.path), coloured(result.label), score, milliseconds, _text(note)
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._visible and kind is None:
            console = Console(highlight=False)
            console.print(self._table)
            console.print(", ".join(f"{n} {label}" for label, n in sorted(self._counts.items())))


def _progress(*, visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not visible,
        transient=True,
    )


@contextmanager
def progress_bar(*, visible: bool) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yield a factory of callbacks ``(done, total)``, one bar for each description."""
    with _progress(visible=visible) as progress:

        def bar(description: str) -> Callable[[int, int], None]:
            task = progress.add_task(description, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield bar


def status_table(answer: Mapping[str, Any]) -> RenderableType:
    """Return what a running daemon says of itself."""
    table = _table("", "")
    table.show_header = False
    listening = answer["listening"]
    table.add_row("version", f"{answer['version']}, process {answer['pid']}")
    table.add_row("up", _duration(answer["uptime_seconds"]))
    thresholds = answer["thresholds"]
    table.add_row(
        "model",
        f"{answer['model']}, unsure from {thresholds['unsure']:.4f}, "
        f"spam from {thresholds['spam']:.4f}",
    )
    table.add_row("scorers", ", ".join(map(str, answer["scorers"])) or "none is up")
    table.add_row("waiting", str(answer["waiting"]))
    for name in sorted(listening):
        table.add_row(name, ", ".join(listening[name]))
    drift, retraining = answer["drift"], answer["retraining"]
    indices = ", ".join(f"{name} {value:.2f}" for name, value in drift.get("psi", {}).items())
    table.add_row("drift", f"{drift['state']} {indices}".strip())
    following, last = _retraining(retraining)
    table.add_row("retraining", following)
    if last:
        table.add_row("last retraining", _text(last))
    if answer["watched"]:
        table.add_row("watched since its promotion", answer["watched"])
    for name, value in answer["counters"].items():
        table.add_row(name, f"{value:g}")
    return table


# Counters with a label each, and what they are called on the live page.
_SHARES = {"verdict": "verdicts", "disposition": "done with them", "decided_by": "decided by"}
_BAR_CHARS = 30


def live_table(before: Mapping[str, Any], now: Mapping[str, Any]) -> RenderableType:
    """Return the page of `status --live`: rates between two answers, shares since the start."""
    seconds = max(1e-3, now["uptime_seconds"] - before["uptime_seconds"])
    counters, older = now["counters"], before["counters"]
    table = _table("", "", "", title=f"SpamGuard {now['version']}, process {now['pid']}")
    table.show_header = False
    rate = (counters.get("messages", 0) - older.get("messages", 0)) / seconds
    table.add_row("messages", f"{rate:.1f} a second", f"{counters.get('messages', 0):g} in all")
    times = " / ".join(f"{counters.get(f'latency_ms.p{p}', 0):.0f}" for p in (50, 95, 99))
    table.add_row("latency, p50 / p95 / p99", f"{times} ms", "")
    table.add_row("waiting", str(now["waiting"]), f"{len(now['scorers'])} scorers")
    for name, title in _SHARES.items():
        labels = {k.partition(".")[2]: v for k, v in counters.items() if k.startswith(f"{name}.")}
        total = sum(labels.values())
        for label, value in sorted(labels.items(), key=lambda pair: -pair[1]):
            bar = "█" * round(_BAR_CHARS * value / total)
            table.add_row(f"{title}: {label}", f"{100 * value / total:.1f} %", bar)
    for name in sorted(k for k in counters if k.endswith(("_failures", "_crashes", "overloaded"))):
        new = counters[name] - older.get(name, 0)
        table.add_row(name.replace("_", " "), f"{counters[name]:g}", f"{new:g} now" if new else "")
    drift, retraining = now["drift"], now["retraining"]
    table.add_row("model", now["model"], f"up {_duration(now['uptime_seconds'])}")
    table.add_row("drift", drift["state"], f"{drift.get('messages', 0)} messages")
    table.add_row("retraining", *map(_text, _retraining(retraining)))
    return table


def _retraining(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return what comes next, and what came of the last one."""
    following = "under way" if status["running"] else f"next {status['next'] or 'by hand'}"
    last = f"{status['last']}: {status['result']}" if "last" in status else ""
    if code := status.get("last_exit_code"):
        last = f"the last one failed, exit code {code}; see the log"
    return following, last


def _duration(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h {minutes} min" if days else f"{hours} h {minutes} min"


def models_table(
    versions: Sequence["ModelVersion"],
    current: "ModelVersion",
    candidates: Sequence["ModelVersion"] = (),
) -> RenderableType:
    """Return the versions with what their manifests say they measured, * before that in use.

    Candidates, which retraining made and did not promote, come last, behind a ?.
    """
    table = _table("", "version", "created", "#1-ROCA %", "#unsure", "#spam", "where")
    for version in (*versions, *candidates):
        mark = "?" if version in candidates else ""
        measured = version.manifest.get("measured", {})
        roca = measured.get("one_minus_roca_percent")
        table.add_row(
            "*" if version.path == current.path else mark,
            version.name,
            str(version.manifest.get("created", "")),
            "" if roca is None else f"{roca:.2f}",
            f"{version.thresholds.unsure:.4f}",
            f"{version.thresholds.spam:.4f}",
            Text(str(version.path)),
        )
    return table


def plan_table(plan: "Plan") -> RenderableType:
    """Return what a retraining learns from and is judged on."""
    table = _table("what", "#ham", "#spam", title=f"{plan.reason}: stage {plan.stage}")
    numbers = plan.as_json()
    for name, key in (
        ("corrections that count", "corrections"),
        ("… trained on", "train"),
        ("… for calibration", "validation"),
        ("… for the gate", "holdout"),
        ("replayed texts", "replayed"),
    ):
        table.add_row(name, str(numbers[key]["ham"]), str(numbers[key]["spam"]))
    table.add_row("never-flag mail", str(numbers["never_flag"]), "")
    others = {k: v for k, v in numbers["standings"].items() if k != "counted"}
    if others:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
        table.add_row(f"not learned: {listed}", "", "")
    if numbers["held"]:
        table.add_row(f"held for review: {len(numbers['held'])}", "", "")
    return table


def gate_table(rules: Sequence["Rule"], version: str) -> RenderableType:
    """Return every rule of the gate with what both models scored."""
    table = _table("rule", "#incumbent", "#candidate", "wanted", "", title=f"gate of {version}")
    for rule in rules:
        verdict = Text("passed", style="green") if rule.passed else Text("failed", style="red")
        table.add_row(rule.name, str(rule.incumbent), str(rule.candidate), rule.wanted, verdict)
    return table


def history_table(steps: Sequence[Mapping[str, str]]) -> RenderableType:
    """Return every promotion and rollback."""
    table = _table("when", "from", "to", "by", "reason")
    for step in steps:
        table.add_row(*(Text(step.get(key, "")) for key in ("at", "from", "to", "by", "reason")))
    return table


def manifest_diff(before: "ModelVersion", after: "ModelVersion") -> RenderableType:
    """Return what differs between two manifests, by dotted key."""
    table = _table("what", before.name, after.name)
    sides = [dict(_flat(version.manifest)) for version in (before, after)]
    for key in sorted({*sides[0], *sides[1]}):
        values = [str(side.get(key, "")) for side in sides]
        if values[0] != values[1]:
            table.add_row(key, *(Text(value[:60]) for value in values))
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def quarantine_table(rows: Sequence["HeldMessage"]) -> RenderableType:
    """Return held messages, one a line."""
    table = _table("id", "held", "from", "to", "subject", "#score", "#KB", "state")
    for row in rows:
        others = f" +{len(row.recipients) - 1}" if len(row.recipients) > 1 else ""
        table.add_row(
            row.id,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row.held_at)),
            _text(row.reverse_path or "<>"),
            _text(f"{row.recipients[0] if row.recipients else ''}{others}"),
            _text(row.subject[:60]),
            "" if row.spam_probability is None else f"{row.spam_probability:.4f}",
            f"{row.size / 1024:.1f}",
            row.state,
        )
    return table


def held_message_view(held: "HeldMessage", raw: bytes) -> RenderableType:
    """Return one held message for reading: envelope, verdict, and what the model read."""
    table = _table("", "")
    table.show_header = False
    table.add_row("id", held.id)
    table.add_row("state", held.state)
    table.add_row("held", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held.held_at)))
    table.add_row("reverse path", _text(held.reverse_path or "<>"))
    table.add_row("recipients", _text(", ".join(held.recipients)))
    table.add_row("client", _text(f"{held.client_ip or 'unknown'} {held.helo}".strip()))
    table.add_row("From", _text(held.header_from))
    table.add_row("Subject", _text(held.subject))
    score = "" if held.spam_probability is None else f" {held.spam_probability:.4f}"
    table.add_row("verdict", _text(f"{held.label}{score} by {held.model_version}: {held.reason}"))
    table.add_row("size", f"{held.size:,} bytes")
    message = parse_message(raw)
    text = build_model_input(message).text[:_PREVIEW_CHARS]
    return Group(table, _text(text))


def corrections_table(rows: Sequence[tuple["Correction", str, str]]) -> RenderableType:
    """Return corrections with standing and reason, one a line."""
    table = _table("#id", "reported", "label", "reporter", "by", "from", "we said", "standing", "")
    for row, standing, reason in rows:
        said = "" if row.spam_probability is None else f"{row.predicted} {row.spam_probability:.3f}"
        table.add_row(
            str(row.id),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row.reported_at)),
            coloured(row.label),
            _text(row.reporter),
            row.source,
            _text(row.from_address),
            said,
            standing,
            _text(reason),
        )
    return table


def correction_view(row: "Correction", standing: str, reason: str, raw: bytes) -> RenderableType:
    """Return one correction for reading, with what the model reads of its message."""
    table = _table("", "")
    table.show_header = False
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.reported_at))
    table.add_row("correction", f"{row.id}, {when}, by {row.source}")
    table.add_row("reporter", _text(row.reporter))
    table.add_row("says", coloured(row.label))
    said = "not on record" if row.spam_probability is None else f"{row.predicted} "
    score = "" if row.spam_probability is None else f"{row.spam_probability:.4f}"
    table.add_row("we said", f"{said}{score} {row.model_version}".strip())
    table.add_row("standing", _text(f"{standing} {reason}".strip()))
    table.add_row("campaign", row.campaign)
    table.add_row("comment", _text(row.comment))
    text = build_model_input(parse_message(raw)).text[:_PREVIEW_CHARS]
    return Group(table, _text(text))


def _text(text: str) -> Text:
    """Keep escape sequences in hostile mail away from the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in text))


def evaluation_table(found: "Evaluation") -> RenderableType:
    """Return the figures of every slice; rates in percent."""
    table = _table(
        "slice",
        "#ham",
        "#spam",
        "#1-ROCA",
        "#caught at 0.1 / 0.5 / 1 % ham flagged",
        "#ham→spam",
        "#ham→unsure+",
        "#caught",
        "#caught+unsure",
        "#F1",
        "#lam",
        "#ECE",
        title=f"{found.model_version}, in percent; unsure from {found.thresholds.unsure:.4f}, "
        f"spam from {found.thresholds.spam:.4f}",
    )
    for name, figures in found.slices:
        ham, spam = bool(figures.ham), bool(figures.spam)
        roca = figures.one_minus_roca_percent
        table.add_row(
            name,
            f"{figures.ham:,}",
            f"{figures.spam:,}",
            "" if roca is None else f"{roca:.2f}",
            " / ".join(f"{100 * caught:.0f}" for caught in figures.caught_at),
            f"{100 * figures.false_positive_rate:.2f}" if ham else "",
            f"{100 * figures.flagged_rate:.2f}" if ham else "",
            f"{100 * figures.recall:.1f}" if spam else "",
            f"{100 * figures.recall_unsure:.1f}" if spam else "",
            f"{100 * figures.f1:.1f}" if ham and spam else "",
            f"{figures.lam_percent:.2f}" if ham and spam else "",
            f"{100 * figures.expected_calibration_error:.1f}" if ham and spam else "",
        )
    return table


def trade_off_table(
    rows: Sequence["TradeOff"], marks: Mapping[float, str] | None = None
) -> RenderableType:
    """Return what each threshold would do, with a picture; the interval is Wilson's, at 95 %.

    Args:
        rows: by rising threshold.
        marks: threshold -> what it is, shown beside it.
    """
    from spamguard.training.metrics import wilson

    table = _table(
        "#threshold", "", "#ham flagged", "#95 % interval", "#worst source", "", "#spam caught", ""
    )
    for row in rows:
        low, high = wilson(row.false_positives, row.ham)
        mark = (marks or {}).get(row.threshold, "")
        table.add_row(
            f"{row.threshold:.4f}",
            mark,
            f"{100 * row.false_positives / max(1, row.ham):.2f} %",
            f"{100 * low:.2f} to {100 * high:.2f} %",
            f"{100 * row.worst_rate:.2f} %",
            row.worst_corpus,
            f"{100 * row.caught:.1f} %",
            "█" * round(20 * row.caught),
            style="bold" if mark else "",
        )
    return table
