"""Calibration, loss and precision-recall against torchmetrics' and PyTorch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torchmetrics.classification import BinaryPrecisionRecallCurve, MulticlassCalibrationError

from danet.data.labels import IGNORE_INDEX
from danet.evaluation.binary import THRESHOLDS, BinaryScores, positive_counts
from danet.evaluation.calibration import BINS, Calibration, calibration_counts, mean_loss

K = 4


def predicted(seed: int, classes: int = K, size: tuple[int, int] = (48, 64)):
    """Logits and probabilities of a model that knows something, and the truth, of which some is ignored."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, size, generator=generator)
    logits = 2 * torch.randn(classes, *size, generator=generator)
    logits += 2 * torch.nn.functional.one_hot(truth, classes).permute(2, 0, 1)
    truth[torch.rand(size, generator=generator) < 0.2] = IGNORE_INDEX
    return logits, logits.softmax(0), truth


def calibrated(probabilities, truth) -> Calibration:
    confidence, labels = probabilities.max(0)
    return Calibration(*calibration_counts(confidence.numpy(), labels.byte().numpy(), truth.byte().numpy()))


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_torchmetrics(seed):
    _, probabilities, truth = predicted(seed)
    assert probabilities.max() < 1  # to exactly 1 it gives a bin of its own, beyond the last
    oracle = MulticlassCalibrationError(K, n_bins=BINS, ignore_index=IGNORE_INDEX)
    expected = oracle(probabilities[None], truth[None]).item()
    found = calibrated(probabilities, truth)
    assert expected > 0.01
    assert found.error == pytest.approx(expected, abs=1e-6)
    assert found.pixels.dtype == np.int64
    assert found.pixels[0].sum() == (truth != IGNORE_INDEX).sum()


def test_bins_tell_accuracy_and_confidence_and_their_bounds_belong_to_the_upper_one():
    sure = np.array([[1.0, 0.95, np.float32(14) / np.float32(15), 0.5, 0.9]], np.float32)
    truth = np.array([[0, 0, 1, 1, IGNORE_INDEX]], np.uint8)
    found = Calibration(*calibration_counts(sure, np.zeros((1, 5), np.uint8), truth))
    bins = found.to_dict()["bins"]
    assert [one["pixels"] for one in bins] == [*[0] * 7, 1, *[0] * 6, 3]
    assert (bins[7]["accuracy"], bins[7]["confidence"]) == (0, 0.5)
    assert (bins[14]["accuracy"], bins[14]["confidence"]) == pytest.approx((2 / 3, (1 + 0.95 + 14 / 15) / 3))
    assert bins[0] == {"from": 0, "pixels": 0, "accuracy": None, "confidence": None}
    assert found.error == pytest.approx((abs(2 - (1 + 0.95 + 14 / 15)) + 0.5) / 4)
    assert Calibration(np.zeros((2, BINS), np.int64), np.zeros(BINS)).error is None


def test_the_loss_is_the_cross_entropy_of_the_pixels_that_count():
    logits, probabilities, truth = predicted(0)
    expected = cross_entropy(logits[None].double(), truth[None], ignore_index=IGNORE_INDEX).item()
    assert mean_loss(probabilities, truth.byte().numpy()) == pytest.approx(expected, abs=1e-6)
    never = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert mean_loss(never, np.zeros((2, 2), np.uint8)) == pytest.approx(87.336, abs=1e-3)
    assert mean_loss(never, np.full((2, 2), IGNORE_INDEX, np.uint8)) is None


@given(st.integers(0, 99))
def test_what_is_predicted_at_ignored_pixels_changes_nothing(seed):
    _, probabilities, truth = predicted(seed, 2, (6, 7))
    changed = torch.where(truth == IGNORE_INDEX, predicted(seed + 100, 2, (6, 7))[1], probabilities)
    one, other = calibrated(probabilities, truth), calibrated(changed, truth)
    assert np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(one.confidence, other.confidence)
    mask = truth.byte().numpy()
    assert mean_loss(probabilities, mask) == mean_loss(changed, mask)
    assert np.array_equal(*(positive_counts(p[1].numpy(), mask, 1) for p in (probabilities, changed)))


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_are_torchmetrics(seed):
    _, probabilities, truth = predicted(seed, 2)
    probability = probabilities[1]
    probability[0, :20] = torch.from_numpy(THRESHOLDS[::50])  # exactly at thresholds
    probability[1, :5], probability[2, :5] = 0, 1
    oracle = BinaryPrecisionRecallCurve(torch.from_numpy(THRESHOLDS), ignore_index=IGNORE_INDEX)
    precision, recall, _ = oracle(probability[None], truth[None])
    scores = BinaryScores("thing", positive_counts(probability.numpy(), truth.byte().numpy(), 1))
    found = np.array(scores.curve)
    assert scores.counts.dtype == np.int64
    assert np.abs(found[:, 0] - THRESHOLDS).max() < 1e-6
    assert np.abs(found[:, 1] - precision[:-1].numpy()).max() < 1e-6
    assert np.abs(found[:, 2] - recall[:-1].numpy()).max() < 1e-6
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    assert np.abs(found[:, 3] - f1[:-1].numpy()).max() < 1e-6
    best = int(found[:, 3].argmax())
    assert scores.best == tuple(found[best])
    assert scores.to_dict() == {
        "class": "thing",
        **dict(zip(("threshold", "precision", "recall", "f1"), found[best], strict=True)),
    }


def test_without_the_class_its_scores_are_0():
    nothing = BinaryScores("thing", positive_counts(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8), 1))
    assert nothing.best == (0, 0, 0, 0)
    void = BinaryScores("thing", 0 * nothing.counts)
    assert (void.curve, void.best) == ([], None)
    assert void.to_dict() == {"class": "thing", **dict.fromkeys(("threshold", "precision", "recall", "f1"))}
