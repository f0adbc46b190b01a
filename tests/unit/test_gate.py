"""The gate's rules, one situation each, on scores made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from spamguard.training.gate import Judged, cost, decide
from spamguard.verdict import Thresholds

THRESHOLDS = Thresholds(unsure=0.5, spam=0.9)
HAM, SPAM = 20, 20
TRUTH = np.array([False] * HAM + [True] * SPAM)
GROUPS = [f"g{n}" for n in range(HAM + SPAM)]
KNOWN = np.array([False] * 100 + [True] * 100)
NEVER = np.full(100, 0.01)


def judged(missed):
    """A model that misses so many of the held-out spam and nothing else."""
    spam = np.array([0.1] * missed + [0.99] * (SPAM - missed))
    return Judged(
        holdout=np.concatenate([np.full(HAM, 0.01), spam]),
        never_flag=NEVER.copy(),
        known=np.concatenate([np.full(100, 0.01), np.full(100, 0.99)]),
        milliseconds=6.0,
        size=25_000_000,
    )


INCUMBENT, BETTER = judged(15), judged(3)


def decision(candidate, flips=(0, 400), incumbent=INCUMBENT, truth=TRUTH):
    return decide(
        incumbent,
        candidate,
        holdout_is_spam=truth,
        holdout_groups=GROUPS,
        known_is_spam=KNOWN,
        thresholds=THRESHOLDS,
        flips=flips,
    )


def failed(found):
    return [rule.name for rule in found.rules if not rule.passed]


def changed(scores, index, value):
    scores = scores.copy()
    scores[index] = value
    return scores


def test_a_better_candidate_passes_every_rule():
    found = decision(BETTER)
    assert ([], True, ()) == (failed(found), found.promoted, found.reasons)


def test_the_incumbent_itself_is_not_better():
    names = ["cost, 10 FP + FN + 0.2 unsure", "folds won/tied/lost", "campaigns better/worse"]
    assert names == failed(decision(INCUMBENT))


def test_a_worse_candidate_loses_folds():
    names = failed(decision(INCUMBENT, incumbent=BETTER))
    assert "held-out spam called ham" in names
    assert "folds won/tied/lost" in names


def test_what_can_be_luck_is_no_progress():
    assert ["campaigns better/worse"] == failed(decision(judged(11)))
    assert [] == failed(decision(judged(10)))


def test_a_campaign_counts_once_however_many_messages_it_has():
    groups = [f"g{n}" for n in range(HAM)] + [f"g{n % 4}" for n in range(SPAM)]
    found = decide(
        INCUMBENT,
        BETTER,
        holdout_is_spam=TRUTH,
        holdout_groups=groups,
        known_is_spam=KNOWN,
        thresholds=THRESHOLDS,
        flips=(0, 400),
    )
    assert ["campaigns better/worse"] == failed(found)


@pytest.mark.parametrize(
    ("field", "index", "value", "rule"),
    [
        ("never_flag", 0, 0.95, "never-flag mail called spam"),
        ("holdout", 0, 0.95, "held-out ham called spam"),
        ("known", 0, 0.95, "known ham called spam"),
        ("never_flag", slice(0, 10), 0.6, "ham unsure or worse"),
        ("known", slice(100, 120), 0.1, "known spam called ham"),
    ],
)
def test_one_fault_refuses_a_better_candidate(field, index, value, rule):
    candidate = replace(BETTER, **{field: changed(getattr(BETTER, field), index, value)})
    found = decision(candidate)
    assert rule in failed(found)
    assert not found.promoted


def test_never_flag_mail_that_the_incumbent_flags_already_does_not_block():
    flagged = changed(NEVER, 0, 0.95)
    candidate = replace(BETTER, never_flag=flagged)
    assert decision(candidate, incumbent=replace(INCUMBENT, never_flag=flagged)).promoted


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"milliseconds": 9.0}, "milliseconds a message"),
        ({"size": 40_000_000}, "megabytes"),
    ],
)
def test_a_slower_or_larger_candidate_is_refused(change, rule):
    assert [rule] == failed(decision(replace(BETTER, **change)))


def test_int8_that_changes_labels_is_refused():
    assert ["labels int8 changes"] == failed(decision(BETTER, flips=(20, 400)))


def test_too_little_mail_proves_nothing():
    truth = np.array([False] * (HAM + SPAM - 2) + [True] * 2)
    assert "held-out corrections that are spam" in failed(decision(BETTER, truth=truth))


def test_unsure_costs_a_fifth_and_a_false_positive_ten():
    scores = np.array([0.95, 0.6, 0.1, 0.6])
    truth = np.array([False, False, True, True])
    assert pytest.approx(10 + 0.2 + 1 + 0.2) == cost(scores, truth, THRESHOLDS)


def test_what_is_stored_has_every_number():
    stored = decision(BETTER).as_json()
    assert {"name", "incumbent", "candidate", "wanted", "passed"} == set(stored["rules"][0])
