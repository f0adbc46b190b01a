"""Throughput: scorers alone, through the milter on both kinds of socket, through Postfix."""

import asyncio
import contextlib
import shutil
import smtplib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from spamguard.model.pool import ScorerPool
from spamguard.model.store import ModelStore
from spamguard.observe import Metrics
from tests.bench.mail import messages, mixed
from tests.bench.report import Report, median, percentile
from tests.support.daemons import Daemon
from tests.support.milter_mta import mta_connection
from tests.support.postfix import Mailbox, Postfix


async def _share(mail, connections, work):
    """Run ``work(iterator)`` on so many connections that share the messages; return seconds."""
    remaining = iter(mail)
    started = time.perf_counter()
    await asyncio.gather(*(work(remaining) for _ in range(connections)))
    return time.perf_counter() - started


async def through_milter(address, mail, *, connections):
    """Deliver messages on so many connections; return seconds.

    What is said is put together before: it is the daemon that is measured, and on two cores each
    millisecond of the load is one that it does not have.
    """
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(mta_connection(address)) for _ in range(connections)
        ]
        waiting = iter(opened)
        said = [opened[0].conversation(raw) for raw in mail]

        async def work(remaining):
            connection = next(waiting)
            for conversation in remaining:
                await connection.converse(conversation)

        return await _share(said, connections, work)


async def through_smtp(port, mail, *, connections):
    """Deliver messages to an SMTP door on so many connections; return seconds."""

    async def reply(reader):
        while (line := await reader.readline())[3:4] == b"-":
            pass
        if line[:1] not in b"23":
            raise ConnectionError(line.decode("ascii", "replace"))

    async def work(remaining):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reply(reader)
        writer.write(b"EHLO load.example\r\n")
        await reply(reader)
        for raw in remaining:
            for command in (
                b"MAIL FROM:<ann@sender.example>",
                b"RCPT TO:<bob@test.example>",
                b"DATA",
            ):
                writer.write(command + b"\r\n")
                await reply(reader)
            writer.write(raw)
            await reply(reader)
        writer.close()

    stuffed = [raw.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n" for raw in mail]
    return await _share(stuffed, connections, work)


async def scorers_alone(model, mail, *, connections):
    pool = ScorerPool(
        ModelStore(Path("/nonexistent")).get(model or "default"),
        workers=2, max_waiting=1000, hard_limit_seconds=60, metrics=Metrics(),
    )  # fmt: skip
    await pool.start()

    async def work(remaining):
        for raw in remaining:
            await pool.score(raw, timeout_seconds=60)

    try:
        return await _share(mail, connections, work)
    finally:
        await pool.stop()


def milter(model, count=400, rounds=3, connections=8, dataset=None):
    """Messages a second: the scorers alone; the daemon by milter, on both sockets, and by SMTP.

    The SMTP filter hands each message on; who takes it runs beside the load, in Python.
    """
    mail, _, _ = mixed(dataset, count)
    names = ("two scorers alone", "milter, Unix socket", "milter, TCP", "SMTP filter")
    rates = {name: [] for name in names}
    cost = []
    with tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch:
        path = Path(scratch) / "milter.sock"
        for number in range(rounds):  # interleaved: the machine is noisy
            seconds = asyncio.run(scorers_alone(model, mail, connections=connections))
            rates["two scorers alone"].append(count / seconds)
            sink = Mailbox()
            sink.start()
            settings = {"model.version": model, "model.workers": 2, "policy.spam": "tag"}
            daemon = Daemon(Path(scratch), **settings)  # holding is the disk's time
            daemon.settings["milter.listen"] += [f"unix:{path}"]
            daemon.settings["smtp.next_hop"] = f"127.0.0.1:{sink.port}"
            with daemon:
                parent = psutil.Process(daemon.status()["pid"])
                tcp = ("127.0.0.1", daemon.milter_port)
                doors = [("milter, Unix socket", path), ("milter, TCP", tcp)]
                asyncio.run(through_milter(path, mail[:20], connections=connections))
                for name, address in doors[:: -1 if number % 2 else 1]:
                    before = sum(parent.cpu_times()[:2])
                    seconds = asyncio.run(through_milter(address, mail, connections=connections))
                    rates[name].append(count / seconds)
                    cost.append(1000 * (sum(parent.cpu_times()[:2]) - before) / count)
                seconds = asyncio.run(through_smtp(daemon.smtp_port, mail, connections=connections))
                rates["SMTP filter"].append(count / seconds)
            sink.stop()
    report = Report(f"{count} messages, {connections} connections, median of {rounds} rounds")
    for name, values in rates.items():
        report.add(name, median(values), unit="messages/s")
    report.add("the daemon's own processor time by milter", median(cost), unit="ms a message")
    alone, unix, tcp, _ = (median(values) for values in rates.values())
    report.add("Unix socket against scorers alone", 100 * unix / alone, unit="%", target=85, at_most=False)  # fmt: skip
    report.add("TCP against the Unix socket", 100 * tcp / unix, unit="%", target=80, at_most=False)
    return report.show()


def _send_all(port, mail, connections):
    """Send over SMTP on so many connections; return (seconds, milliseconds of each message)."""
    remaining = iter(mail)

    def work(_):
        took = []
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            for raw in remaining:
                started = time.perf_counter()
                try:
                    client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                except smtplib.SMTPDataError as error:
                    if error.smtp_code < 500:  # refused as spam is an answer, "later" is none
                        raise
                took.append((time.perf_counter() - started) * 1000)
        return took

    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as executor:
        took = [value for part in executor.map(work, range(connections)) for value in part]
    return time.perf_counter() - started, took


class _Iterator:
    """An iterator that threads can share."""

    def __init__(self, items):
        import threading

        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self._lock:
            return next(self._items)


class Site:
    """A Postfix with the daemon behind it, for as long as a block lasts."""

    def __init__(self, model, **settings):
        self.directory = Path(tempfile.mkdtemp(prefix="sg-bench-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.mailbox = Mailbox()
        self.daemon = Daemon(
            self.directory, **{"model.version": model, "model.workers": 2, **settings}
        )
        self.postfix = Postfix(
            self.directory,
            milter=f"inet:127.0.0.1:{self.daemon.milter_port}",
            filter_port=self.daemon.smtp_port,
            mailbox=self.mailbox,
        )
        self.daemon.settings["smtp.next_hop"] = f"127.0.0.1:{self.postfix.reinjection_port}"

    def __enter__(self):
        self.mailbox.start()
        self.postfix.start()
        self.daemon.start()
        return self

    def __exit__(self, *error):
        self.daemon.stop()
        self.postfix.stop()
        self.mailbox.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def postfix(model, count=300, rounds=3, connections=4):
    """Through a real Postfix: without us, through the milter, through the proxy filter."""
    mail = messages(count)
    names = {"Postfix alone": "plain_port", "with the milter": "milter_port", "with the proxy filter": "proxy_port"}  # fmt: skip
    rates, times = {name: [] for name in names}, {name: [] for name in names}
    with Site(model) as site:
        for _ in range(rounds):
            for name, port in names.items():
                seconds, took = _send_all(getattr(site.postfix, port), _Iterator(mail), connections)
                rates[name].append(count / seconds)
                times[name] += took
    report = Report(f"real Postfix, {count} messages, {connections} connections, {rounds} rounds")
    for name in names:
        report.add(f"{name}: rate", median(rates[name]), unit="messages/s")
        for percent in (50, 95, 99):
            report.add(f"{name}: p{percent}", percentile(times[name], percent), unit="ms")
    return report.show()
