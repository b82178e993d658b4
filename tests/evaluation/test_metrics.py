"""The scores against torchmetrics', and the rules that it has not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score, MulticlassJaccardIndex

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
    assert scores.miou == (pytest.approx(np.mean(known)) if known else None)
    assert scores.absent == tuple(name for name, value in scores.iou.items() if value is None)
    if counted.any():
        assert scores.pixel_accuracy == pytest.approx((prediction == truth)[counted].mean())
    else:
        assert {value for value in scores.to_dict().values() if not isinstance(value, dict | list)} == {None}
        assert scores.majority is None


def test_miou_agrees_with_torchmetrics_where_all_classes_occur():
    generator = np.random.Generator(np.random.Philox(0))
    truth, prediction = generator.integers(0, K, (2, 64, 64), np.uint8)
    truth[:3] = IGNORE_INDEX
    oracle = MulticlassJaccardIndex(K, ignore_index=IGNORE_INDEX)
    expected = oracle(torch.from_numpy(prediction), torch.from_numpy(truth).long()).item()
    assert Scores(tuple("abcd"), confusion_matrix(prediction, truth, K)).miou == pytest.approx(expected, abs=1e-6)


def test_dice_agrees_with_torchmetrics_f1():
    generator = np.random.Generator(np.random.Philox(0))
    truth, prediction = generator.integers(0, K, (2, 64, 64), np.uint8)
    truth[:3] = IGNORE_INDEX
    oracle = MulticlassF1Score(K, ignore_index=IGNORE_INDEX, average=None)
    expected = oracle(torch.from_numpy(prediction), torch.from_numpy(truth).long()).tolist()
    scores = Scores(tuple("abcd"), confusion_matrix(prediction, truth, K))
    assert list(scores.dice.values()) == pytest.approx(expected, abs=1e-6)
    assert scores.mean_dice == pytest.approx(np.mean(expected), abs=1e-6)


def mmsegmentation(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Its IoUMetric (1.2.2, mmseg/evaluation/metrics/iou_metric.py): areas by histograms, then means without NaN."""

    def area(values):
        return torch.histc(torch.from_numpy(values).float(), K, 0, K - 1).double()

    areas = []
    for prediction, truth in pairs:
        prediction, truth = (one[truth != IGNORE_INDEX] for one in (prediction, truth))
        areas.append(torch.stack([area(prediction[prediction == truth]), area(prediction), area(truth)]))
    both, predicted, true = sum(areas)
    shares = {
        "mIoU": both / (predicted + true - both),
        "mAcc": both / true,
        "mDice": 2 * both / (predicted + true),
        "aAcc": both.sum() / true.sum(),
    }
    return {name: value.nanmean().item() for name, value in shares.items()}


@given(st.lists(st.tuples(PREDICTION, TRUTH), min_size=1, max_size=3))
def test_scores_agree_with_mmsegmentation(pairs):
    """Also where classes are absent: those that are nowhere count in no mean, those not there in no mean accuracy."""
    scores = Scores(tuple("abcd"), sum(confusion_matrix(*pair, K) for pair in pairs))
    found = {
        "mIoU": scores.miou,
        "mAcc": scores.mean_accuracy,
        "mDice": scores.mean_dice,
        "aAcc": scores.pixel_accuracy,
    }
    expected = mmsegmentation(pairs)
    if scores.pixels:
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert all(np.isnan(value) for value in expected.values())
        assert set(found.values()) == {None}


@given(PREDICTION, TRUTH)
def test_the_frequency_weighted_iou_weighs_by_true_pixels(prediction, truth):
    scores = Scores(tuple("abcd"), confusion_matrix(prediction, truth, K))
    counted = truth[truth != IGNORE_INDEX]
    weights = [np.mean(counted == index) if counted.size else 0 for index in range(K)]
    expected = sum(weight * (iou or 0) for weight, iou in zip(weights, scores.iou.values(), strict=True))
    assert scores.frequency_weighted_iou == pytest.approx(expected)


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
