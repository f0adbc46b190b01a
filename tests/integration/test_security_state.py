"""What is kept on disk: ids lead nowhere else, texts are no SQL, nobody fills it up."""

import json
import stat

import pytest

from spamguard.database import migrate, open_database
from spamguard.errors import ModelLoadError, ReportError, SpamGuardError
from spamguard.feedback import corrections
from spamguard.feedback.corrections import CorrectionStore
from spamguard.message import Envelope
from spamguard.model.store import ModelStore, ModelVersion
from spamguard.quarantine import NotHeldError, QuarantineStore
from spamguard.report import Report, ReportSource
from spamguard.verdict import Label, Verdict
from tests.support.mail import message

pytestmark = pytest.mark.timeout(60)

NOW = 1_790_000_000.0
IDS = [
    "../../etc/passwd", "..", ".", "/etc/passwd", "a/b", "a\0b", "", " ", "-rf", "a.eml", "%", "_",
    "*", "a\nb", "0" * 300, "\ud800", "' OR 1=1 --",
]  # fmt: skip
TEXTS = ["'; DROP TABLE held; --", '" OR 1=1', "%", "_", "\\", "a\\%", "x' UNION SELECT 1 --"]


@pytest.fixture
def held(tmp_path):
    migrate(tmp_path / "spamguard.db")
    store = QuarantineStore(tmp_path / "q" / "quarantine", tmp_path / "spamguard.db")
    hold(store)
    return store


@pytest.fixture
def record(tmp_path):
    migrate(tmp_path / "spamguard.db")
    return CorrectionStore(tmp_path / "spamguard.db", tmp_path / "corrections", clock=lambda: NOW)


def hold(store, number=1, subject="Buy now", **changes):
    fields = {"frontend": "milter", "reverse_path": "a@b.example", "recipients": ("c@d.example",)}
    store.hold(
        message("pills", subject=subject),
        envelope=Envelope(**{**fields, **changes}),
        verdict=Verdict(id=f"{number:021x}", label=Label.SPAM, spam_probability=0.99),
    )


def report(text="pills and watches for less", reporter="ann@a.example", **changes):
    return Report(
        label=Label.SPAM,
        reporter=reporter,
        raw=message(text),
        **{"source": ReportSource.MAIL, **changes},
    )


# -- ids and paths -------------------------------------------------------------------------------


@pytest.mark.parametrize("message_id", IDS)
def test_no_id_of_a_held_message_leads_out_of_the_quarantine(held, tmp_path, message_id):
    (tmp_path / "q" / "secret.eml").write_bytes(b"secret")
    for act in (held.get, held.raw, held.delete, lambda i: held.release(i, lambda *_: [])):
        with pytest.raises(SpamGuardError):
            act(message_id)
    assert [1] == [len(held.find())]


@pytest.mark.parametrize("fingerprint", IDS)
def test_no_fingerprint_leads_out_of_the_record(record, fingerprint):
    with pytest.raises(SpamGuardError):
        record.raw(fingerprint)


@pytest.mark.parametrize("name", [name for name in IDS if name and "/" not in name])
def test_no_name_of_a_model_leads_out_of_the_store(tmp_path, name):
    with pytest.raises(ModelLoadError):
        ModelStore(tmp_path).get(name)


@pytest.mark.parametrize(
    "name", [*sorted({*IDS} - {"a.eml"}), "a b", "a\r\nX-Spam-Flag: NO", "é", "x" * 65]
)
def test_a_models_name_that_could_break_a_header_is_refused(tmp_path, name):
    manifest = (
        '{"format": 1, "version": %s, "max_tokens": 64, "files": {},'
        ' "thresholds": {"unsure": 0.5, "spam": 0.9}}'
    )
    (tmp_path / "manifest.json").write_text(manifest % json.dumps(name))
    with pytest.raises(ModelLoadError):
        ModelVersion.read(tmp_path)


# -- SQL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_looked_for_in_the_quarantine_is_no_sql_and_no_pattern(held, text):
    hold(held, 2, subject=text, reverse_path=text, recipients=(text,))
    for found in (held.find(subject=text), held.find(sender=text), held.find(recipient=text)):
        assert [f"{2:021x}"] == [row.id for row in found]
    assert 2 == len(held.find())


@pytest.mark.parametrize("text", [*TEXTS, "ann@a.example' --"])
def test_a_reporters_name_is_no_sql(record, text):
    record.record(report(reporter=text))
    assert record.undo(text, report().raw)
    assert not record.undo("somebody", report().raw)
    assert 2 == record.forget(text)


# -- what cannot be stored -----------------------------------------------------------------------


def test_an_envelope_of_any_bytes_can_be_held(held):
    odd = b"\xff\xed\xa0\x80\x00'".decode("utf-8", "surrogateescape") + "\ud800"
    names = {"queue_id": odd, "helo": odd, "reverse_path": odd, "authenticated_user": odd}
    hold(held, 2, recipients=(odd,), **names)
    assert (odd,) == held.get(f"{2:021x}").recipients


# -- growth --------------------------------------------------------------------------------------


def test_one_reporter_cannot_fill_the_disk(record, monkeypatch, tmp_path):
    monkeypatch.setattr(corrections, "MAX_REPORTS_A_DAY", 3)
    for number in range(3):
        record.record(report(f"word{'abc'[number]} pills"))
    with pytest.raises(ReportError, match="more than 3 reports in a day"):
        record.record(report("something else"))
    assert 3 == len(list((tmp_path / "corrections").rglob("*.eml")))
    record.record(report("something else", reporter="bob@a.example"))
    record.record(report("of the administrator", source=ReportSource.CLI))


def test_what_is_kept_is_private(held, record, tmp_path):
    record.record(report())
    for path in [
        *(tmp_path / "q" / "quarantine").rglob("*"),
        *(tmp_path / "corrections").rglob("*"),
    ]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert wanted == stat.S_IMODE(path.stat().st_mode), path


def test_a_held_message_that_is_gone_is_said_so(held, tmp_path):
    for path in (tmp_path / "q" / "quarantine").rglob("*.eml"):
        path.unlink()
    with pytest.raises(SpamGuardError):
        held.raw(f"{1:021x}")
    with pytest.raises(NotHeldError), open_database(tmp_path / "spamguard.db") as database:
        database.table("held").update(f"{1:021x}", {"state": "deleted"})
        held.release(f"{1:021x}", lambda *_: [])
