"""More connections than scorers can serve: what is shed, how long it takes, how it ends.

Also: what 500 connections cost that say nothing, what size costs, and whether memory grows.
"""

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.load import through_milter
from tests.bench.mail import messages, renumbered
from tests.bench.process import pss_megabytes
from tests.bench.report import Report, console, median, percentile
from tests.support.daemons import Daemon
from tests.support.milter_mta import mta_connection

DEADLINE_SECONDS = 2
MAX_WAITING = 50
FLOOD = 400  # connections that each send the next message once the last is answered
FLOOD_SECONDS = 10
IDLE = 500
CALM_MESSAGES = 50


def _status_of(answer):
    """Return the label in X-Spam-Status."""
    value = answer.added.get(b"X-Spam-Status", b"none")
    return value.partition(b",")[0].decode()


async def _timed(connection, raw):
    started = time.perf_counter()
    answer = await connection.deliver(raw)
    return _status_of(answer), (time.perf_counter() - started) * 1000


async def _calm(path, mail):
    """Return milliseconds of messages one after the other."""
    async with mta_connection(path) as connection:
        return [(await _timed(connection, raw))[1] for raw in mail]


async def _flood(path, mail):
    ends = time.perf_counter() + FLOOD_SECONDS
    labels, took = Counter(), []

    async def client(number):
        async with mta_connection(path) as connection:
            while time.perf_counter() < ends:
                number = (number + 7) % len(mail)
                label, milliseconds = await _timed(connection, mail[number])
                labels[label] += 1
                took.append(milliseconds)

    async with asyncio.TaskGroup() as group:
        for number in range(FLOOD):
            group.create_task(client(number))
    return labels, took


async def _recovery(path, raw, usual_ms):
    """Return seconds until a message takes less than twice the usual again."""
    started = time.perf_counter()
    async with mta_connection(path) as connection:
        while (await _timed(connection, raw))[1] > 2 * usual_ms:
            pass
    return time.perf_counter() - started


def overload(model):
    """A flood of 400 connections at two scorers, and 500 that say nothing."""
    mail = messages(200)
    settings = {
        "model.version": model,
        "model.workers": 2,
        "model.deadline_seconds": DEADLINE_SECONDS,
        "model.max_waiting": MAX_WAITING,
    }
    with tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch:
        path = Path(scratch) / "milter.sock"
        daemon = Daemon(Path(scratch), **settings)
        daemon.settings["milter.listen"] = [f"unix:{path}"]
        with daemon:
            process = daemon.status()["pid"]

            async def run():
                calm = await _calm(path, mail[:CALM_MESSAGES])
                labels, took = await _flood(path, renumbered(mail, 1))
                recovery = await _recovery(path, mail[0], percentile(calm, 95))
                before = pss_megabytes(process)
                async with AsyncExitStack() as stack:
                    for _ in range(IDLE):
                        await stack.enter_async_context(mta_connection(path))
                    idle = pss_megabytes(process) - before
                    beside = await _calm(path, renumbered(mail[:CALM_MESSAGES], 2))
                return calm, labels, took, recovery, idle, beside

            calm, labels, took, recovery, idle, beside = asyncio.run(run())
    judged = sum(labels[name] for name in ("Yes", "Unsure", "No"))
    report = Report(f"{FLOOD} connections for {FLOOD_SECONDS} s, two scorers")
    report.add("one connection, p50", percentile(calm, 50), unit="ms")
    report.add("judged meanwhile", judged / FLOOD_SECONDS, unit="messages/s")
    report.add("passed unscored meanwhile", labels["Unknown"] / FLOOD_SECONDS, unit="messages/s")
    report.add("p99", percentile(took, 99) / 1000, unit="s", target=DEADLINE_SECONDS + 1)
    report.add("longest", max(took) / 1000, unit="s")
    report.add("until calm again", recovery, unit="s", target=1.0)
    report.add(f"{IDLE} idle connections", idle, unit="MB", target=50)
    report.add("beside them, p50 against before", percentile(beside, 50) / percentile(calm, 50), unit="times", target=1.5)  # fmt: skip
    return report.show()


def growth(model, count=50_000):
    """Memory of all our processes over so many messages by the milter."""
    first = max(500, count // 10)
    with (
        tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch,
        Daemon(Path(scratch), **{"model.version": model, "model.workers": 2}) as daemon,
    ):
        address, mail, sizes = ("127.0.0.1", daemon.milter_port), messages(500), []
        status = daemon.status()
        for done in range(0, count, len(mail)):
            batch = renumbered(mail, done)
            asyncio.run(through_milter(address, batch, connections=4))
            processes = [status["pid"], *status["scorers"]]
            sizes.append(sum(map(pss_megabytes, processes)))
            if done % (10 * len(mail)) == 0:
                console.print(f"{done + len(mail)} messages: {sizes[-1]:.1f} MB")
    before = median(sizes[first // len(mail) - 1 : first // len(mail) + 2])
    after = median(sizes[-3:])
    report = Report(f"memory over {count} messages")
    report.add(f"after {first}", before, unit="MB")
    report.add("in the end", after, unit="MB")
    report.add("growth", 100 * (after / before - 1), unit="%", target=5)
    return report.show()


_SIZES = {"1 KB": 1, "10 KB": 10, "100 KB": 100, "1 MB": 1000, "10 MB": 10_000, "25 MB": 25_000}


def scaling(model, count=60):
    """Rates over one and two scorers, and what a message's size costs."""
    report = Report("scaling")
    text = b"".join(
        b"%d Dear all, the minutes of the last meeting are attached, please read them.\r\n" % n
        for n in range(14)
    )
    with tempfile.TemporaryDirectory(prefix="sg-bench-") as scratch:
        rates = {}
        for workers in (1, 2):
            settings = {"model.version": model, "model.workers": workers}
            settings["max_message_bytes"] = 50_000_000
            with Daemon(Path(scratch), **settings) as daemon:
                address, mail = (
                    ("127.0.0.1", daemon.milter_port),
                    renumbered(messages(200), workers),
                )
                seconds = asyncio.run(through_milter(address, mail, connections=8))
                rates[workers] = len(mail) / seconds
                report.add(f"{workers} scorers", rates[workers], unit="messages/s")
                if workers == 2:
                    for name, kilobytes in _SIZES.items():
                        number = max(3, min(count, 20_000 // kilobytes))
                        large = [
                            b"Subject: %d\r\n\r\n" % n + text * kilobytes for n in range(number)
                        ]
                        seconds = asyncio.run(through_milter(address, large, connections=1))
                        report.add(f"{name}, one connection", 1000 * seconds / number, unit="ms")
        report.add("two against one", rates[2] / rates[1], unit="times")
    return report.show()
