"""The losses of DANet: cross-entropy on each of its classifiers, summed (paper, section 4.1)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from danet.data.labels import IGNORE_INDEX
from danet.models.segmentation import SegmentationOutput


def segmentation_losses(
    output: SegmentationOutput,
    masks: Int64[Tensor, "b H W"],
    enlarge: Callable[[Tensor, torch.Size], Tensor],
    *,
    class_weights: Float[Tensor, " k"] | None = None,
    branch_weight: float = 1.0,
    auxiliary_weight: float = 0.4,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted loss of each classifier by name ("fused", "position", …); training minimises their sum.

    `enlarge` brings logits at the features' size to the masks', as SegmentationModel.enlarge does.
    """
    size = masks.shape[-2:]
    losses = {"fused": cross_entropy(output.logits, masks, class_weights)}
    for name, logits in output.branches.items():
        losses[name] = branch_weight * cross_entropy(enlarge(logits, size), masks, class_weights)
    if output.auxiliary is not None:
        logits = enlarge(output.auxiliary, size)
        losses["auxiliary"] = auxiliary_weight * cross_entropy(logits, masks, class_weights)
    return losses


def cross_entropy(
    logits: Float[Tensor, "b k H W"], masks: Int64[Tensor, "b H W"], class_weights: Float[Tensor, " k"] | None = None
) -> Float[Tensor, ""]:
    """Mean over the labelled pixels, each counted by its class's weight; 0 (not NaN) where no pixel is labelled."""
    total = F.cross_entropy(logits, masks, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    labelled = masks[masks != IGNORE_INDEX]
    count = labelled.numel() if class_weights is None else class_weights[labelled].sum()
    return total / torch.as_tensor(count, dtype=total.dtype, device=total.device).clamp_min(1e-6)


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
