"""Each figure against the slow, obvious computation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.training.dataset import Example
from spamguard.training.evaluate import evaluate_scores, trade_offs
from spamguard.training.metrics import (
    bounded_threshold,
    calibration_bins,
    caught_at,
    expected_calibration_error,
    figures,
    ham_needed,
    lam_percent,
    one_minus_roca_percent,
    precision_recall_points,
    prior_weights,
    roc_points,
    roca_interval,
    threshold_at,
    wilson,
)
from spamguard.verdict import Thresholds

_SETS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=4, max_size=60).filter(
    lambda rows: 0 < sum(spam for _, spam in rows) < len(rows)
)


@given(_SETS)
def test_roca_is_the_share_of_pairs_in_the_wrong_order(rows):
    scores = np.array([s / 8 for s, _ in rows])
    is_spam = np.array([spam for _, spam in rows])
    pairs = [(h, s) for h in scores[~is_spam] for s in scores[is_spam]]
    wrong = sum(1.0 if h > s else 0.5 if h == s else 0.0 for h, s in pairs)
    assert one_minus_roca_percent(scores, is_spam) == pytest.approx(100 * wrong / len(pairs))


@given(_SETS, st.sampled_from([0.0, 0.1, 0.5]))
def test_at_most_so_much_ham_is_above_the_threshold_and_no_lower_one_does(rows, rate):
    scores = np.array([s / 8 for s, _ in rows])
    is_spam = np.array([spam for _, spam in rows])
    ham, spam = scores[~is_spam], scores[is_spam]
    threshold = threshold_at(ham, rate)
    assert (ham >= threshold).sum() <= len(ham) * rate
    best = max(
        (
            (spam >= t).mean()
            for t in [*(scores + 1e-9), 0.0]
            if (ham >= t).sum() <= len(ham) * rate
        ),
        default=0.0,
    )
    assert caught_at(ham, spam, rate) == pytest.approx(best)


def test_figures_of_a_set_one_can_count():
    scores = np.array([0.1, 0.2, 0.6, 0.95, 0.3, 0.7, 0.97, 0.99])
    is_spam = np.array([False] * 4 + [True] * 4)
    found = figures(scores, is_spam, unsure_threshold=0.5, spam_threshold=0.9)
    assert (found.ham, found.spam) == (4, 4)
    assert (found.false_positive_rate, found.flagged_rate) == (0.25, 0.5)
    assert (found.recall, found.recall_unsure) == (0.5, 0.75)
    assert found.precision == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert found.accuracy == 5 / 8


def test_wilson_holds_what_is_known_of_it():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(0, 1000)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(0.0038, abs=1e-4)
    assert wilson(5, 10)[0] == pytest.approx(0.2366, abs=1e-3)


def test_lam_is_between_the_two_rates_and_symmetric():
    assert 1 < lam_percent(10, 1000, 200, 1000) < 20
    assert lam_percent(10, 1000, 200, 1000) == pytest.approx(lam_percent(200, 1000, 10, 1000))


def test_scores_that_are_frequencies_have_no_calibration_error():
    scores = np.repeat([0.1, 0.9], 1000)
    is_spam = np.concatenate([np.arange(1000) < 100, np.arange(1000) < 900])
    assert expected_calibration_error(scores, is_spam) == pytest.approx(0.0, abs=1e-9)
    assert expected_calibration_error(1 - scores, is_spam) == pytest.approx(0.8)


@given(_SETS)
def test_calibration_error_is_the_mean_gap_of_fifteen_bins(rows):
    bins = {}
    for eighths, is_spam in rows:
        bins.setdefault(min(14, eighths * 15 // 8), []).append((eighths / 8, is_spam))
    expected = 0.0
    for members in bins.values():
        mean = sum(score for score, _ in members) / len(members)
        share = sum(is_spam for _, is_spam in members) / len(members)
        expected += abs(mean - share) * len(members) / len(rows)
    scores = np.array([s / 8 for s, _ in rows])
    is_spam = np.array([spam for _, spam in rows])
    assert expected == pytest.approx(expected_calibration_error(scores, is_spam), abs=1e-12)


@given(st.integers(0, 50), st.integers(50, 99), st.integers(0, 50), st.integers(50, 99))
def test_lam_is_the_mean_of_the_error_rates_in_log_odds(ham_errors, ham, spam_errors, spam):
    def odds(errors, total):
        return (errors + 0.5) / (total - errors + 0.5)

    middle = math.sqrt(odds(ham_errors, ham) * odds(spam_errors, spam))
    expected = 100 * middle / (1 + middle)
    assert expected == pytest.approx(lam_percent(ham_errors, ham, spam_errors, spam))


@given(st.integers(1, 500), st.data())
def test_the_ends_of_wilsons_interval_solve_its_equation(total, data):
    rate = data.draw(st.integers(0, total)) / total
    low, high = wilson(round(rate * total), total)
    assert -1e-12 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    for end in (low, high):
        spread = 1.959964**2 * end * (1 - end) / total
        assert (end - rate) ** 2 == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize("is_spam", [True, False])
def test_one_class_alone_has_no_curve(is_spam):
    truth = np.array([is_spam, is_spam])
    found = figures(np.array([0.1, 0.9]), truth, unsure_threshold=0.5, spam_threshold=0.8)
    assert (found.one_minus_roca_percent, found.caught_at) == (None, ())
    assert (found.false_positive_rate, found.recall) == ((0.0, 0.5) if is_spam else (0.5, 0.0))


def example(corpus, label):
    return Example(path="p", label=label, corpus=corpus, kind="k")


def test_a_source_of_one_class_is_compared_with_all_of_the_other():
    examples = [example("good", "ham")] * 30 + [example("bad", "phish")] * 30
    scores = np.array([0.1] * 30 + [0.9] * 30)
    found = dict(
        evaluate_scores(
            examples, scores, model_version="m", thresholds=Thresholds(unsure=0.5, spam=0.8)
        ).slices
    )
    assert found["corpus bad"].one_minus_roca_percent == 0.0
    assert found["corpus bad"].ham == 0
    assert found["corpus good"].caught_at == (1.0, 1.0, 1.0)


def test_trade_offs_name_the_source_that_suffers_most():
    examples = [example("a", "ham")] * 40 + [example("b", "ham")] * 40 + [example("c", "spam")] * 10
    scores = np.array([0.1] * 40 + [0.1] * 30 + [0.6] * 10 + [0.9] * 10)
    (row,) = trade_offs(examples, scores, [0.5])
    assert (row.false_positives, row.ham, row.worst_corpus, row.caught) == (10, 80, "b", 1.0)
    assert row.worst_rate == 0.25


@given(_SETS)
def test_the_points_of_the_curves_are_what_each_threshold_does(rows):
    scores = np.array([s / 8 for s, _ in rows])
    is_spam = np.array([spam for _, spam in rows])
    for (ham, spam), (recall, precision), threshold in zip(
        zip(*roc_points(scores, is_spam)),
        zip(*precision_recall_points(scores, is_spam)),
        sorted(set(scores), reverse=True),
    ):
        called = scores >= threshold
        assert ham == pytest.approx(called[~is_spam].mean())
        assert spam == recall == pytest.approx(called[is_spam].mean())
        assert precision == pytest.approx(is_spam[called].mean())


def test_the_bootstrap_interval_holds_the_figure_and_shrinks_with_more_mail():
    generator = np.random.default_rng(3)
    widths = []
    for count in (100, 10_000):
        is_spam = np.arange(count) % 2 == 0
        scores = np.clip(generator.normal(0.4 + 0.2 * is_spam, 0.2), 0, 1)
        low, high = roca_interval(scores, is_spam)
        assert low < one_minus_roca_percent(scores, is_spam) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert roca_interval(scores, is_spam) == (low, high)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=400), st.sampled_from([0.001, 0.05, 0.3, 1.0])
)
def test_the_bound_of_a_bounded_threshold_holds_or_no_ham_is_above_it(values, rate):
    ham = np.array(values)
    above = int((ham >= bounded_threshold(ham, rate)).sum())
    assert above <= (ham >= 1 - 1e-6).sum() or wilson(above, ham.size)[1] <= rate


def test_so_much_ham_is_needed_and_no_less():
    for rate in (0.001, 0.005, 0.1):
        assert wilson(0, ham_needed(rate))[1] <= rate < wilson(0, ham_needed(rate) - 1)[1]


def test_weights_bring_the_prior_about():
    is_spam = np.array([True] * 5 + [False] * 95)
    weights = prior_weights(is_spam, 0.5)
    assert np.average(is_spam, weights=weights) == pytest.approx(0.5)
    (found,) = calibration_bins(np.full(100, 0.5), is_spam, weights)
    assert (found.messages, found.frequency) == (100, pytest.approx(0.5))
