"""The losses against the definition, written out pixel by pixel in float64."""

import weakref

import numpy as np
import pytest
import torch

from danet.data.labels import IGNORE_INDEX
from danet.training.losses import (
    CLASS_WEIGHTS,
    Criterion,
    dice,
    enet_weights,
    inverse_weights,
    lovasz,
    median_weights,
    segmentation_losses,
)


def log_softmax(logits):
    """Of float64 B×K×H×W."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def pixels(logits, masks):
    """(image, true class, log-probabilities) of every labelled pixel, in order."""
    logs = log_softmax(logits.detach().double().numpy())
    for b, y, x in np.ndindex(*masks.shape):
        if (true := int(masks[b, y, x])) != IGNORE_INDEX:
            yield b, true, logs[b, :, y, x]


def written_out_cross_entropy(logits, masks, weights, smoothing=0.0, counts=lambda index: True):
    """Σ over pixels of (1 − ε)·w_y·(−log p_y) + ε/K·Σ_c w_c·(−log p_c), by Σ of w_y over all labelled pixels."""
    total = count = 0.0
    for index, (_, true, log) in enumerate(pixels(logits, masks)):
        count += weights[true]
        if counts(index):
            total -= (1 - smoothing) * weights[true] * log[true]
            total -= smoothing / len(log) * (weights * log).sum()
    return total / count


def written_out_dice(logits, masks):
    """The mean over images of the mean over their classes of 1 − 2 Σ p·y / (Σ p + Σ y)."""
    found = []
    for image in range(len(masks)):
        own = [(true, np.exp(log)) for b, true, log in pixels(logits, masks) if b == image]
        scores = []
        for index in sorted({true for true, _ in own}):
            overlap = sum(p[index] for true, p in own if true == index)
            both = sum(p[index] for _, p in own) + sum(true == index for true, _ in own)
            scores.append(1 - 2 * overlap / both)
        found.append(np.mean(scores) if scores else 0.0)
    return np.mean(found)


def jaccard(wrong, there):
    """The Jaccard loss 1 − |truth ∩ prediction| / |truth ∪ prediction| of a class, given the set of wrong pixels."""
    predicted = {i for i in range(len(there)) if there[i] != (i in wrong)}
    truth = {i for i in range(len(there)) if there[i]}
    union = truth | predicted
    return 1 - len(truth & predicted) / len(union) if union else 0.0


def written_out_lovasz(logits, masks):
    """The mean over images of the mean over their classes of Σ m_i · (Δ({1 … i}) − Δ({1 … i−1})), m descending.

    The definition (Berman et al., equation 9), with the Jaccard loss of sets counted out.
    """
    found = []
    for image in range(len(masks)):
        own = [(true, np.exp(log)) for b, true, log in pixels(logits, masks) if b == image]
        losses = []
        for index in sorted({true for true, _ in own}):
            there = [true == index for true, _ in own]
            errors = [1 - p[index] if true == index else p[index] for true, p in own]
            order = sorted(range(len(own)), key=lambda i: -errors[i])
            wrong, before, loss = set(), 0.0, 0.0
            for i in order:
                wrong.add(i)
                after = jaccard(wrong, there)
                loss += errors[i] * (after - before)
                before = after
            losses.append(loss)
        found.append(np.mean(losses) if losses else 0.0)
    return np.mean(found)


def written_out_hard(logits, masks, threshold, kept):
    """The numbers, among the labelled pixels, of those that count in OHEM."""
    numbered = [(index, b, -log[true]) for index, (b, true, log) in enumerate(pixels(logits, masks))]
    hard = {index for index, _, loss in numbered if np.exp(-loss) < threshold}
    for image in range(len(masks)):
        own = sorted((entry for entry in numbered if entry[1] == image), key=lambda entry: -entry[2])
        hard |= {index for index, _, _ in own[: int(np.ceil(kept * len(own)))]}
    return hard


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (2, 5, 7), generator=generator)
    masks[0, :2] = IGNORE_INDEX
    return torch.randn(2, 4, 5, 7, generator=generator, dtype=torch.float64), masks


WEIGHTS = torch.tensor([0.5, 2.0, 7.0, 1.0], dtype=torch.float64)


def bilinear(logits, size):
    return torch.nn.functional.interpolate(logits, size, mode="bilinear")


def loss_of(batch, **fields):
    criterion = Criterion(**fields)
    return criterion(*batch, criterion.totals(batch[1]).double()).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_follows_its_definition(batch, weights, smoothing):
    expected = written_out_cross_entropy(*batch, (torch.ones(4) if weights is None else weights).numpy(), smoothing)
    found = loss_of(batch, class_weights=weights, label_smoothing=smoothing)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("threshold", "kept"), [(0.2, 0.1), (0.2, 0.9), (1e-9, 0.3), (0.5, 0.0)])
def test_hard_examples_follow_their_definition(batch, weights, threshold, kept):
    hard = written_out_hard(*batch, threshold, kept)
    assert 0 < len(hard) < 60
    numbers = (torch.ones(4) if weights is None else weights).numpy()
    expected = written_out_cross_entropy(*batch, numbers, counts=hard.__contains__)
    assert loss_of(batch, class_weights=weights, ohem=threshold, ohem_kept=kept) == pytest.approx(expected, rel=1e-6)


def test_dice_follows_its_definition(batch):
    plain = loss_of(batch)
    assert loss_of(batch, dice_weight=0.5) - plain == pytest.approx(0.5 * written_out_dice(*batch), rel=1e-5)


def test_lovasz_follows_its_definition(batch):
    plain = loss_of(batch)
    assert loss_of(batch, lovasz_weight=0.5) - plain == pytest.approx(0.5 * written_out_lovasz(*batch), rel=1e-5)


@pytest.mark.parametrize("loss", [dice, lovasz])
def test_the_losses_of_regions_are_0_where_all_is_right_and_1_where_all_is_wrong(batch, loss):
    masks = batch[1]
    right = torch.nn.functional.one_hot(masks.where(masks != IGNORE_INDEX, 0), 4).permute(0, 3, 1, 2) * 100.0
    assert loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    assert loss(right.roll(1, dims=1), masks).item() / len(masks) == pytest.approx(1, abs=1e-6)


ALL = {
    "class_weights": WEIGHTS.float(),
    "label_smoothing": 0.1,
    "ohem": 0.4,
    "ohem_kept": 0.3,
    "dice_weight": 0.7,
    "lovasz_weight": 0.9,
}


def test_gradients_follow_finite_differences(batch):
    """Of everything together; OHEM's choice of pixels is held by the margin between them."""
    criterion = Criterion(**ALL | {"class_weights": WEIGHTS})
    totals = criterion.totals(batch[1]).double()
    logits = batch[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: criterion(x, batch[1], totals), logits, atol=1e-4)


def test_a_batch_without_labels_has_loss_zero_and_no_gradient(batch):
    logits = batch[0].float().requires_grad_()
    masks = torch.full((2, 5, 7), IGNORE_INDEX)
    for fields in ({}, ALL):
        criterion = Criterion(**fields)
        loss = criterion(logits, masks, criterion.totals(masks))
        (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
        assert loss.item() == 0
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("fields", [{}, ALL])
def test_parts_of_a_batch_add_up_to_it(batch, fields):
    """Also parts without any label, which must not count as much as the others."""
    masks = torch.cat([batch[1], torch.full((1, 5, 7), IGNORE_INDEX)])
    logits = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    criterion = Criterion(**fields)
    totals = criterion.totals(masks)
    assert torch.equal(sum(criterion.totals(mask[None]) for mask in masks), totals)
    whole = criterion(logits, masks, totals)
    parts = sum(criterion(one[None], mask[None], totals) for one, mask in zip(logits, masks, strict=True))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (whole, parts)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)


def test_every_classifier_has_its_weighted_loss(batch):
    logits, masks = batch
    small = torch.randn(2, 4, 2, 3)
    given = {"fused": logits, "position": small, "channel": 2 * small, "auxiliary": 3 * small}
    criterion = Criterion()
    losses = segmentation_losses(given, masks, bilinear, criterion, branch_weight=0.5, auxiliary_weight=0.25)
    assert list(losses) == ["fused", "position", "channel", "auxiliary"]
    totals = criterion.totals(masks)
    for name, weight, factor in (("position", 0.5, 1), ("channel", 0.5, 2), ("auxiliary", 0.25, 3)):
        expected = criterion(bilinear(factor * small, (5, 7)), masks, totals)
        assert losses[name].item() == pytest.approx(weight * expected.item())
    assert losses["fused"].item() == pytest.approx(criterion(logits, masks, totals).item())


class Kept:
    """What autograd keeps of a tensor; it is gone with the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_nothing_of_the_images_size_is_kept_for_the_backward_pass():
    small = {name: torch.randn(1, 19, 8, 8, requires_grad=True) for name in ("fused", "position", "channel")}
    masks = torch.randint(0, 19, (1, 64, 64))
    noted = []

    def note(tensor):
        kept = Kept(tensor)
        noted.append((weakref.ref(kept), tensor.numel()))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept.tensor):
        losses = segmentation_losses(small, masks, bilinear, Criterion())
    assert max(size for _, size in noted) >= 19 * 64 * 64  # it was there, one classifier after the other
    assert sum(size for kept, size in noted if kept() is not None) < 64 * 64
    torch.stack(list(losses.values())).sum().backward()
    for logits in small.values():
        (expected,) = torch.autograd.grad(
            Criterion()(bilinear(logits, (64, 64)), masks, Criterion().totals(masks)), logits
        )
        assert torch.allclose(logits.grad, expected, rtol=1e-5, atol=1e-9)


def test_small_gradients_of_half_precision_outlast_the_images_size():
    """The gradient is taken before a scaler enlarges it, and must not vanish there."""
    small = torch.randn(1, 3, 4, 4).half().requires_grad_()
    masks = torch.randint(0, 3, (1, 256, 256))
    totals = Criterion().totals(masks) * 2**20  # as a small part of a large batch
    (loss,) = segmentation_losses({"fused": small}, masks, bilinear, Criterion(), totals).values()
    (2.0**16 * loss).backward()
    assert small.grad.dtype == torch.float16
    assert small.grad.abs().min() > 0


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
