"""What `scan` finds below a path."""

import mailbox

from spamguard.scan import find_sources


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
