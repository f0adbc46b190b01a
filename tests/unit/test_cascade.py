"""When the linear model decides alone: only where the BERT's word could not change the label."""

from hypothesis import given
from hypothesis import strategies as st

from spamguard.model.calibration import BERT_LIMIT, Calibration
from spamguard.verdict import Thresholds


@given(
    st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5),
    st.floats(-30, 30), st.floats(-BERT_LIMIT, BERT_LIMIT),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)  # fmt: skip
def test_what_is_settled_has_its_label_whatever_the_bert_says(
    bert, linear, bias, logit, word, places
):
    calibration = Calibration(bert=bert, linear=linear, bias=bias)
    thresholds = Thresholds(unsure=places[0], spam=places[1])
    if calibration.settles(logit, thresholds):
        limits = (-BERT_LIMIT, logit, BERT_LIMIT, word)
        labels = {thresholds.label(calibration.probability(b, logit)) for b in limits}
        assert len(labels) == 1


def test_both_sure_ham_and_sure_spam_are_settled_and_a_higher_threshold_unsettles():
    calibration = Calibration(bert=0.5, linear=1.0, bias=0.0)
    thresholds = Thresholds(unsure=0.8, spam=0.99)
    sure = 0.5 * BERT_LIMIT + 6
    assert calibration.settles(-sure, thresholds)
    assert calibration.settles(sure, thresholds)
    assert not calibration.settles(0.0, thresholds)
    assert not calibration.settles(sure, Thresholds(unsure=0.8, spam=0.9999))
    assert calibration.settles(sure, Thresholds(unsure=0.8, spam=1.0))  # it is always unsure
