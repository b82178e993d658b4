"""The losses against the definition, written out pixel by pixel in float64."""

import numpy as np
import pytest
import torch

from danet.data.labels import IGNORE_INDEX
from danet.models.segmentation import SegmentationOutput
from danet.training.losses import (
    CLASS_WEIGHTS,
    cross_entropy,
    enet_weights,
    inverse_weights,
    median_weights,
    segmentation_losses,
)


def written_out(logits, masks, weights):
    """Σ weight · −log p(true class) / Σ weight, over labelled pixels."""
    total = count = 0.0
    for b, y, x in np.ndindex(*masks.shape):
        true = int(masks[b, y, x])
        if true == IGNORE_INDEX:
            continue
        pixel = logits[b, :, y, x].double().numpy()
        log_probability = pixel[true] - np.log(np.exp(pixel).sum())
        total -= float(weights[true]) * log_probability
        count += float(weights[true])
    return total / count


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (2, 5, 7), generator=generator)
    masks[0, :2] = IGNORE_INDEX
    return torch.randn(2, 3, 5, 7, generator=generator), masks


def bilinear(logits, size):
    return torch.nn.functional.interpolate(logits, size, mode="bilinear")


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 7.0])])
def test_cross_entropy_follows_its_definition(batch, weights):
    logits, masks = batch
    expected = written_out(logits, masks, weights if weights is not None else torch.ones(3))
    assert cross_entropy(logits, masks, weights).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_loss_zero_and_no_gradient(batch):
    logits = batch[0].requires_grad_()
    for weights in (None, torch.ones(3)):
        loss = cross_entropy(logits, torch.full((2, 5, 7), IGNORE_INDEX), weights)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


def test_every_classifier_has_its_weighted_loss(batch):
    logits, masks = batch
    small = torch.randn(2, 3, 2, 3)
    output = SegmentationOutput(logits, {"position": small, "channel": 2 * small}, 3 * small)
    losses = segmentation_losses(output, masks, bilinear, branch_weight=0.5, auxiliary_weight=0.25)
    assert list(losses) == ["fused", "position", "channel", "auxiliary"]
    for name, weight, factor in (("position", 0.5, 1), ("channel", 0.5, 2), ("auxiliary", 0.25, 3)):
        large = bilinear(factor * small, (5, 7))
        assert losses[name].item() == pytest.approx(weight * cross_entropy(large, masks).item())
    assert losses["fused"].item() == pytest.approx(cross_entropy(logits, masks).item())


COUNTS = torch.tensor([[60, 20, 0, 0], [40, 0, 30, 0]])


def test_enet_weights():
    shares = np.array([100, 20, 30, 0]) / 150
    assert enet_weights(COUNTS).numpy() == pytest.approx(1 / np.log(1.02 + shares), rel=1e-5)


def test_median_weights():
    # A frequency counts the images alone that have the class: road 100 of 150 pixels, car 20 of 80, tree 30 of 70.
    frequency = np.array([100 / 150, 20 / 80, 30 / 70])
    assert median_weights(COUNTS).numpy() == pytest.approx([*(30 / 70 / frequency), 0], rel=1e-5)


def test_inverse_weights():
    assert inverse_weights(COUNTS).numpy() == pytest.approx([150 / 3 / 100, 150 / 3 / 20, 150 / 3 / 30, 0], rel=1e-5)
    assert inverse_weights(torch.tensor([[7, 7]])).tolist() == [1, 1]


@pytest.mark.parametrize("rule", CLASS_WEIGHTS)
def test_no_labels_give_finite_weights(rule):
    assert torch.isfinite(CLASS_WEIGHTS[rule](torch.zeros(2, 3, dtype=torch.int64))).all()
    assert CLASS_WEIGHTS[rule](COUNTS).dtype == torch.float32
