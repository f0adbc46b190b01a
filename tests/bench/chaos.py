"""Everything goes wrong under load, in an order drawn by a seed; then each message is accounted for.

Senders deliver through a real Postfix by milter, before-queue proxy and content filter, and try
again what is refused, as mail servers do. Meanwhile scorers are killed and stopped, the daemon is
killed, the disk is filled, the database locked, the state made read-only, the next hop cut, the
model swapped, and strangers talk nonsense to every door. In the end each message that was taken
must have arrived or be held, with its body untouched.

The model is a toy with real scorer processes: what is tried is custody, not judgement.
"""

import contextlib
import hashlib
import os
import queue
import random
import shutil
import signal
import smtplib
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter

from rich.progress import Progress

from spamguard.errors import StoreError
from spamguard.message import parse_message
from spamguard.model.store import ModelStore
from spamguard.quarantine import QuarantineStore
from tests.bench.load import Site
from tests.bench.mail import messages
from tests.bench.report import Report, console
from tests.support.daemons import READY_SECONDS, wait_for
from tests.support.toy_model import write_toy_model

STATE_MEGABYTES = 256  # of the file system that is filled up
DEADLINE_SECONDS, HARD_LIMIT_SECONDS = 2, 4
FAULT_SECONDS = 2.0  # how long one lasts
QUIET_SECONDS = 2.0  # between two, drawn between half and twice of it
GIVE_UP_SECONDS = 600  # a sender keeps what was not taken by then
SPAM_SUBJECT, HELD_SHARE = b"Subject: casino viagra lottery ", 0.15
ROUTES = {"milter": 3, "proxy": 1, "filtered": 1}  # shares of the mail


class Chaos:
    """One run: the site, what is sent, what was taken, and the faults.

    Args:
        site: Postfix and daemon, running.
        generator: draws faults and routes.
    """

    def __init__(self, site, generator):
        self.site = site
        self.daemon = site.daemon
        self.generator = generator
        self.taken = Counter()
        self.faults = Counter()
        self.is_over = threading.Event()
        self.waiting = queue.Queue()

    # -- senders -----------------------------------------------------------------------------

    def send(self):
        """Deliver what waits, on one connection a route, until nothing waits."""
        clients = {}
        while not self.is_over.is_set():
            try:
                number, raw, route, since = self.waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                if route not in clients:
                    port = getattr(self.site.postfix, f"{route}_port")
                    clients[route] = smtplib.SMTP("127.0.0.1", port, timeout=60)
                clients[route].sendmail("ann@sender.example", ["bob@test.example"], raw)
                self.taken[number] += 1
            except (smtplib.SMTPException, OSError):
                clients.pop(route, None)
                if time.monotonic() - since < GIVE_UP_SECONDS:
                    time.sleep(0.05)
                    self.waiting.put((number, raw, route, since))
            finally:
                self.waiting.task_done()

    # -- faults ------------------------------------------------------------------------------

    def break_things(self):
        """Inject one fault after the other, each kind once a round, until the senders are through."""
        kinds = [name for name in dir(self) if name.startswith("fault_")]
        waiting = []
        while not self.is_over.is_set():
            if not waiting:
                waiting = self.generator.sample(kinds, len(kinds))
            kind = waiting.pop()
            self.faults[kind.removeprefix("fault_").replace("_", " ")] += 1
            try:
                getattr(self, kind)()
                self._wait_until_up()
            except Exception as error:
                self.faults[f"failed to inject: {kind}: {error}"] += 1
            self.is_over.wait(self.generator.uniform(0.5, 2) * QUIET_SECONDS)

    def _wait_until_up(self):
        for _ in range(20):
            if not self.daemon.is_running:
                with contextlib.suppress(RuntimeError, TimeoutError):
                    self.daemon.start()
            try:
                if self.daemon.status()["scorers"]:
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.2)

    def _a_scorer(self):
        return self.generator.choice(self.daemon.status()["scorers"])

    def fault_scorer_killed(self):
        os.kill(self._a_scorer(), signal.SIGKILL)

    def fault_scorer_stopped(self):
        os.kill(self._a_scorer(), signal.SIGSTOP)
        time.sleep(FAULT_SECONDS)

    def fault_daemon_killed(self):
        self.daemon.kill()

    def fault_daemon_restarted(self):
        self.daemon.stop()

    def fault_disk_full(self):
        path = self.daemon.state / "filler"
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))
        time.sleep(FAULT_SECONDS)
        path.unlink()

    def fault_database_locked(self):
        with contextlib.closing(sqlite3.connect(self.daemon.state / "spamguard.db")) as database:
            database.execute("BEGIN IMMEDIATE")
            time.sleep(FAULT_SECONDS)

    def fault_state_read_only(self):
        """The file system comes back read-only after a crash: the daemon must refuse to start."""
        self.daemon.kill()
        wait_for(lambda: self._mount("remount,ro"), seconds=10, what="read-only state")
        try:
            with contextlib.suppress(RuntimeError, TimeoutError):
                self.daemon.start()
                self.faults["read-only state was not noticed"] += 1
        finally:
            wait_for(lambda: self._mount("remount,rw"), seconds=10, what="writable state")

    def _mount(self, option):
        command = ["mount", "-o", option, str(self.daemon.state)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fault_next_hop_cut(self):
        self.site.mailbox.stop()
        time.sleep(FAULT_SECONDS)
        self.site.mailbox.start()

    def fault_model_swapped(self):
        store = ModelStore(self.daemon.state / "models")
        store.promote("b" if store.current().name == "a" else "a")
        time.sleep(FAULT_SECONDS)

    def fault_model_corrupt(self):
        """`current` names what does not exist; the daemon goes on with what it has."""
        current = self.daemon.state / "models" / "current"
        before = current.read_text()
        part = current.with_suffix(".part")
        part.write_text("nothing\n")
        part.replace(current)
        time.sleep(FAULT_SECONDS)
        part.write_text(before)
        part.replace(current)

    def fault_nonsense(self):
        for port in (self.daemon.milter_port, self.daemon.smtp_port):
            for _ in range(20):
                with contextlib.suppress(OSError):
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                        stranger.sendall(self.generator.randbytes(self.generator.randint(1, 5000)))

    def fault_slow_strangers(self):
        with contextlib.ExitStack() as stack:
            for port in (self.daemon.milter_port, self.daemon.smtp_port):
                for _ in range(100):
                    address = ("127.0.0.1", port)
                    stranger = stack.enter_context(socket.create_connection(address, timeout=5))
                    stranger.sendall(b"\x00")
            time.sleep(FAULT_SECONDS)


def body_hash(raw):
    """Hash a body; the fields before it are ours and Postfix's to change."""
    body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[2].rstrip(b"\n")
    return hashlib.sha256(body).hexdigest()


def number_of(raw):
    return parse_message(raw).header("x-number")


@contextlib.contextmanager
def small_disk(path):
    """Give the state directory a file system of its own, which can be filled."""
    path.mkdir(mode=0o700)
    options = f"size={STATE_MEGABYTES}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def held(state):
    """Return the raw messages that are held."""
    store = QuarantineStore(state / "quarantine", state / "spamguard.db")
    for message in store.find(limit=1_000_000):
        with contextlib.suppress(StoreError):
            yield store.raw(message.id)


def chaos(model, count=20_000, seed=1, connections=6):
    """Send so many messages while everything goes wrong, and account for each of them."""
    del model  # a toy: what is tried is custody
    generator = random.Random(seed)
    pool = {}
    for raw in messages(count, seed=seed):
        is_held = generator.random() < HELD_SHARE
        pool[number_of(raw)] = raw.replace(b"Subject: ", SPAM_SUBJECT, 1) if is_held else raw
    settings = {
        "policy.spam": "quarantine",
        "model.deadline_seconds": DEADLINE_SECONDS,
        "model.hard_limit_seconds": HARD_LIMIT_SECONDS,
        "policy.local_networks": [],
    }
    site = Site("", **settings)
    with small_disk(site.daemon.state):
        for name in ("a", "b"):
            write_toy_model(site.daemon.state / "models" / name, name=name)
        ModelStore(site.daemon.state / "models").promote("a")
        with site:
            run = Chaos(site, generator)
            routes, shares = list(ROUTES), list(ROUTES.values())
            for number, raw in pool.items():
                route = generator.choices(routes, shares)[0]
                run.waiting.put((number, raw, route, time.monotonic()))
            threads = [threading.Thread(target=run.send) for _ in range(connections)]
            threads.append(threading.Thread(target=run.break_things))
            started = time.monotonic()
            for thread in threads:
                thread.start()
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("messages taken", total=count)
                while run.waiting.unfinished_tasks:
                    progress.update(task, completed=len(run.taken))
                    time.sleep(0.5)
            seconds = time.monotonic() - started
            run.is_over.set()
            for thread in threads:
                thread.join(READY_SECONDS * 2)
            run._wait_until_up()
            wait_for(lambda: site.postfix.queued() == 0, seconds=300, what="an empty queue")
            arrived, kept, changed = Counter(), Counter(), 0
            for counter, raws in (
                (arrived, (raw for _, _, raw in site.mailbox.messages)),
                (kept, held(site.daemon.state)),
            ):
                for raw in raws:
                    number = number_of(raw)
                    counter[number] += 1
                    changed += body_hash(raw) != body_hash(pool[number])
            log = site.daemon.log.read_text("utf-8", "replace")
    both = arrived + kept
    report = Report(f"chaos: {count} messages, seed {seed}, {sum(run.faults.values())} faults")
    for name, times in sorted(run.faults.items()):
        report.add(f"fault: {name}", times)
    report.add("rate", count / seconds, unit="messages/s")
    report.add("taken", len(run.taken))
    report.add("still with the sender", count - len(run.taken))
    report.add("arrived", len(arrived))
    report.add("held", len(kept))
    report.add("taken and neither arrived nor held", len(run.taken.keys() - both.keys()), target=0)
    report.add("body changed", changed, target=0)
    report.add("more than once", sum(n > 1 for n in both.values()))
    report.add("bugs in the log", log.count("Traceback"), target=0)
    if log.count("Traceback"):
        shutil.copy(site.daemon.log, "/tmp/spamguard-chaos.log")
    return report.show()
