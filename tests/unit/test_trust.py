"""Which corrections count: the rules, as a table of situations."""

from collections import Counter

from spamguard.feedback.trust import Correction, Review, Rules, standings
from spamguard.report import Standing

DAY = 86_400.0


def correction(number, reporter, label="spam", **more):
    values = {
        "id": number,
        "reported_at": number * 60.0,
        "label": label,
        "reporter": reporter,
        "source": "imap",
        "comment": "",
        "fingerprint": f"{number:08x}",
        "campaign": f"c{number}",
        "simhash": "",
        "message_id": "",
        "from_address": f"{number}@sender.example",
        "is_bulk": False,
        "is_original": True,
        "is_recipient": True,
        "verdict_id": "v",
        "predicted": "ham",
        "spam_probability": 0.1,
        "model_version": "m",
    }
    return Correction(**{**values, **more})


def counts(rows, reviews=(), rules=Rules()):  # noqa: B008
    return Counter(standing for standing, _ in standings(rows, reviews, rules).values())


def test_a_single_report_counts():
    assert {Standing.COUNTED: 1} == counts([correction(1, "anna")])


def test_reporters_who_disagree_do_not_count():
    rows = [correction(1, "anna", campaign="x"), correction(2, "ben", "ham", campaign="x")]
    assert {Standing.CONFLICT: 2} == counts(rows)


def test_a_clear_majority_outvotes_one():
    rows = [correction(n, f"user{n}", campaign="x") for n in range(1, 5)]
    rows.append(correction(9, "zoe", "ham", campaign="x"))
    assert {Standing.COUNTED: 4, Standing.CONFLICT: 1} == counts(rows)


def test_list_mail_reported_as_spam_is_personal_until_three_agree():
    rows = [correction(n, f"user{n}", campaign="x", is_bulk=True) for n in (1, 2)]
    assert {Standing.PERSONAL: 2} == counts(rows)
    rows.append(correction(3, "user3", campaign="x", is_bulk=True))
    assert {Standing.COUNTED: 3} == counts(rows)


def test_list_mail_reported_as_ham_counts_at_once():
    assert {Standing.COUNTED: 1} == counts([correction(1, "anna", "ham", is_bulk=True)])


def test_one_reporter_cannot_decide_about_a_sender():
    rows = [correction(n, "mallory", from_address="news@firm.example") for n in range(200)]
    assert {Standing.COUNTED: 5, Standing.PERSONAL: 195} == counts(rows)


def test_a_second_reporter_lifts_the_senders_cap():
    rows = [correction(n, "anna", from_address="x@spam.example") for n in range(8)]
    rows.append(correction(9, "ben", from_address="x@spam.example"))
    assert {Standing.COUNTED: 9} == counts(rows)


def test_a_campaign_adds_ten_corrections_at_most():
    rows = [correction(n, f"user{n}", campaign="x") for n in range(30)]
    assert {Standing.COUNTED: 10, Standing.CAPPED: 20} == counts(rows)


def test_one_reporter_adds_a_hundred_a_day_at_most():
    rules = Rules(share_from=10_000)
    rows = [correction(n, "anna", reported_at=DAY + n) for n in range(120)]
    assert {Standing.COUNTED: 100, Standing.CAPPED: 20} == counts(rows, rules=rules)


def test_one_reporter_is_a_third_of_what_counts_at_most():
    rows = [correction(n, "anna", reported_at=n * DAY / 50) for n in range(400)]
    assert 0.34 * 400 >= counts(rows)[Standing.COUNTED]


def test_a_reporter_whom_others_contradict_is_not_believed():
    rows = []
    for n in range(0, 40, 4):
        rows.append(correction(n, "mallory", "ham", campaign=f"x{n}"))
        rows += [correction(n + k, f"user{k}", campaign=f"x{n}") for k in (1, 2, 3)]
    rows.append(correction(90, "mallory", "ham"))
    standing, reason = standings(rows)[90]
    assert (Standing.REVIEW, "its reporter was contradicted more often than not") == (
        standing,
        reason,
    )


def test_the_administrators_word_is_final():
    rows = [correction(1, "anna", is_recipient=False), correction(2, "ben")]
    reviews = [
        Review(correction_id=1, decision="accept", by="root", reason=""),
        Review(correction_id=2, decision="reject", by="root", reason="test"),
    ]
    assert {Standing.COUNTED: 1, Standing.REJECTED: 1} == counts(rows, reviews)


def test_a_forwarded_text_counts_only_with_its_original():
    rows = [
        correction(1, "anna", is_original=False, verdict_id=""),
        correction(2, "anna", is_original=False),
    ]
    assert {Standing.REVIEW: 1, Standing.COUNTED: 1} == counts(rows)
