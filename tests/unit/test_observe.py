"""Logs that what a message says cannot forge."""

import json
import logging

from spamguard.observe import JsonFormatter, LogfmtFormatter, Metrics, log_context


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


def test_percentiles_are_of_what_was_observed():
    metrics = Metrics()
    for value in range(1, 101):
        metrics.observe_latency(float(value))
    metrics.count("verdict", "ham", 3)
    snapshot = metrics.snapshot()
    assert snapshot["verdict.ham"] == 3
    assert (snapshot["latency_ms.p50"], snapshot["latency_ms.p99"]) == (51.0, 100.0)
