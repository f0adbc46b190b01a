"""What administrators read: no log line, table or JSON of ours carries what a terminal obeys."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spamguard.frontends.http.status import render
from spamguard.observe import JsonFormatter, LogfmtFormatter, Metrics, json_line
from spamguard.quarantine import HeldMessage
from spamguard.tables import held_message_view, quarantine_table

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202egnp.exe\u2028b\r\nerror spamguard bug [red]x[/red]\x85"
CONTROLS = set("\x1b\x07\x9b\u202e\u2028\r\x85\x00\x08")


def record(level=logging.INFO, error=None, **fields):
    made = logging.makeLogRecord(
        {"name": "spamguard", "levelno": level, "msg": "verdict", **fields}
    )
    made.levelname = logging.getLevelName(level)
    if error is not None:
        try:
            raise error
        except ValueError as caught:
            made.exc_info = (type(caught), caught, caught.__traceback__)
    return made


@pytest.mark.parametrize("formatter", [JsonFormatter(), LogfmtFormatter()])
def test_no_field_reaches_the_terminal_as_a_control(formatter):
    line = formatter.format(record(message_id=HOSTILE))
    assert line.isprintable()


@pytest.mark.parametrize("formatter", [JsonFormatter(), LogfmtFormatter()])
def test_no_exception_reaches_the_terminal_as_a_control(formatter):
    line = formatter.format(record(logging.ERROR, ValueError(HOSTILE)))
    assert not CONTROLS & set(line)
    assert all(part.startswith("    ") for part in line.split("\n")[1:])


@given(st.text())
def test_a_json_line_reads_back_whatever_it_holds(text):
    line = json_line({"subject": text})
    assert line.isprintable()
    assert {"subject": text} == json.loads(line)


def test_a_json_line_stays_readable_where_nothing_is_wrong():
    assert json_line({"subject": "Grüße 你好"}) == '{"subject": "Grüße 你好"}'


def held():
    return HeldMessage(
        id="0" * 21, state="held", held_at=0.0, changed_at=0.0, frontend="smtp", queue_id="q",
        client_ip="192.0.2.7", helo=HOSTILE, authenticated_user="", reverse_path=HOSTILE,
        recipients=(HOSTILE,), header_from=HOSTILE, subject=HOSTILE, size=1, label="spam",
        spam_probability=0.99, model_version="m", reason=HOSTILE,
    )  # fmt: skip


def test_held_mail_shown_in_a_terminal_sends_it_no_controls():
    shown = io.StringIO()
    console = Console(file=shown, width=4000, force_terminal=True, color_system=None)
    console.print(quarantine_table([held()]))
    console.print(held_message_view(held(), f"Subject: {HOSTILE}\r\n\r\n{HOSTILE}".encode()))
    assert not CONTROLS & set(shown.getvalue())
    assert "[red]x[/red]" in shown.getvalue()


def test_no_label_breaks_out_of_its_line_in_the_metrics():
    metrics = Metrics()
    for label in ("a\nb", 'c"d'):
        metrics.count("report_mails", label)
    status = {
        "version": "1", "model": HOSTILE, "uptime_seconds": 1, "scorers": [], "waiting": 0,
        "thresholds": {}, "drift": {}, "retraining": {"running": False},
    }  # fmt: skip
    lines = render(metrics, status).decode().split("\n")
    assert all(line.startswith(("# ", "spamguard_")) or not line for line in lines)
