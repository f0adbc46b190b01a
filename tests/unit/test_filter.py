"""The core: whatever goes wrong while judging, the message is delivered."""

import asyncio
import threading
from dataclasses import replace

import pytest

from spamguard.errors import StoreError
from spamguard.filter import Filter, new_id
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.verdict import Disposition, Label, Policy, Score, Thresholds
from tests.support.mail import message

ENVELOPE = Envelope(frontend="t", reverse_path="a@s.example", recipients=("b@h.example",))


class FakeScorer:
    thresholds = Thresholds(unsure=0.5, spam=0.9)

    def __init__(self, answer):
        self._answer = answer

    async def score(self, raw, *, timeout_seconds, thresholds):
        self.told = thresholds
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer == "hang":
            await asyncio.sleep(60)
        return Score(spam_probability=self._answer, model_version="m", fingerprint="f")


class FakeQuarantine:
    def __init__(self, error=None):
        self.held = []
        self._error = error

    def hold(self, raw, *, envelope, verdict):
        if self._error:
            raise self._error
        self.held.append((raw, envelope, verdict.id))


def build(answer, *, quarantine=None, policy=None, **options):
    metrics = Metrics()
    store = quarantine or FakeQuarantine()
    policy = policy or Policy()
    core = Filter(FakeScorer(answer), store, policy=policy, metrics=metrics, **options)
    return core, store, metrics


@pytest.mark.parametrize(
    ("probability", "label", "disposition"),
    [
        (0.1, Label.HAM, Disposition.DELIVER),
        (0.6, Label.UNSURE, Disposition.TAG),
        (0.95, Label.SPAM, Disposition.QUARANTINE),
    ],
)
async def test_a_score_becomes_verdict_and_action(probability, label, disposition):
    core, store, metrics = build(probability)
    outcome = await core.check(ENVELOPE, message("x"))
    assert (label, disposition) == (outcome.verdict.label, outcome.action.disposition)
    assert bool(store.held) == (label is Label.SPAM)
    assert metrics.snapshot()[f"verdict.{label}"] == 1


def failures():
    from spamguard.errors import OverloadedError, ScoringTimeoutError, WorkerCrashedError

    return [
        OverloadedError("full"),
        ScoringTimeoutError("late"),
        WorkerCrashedError("dead"),
        RuntimeError("a bug"),
        MemoryError(),
        OSError("disk"),
    ]


@pytest.mark.parametrize("error", failures(), ids=lambda e: type(e).__name__)
async def test_every_failure_while_judging_delivers_unscored(error):
    core, store, _ = build(error)
    outcome = await core.check(ENVELOPE, message("x"))
    assert outcome.verdict.label is Label.UNSCORED
    assert outcome.action.disposition is Disposition.DELIVER
    assert store.held == []
    assert dict(outcome.action.add_headers)["X-Spam-Status"].startswith("Unknown, unscored (")


async def test_too_much_mail_is_deferred_where_policy_says_so_and_what_crashes_never():
    from spamguard.errors import OverloadedError, WorkerCrashedError

    policy = Policy(overloaded=Disposition.DEFER)
    for error, expected in (
        (OverloadedError("full"), Disposition.DEFER),
        (WorkerCrashedError("dead"), Disposition.DELIVER),
        (RuntimeError("a bug"), Disposition.DELIVER),
    ):
        core, _, _ = build(error, policy=policy)
        action = (await core.check(ENVELOPE, message("x"))).action
        assert action.disposition is expected
        assert action.smtp_reply.startswith("451 4.3.2 ") == (expected is Disposition.DEFER)
    core, _, _ = build(OverloadedError("full"), policy=policy)
    bounce = replace(ENVELOPE, reverse_path="")
    assert (await core.check(bounce, message("x"))).action.disposition is Disposition.TAG


async def test_a_scorer_that_hangs_is_given_up_at_the_deadline():
    core, _, _ = build("hang", deadline_seconds=0.05)
    async with asyncio.timeout(5):
        outcome = await core.check(ENVELOPE, message("x"))
    assert outcome.verdict.label is Label.UNSCORED


async def test_a_quarantine_that_fails_turns_holding_into_tagging():
    core, _, metrics = build(0.99, quarantine=FakeQuarantine(StoreError("disk full")))
    outcome = await core.check(ENVELOPE, message("x"))
    assert outcome.action.disposition is Disposition.TAG
    assert ("X-Spam-Flag", "YES") in outcome.action.add_headers
    assert metrics.snapshot()["quarantine_failures"] == 1


async def test_a_message_of_which_only_the_beginning_is_there_is_never_held():
    core, store, _ = build(0.99)
    outcome = await core.check(ENVELOPE, message("x"), can_hold=False)
    assert outcome.action.disposition is Disposition.TAG
    assert store.held == []


async def test_the_administrators_thresholds_overrule_the_models():
    core, _, _ = build(0.6, thresholds=Thresholds(unsure=0.7, spam=0.8))
    await core.check(ENVELOPE, message("x"))
    assert core._scorer.told == core.thresholds  # who scores leaves out what changes no label
    assert (await core.check(ENVELOPE, message("x"))).verdict.label is Label.HAM


async def test_an_abort_cancels_and_nothing_else_happens():
    core, store, metrics = build("hang")
    task = asyncio.create_task(core.check(ENVELOPE, message("x")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.held == []
    assert "messages" not in metrics.snapshot()


class SlowQuarantine(FakeQuarantine):
    def __init__(self):
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def hold(self, raw, *, envelope, verdict):
        self.begun.set()
        self.may_end.wait(5)
        super().hold(raw, envelope=envelope, verdict=verdict)


async def test_an_abort_while_holding_leaves_a_whole_record_and_none_by_halves():
    store = SlowQuarantine()
    core, _, _ = build(0.99, quarantine=store)
    task = asyncio.create_task(core.check(ENVELOPE, message("x")))
    await asyncio.to_thread(store.begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.may_end.set()
    (holding,) = asyncio.all_tasks() - {asyncio.current_task()}
    await holding
    assert len(store.held) == 1


async def test_a_bug_while_judging_is_logged_once_with_its_traceback(caplog):
    core, _, _ = build(RuntimeError("a bug"))
    outcome = await core.check(ENVELOPE, message("x"))
    (line,) = [line for line in caplog.records if line.levelname == "ERROR"]
    assert line.id == outcome.verdict.id
    assert line.exc_info
    assert "a bug" not in str(outcome.action)  # internals stay out of the message


async def test_each_message_has_one_line_with_what_an_administrator_looks_for(caplog):
    caplog.set_level("INFO", "spamguard")
    core, _, _ = build(0.95)
    outcome = await core.check(ENVELOPE, message("x"))
    (line,) = [line for line in caplog.records if line.msg == "verdict"]
    assert (line.id, line.label, line.disposition, line.score) == (
        outcome.verdict.id, "spam", "quarantine", 0.95
    )  # fmt: skip


def test_ids_sort_by_time_and_differ():
    ids = [new_id(1_700_000_000.0 + second) for second in range(50)]
    assert ids == sorted(ids)
    assert len({new_id(1.0) for _ in range(1000)}) == 1000
    assert all(len(i) == 21 and i.isalnum() for i in ids)
