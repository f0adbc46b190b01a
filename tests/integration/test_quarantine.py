"""The quarantine on a real disk and database: nothing lost, whatever step is the last."""

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_utils import Database

from spamguard.database import migrate, migrations, open_database
from spamguard.errors import DeliveryError, StoreError
from spamguard.message import Envelope
from spamguard.quarantine import NotHeldError, QuarantineStore
from spamguard.verdict import Label, Verdict
from tests.support.mail import message

RAW = message("viagra", subject="Buy now é")
ENVELOPE = Envelope(
    frontend="milter",
    reverse_path="ann@sender.example",
    recipients=("bob@here.example", "eve@here.example"),
    queue_id="4XYZ",
    client_ip="198.51.100.7",
)


def verdict(number=1):
    return Verdict(
        id=f"{number:021x}", label=Label.SPAM, spam_probability=0.99, model_version="m-1"
    )


@pytest.fixture
def store(tmp_path):
    migrate(tmp_path / "spamguard.db")
    return QuarantineStore(tmp_path / "quarantine", tmp_path / "spamguard.db")


def take_all(sent):
    def send(raw, reverse_path, recipients):
        sent.append((raw, reverse_path, tuple(recipients)))
        return []

    return send


def test_a_held_message_is_found_with_everything_about_it(store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    (held,) = store.find()
    assert held.recipients == ENVELOPE.recipients
    assert (held.subject, held.size, held.state) == ("Buy now é", len(RAW), "held")
    assert store.raw(held.id) == RAW
    assert store.get(held.id[:21]) == held


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"recipient": "EVE@here"}, 1),
        ({"recipient": "nobody"}, 0),
        ({"sender": "sender.example"}, 1),
        ({"subject": "now é"}, 1),
        ({"subject": "%"}, 0),
        ({"since": 1e11}, 0),
        ({"until": 1.0}, 0),
        ({"state": "released"}, 0),
        ({"state": None}, 1),
    ],
)
def test_filters_find_what_they_say(store, filters, found):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    assert found == len(store.find(**filters))


def test_releasing_sends_the_original_envelope_and_bytes_under_a_trace_field(store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    sent = []
    store.release(verdict().id, take_all(sent))
    ((raw, reverse_path, recipients),) = sent
    trace, _, rest = raw.partition(b"\r\n")
    assert rest == RAW
    assert trace.startswith(f"X-SpamGuard-Released: {verdict().id}; ".encode())
    assert (reverse_path, recipients) == (ENVELOPE.reverse_path, ENVELOPE.recipients)
    with pytest.raises(NotHeldError, match="already released"):
        store.release(verdict().id, take_all(sent))
    assert len(sent) == 1


def test_a_next_hop_that_fails_leaves_the_message_held(store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())

    def fail(raw, reverse_path, recipients):
        raise DeliveryError("down")

    with pytest.raises(DeliveryError):
        store.release(verdict().id, fail)
    assert store.get(verdict().id).state == "held"


def test_refused_recipients_stay_held_and_the_others_do_not_get_it_twice(store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    with pytest.raises(DeliveryError, match=r"eve@here\.example \(550 no\)"):
        store.release(verdict().id, lambda *_: [("eve@here.example", "550 no")])
    assert store.get(verdict().id).recipients == ("eve@here.example",)
    sent = []
    store.release(verdict().id, take_all(sent))
    assert sent[0][2] == ("eve@here.example",)


def test_two_releases_at_once_send_once(store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    sent = []

    def slow(raw, reverse_path, recipients):
        sent.append(raw)
        time.sleep(0.3)
        return []

    def release():
        try:
            store.release(verdict().id, slow)
        except NotHeldError as error:
            return str(error)
        return "sent"

    with ThreadPoolExecutor(4) as executor:
        results = sorted(executor.map(lambda _: release(), range(4)))
    assert results.count("sent") == 1
    assert len(sent) == 1


def test_deleting_and_expiring_remove_the_bytes(store, tmp_path):
    for number in (1, 2):
        store.hold(RAW, envelope=ENVELOPE, verdict=verdict(number))
    store.delete(verdict(1).id)
    with pytest.raises(NotHeldError, match="already deleted"):
        store.release(verdict(1).id, take_all([]))
    assert store.expire(before=time.time() + 1) == 2
    assert store.find(state=None) == []
    assert list((tmp_path / "quarantine").rglob("*.eml")) == []


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "%", ""])
def test_ids_that_are_none_are_refused(store, name):
    with pytest.raises(NotHeldError):
        store.get(name)


# -- crashes ---------------------------------------------------------------------------------

_CHILD = """
import os, sys
from pathlib import Path
import spamguard.quarantine as q
from tests.integration.test_quarantine import ENVELOPE, RAW, verdict

directory, step, action = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = 0

def dying(name, function):
    def wrapped(*arguments, **options):
        global seen
        result = function(*arguments, **options)
        seen += 1
        if seen == step:
            os._exit(9)
        return result
    return wrapped

q.os.fsync = dying("fsync", q.os.fsync)
q.os.open = dying("open", q.os.open)
q.Path.replace = dying("replace", q.Path.replace)
store = q.QuarantineStore(directory / "quarantine", directory / "spamguard.db")
original = q.open_database
q.open_database = dying("database", original)
if action == "hold":
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    print("told", flush=True)
else:
    def send(raw, reverse_path, recipients):
        with open(directory / "sent", "ab") as stream:
            stream.write(b"x")
        return []
    store.release(verdict().id, dying("send", send))
    print("told", flush=True)
"""


def crash(directory, step, action):
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CHILD), str(directory), str(step), action],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_while_holding_never_loses_what_was_acknowledged(tmp_path, store, step):
    ended = crash(tmp_path, step, "hold")
    assert ended.returncode in {0, 9}, ended.stderr
    held = store.find()
    if b"told" in ended.stdout:
        assert [h.id for h in held] == [verdict().id]
    for row in held:  # indexed means readable, whole
        assert store.raw(row.id) == RAW
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict(2))  # the sender tries again
    assert verdict(2).id in [h.id for h in store.find()]
    os.utime(tmp_path / "quarantine", (0, 0))
    for path in (tmp_path / "quarantine").rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    store.recover()
    assert {h.id for h in store.find()} == {
        p.stem for p in (tmp_path / "quarantine").rglob("*.eml")
    }
    assert list((tmp_path / "quarantine").rglob("*.part")) == []


@pytest.mark.parametrize("step", range(1, 8))
def test_a_crash_while_releasing_delivers_at_most_once_more_and_never_zero_times(
    tmp_path, store, step
):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    ended = crash(tmp_path, step, "release")
    assert ended.returncode in {0, 9}, ended.stderr
    if store.get(verdict().id).state == "held":
        assert crash(tmp_path, 0, "release").returncode == 0
    sent = len((tmp_path / "sent").read_bytes())
    assert 1 <= sent <= 2
    assert store.get(verdict().id).state == "released"


# -- disk and database -----------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_leaves_nothing_half(tmp_path, store):
    code = """
    import resource, signal, sys
    from pathlib import Path
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from spamguard.errors import StoreError
    from spamguard.quarantine import QuarantineStore
    from tests.integration.test_quarantine import ENVELOPE, RAW, verdict
    directory = Path(sys.argv[1])
    store = QuarantineStore(directory / "quarantine", directory / "spamguard.db")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        store.hold(RAW * 1000, envelope=ENVELOPE, verdict=verdict())
    except StoreError as error:
        print("store error", error)
    """
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert ended.stdout.startswith("store error"), ended.stderr
    assert [p for p in (tmp_path / "quarantine").rglob("*") if p.is_file()] == []
    assert store.find() == []


def test_a_database_that_cannot_be_written_leaves_no_file(tmp_path, store):
    (tmp_path / "spamguard.db").unlink()
    (tmp_path / "spamguard.db").mkdir()
    with pytest.raises(StoreError, match=r"spamguard\.db"):
        store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    assert list((tmp_path / "quarantine").rglob("*.eml")) == []


def test_ten_processes_holding_at_once_lose_nothing(tmp_path, store):
    code = """
    import sys
    from pathlib import Path
    from spamguard.quarantine import QuarantineStore
    from tests.integration.test_quarantine import ENVELOPE, RAW, verdict
    directory, first = Path(sys.argv[1]), int(sys.argv[2])
    store = QuarantineStore(directory / "quarantine", directory / "spamguard.db")
    for number in range(first, first + 10):
        store.hold(RAW, envelope=ENVELOPE, verdict=verdict(number))
    """
    root = Path(__file__).resolve().parents[2]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(first)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        for first in range(100, 200, 10)
    ]
    assert [child.wait(120) for child in children] == [0] * 10
    assert len(store.find()) == 100


def test_a_newer_schema_is_refused_with_a_clear_message(tmp_path):
    path = tmp_path / "spamguard.db"
    migrate(path)
    with open_database(path) as database:
        database.table(migrations.migrations_table).insert(
            {"migration_set": "spamguard", "name": "from_the_future", "applied_at": "2030"}
        )
    with pytest.raises(StoreError, match="written by a newer SpamGuard"):
        migrate(path)


def test_the_database_is_copied_before_it_is_changed(tmp_path, monkeypatch):
    path = tmp_path / "spamguard.db"
    migrate(path)
    added = migrations._Migration("later", lambda database: database.table("t").create({"a": int}))
    monkeypatch.setattr(migrations, "_migrations", [*migrations._migrations, added])
    migrate(path)
    backup = Database(tmp_path / "spamguard.db.before-later")
    assert "held" in backup.table_names()
    assert "t" not in backup.table_names()
    backup.close()
    migrate(path)  # and once more changes nothing


def test_rows_are_plain_json_and_text_for_other_tools(tmp_path, store):
    store.hold(RAW, envelope=ENVELOPE, verdict=verdict())
    with open_database(tmp_path / "spamguard.db") as database:
        (row,) = database.table("held").rows
    assert json.loads(row["recipients"]) == list(ENVELOPE.recipients)
