"""The daemon's jobs: watching a promotion, the retraining child, what status says of them."""

import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from spamguard.config import Config
from spamguard.database import migrate
from spamguard.message import Envelope
from spamguard.model.store import ModelStore
from spamguard.observe import Metrics
from spamguard.quarantine import QuarantineStore
from spamguard.report import Report, ReportSource
from spamguard.upkeep import Upkeep
from spamguard.verdict import Label, Score, Verdict
from tests.support.toy_model import write_toy_model

WORDS = " ".join(
    f"{a}{b}"
    for a in "rain snow wind storm hail mist".split()
    for b in "fall drop time line ward cloud".split()
)
ENVELOPE = Envelope(frontend="test", reverse_path="", recipients=("anna@a.example",))


@pytest.fixture
def upkeep(tmp_path):
    for name in ("one", "two"):
        write_toy_model(tmp_path / "models" / name, name=name)
    migrate(tmp_path / "spamguard.db")
    store = ModelStore(tmp_path / "models")
    store.promote("one")
    config = Config(paths={"state": tmp_path, "control_socket": tmp_path / "c.sock"})
    quarantine = QuarantineStore(config.paths.quarantine, config.paths.database)
    return Upkeep(
        config,
        store,
        quarantine,
        metrics=Metrics(),
        retrain_command=(sys.executable, "-c", "raise SystemExit(0)"),
    )


def judge(upkeep, version, count, *, spam_share):
    for number in range(count):
        label = Label.SPAM if number % 100 < spam_share * 100 else Label.HAM
        verdict = Verdict(id=f"{number:021x}", label=label, model_version=version)
        score = Score(spam_probability=0.5, model_version=version, fingerprint=f"{number:08x}")
        upkeep.drift.note(verdict, ENVELOPE, score)


async def test_a_promoted_version_that_flags_much_more_is_rolled_back(upkeep, tmp_path):
    store = ModelStore(tmp_path / "models")
    judge(upkeep, "one", 300, spam_share=0.2)
    store.promote("two", by="test")
    upkeep.switched("two", "one")
    judge(upkeep, "two", 150, spam_share=0.9)
    await upkeep.watch_promotion()
    assert "two" == store.current().name  # too few to say
    judge(upkeep, "two", 150, spam_share=0.9)
    await upkeep.watch_promotion()
    assert "one" == store.current().name
    assert "spam rose from 20.0% to" in store.history()[-1]["reason"]
    upkeep.switched("one", "two")
    assert None is upkeep.status()["watched"]


async def test_a_promoted_version_that_judges_alike_stays(upkeep, tmp_path):
    store = ModelStore(tmp_path / "models")
    judge(upkeep, "one", 300, spam_share=0.2)
    store.promote("two", by="test")
    upkeep.switched("two", "one")
    judge(upkeep, "two", 300, spam_share=0.25)
    await upkeep.watch_promotion()
    assert ("two", "two") == (store.current().name, upkeep.status()["watched"])


async def test_a_retraining_child_is_run_once_and_reported(upkeep, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    await upkeep.retrain()
    assert 0 == upkeep.status()["retraining"]["last_exit_code"]


async def test_what_came_of_a_retraining_is_known_after_a_restart(upkeep, tmp_path):
    assert "last" not in upkeep.status()["retraining"]
    ModelStore(tmp_path / "models").note_retraining("two is promoted", at=86_400.0)
    assert {"last": "1970-01-02T00:00+00:00", "result": "two is promoted"}.items() <= (
        upkeep.status()["retraining"].items()
    )


async def test_a_busy_machine_puts_the_retraining_off(upkeep, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    await upkeep.retrain()
    assert "last" not in upkeep.status()["retraining"]


async def test_the_schedule_stands_in_the_status(upkeep):
    await upkeep.start()
    assert upkeep.status()["retraining"]["next"].endswith("03:30") or "T03:30" in str(
        upkeep.status()["retraining"]["next"]
    )
    await upkeep.stop()


async def test_mail_like_a_report_is_judged_by_it(upkeep):
    words = WORDS
    raws = [
        f"From: x@y.example\r\nSubject: Weather\r\n\r\n{words} {name}\r\n".encode()
        for name in ("anna", "ben")
    ]
    receipts = [
        upkeep.corrections.record(
            Report(label=Label.SPAM, reporter=name, source=ReportSource.IMAP, raw=raw)
        )
        for name, raw in zip(("anna", "ben"), raws, strict=True)
    ]
    from spamguard.model.classifier import Classifier
    from spamguard.model.scorer import MessageScorer

    scorer = MessageScorer(Classifier(upkeep._store.current()))  # noqa: SLF001
    score = scorer.score(raws[0].replace(b"anna", b"carl"))
    assert None is upkeep.campaigns.match(score)
    await upkeep.refresh_campaigns()
    label, reason = upkeep.campaigns.match(score)
    assert Label.SPAM is label
    assert f"correction {receipts[0].correction_id}" in reason or "correction" in reason
    upkeep.corrections.undo("ben", raws[1])
    await upkeep.refresh_campaigns()
    assert Label.UNSURE is upkeep.campaigns.match(score)[0]
    other = scorer.score(b"Subject: Lunch\r\n\r\nshall we meet at noon in the usual place?\r\n")
    assert None is upkeep.campaigns.match(other)


async def test_reported_ham_frees_its_own_senders_mail_alone(upkeep):
    body = WORDS
    raw = f"From: x@y.example\r\nSubject: Weather\r\n\r\n{body}\r\n".encode()
    upkeep.corrections.record(
        Report(label=Label.HAM, reporter="anna", source=ReportSource.IMAP, raw=raw)
    )
    await upkeep.refresh_campaigns()
    from spamguard.model.classifier import Classifier
    from spamguard.model.scorer import MessageScorer

    scorer = MessageScorer(Classifier(upkeep._store.current()))  # noqa: SLF001
    assert Label.HAM is upkeep.campaigns.match(scorer.score(raw))[0]
    forged = raw.replace(b"y.example", b"evil.example")
    assert None is upkeep.campaigns.match(scorer.score(forged))


@pytest.mark.parametrize("jump_days", [-400, 400])
async def test_after_a_jump_of_the_clock_nothing_expires_once(upkeep, jump_days, caplog):
    now = [time.time(), 1000.0]
    upkeep._clock, upkeep._steady = lambda: now[0], lambda: now[1]
    upkeep._boot = now[0] - now[1]
    expired = []
    upkeep._quarantine.expire = lambda before: expired.append(before) or 0
    await upkeep.start()
    try:
        now[0] += 5
        now[1] += 5
        await upkeep.expire()
        assert 1 == len(expired)
        now[0] += jump_days * 86_400
        await upkeep.expire()
        assert 1 == len(expired)
        assert 1 == [record.message for record in caplog.records].count("the clock jumped")
        await upkeep.expire()
        assert 2 == len(expired)
    finally:
        await upkeep.stop()


async def test_jobs_do_not_wait_for_a_time_that_was_planned_before_the_clock_was_set_back(upkeep):
    await upkeep.start()
    try:
        far = datetime.now(tz=UTC) + timedelta(days=400)
        for job in upkeep._scheduler.get_jobs():
            job.modify(next_run_time=far)
        upkeep._boot += 400 * 86_400  # as it was before
        upkeep.check_clock()
        found = [job.next_run_time for job in upkeep._scheduler.get_jobs()]
        assert found
        assert max(found) < datetime.now(tz=UTC) + timedelta(days=2)
    finally:
        await upkeep.stop()
