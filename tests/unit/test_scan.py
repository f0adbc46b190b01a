"""What `scan` finds below a path."""

import io
import mailbox
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from spamguard.scan import Result, find_sources
from spamguard.verdict import Label


def test_files_directories_mbox_and_maildir_are_found_in_order(tmp_path):
    (tmp_path / "one.eml").write_bytes(b"Subject: 1\n\n")
    (tmp_path / "two.txt").write_bytes(b"not mail where .eml files are")
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "plain").write_bytes(b"Subject: 2\n\n")
    (nested / ".hidden").write_bytes(b"x")
    box = mailbox.mbox(tmp_path / "nested" / "zbox")
    for number in range(3):
        box.add(f"Subject: m{number}\n\nbody\n")
    box.close()
    names = [source.name.removeprefix(f"{tmp_path}/") for source in find_sources([str(tmp_path)])]
    assert names == ["nested/plain", "nested/zbox#1", "nested/zbox#2", "nested/zbox#3", "one.eml"]


def test_messages_of_an_mbox_are_read_one_by_one(tmp_path):
    box = mailbox.mbox(tmp_path / "box")
    box.add("Subject: a\n\nfirst\n")
    box.add("Subject: b\n\nsecond\n")
    box.close()
    first, second = find_sources([str(tmp_path / "box")])
    assert b"first" in first.read()
    assert b"second" in second.read()


def test_a_maildir_gives_new_and_seen_messages(tmp_path):
    maildir = mailbox.Maildir(tmp_path / "md")
    maildir.add("Subject: a\n\nx\n")
    (found,) = find_sources([str(tmp_path / "md")])
    assert b"Subject: a" in found.read()


def test_a_missing_file_is_a_source_whose_reading_fails(tmp_path):
    (source,) = find_sources([str(tmp_path / "missing")])
    try:
        source.read()
    except OSError as error:
        assert "missing" in str(error)
    else:
        raise AssertionError("read what is not there")


def test_the_messages_of_an_mbox_can_be_read_in_several_threads(tmp_path):
    parts = [b"From a@x\nSubject: %d\n\n%s\n" % (n, b"%d\n" % n * 2000) for n in range(100)]
    (tmp_path / "box").write_bytes(b"".join(parts))
    sources = find_sources([str(tmp_path / "box")])
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda source: source.read().rstrip(), sources))
    assert [part.partition(b"\n")[2].rstrip() for part in parts] == read


def test_a_file_keeps_every_byte_even_where_it_is_no_text(tmp_path):
    raw = b"Subject: x\r\n\r\n\x00\xff\r\n.\r\nFrom here\r\n"
    (tmp_path / "mail").write_bytes(raw)
    (source,) = find_sources([str(tmp_path / "mail")])
    assert raw == source.read()


def test_an_eml_file_with_an_mbox_line_is_one_message(tmp_path):
    raw = b"From a@x Mon Nov 23 10:00:00 2026\nSubject: s\n\nbody\n"
    (tmp_path / "a.eml").write_bytes(raw)
    (source,) = find_sources([str(tmp_path / "a.eml")])
    assert raw == source.read()


def test_a_dash_is_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"Subject: s\n\n")))
    (source,) = find_sources(["-"])
    assert (source.name, source.read()) == ("-", b"Subject: s\n\n")


def test_an_empty_directory_holds_no_message(tmp_path):
    assert find_sources([str(tmp_path)]) == []


def test_a_result_names_an_error_only_where_there_is_one():
    fields = {"path": "a", "model_version": "m", "truncated": False}
    good = Result(label=Label.SPAM, spam_probability=0.99, milliseconds=1.23456, **fields)
    assert good.as_json() == {
        **fields, "label": "spam", "spam_probability": 0.99, "milliseconds": 1.23
    }  # fmt: skip
    bad = Result(
        label=Label.UNSCORED, spam_probability=None, milliseconds=None, error="gone", **fields
    )
    assert (bad.as_json()["error"], bad.as_json()["milliseconds"]) == ("gone", None)
