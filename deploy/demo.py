"""`make demo`: real mail through a real daemon, on this machine alone, nothing left behind.

Starts `spamguard serve` with the built-in defaults in a temporary state directory and on free
ports, sends every message of a directory through its SMTP filter as an MTA would, and shows
what became of each: verdict, score, disposition, time, and where it went.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from email.utils import parseaddr
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spamguard.frontends.control import ask
from spamguard.message import parse_message
from spamguard.next_hop import NextHop
from spamguard.quarantine import QuarantineStore
from spamguard.tables import coloured, quarantine_table

READY_SECONDS = 60
CLIENT = "198.51.100.7"  # the sender, as XFORWARD tells it: from outside (RFC 5737)


class Inbox:
    """The next hop: takes every message and remembers its header."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        """Take one message."""
        self.messages.append(envelope.content)
        return "250 2.0.0 Ok: delivered"


class LongLines(SMTP):
    """aiosmtpd refuses lines over 1,001 bytes; the hostile samples have longer ones."""

    line_length_limit = 2**22


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def send(endpoint: str, raw: bytes, number: int) -> tuple[str, float]:
    """Send one message as an MTA's content filter client does; return reply and milliseconds."""
    _, address = parseaddr(parse_message(raw).header("from"))
    reverse_path = address if address.isascii() and "@" in address else "sender@example.org"
    started = time.perf_counter()
    async with NextHop(endpoint) as hop:
        connection = await hop.acquire()
        xforward = f"XFORWARD ADDR={CLIENT} NAME=client.example IDENT=DEMO{number:04d}"
        await connection.commands(
            xforward, f"MAIL FROM:<{reverse_path}>", "RCPT TO:<you@example.com>"
        )
        (reply,) = await connection.data(raw)  # one recipient, one reply
        await connection.close()
    return str(reply), (time.perf_counter() - started) * 1000


async def run(directory: Path, state: Path, console: Console) -> int:
    """Run the demonstration; return the exit code."""
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: LongLines(inbox, enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
    )
    port, control = free_port(), state / "control.sock"
    settings = {
        "paths.state": str(state / "state"),
        "paths.control_socket": str(control),
        "smtp.listen": [f"127.0.0.1:{port}"],
        "smtp.next_hop": f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "milter.listen": [],
        "log.level": "warning",
    }
    options = [part for k, v in settings.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    started = time.perf_counter()
    daemon = subprocess.Popen(  # noqa: ASYNC220 - one process, started once
        [sys.executable, "-m", "spamguard", "-c", os.devnull, *options, "serve"]
    )
    try:
        status = await wait_until_ready(daemon, control)
        console.print(
            f"daemon ready in {time.perf_counter() - started:.1f} s, model {status['model']}, "
            f"{len(status['scorers'])} scorers, next hop is a stand-in for your MTA\n"
        )
        table = Table(box=None, pad_edge=False)
        for name in ("file", "verdict", "score", "disposition", "ms", "where it went"):
            table.add_column(name, justify="right" if name in {"score", "ms"} else "left")
        failed = 0
        for number, path in enumerate(sorted(directory.glob("*.eml"))):
            delivered = len(inbox.messages)
            reply, milliseconds = await send(f"127.0.0.1:{port}", path.read_bytes(), number)
            failed += not reply.startswith("250")
            row = describe(reply, inbox.messages[delivered:], state / "state")
            table.add_row(Text(path.name), *row[:3], f"{milliseconds:.0f}", Text(row[3]))
        console.print(table)
        store = QuarantineStore(state / "state" / "quarantine", state / "state" / "spamguard.db")
        console.print("\nheld messages (`spamguard quarantine list`):")
        console.print(quarantine_table(store.find()))
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(daemon.wait, 60)
        server.close()
    console.print(f"daemon stopped with exit code {code}")
    return 1 if failed or code else 0


async def wait_until_ready(daemon: "subprocess.Popen[bytes]", control: Path) -> dict[str, object]:
    """Wait until the daemon answers on its control socket."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(ask, control, "status")
        await asyncio.sleep(0.05)
    raise SystemExit("the daemon did not start; what it said stands above")


def describe(reply: str, delivered: list[bytes], state: Path) -> tuple[Text, str, str, str]:
    """Return verdict, score, disposition, and where the message went."""
    if delivered:
        message = parse_message(delivered[0])
        status = message.header("x-spam-status")
        label = {"Yes": "spam", "Unsure": "unsure", "No": "ham"}.get(
            status.partition(",")[0], "unscored"
        )
        disposition = "deliver" if label in {"ham", "unscored"} else "tag"
        return coloured(label), message.header("x-spam-score"), disposition, "next hop"
    if "held as" in reply:
        held = QuarantineStore(state / "quarantine", state / "spamguard.db").get(
            reply.rpartition(" ")[2]
        )
        return coloured(held.label), f"{held.spam_probability:.4f}", "quarantine", held.id
    return Text("?"), "", "refused", reply


def main() -> None:
    """Run on the directory given, in a temporary directory."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="spamguard-demo-") as scratch:
        sys.exit(asyncio.run(run(Path(sys.argv[1]), Path(scratch), console)))


if __name__ == "__main__":
    main()
