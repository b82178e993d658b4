"""The scores against torchmetrics', and the rules that it has not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from danet.data.labels import IGNORE_INDEX
from danet.evaluation.metrics import Scores, confusion_matrix

K = 4
PREDICTION = arrays(np.uint8, (5, 7), elements=st.integers(0, K - 1))
TRUTH = arrays(np.uint8, (5, 7), elements=st.sampled_from([*range(K), IGNORE_INDEX]))


@given(PREDICTION, TRUTH)
def test_counts_agree_with_torchmetrics(prediction, truth):
    found = confusion_matrix(prediction, truth, K)
    oracle = MulticlassConfusionMatrix(K, ignore_index=IGNORE_INDEX)
    assert found.dtype == np.int64
    assert np.array_equal(found, oracle(torch.from_numpy(prediction), torch.from_numpy(truth).long()).numpy())


@given(PREDICTION, TRUTH)
def test_scores_follow_their_definitions(prediction, truth):
    scores = Scores(tuple("abcd"), confusion_matrix(prediction, truth, K))
    counted = truth != IGNORE_INDEX
    for index, name in enumerate(scores.names):
        there, said = (truth == index) & counted, (prediction == index) & counted
        union, hits = (there | said).sum(), (there & said).sum()
        assert scores.iou[name] == (hits / union if union else None)
        assert scores.accuracy[name] == (hits / there.sum() if there.any() else None)
    known = [value for value in scores.iou.values() if value is not None]
    assert scores.miou == pytest.approx(np.mean(known) if known else 0)
    assert scores.absent == tuple(name for name, value in scores.iou.items() if value is None)
    if counted.any():
        assert scores.pixel_accuracy == pytest.approx((prediction == truth)[counted].mean())


def test_miou_agrees_with_torchmetrics_where_all_classes_occur():
    generator = np.random.Generator(np.random.Philox(0))
    truth, prediction = generator.integers(0, K, (2, 64, 64), np.uint8)
    truth[:3] = IGNORE_INDEX
    oracle = MulticlassJaccardIndex(K, ignore_index=IGNORE_INDEX)
    expected = oracle(torch.from_numpy(prediction), torch.from_numpy(truth).long()).item()
    assert Scores(tuple("abcd"), confusion_matrix(prediction, truth, K)).miou == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8), "prediction holds class 4"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8), "truth holds class 9"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "must be alike"),
    ],
)
def test_values_outside_the_classes_are_refused(prediction, truth, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(prediction, truth, K)


@given(TRUTH)
def test_the_majority_is_what_always_saying_the_commonest_class_gets(truth):
    counted = truth[truth != IGNORE_INDEX]
    commonest = np.bincount(counted, minlength=K).argmax().astype(np.uint8)
    always = Scores(tuple("abcd"), confusion_matrix(np.full_like(truth, commonest), truth, K))
    assert always.majority == always.pixel_accuracy
    other = Scores(tuple("abcd"), confusion_matrix(np.full_like(truth, (commonest + 1) % K), truth, K))
    assert other.majority == always.majority  # whatever is predicted
