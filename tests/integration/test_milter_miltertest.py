"""An independent peer: OpenDKIM's miltertest speaks to the milter door from Lua scripts."""

import asyncio
from pathlib import Path

import pytest

from spamguard.frontends.milter import MilterServer
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Policy
from tests.support.programs import require_program
from tests.support.scorers import MemoryQuarantine, WordScorer, clock, word_filter

pytestmark = pytest.mark.timeout(60)
SCRIPTS = Path(__file__).parent / "miltertest"


async def run(script, policy, address, quarantine=None, **definitions):
    """Run a script against a fresh server; returns (exit status, output, counters, scored)."""
    program = require_program("miltertest")
    metrics, scorer = Metrics(), WordScorer()
    server = MilterServer(
        word_filter(policy, scorer=scorer, quarantine=quarantine, metrics=metrics),
        metrics=metrics,
        clock=clock,
        max_message_bytes=10_000_000,
    )
    if isinstance(address, Path):
        await server.start_unix(address, 0o660)
        definitions["address"] = f"unix:{address}"
    else:
        _, port = await server.start_tcp("127.0.0.1", 0)
        definitions["address"] = f"inet:{port}@127.0.0.1"
    arguments = [f"-D{name}={value}" for name, value in definitions.items()]
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        "-s",
        str(SCRIPTS / script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    print(output.decode())
    await server.drain(2)
    return process.returncode, output.decode(), metrics.snapshot(), scorer.scored


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_miltertest_sees_each_message_get_its_own_verdict(kind, tmp_path):
    address = tmp_path / "m.sock" if kind == "unix" else None
    policy = Policy(spam=Disposition.TAG)
    status, output, counters, scored = await run("verdicts.lua", policy, address)
    assert (0, "") == (status, output)
    assert 3 == len(scored)
    assert 0 == counters.get("milter_protocol_errors", 0)


async def test_miltertest_sees_spam_refused():
    policy = Policy(spam=Disposition.REJECT)
    status, output, _, scored = await run("refusal.lua", policy, None, kind="reject")
    assert (0, "") == (status, output)
    assert len(scored[0]) > 200_000


async def test_miltertest_sees_spam_discarded_that_we_hold():
    quarantine = MemoryQuarantine()
    status, output, _, _ = await run(
        "refusal.lua", Policy(), None, quarantine=quarantine, kind="hold"
    )
    assert (0, "") == (status, output)
    assert 1 == len(quarantine.held)
