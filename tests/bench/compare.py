"""SpamGuard beside rspamd, SpamAssassin and bogofilter, on the same messages in the same run.

Each filter is a milter of the same Postfix; rounds alternate between them, and what is printed
first are ratios: the machine is small, noisy and shared. bogofilter has no daemon, so it is
measured as mail servers run it, a process a message, without Postfix.
"""

import contextlib
import shutil
import smtplib
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.bench.load import _Iterator, _send_all
from tests.bench.mail import mixed, renumbered
from tests.bench.process import cpu_seconds, pss_megabytes
from tests.bench.report import Report, console, median, percentile
from tests.bench.rivals import Rspamd, RspamdBayes, SpamAssassin
from tests.support.daemons import Daemon
from tests.support.postfix import Mailbox, Postfix

CONNECTIONS = 4
OURS = "SpamGuard"
ALONE = "Postfix alone"


def paced(port, mail, rate):
    """Send at a fixed rate whatever happens; return milliseconds from when each was due."""
    took, lock, local = [], threading.Lock(), threading.local()

    def send(due, raw):
        time.sleep(max(0, due - time.perf_counter()))
        if not hasattr(local, "client"):
            local.client = smtplib.SMTP("127.0.0.1", port, timeout=60)
        with contextlib.suppress(smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused):
            local.client.sendmail("ann@sender.example", ["bob@test.example"], raw)
        with lock:
            took.append((time.perf_counter() - due) * 1000)

    started = time.perf_counter() + 0.2
    with ThreadPoolExecutor(16) as executor:
        for number, raw in enumerate(mail):
            executor.submit(send, started + number / rate, raw)
    return took


def _bogofilter(mail, taught_ham, taught_spam):
    """Return messages a second, four at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for side, raws in (("-n", taught_ham), ("-s", taught_spam)):
            for raw in raws:
                subprocess.run(["bogofilter", "-d", folder, side], input=raw, check=False)

        def judge(raw):
            subprocess.run(
                ["bogofilter", "-d", folder, "-p"], input=raw, capture_output=True, check=False
            )

        started = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            list(executor.map(judge, mail))
        return len(mail) / (time.perf_counter() - started)


def _start_rivals(stack, root, ham, spam):
    rivals = []
    for kind in (Rspamd, RspamdBayes, SpamAssassin):
        if missing := kind.missing():
            console.print(f"[red]{kind.name} is left out: {', '.join(missing)} not installed")
            continue
        directory = root / kind.__name__
        directory.mkdir(mode=0o755)
        rival = kind(directory)
        stack.callback(rival.stop)
        rival.start()
        rival.teach(ham, spam)
        rivals.append(rival)
    return rivals


def compare(model, count=400, rounds=3, dataset=None):
    """Rates, latencies and memory of each filter behind one Postfix, as ratios to ours."""
    mail, ham, spam = mixed(dataset, count)
    with contextlib.ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="sg-bench-", dir="/tmp"))
        root.chmod(0o755)
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        rivals = _start_rivals(stack, root, ham, spam)
        mailbox = Mailbox()
        mailbox.start()
        stack.callback(mailbox.stop)
        socket = root / "milter.sock"
        daemon = Daemon(root, **{"model.version": model, "model.workers": 2})
        daemon.settings["milter.listen"] += [f"unix:{socket}"]
        daemon.settings["milter.socket_mode"] = "0666"
        postfix = Postfix(
            root,
            milter=f"unix:{socket}",
            filter_port=daemon.smtp_port,
            mailbox=mailbox,
            others=[(rival.name, rival.milter) for rival in rivals],
        )
        daemon.settings["smtp.next_hop"] = f"127.0.0.1:{postfix.reinjection_port}"
        postfix.start()
        stack.callback(postfix.stop)
        stack.enter_context(daemon)
        ports = {ALONE: postfix.plain_port, OURS: postfix.milter_port, **postfix.ports}
        families = {OURS: [daemon.process], **{rival.name: rival.processes for rival in rivals}}
        rates, times = {name: [] for name in ports}, {name: [] for name in ports}
        shares = {}
        for number in range(rounds + 1):
            for name, port in ports.items():
                # SpamAssassin takes a tenth of a second a message: a part of them will do.
                part = mail[: count // 5] if name == SpamAssassin.name else mail
                part = renumbered(part, number)
                part = part[: count // 10] if number == 0 else part  # the first warms up
                parts = {
                    "the filter": families.get(name, []),
                    "Postfix": [postfix.process],
                    "the load": [psutil.Process()],
                }
                before = {what: cpu_seconds(found) for what, found in parts.items()}
                seconds, took = _send_all(port, _Iterator(part), CONNECTIONS)
                shares[name] = {
                    what: 1000 * (cpu_seconds(found) - before[what]) / len(part)
                    for what, found in parts.items()
                    if found
                }
                if number:
                    rates[name].append(len(part) / seconds)
                    times[name] += took
        half = {
            name: percentile(
                paced(port, renumbered(mail[: count // 2], rounds + 1), max(rates[name]) / 2), 99
            )
            for name, port in ports.items()
            if name != SpamAssassin.name
        }
        status = daemon.status()
        memory = {
            OURS: sum(pss_megabytes(process) for process in [status["pid"], *status["scorers"]]),
            **{rival.name: rival.megabytes() for rival in rivals},
        }
        decided = {
            key.partition(".")[2]: value
            for key, value in status["counters"].items()
            if key.startswith("decided_by.")
        }
    return _show(rates, times, half, memory, decided, shares, (mail, ham, spam), rounds)


def _show(rates, times, half, memory, decided, shares, mail, rounds):
    report = Report(f"{len(mail[0])} messages, {CONNECTIONS} connections, {rounds} rounds")
    ours = rates[OURS]
    for name, values in rates.items():
        if name in {OURS, ALONE}:
            continue
        ratios = [mine / other for mine, other in zip(ours, values, strict=True)]
        target = {Rspamd.name: 1, RspamdBayes.name: 2, SpamAssassin.name: 15}[name]
        report.add(f"ours against {name}", median(ratios), unit="times", target=target, at_most=False)  # fmt: skip
        report.add(f"ours against {name}: least", min(ratios), unit="times")
        report.add(f"ours against {name}: most", max(ratios), unit="times")
    for name in rates:
        report.add(name, median(rates[name]), unit="messages/s")
        for percent in (50, 99):
            report.add(f"{name}: p{percent}", percentile(times[name], percent), unit="ms")
        if name in half:
            target = 100 if name == OURS else None
            report.add(f"{name}: p99 at half of it", half[name], unit="ms", target=target)
        if name in memory:
            target = 350 if name == OURS else None
            report.add(f"{name}: memory", memory[name], unit="MB", target=target)
        for part, milliseconds in shares[name].items():
            report.add(f"{name}: processor time of {part}", milliseconds, unit="ms a message")
    for name, number in decided.items():
        report.add(f"decided by {name}", 100 * number / sum(decided.values()), unit="%")
    if shutil.which("bogofilter"):
        raws, ham, spam = mail
        report.add("bogofilter, a process a message", _bogofilter(raws, ham, spam), unit="messages/s")  # fmt: skip
    return report.show()
