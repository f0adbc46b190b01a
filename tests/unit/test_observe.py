"""Logs that what a message says cannot forge."""

import asyncio
import json
import logging
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.observe import (
    JsonFormatter,
    LogfmtFormatter,
    Metrics,
    log_context,
    without_local_parts,
)


def record(text="verdict", **fields):
    made = logging.makeLogRecord(
        {"name": "spamguard.x", "levelno": 20, "levelname": "INFO", "msg": text}
    )
    vars(made).update(fields)
    return made


def test_a_value_with_line_breaks_stays_on_its_line():
    line = LogfmtFormatter().format(record(message_id="<a>\r\nerror spamguard forged", label="ham"))
    assert "\n" not in line
    assert "\r" not in line
    assert line.startswith("info spamguard.x verdict ")
    assert "label=ham" in line


def test_a_value_with_blanks_or_equals_signs_is_quoted():
    line = LogfmtFormatter().format(record(reason="a b", other="x=y", empty=""))
    assert 'reason="a b"' in line
    assert 'other="x=y"' in line
    assert 'empty=""' in line


def test_json_lines_carry_all_fields_and_the_context():
    with log_context(queue_id="ABC"):
        event = json.loads(JsonFormatter().format(record(score=0.5, words="ü\n")))
    assert event["event"] == "verdict"
    assert (event["queue_id"], event["score"], event["words"]) == ("ABC", 0.5, "ü\n")
    assert event["time"].endswith("Z")


def test_the_context_ends_with_its_block():
    with log_context(a=1):
        pass
    assert "a=1" not in LogfmtFormatter().format(record())


@given(st.text())
def test_no_text_begins_a_second_line_and_a_quoted_one_reads_back(text):
    made = record("verdict", key=text)
    line = LogfmtFormatter(addresses=True).format(made)
    assert line.splitlines() == [line]
    written = line.partition(" key=")[2]
    assert text == (json.loads(written) if written.startswith('"') else written)
    encoded = JsonFormatter(addresses=True).format(made)
    assert "\n" not in encoded
    assert json.loads(encoded)["key"] == text


@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\u202e", "\x7f", "\u2028", "\0"])
def test_nothing_in_a_value_reaches_the_terminal_as_a_control(control):
    line = LogfmtFormatter().format(record(f"event {control}", key=f"ü {control}"))
    assert line.isprintable()


def test_no_event_begins_a_second_line():
    assert "\n" not in LogfmtFormatter().format(record("one\nerror spamguard forged"))


def failed(levelno, levelname):
    try:
        raise ValueError("x\nwarning spamguard.filter verdict label=ham")
    except ValueError:
        return record("bug", levelno=levelno, levelname=levelname, exc_info=sys.exc_info())


def test_no_line_of_a_traceback_can_pass_for_a_log_line():
    first, *rest = LogfmtFormatter().format(failed(logging.ERROR, "ERROR")).splitlines()
    assert first.startswith("error spamguard.x bug error=")
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)


def test_json_keeps_a_traceback_inside_its_line():
    line = JsonFormatter().format(failed(logging.ERROR, "ERROR"))
    assert "\n" not in line
    assert "ValueError: x\nwarning" in json.loads(line)["traceback"]


@pytest.mark.parametrize("formatter", [LogfmtFormatter(), JsonFormatter()])
def test_a_warning_has_no_traceback(formatter):
    line = formatter.format(failed(logging.WARNING, "WARNING"))
    assert line.splitlines() == [line]
    assert "Traceback" not in line
    assert "ValueError" in line


async def test_the_context_of_one_task_does_not_reach_another():
    lines = []

    async def task(number):
        with log_context(task=number):
            await asyncio.sleep(0)
            lines.append(LogfmtFormatter().format(record()))

    await asyncio.gather(task(1), task(2))
    assert [line[-6:] for line in sorted(lines)] == ["task=1", "task=2"]


def test_percentiles_are_of_what_was_observed():
    metrics = Metrics()
    for value in range(1, 101):
        metrics.observe_latency(float(value))
    metrics.count("verdict", "ham", 3)
    snapshot = metrics.snapshot()
    assert snapshot["verdict.ham"] == 3
    assert (snapshot["latency_ms.p50"], snapshot["latency_ms.p99"]) == (51.0, 100.0)


@pytest.mark.parametrize("formatter", [LogfmtFormatter, JsonFormatter])
def test_of_addresses_the_log_has_the_domain_unless_it_shall_have_all(formatter):
    made = record(
        "refused ann@a.example",
        **{"from": "bob@b.example", "to": "c@c.example,d@d.example", "message_id": "<e@f.example>"},
        error="550 <eve.doe+x@e.example>: no such user",
    )
    line = formatter().format(made)
    for whole in ("ann@", "bob@", "c@c", "d@d", "eve.doe"):
        assert whole not in line
    for kept in ("*@a.example", "*@b.example", "*@c.example,*@d.example", "550 <*@e.example>"):
        assert kept in line
    assert "<e@f.example>" in line
    assert "bob@b.example" in formatter(addresses=True).format(made)


def test_a_traceback_shows_no_address_either():
    made = record()
    made.levelno = logging.ERROR
    try:
        raise ValueError("ann@a.example")
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: *@a.example" in LogfmtFormatter().format(made)
    assert "ann@a.example" not in JsonFormatter().format(made)


@pytest.mark.parametrize("text", ["a" * 1_000_000, "@" * 1_000_000, "a " * 500_000 + "@"])
def test_a_long_text_is_read_once(text):
    began = time.process_time()
    without_local_parts(text)
    assert time.process_time() - began < 1


_SERVE = """
import logging, os, sys
from spamguard.observe import journal_prefix, set_up_logging
if sys.argv[1] == "journal":
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
else:
    os.environ["JOURNAL_STREAM"] = "1:2"  # of a service that started us with another stderr
set_up_logging()
log = logging.getLogger("spamguard.x")
log.info("one")
log.warning("two")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("three")
"""


@pytest.mark.parametrize("where", ["journal", "terminal"])
def test_the_journal_is_told_how_bad_a_line_is(where):
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, where], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) > 4
    priorities = [line[:3] for line in lines]
    if where == "journal":
        assert ["<6>", "<4>", *["<3>"] * (len(lines) - 2)] == priorities
    else:
        assert not any(line.startswith("<") for line in lines)
