"""Hostile mail, and custody under kill -9."""

import asyncio
import random
import smtplib
import time
from collections import Counter
from pathlib import Path

from spamguard.errors import ScoringError
from spamguard.message import parse_message
from spamguard.model.pool import ScorerPool
from spamguard.model.store import ModelStore
from spamguard.observe import Metrics
from tests.bench.load import Site
from tests.bench.mail import SAMPLES, messages
from tests.bench.report import Report
from tests.support.daemons import wait_for

TEN_MEGABYTES = 10 * 2**20
HARD_LIMIT_SECONDS = 20


def _worse():
    """Ten megabytes of each kind that has hurt mail filters."""

    def fill(start, piece):
        return start + piece * (TEN_MEGABYTES // len(piece))

    html = b"Content-Type: text/html\r\n\r\n"
    multi = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    return {
        "nested divs": fill(html, b"<div>"),
        "unclosed formatting": fill(html, b"<b><font color=red><i>x<p>"),
        "attributes": fill(html + b"<p ", b"a=b "),
        "links": fill(html, b"<a href=https://a.example/x>https://b.example</a>"),
        "hidden elements": fill(html, b"<p style='display:none'>x</p>"),
        "entities": fill(html, b"&amp;&#x41;"),
        "empty parts": fill(multi, b"--b\r\n\r\n"),
        "nested multiparts": fill(multi, b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"),
        "header fields": fill(b"", b"X-A: 1\r\n"),
        "recipients": fill(b"To: ", b"<a@b.example>, "),
        "encoded words": fill(b"Subject: ", b"=?utf-8?q?x?= "),
        "one line": fill(b"A: 1\r\n\r\n", b"x"),
        "letters apart": fill(b"A: 1\r\n\r\n", b"V I A G R A "),
        "zero width": fill(b"Content-Type: text/plain; charset=utf-8\r\n\r\n", "a\u200b".encode()),
        "look-alikes": fill(b"Content-Type: text/plain; charset=utf-8\r\n\r\n", "раураl ".encode()),
        "base64": fill(b"Content-Transfer-Encoding: base64\r\n\r\n", b"QUFB!"),
        "quoted-printable": fill(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n", b"=41=\r\n"),
    }  # fmt: skip


def _peak_megabytes(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


async def _hostile(model):
    pool = ScorerPool(
        ModelStore(Path("/nonexistent")).get(model or "default"),
        workers=1, max_waiting=10, hard_limit_seconds=HARD_LIMIT_SECONDS, metrics=Metrics(),
    )  # fmt: skip
    await pool.start()
    (process,) = pool.process_ids
    before = _peak_megabytes(process)
    mail = {p.stem: p.read_bytes() for p in sorted(SAMPLES.glob("hostile-*.eml"))} | _worse()
    took, failed = {}, 0
    for name, raw in mail.items():
        started = time.perf_counter()
        try:
            await pool.score(raw, timeout_seconds=HARD_LIMIT_SECONDS + 10)
        except ScoringError:
            failed += 1
        took[name] = time.perf_counter() - started
    is_same = pool.process_ids == [process]
    peak = _peak_megabytes(process) if is_same else float("nan")
    await pool.stop()
    return took, failed, before, peak


def hostile(model):
    """Every hostile sample and ten megabytes of worse through one scorer."""
    took, failed, before, peak = asyncio.run(_hostile(model))
    report = Report(f"{len(took)} hostile messages")
    for name in sorted(took, key=took.__getitem__, reverse=True)[:5]:
        report.add(f"slowest: {name}", took[name], unit="s")
    report.add("longest", max(took.values()), unit="s", target=HARD_LIMIT_SECONDS)
    report.add("messages that killed the scorer", failed, target=0)
    report.add("peak memory before", before, unit="MB")
    report.add("peak memory after", peak, unit="MB")
    return report.show()


def custody(model, count=1000, kills=20, seed=1):
    """Messages through Postfix's milter port while the daemon is killed; nothing may be missing."""
    generator = random.Random(seed)
    at = set(generator.sample(range(10, count - 10), kills))
    wanted, arrived = Counter(), Counter()
    with Site(model, **{"policy.spam": "tag"}) as site:
        client = None
        for number, raw in enumerate(messages(count)):
            if number in at:
                site.daemon.kill()
            wanted[str(number)] += 1
            for attempt in range(500):
                try:
                    if client is None:
                        client = smtplib.SMTP("127.0.0.1", site.postfix.milter_port, timeout=60)
                    client.sendmail("ann@sender.example", ["bob@test.example"], raw)
                    break
                except (smtplib.SMTPException, OSError):
                    client = None
                    if attempt == 2:
                        site.daemon.start()
                    time.sleep(0.02)
        wait_for(lambda: site.postfix.queued() == 0, seconds=120, what="an empty queue")
        for _, _, raw in site.mailbox.messages:
            arrived[parse_message(raw).header("x-number")] += 1
    report = Report(f"custody: {count} messages, {kills} kill -9 of the daemon")
    report.add("lost", sum((wanted - arrived).values()), target=0)
    report.add("duplicated", sum((arrived - wanted).values()), target=0)
    return report.show()
