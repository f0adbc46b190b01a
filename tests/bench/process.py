"""Cold start, memory, and the cost of one message by stage."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from spamguard.campaign import simhash
from spamguard.message import parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.scorer import MessageScorer
from spamguard.model.store import ModelStore
from spamguard.model_input import build_model_input
from tests.bench.mail import messages, mixed
from tests.bench.report import Report, percentile
from tests.support.daemons import Daemon

WARM_UP = 50  # messages before those that count


def start(model):
    """From `spamguard serve` to the first judged message, five times, the median."""
    report = Report("cold start")
    times = []
    for _ in range(5):
        with tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch:
            started = time.perf_counter()
            # Ready means: doors open and a message judged by every scorer.
            with Daemon(Path(scratch), **{"model.version": model, "model.workers": 2}):
                times.append(time.perf_counter() - started)
    report.add("serve until a message was judged", sorted(times)[2], unit="s", target=2)
    code = "import sys, spamguard, spamguard.daemon; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report.add("torch imported by the daemon", int(found.stdout.strip() == "True"), target=0)
    return report.show()


def scorer(model, count=1000, dataset=None):
    """Milliseconds a message in one process, by stage; and the whole of it as a server does it."""
    classifier = Classifier(ModelStore(Path("/nonexistent")).get(model or "default"))
    whole = MessageScorer(classifier)
    stages = {
        name: []
        for name in (
            "parse",
            "model input",
            "simhash",
            "linear",
            "tokens",
            "BERT alone",
            "as served",
        )
    }
    mail, _, _ = mixed(dataset, count + WARM_UP)
    for number, raw in enumerate(mail):
        times = [time.perf_counter()]
        message = parse_message(raw)
        times.append(time.perf_counter())
        text = build_model_input(message).text
        times.append(time.perf_counter())
        simhash(text)
        times.append(time.perf_counter())
        classifier.linear_logit(text)
        times.append(time.perf_counter())
        ids = classifier.token_ids(text)
        times.append(time.perf_counter())
        classifier.ask(ids)
        times.append(time.perf_counter())
        whole.score(raw)
        times.append(time.perf_counter())
        if number >= WARM_UP:
            for name, a, b in zip(stages, times, times[1:], strict=False):
                stages[name].append((b - a) * 1000)
    mean = {name: sum(values) / len(values) for name, values in stages.items()}
    size = sum(map(len, mail)) / len(mail) / 1024
    report = Report(f"one scorer, {count} messages of {size:.1f} KB on average")
    for name, values in stages.items():
        report.add(f"{name}, mean", mean[name], unit="ms")
        report.add(f"{name}, 95 %", percentile(values, 95), unit="ms")
    report.add("engine alone", 1000 / mean["BERT alone"], unit="messages/s")
    report.add(
        "parse + model input + tokens, mean",
        mean["parse"] + mean["model input"] + mean["tokens"],
        unit="ms",
        target=3,
    )
    return report.show()


def pss_megabytes(process):
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def cpu_seconds(processes):
    """Return the processor time of processes and all their children, living and gone.

    Of this very process without its children: they are what is measured.
    """
    total = 0.0
    for process in processes:
        family = [psutil.Process(process.pid)]
        if process.pid != os.getpid():
            family += family[0].children(recursive=True)
        for member in family:
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                total += times.user + times.system
                if process.pid != os.getpid():
                    total += times.children_user + times.children_system
    return total


def memory(model, count=500):
    """PSS of the daemon and two scorers after so many messages."""
    import asyncio

    from tests.bench.load import through_milter

    report = Report(f"memory after {count} messages")
    with (
        tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch,
        Daemon(Path(scratch), **{"model.version": model, "model.workers": 2}) as daemon,
    ):
        address = ("127.0.0.1", daemon.milter_port)
        asyncio.run(through_milter(address, messages(count), connections=4))
        status = daemon.status()
        own = pss_megabytes(status["pid"])
        scorers = [pss_megabytes(process) for process in status["scorers"]]
    report.add("daemon", own, unit="MB")
    for number, value in enumerate(scorers, start=1):
        report.add(f"scorer {number}", value, unit="MB")
    report.add("daemon and two scorers", own + sum(scorers), unit="MB", target=350)
    return report.show()
