"""What commands show."""

import io

import pytest
from rich.console import Console

from spamguard.tables import live_table


def answer(uptime, **counters):
    return {
        "version": "1.2",
        "pid": 7,
        "uptime_seconds": uptime,
        "waiting": 3,
        "scorers": [8, 9],
        "model": "m-1",
        "counters": counters,
        "drift": {"state": "steady", "messages": 400},
        "retraining": {"running": False, "next": None},
    }


def shown(renderable):
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_live_page_shows_rates_between_two_answers_and_shares_since_the_start():
    before = answer(10.0, messages=100)
    labels = {"verdict.ham": 90, "verdict.spam": 30, "latency_ms.p50": 5.0, "scorer_crashes": 1}
    lines = shown(live_table(before, answer(12.0, messages=120, **labels)))
    assert "messages 10.0 a second 120 in all" in lines
    assert "waiting 3 2 scorers" in lines
    assert "latency, p50 / p95 / p99 5 / 0 / 0 ms" in lines
    assert any(line.startswith("verdicts: ham 75.0 % █") for line in lines)
    assert "scorer crashes 1 1 now" in lines
    assert "retraining next by hand" in lines


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"last": "2026-11-29T03:31+00:00", "result": "m-2 is promoted"},
            "03:31+00:00: m-2 is promoted",
        ),
        (
            {"last": "2026-11-28T03:31+00:00", "result": "x", "last_exit_code": 74},
            "failed, exit code 74",
        ),
    ],
)
def test_the_page_shows_what_came_of_the_last_retraining(fields, said):
    now = answer(1.0)
    now["retraining"].update(fields)
    (line,) = [line for line in shown(live_table(now, now)) if line.startswith("retraining")]
    assert said in line


def test_the_live_page_of_a_daemon_that_has_seen_nothing_has_no_shares():
    lines = shown(live_table(answer(0.0), answer(0.0)))
    assert "messages 0.0 a second 0 in all" in lines
    assert not any("%" in line for line in lines)
