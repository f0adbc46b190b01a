"""What a retraining costs: time by part, memory, and what the daemon's users notice of it."""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import click
import psutil

from spamguard.database import migrate
from spamguard.feedback.corrections import CorrectionStore
from spamguard.report import Report as Correction
from spamguard.report import ReportSource
from spamguard.training.corpus import corpus_examples
from spamguard.verdict import Label
from tests.bench.mail import messages
from tests.bench.report import Report, percentile
from tests.support.daemons import Daemon
from tests.support.milter_mta import mta_connection

TARGET_MINUTES, TARGET_MEGABYTES = 12, 2560
PAUSE_SECONDS = 0.1  # between messages: a mail server with something to do, not a flood


def corrections(count):
    """Yield (label, raw) of so many different messages: our texts, dressed as nobody else did."""
    for number, example in enumerate(corpus_examples(copies=1, seed=99)[:count]):
        subject, _, body = example.text.partition("\n")
        raw = f"From: sender{number}@s{number}.example\r\nSubject: {subject}\r\n\r\n{body}\r\n"
        yield Label.SPAM if example.is_spam else Label.HAM, raw.encode("utf-8", "replace")


def _megabytes(process):
    """Return what a process and its children have resident, in their own right (PSS)."""
    try:
        family = psutil.Process(process)
        members = [family, *family.children(recursive=True)]
        return sum(member.memory_full_info().pss for member in members) / 2**20
    except psutil.Error:
        return 0.0


async def _deliver(address, mail, until):
    """Send one message after the other until told to stop; return each one's milliseconds."""
    took = []
    async with mta_connection(address) as connection:
        while not until():
            started = time.perf_counter()
            await connection.deliver(mail[len(took) % len(mail)])
            took.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
    return took


def retrain(model, count=1000):
    """Retrain on so many corrections while the daemon filters; compare its latency with idle."""
    del model  # the version in use is what is retrained
    mail = messages(100)
    with tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch:
        daemon = Daemon(Path(scratch), **{"retrain.promote": False, "feedback.campaigns": False})
        daemon.state.mkdir()
        migrate(daemon.state / "spamguard.db")
        store = CorrectionStore(daemon.state / "spamguard.db", daemon.state / "corrections")
        for number, (label, raw) in enumerate(corrections(count)):
            reporter = f"user{number % 40}"
            store.record(
                Correction(label=label, reporter=reporter, source=ReportSource.CLI, raw=raw)
            )
        with daemon:
            address = ("127.0.0.1", daemon.milter_port)
            ends = time.monotonic() + 20
            idle = asyncio.run(_deliver(address, mail, lambda: time.monotonic() > ends))
            started = time.monotonic()
            log = (Path(scratch) / "retrain.log").open("w+")
            child = subprocess.Popen(
                daemon.command("retrain", "--json"),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            peak = 0.0

            def is_over():
                nonlocal peak
                peak = max(peak, _megabytes(child.pid))
                return child.poll() is not None

            busy = asyncio.run(_deliver(address, mail, is_over))
            seconds = time.monotonic() - started
            answer = child.stdout.read()
            child.stdout.close()
            with log:
                log.seek(0)
                if child.returncode:
                    raise click.ClickException(f"retrain ended {child.returncode}: {log.read()}")
            result = json.loads(answer)
    plan = result["plan"]
    trained = sum(plan["train"].values()) + sum(plan["replayed"].values())
    report = Report(f"{count} corrections, stage {plan['stage']}, while the daemon filters")
    report.add("whole run", seconds / 60, unit="minutes", target=TARGET_MINUTES)
    for part, value in result["seconds"].items():
        report.add(f"… {part}", value, unit="s")
    report.add("corrections and replayed texts", trained)
    report.add("BERT, messages a second", 2 * trained / max(1, result["seconds"].get("BERT", 0)))
    report.add("peak memory", peak, unit="MB", target=TARGET_MEGABYTES)
    report.add("a message, idle, p95", percentile(idle, 95), unit="ms")
    report.add("a message, meanwhile, p95", percentile(busy, 95), unit="ms")
    report.add("ratio of the two", percentile(busy, 95) / percentile(idle, 95))
    return report.show()
