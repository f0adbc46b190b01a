"""Real scorer processes: crashes, hangs, overload and changes of version cost what they may."""

import asyncio
import os
import signal

import pytest

from spamguard.errors import (
    ModelCorruptError,
    ModelLoadError,
    OverloadedError,
    ScoringTimeoutError,
    WorkerCrashedError,
)
from spamguard.model.pool import ScorerPool
from spamguard.model.store import ModelVersion
from spamguard.observe import Metrics
from tests.support.mail import HAM, SPAM, message
from tests.support.toy_model import write_toy_model


@pytest.fixture
async def start(tmp_path):
    pools = []

    async def starter(**options):
        version = ModelVersion.read(write_toy_model(tmp_path / "toy"))
        settings = {"workers": 1, "max_waiting": 50, "hard_limit_seconds": 30, **options}
        pool = ScorerPool(version, metrics=Metrics(), **settings)
        await pool.start()
        pools.append(pool)
        return pool

    yield starter
    for pool in pools:
        for process in pool.process_ids:
            _signal(process, signal.SIGCONT)
        await pool.stop()


def _signal(process, number):
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


async def _until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_messages_are_scored_by_every_process(start):
    pool = await start(workers=2)
    scores = await asyncio.gather(
        *(pool.score(message(t), timeout_seconds=30) for t in [HAM, SPAM] * 20)
    )
    assert [s.spam_probability > 0.9 for s in scores] == [False, True] * 20
    assert len(pool.process_ids) == 2


async def test_a_crash_costs_the_message_in_flight_and_no_other(start):
    pool = await start()
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    victim = asyncio.create_task(pool.score(message(HAM), timeout_seconds=30))
    waiting = asyncio.create_task(pool.score(message(SPAM), timeout_seconds=30))
    await asyncio.sleep(0.2)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        await victim
    assert (await waiting).spam_probability > 0.9
    assert process not in pool.process_ids


async def test_a_scorer_killed_while_idle_is_replaced_and_costs_no_message(start):
    pool = await start()
    (process,) = pool.process_ids
    os.kill(process, signal.SIGKILL)
    await _until(lambda: process not in pool.process_ids)
    assert (await pool.score(message(SPAM), timeout_seconds=30)).spam_probability > 0.9


async def test_a_large_message_comes_over_whole(start):
    pool = await start()
    raw = message(HAM) + b"x" * 9_000_000
    scores = [await pool.score(raw, timeout_seconds=30) for _ in range(2)]
    assert [True, True] == ["large" in score.defects for score in scores]


async def test_a_scorer_ends_with_the_daemon(start):
    pool = await start()
    (process,) = pool.process_ids
    (scorer,) = pool._scorers
    scorer._pipe(0).close()
    await _until(lambda: process not in pool.process_ids)
    await _until(lambda: not os.path.exists(f"/proc/{process}"))  # a busy machine takes its time


async def test_a_hang_times_out_and_the_scorer_is_replaced_at_the_hard_limit(start):
    pool = await start(hard_limit_seconds=0.5)
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(ScoringTimeoutError):
        await pool.score(message(HAM), timeout_seconds=0.3)
    # Stopped, it cannot end itself; the pool gives up on it five seconds past the limit.
    await _until(lambda: pool.process_ids and process not in pool.process_ids)
    assert (await pool.score(message(SPAM), timeout_seconds=30)).spam_probability > 0.9


async def test_more_waiting_than_allowed_wait_half_their_time_for_a_place(start):
    pool = await start(max_waiting=2)
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    tasks = [asyncio.create_task(pool.score(message(HAM), timeout_seconds=10)) for _ in range(3)]
    await asyncio.sleep(0)
    late = [asyncio.create_task(pool.score(message(HAM), timeout_seconds=1)) for _ in range(2)]
    await asyncio.sleep(0.2)
    assert pool.waiting == 2
    assert not any(task.done() for task in [*tasks, *late])
    done, _ = await asyncio.wait(late, timeout=2)
    assert done == set(late)
    assert all(isinstance(task.exception(), OverloadedError) for task in late)
    os.kill(process, signal.SIGCONT)
    assert len(await asyncio.gather(*tasks)) == 3


async def test_who_waits_for_a_place_gets_it_when_one_is_free(start):
    pool = await start(max_waiting=1)
    tasks = [asyncio.create_task(pool.score(message(HAM), timeout_seconds=20)) for _ in range(9)]
    assert len(await asyncio.gather(*tasks)) == 9


async def test_a_cancelled_wait_gives_the_scorer_back(start):
    pool = await start()
    task = asyncio.create_task(pool.score(message(HAM), timeout_seconds=20))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.score(message(SPAM), timeout_seconds=20)).spam_probability > 0.9


async def test_switching_versions_under_load_fails_no_message(start, tmp_path):
    pool = await start(workers=2)
    new = ModelVersion.read(write_toy_model(tmp_path / "new", name="toy-2", spam_words=["teatime"]))
    seen = set()

    async def load():
        while "toy-2" not in seen:
            seen.add((await pool.score(message("teatime"), timeout_seconds=20)).model_version)

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    await asyncio.sleep(0.1)
    await pool.switch(new)
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks)
    assert seen == {"toy-1", "toy-2"}
    assert (await pool.score(message("teatime"), timeout_seconds=20)).spam_probability > 0.9
    assert len(pool.process_ids) == 2


async def test_a_corrupt_version_does_not_replace_the_one_that_serves(start, tmp_path):
    pool = await start()
    path = write_toy_model(tmp_path / "bad", name="toy-2")
    (path / "calibration.json").write_text("{}")
    with pytest.raises(ModelCorruptError, match=r"calibration\.json: SHA-256"):
        await pool.switch(ModelVersion.read(path))
    assert (await pool.score(message(SPAM), timeout_seconds=20)).model_version == "toy-1"


async def test_a_version_that_no_scorer_can_load_is_an_error(tmp_path):
    path = write_toy_model(tmp_path / "bad")
    from spamguard.model.store import write_manifest

    manifest = dict(ModelVersion.read(path).manifest)
    (path / "linear.safetensors").write_bytes(b"not safetensors")
    write_manifest(path, {k: v for k, v in manifest.items() if k not in {"files", "format"}})
    pool = ScorerPool(
        ModelVersion.read(path),
        workers=1,
        max_waiting=1,
        hard_limit_seconds=5,
        metrics=Metrics(),
    )
    with pytest.raises(ModelLoadError, match="no scorer came up"):
        await pool.start()
    await pool.stop()
