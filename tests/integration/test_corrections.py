"""The record of corrections, on a real SQLite and real files."""

import subprocess
import sys

import pytest

from spamguard.database import migrate
from spamguard.errors import ReportError
from spamguard.feedback.corrections import CorrectionStore
from spamguard.feedback.verdict_log import VerdictLog
from spamguard.message import Envelope, edit_headers, parse_message
from spamguard.report import Report, ReportSource, Standing
from spamguard.training.dataset import read_index
from spamguard.verdict import Label, Score, Verdict

NOW = 1_790_000_000.0
WORDS = (
    "the committee met on tuesday in the town hall and talked about the new playground behind the "
    "church which will be paid by donations so please tell your neighbours and bring cake to the "
    "summer party where the plans are shown and everybody may say what is missing"
)


def message(subject="Playground", body=WORDS, sender="paula@verein.example", extra=""):
    return (
        f"From: Paula <{sender}>\r\nSubject: {subject}\r\nMessage-ID: <m1@verein.example>\r\n"
        f"{extra}\r\n{body}\r\n"
    ).encode()


@pytest.fixture
def store(tmp_path):
    migrate(tmp_path / "spamguard.db")
    return CorrectionStore(
        tmp_path / "spamguard.db",
        tmp_path / "corrections",
        clock=lambda: NOW,
        subject_prefix="[SPAM]",
    )


def report(label=Label.SPAM, reporter="anna", raw=None, source=ReportSource.IMAP, **more):
    return Report(label=label, reporter=reporter, source=source, raw=raw or message(), **more)


async def judged(tmp_path, raw, *, recipients=("anna@verein.example",), verdict_id="0" * 21):
    log = VerdictLog(tmp_path / "spamguard.db", clock=lambda: NOW)
    await log.start()
    parsed = parse_message(raw)
    log.note(
        Verdict(id=verdict_id, label=Label.HAM, spam_probability=0.25, model_version="m"),
        Envelope(frontend="milter", reverse_path="", recipients=recipients),
        Score(
            spam_probability=0.25,
            model_version="m",
            fingerprint=parsed.fingerprint,
            message_id=parsed.message_id,
        ),
    )
    await log.stop()


def test_a_report_becomes_a_row_and_a_file(store):
    receipt = store.record(report())
    correction, standing, _ = store.get(receipt.correction_id)
    assert (True, Standing.COUNTED) == (receipt.is_new, standing)
    assert ("anna", "spam", NOW) == (correction.reporter, correction.label, correction.reported_at)
    assert message() == store.raw(correction.fingerprint)
    assert 0o600 == store.path_of(correction.fingerprint).stat().st_mode & 0o777


def test_reporting_twice_is_one_row(store):
    first, second = store.record(report()), store.record(report())
    assert (first.correction_id, False) == (second.correction_id, second.is_new)


def test_a_changed_mind_wins(store):
    first = store.record(report())
    second = store.record(report(Label.HAM))
    _, worth = store.all()
    assert Standing.SUPERSEDED == worth[first.correction_id][0]
    assert Standing.COUNTED == worth[second.correction_id][0]


def test_undo_takes_a_report_back_and_a_new_one_counts_again(store):
    first = store.record(report())
    assert store.undo("Anna", message())
    assert Standing.UNDONE == store.all()[1][first.correction_id][0]
    assert not store.undo("anna", message())
    again = store.record(report())
    assert (True, Standing.COUNTED) == (again.is_new, again.standing)


def test_our_own_marks_are_taken_off_before_learning(store):
    tagged = edit_headers(
        message(), add=[("X-Spam-Flag", "YES"), ("X-Spam-Status", "Yes")], subject_prefix="[SPAM] "
    )
    receipt = store.record(report(raw=tagged))
    correction, _, _ = store.get(receipt.correction_id)
    assert message() == store.raw(correction.fingerprint)
    assert parse_message(message()).fingerprint == correction.fingerprint


async def test_the_original_is_found_by_our_id(store, tmp_path):
    await judged(tmp_path, message())
    tagged = edit_headers(message(), add=[("X-SpamGuard-ID", "0" * 21)])
    receipt = store.record(report(raw=tagged, source=ReportSource.MAIL))
    correction, _, _ = store.get(receipt.correction_id)
    assert ("0" * 21, "ham", 0.25) == (
        correction.verdict_id,
        correction.predicted,
        correction.spam_probability,
    )
    assert True is correction.is_recipient


async def test_an_id_copied_to_another_message_does_not_count(store, tmp_path):
    await judged(tmp_path, message())
    forged = message(
        subject="Pills", body=f"buy pills {WORDS}", extra=f"X-SpamGuard-ID: {'0' * 21}\r\n"
    )
    forged = forged.replace(b"<m1@", b"<m2@")
    correction, _, _ = store.get(store.record(report(raw=forged)).correction_id)
    assert "" == correction.verdict_id


async def test_only_a_recipient_may_correct(store, tmp_path):
    await judged(tmp_path, message())
    receipt = store.record(report(reporter="mallory@verein.example", source=ReportSource.MAIL))
    assert (Standing.REVIEW, "its reporter was not a recipient") == (
        receipt.standing,
        receipt.reason,
    )


async def test_a_plus_address_is_its_user(store, tmp_path):
    await judged(tmp_path, message(), recipients=("anna+lists@verein.example",))
    receipt = store.record(report(reporter="anna@verein.example", source=ReportSource.MAIL))
    assert Standing.COUNTED == receipt.standing


def test_a_mailed_report_of_an_unknown_message_waits_for_review(store):
    assert Standing.REVIEW == store.record(report(source=ReportSource.MAIL)).standing


def test_near_duplicates_are_one_campaign(store):
    first = store.record(report())
    second = store.record(
        report(reporter="ben", raw=message(body=WORDS.replace("tuesday", "friday")))
    )
    campaigns = {store.get(r.correction_id)[0].campaign for r in (first, second)}
    assert 1 == len(campaigns)


@pytest.mark.parametrize("raw", [b"\r\n", b" ", b"X-Nothing: here\r\n\r\n"])
def test_a_report_without_content_is_refused(store, raw):
    with pytest.raises(ReportError):
        store.record(report(raw=raw))


@pytest.mark.parametrize("reporter", ["", " ", "a" * 300, "a\nb"])
def test_a_reporter_without_a_name_is_refused(store, reporter):
    with pytest.raises(ReportError):
        store.record(report(reporter=reporter))


def test_the_administrator_accepts_and_rejects(store):
    receipt = store.record(report(source=ReportSource.HTTP))
    store.review(receipt.correction_id, "accept", by="root")
    assert Standing.COUNTED == store.get(receipt.correction_id)[1]
    store.review(receipt.correction_id, "reject", by="root", reason="not spam")
    assert Standing.REJECTED == store.get(receipt.correction_id)[1]
    with pytest.raises(ReportError):
        store.review(999, "accept", by="root")


async def test_forget_erases_a_persons_mail(store, tmp_path):
    await judged(tmp_path, message())
    receipt = store.record(report())
    path = store.path_of(store.get(receipt.correction_id)[0].fingerprint)
    assert path.exists()
    assert 1 == store.forget("Anna")
    assert ([], False) == (store.all()[0], path.exists())
    assert 0 == store.forget("anna")


def test_expire_erases_old_reports_and_their_files(store):
    receipt = store.record(report())
    path = store.path_of(store.get(receipt.correction_id)[0].fingerprint)
    assert 0 == store.expire(before=NOW - 1)
    assert 1 == store.expire(before=NOW * 2)
    assert not path.exists()


def test_export_writes_a_data_set(store, tmp_path):
    store.record(report())
    store.record(
        report(
            reporter="ben", raw=message(subject="Other", body="x " * 50), source=ReportSource.HTTP
        )
    )
    assert 1 == store.export(tmp_path / "out")
    (example,) = read_index(tmp_path / "out").values()
    assert ("spam", "corrections") == (example.label, example.corpus)
    assert message() == (tmp_path / "out" / example.path).read_bytes()
    assert 2 == store.export(tmp_path / "all", everything=True)


def test_ten_processes_at_once_lose_nothing(store, tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from spamguard.feedback.corrections import CorrectionStore\n"
        "from spamguard.report import Report, ReportSource\n"
        "from spamguard.verdict import Label\n"
        "root, me = Path(sys.argv[1]), sys.argv[2]\n"
        "store = CorrectionStore(root / 'spamguard.db', root / 'corrections')\n"
        "for word in 'abcde':\n"
        "    raw = f'Subject: {me}\\r\\n\\r\\nbody {word}\\r\\n'.encode()\n"
        "    store.record(Report(label=Label.SPAM, reporter=me, source=ReportSource.IMAP, raw=raw))\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"user-{n}"])
        for n in "abcdefghij"
    ]
    assert [0] * 10 == [child.wait(timeout=120) for child in children]
    assert 50 == len(store.all()[0])
