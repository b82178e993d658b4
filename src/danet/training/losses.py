"""The losses of DANet: cross-entropy on each of its classifiers, summed (paper, section 4.1), and what may join it.

A loss is a sum over pixels or images divided by totals that are known beforehand, so that parts of a batch, one after
the other or on several processes, add up to the whole batch's loss and gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from danet.data.labels import IGNORE_INDEX

Totals = Float[Tensor, "2"]
"""What a batch's sums are divided by: the weight of its labelled pixels, and its number of images."""


@dataclass(frozen=True)
class Criterion:
    """The loss of one classifier: cross-entropy, of the hard pixels alone where `ohem` says so, Dice and Lovász.

    The fields are those of danet.config.OptimConfig; class_weights: one weight a class.
    """

    class_weights: Float[Tensor, " k"] | None = None
    label_smoothing: float = 0.0
    ohem: float = 0.0
    ohem_kept: float = 0.1
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0

    def totals(self, masks: Int64[Tensor, "b H W"]) -> Totals:
        """The Totals of `masks`; those of a batch's parts add up to the batch's."""
        labelled = masks[masks != IGNORE_INDEX]
        weight = torch.tensor(labelled.numel()) if self.class_weights is None else self.class_weights[labelled].sum()
        return torch.stack([weight.to(masks.device), torch.tensor(len(masks), device=masks.device)]).float()

    def __call__(
        self, logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"], totals: Totals
    ) -> Float[Tensor, ""]:
        """The loss of these images as a part of a batch with `totals`; 0 (not NaN) where no pixel is labelled."""
        pixels, images = totals.clamp_min(1e-6)
        loss = self.cross_entropy(logits, masks) / pixels
        if self.dice_weight:
            loss = loss + self.dice_weight * dice(logits, masks) / images
        if self.lovasz_weight:
            loss = loss + self.lovasz_weight * lovasz(logits, masks) / images
        return loss

    def cross_entropy(self, logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"]) -> Float[Tensor, ""]:
        """The sum over the labelled pixels, each counted by its class's weight; with `ohem` over the hard ones."""
        options = {"weight": self.class_weights, "label_smoothing": self.label_smoothing, "ignore_index": IGNORE_INDEX}
        if not self.ohem:
            return F.cross_entropy(logits, masks, reduction="sum", **options)
        hard = hard_pixels(logits.detach(), masks, self.ohem, self.ohem_kept)
        return (F.cross_entropy(logits, masks, reduction="none", **options) * hard).sum()


def segmentation_losses(
    logits: Mapping[str, Float[Tensor, "b k _ _"]],
    masks: Int64[Tensor, "b H W"],
    enlarge: Callable[[Tensor, torch.Size], Tensor],
    criterion: Criterion,
    totals: Totals | None = None,
    *,
    branch_weight: float = 1.0,
    auxiliary_weight: float = 0.4,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted loss of each classifier by name ("fused", "position", …); training minimises their sum.

    logits: at the features' size, as SegmentationModel.classify gives them; `enlarge` brings them to the masks', as
    SegmentationModel.enlarge does, one classifier after the other, and the gradient is taken there and then: what is
    that large is kept for no backward pass. totals: the batch's, of which these images may be a part.
    """
    totals = criterion.totals(masks) if totals is None else totals
    weights = {"fused": 1.0, "auxiliary": auxiliary_weight}

    def loss(small: Tensor) -> Tensor:
        return criterion(enlarge(small, masks.shape[-2:]), masks, totals)

    return {name: weights.get(name, branch_weight) * _AtOnce.apply(small, loss) for name, small in logits.items()}


class _AtOnce(torch.autograd.Function):
    """A loss whose gradient is computed together with it: as sparing as a checkpoint, without a second pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        # Not in half precision, in which a gradient that no scaler has enlarged yet may vanish; and class by class
        # while small: enlarged channels last, torch's softmax would copy it each way.
        precise = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).contiguous()
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            value = loss(precise.requires_grad_())
            (ctx.grad,) = torch.autograd.grad(value, precise)
        ctx.type = logits.dtype
        return value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad * ctx.grad).to(ctx.type), None


@torch.no_grad()
def hard_pixels(
    logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"], threshold: float, kept: float
) -> Float[Tensor, "b H W"]:
    """1 for the pixels that count in online hard example mining, else 0.

    They are those whose true class has less than `threshold` probability, and in any case the share `kept` of an
    image's labelled pixels that are hardest. As in mmsegmentation's OHEMPixelSampler (mmseg/structures/sampler), but
    image by image, so that a batch may be cut into parts; there too the others count 0 and the mean is over all.
    """
    surprise = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="none")
    hard = torch.zeros_like(surprise)
    for one, mask, found in zip(surprise, masks, hard, strict=True):
        labelled = mask != IGNORE_INDEX
        count = math.ceil(kept * int(labelled.sum()))
        least = one[labelled].topk(count).values[-1] if count else one.new_tensor(math.inf)
        found[labelled & ((one > -math.log(threshold)) | (one >= least))] = 1
    return hard


def dice(logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Σ over images of 1 − 2 Σ p·y / (Σ p + Σ y), the mean over the classes that the image has.

    y is the truth as 0 and 1, sums are over the labelled pixels (soft Dice: Milletari et al., 2016, section 3, with the
    plain sums that are usual since).
    """
    total = logits.new_zeros(())
    for probabilities, truth in _labelled(logits, masks):
        there = torch.bincount(truth, minlength=len(probabilities))
        own = probabilities.gather(0, truth[None])[0]
        overlap = torch.zeros_like(probabilities[:, 0]).index_add(0, truth, own)
        score = 2 * overlap / (probabilities.sum(1) + there).clamp_min(1e-6)
        total = total + (1 - score)[there > 0].mean()
    return total


def lovasz(logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Σ over images of the Lovász-softmax loss, the mean over the classes that the image has.

    The Jaccard loss of a class, extended from sets of wrong pixels to their errors (Berman et al., CVPR 2018, equations
    8 to 12 and algorithm 1; `classes="present", per_image=True` in their code).
    """
    total = logits.new_zeros(())
    for probabilities, truth in _labelled(logits, masks):
        classes = truth.unique()
        for index in classes:
            there = (truth == index).to(probabilities.dtype)
            errors, order = (there - probabilities[index]).abs().sort(descending=True)
            total = total + errors @ _jaccard_steps(there[order]) / len(classes)
    return total


def _jaccard_steps(there: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How much the Jaccard loss grows with each further wrong pixel, the pixels in descending order of their errors."""
    count = there.sum()
    jaccard = 1 - (count - there.cumsum(0)) / (count + (1 - there).cumsum(0))
    return jaccard.diff(prepend=jaccard.new_zeros(1))


def _labelled(
    logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"]
) -> list[tuple[Float[Tensor, "k n"], Int64[Tensor, " n"]]]:
    """Probabilities and truth of each image's labelled pixels; images without any are left out."""
    precise = logits if logits.dtype == torch.float64 else logits.float()
    pairs = zip(precise.softmax(1), masks, masks != IGNORE_INDEX, strict=True)
    return [(probabilities[:, valid], mask[valid]) for probabilities, mask, valid in pairs if valid.any()]


def enet_weights(counts: Int64[Tensor, "n k"], spread: float = 1.02) -> Float[Tensor, " k"]:
    """ENet's class weights, 1 / ln(1.02 + share of the class's pixels) (Paszke et al., 2016, section 5.2).

    counts, here and below: pixels of each class in each image.
    """
    pixels = counts.sum(0)
    return 1 / torch.log(spread + pixels / pixels.sum().clamp_min(1))


def median_weights(counts: Int64[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Median frequency balancing (Eigen and Fergus, 2015, section 6.3.2; SegNet): median of all frequencies / own one.

    A class's frequency is its share of the labelled pixels of the images that have it. A class without pixels, which
    no loss counts, has weight 0.
    """
    around = (counts.sum(1, keepdim=True) * (counts > 0)).sum(0)
    frequency = counts.sum(0) / around.clamp_min(1)
    present = frequency > 0
    middle = torch.quantile(frequency[present], 0.5) if present.any() else 0.0
    return torch.where(present, middle / frequency, 0.0)


def inverse_weights(counts: Int64[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """1 / share of the class's pixels, in units of its mean over the classes' pixels: all classes count the same.

    A class without pixels has weight 0.
    """
    pixels = counts.sum(0)
    present = pixels > 0
    return torch.where(present, pixels.sum() / (present.sum() * pixels), 0.0)


CLASS_WEIGHTS = {"enet": enet_weights, "median": median_weights, "inverse": inverse_weights}
"""The rules by the names of optim.class_weights, each from images' counts of pixels to a weight a class."""
