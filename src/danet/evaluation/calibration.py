"""What probabilities are worth: the calibration of confidence, and the loss of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from danet.data.labels import IGNORE_INDEX

BINS = 15
"""Of the label's confidence, of equal width (Guo et al., 2017)."""


def mean_loss(probabilities: Float[Tensor, "k h w"], truth: UInt8[np.ndarray, "h w"]) -> float | None:
    """The cross entropy of the true class, in nats, as a mean over the pixels that count; None where none does.

    A probability below the least normal float32 counts as that, so that the loss is finite: at most 87.3.
    """
    counted = truth != IGNORE_INDEX
    true = torch.from_numpy(np.where(counted, truth, 0)).long()[None]
    found = probabilities.gather(0, true)[0][torch.from_numpy(counted)].double()
    return -found.clamp(min=torch.finfo(torch.float32).tiny).log().mean().item() if counted.any() else None


def calibration_counts(
    confidence: Float[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"]
) -> tuple[Int64[np.ndarray, "2 bins"], Float64[np.ndarray, " bins"]]:
    """By bin of confidence (lower bounds belong to their bin): the pixels, those that are right; and the sum of
    confidence."""
    counted = truth != IGNORE_INDEX
    sure, right = confidence[counted], (prediction == truth)[counted]
    places = np.searchsorted(np.linspace(0, 1, BINS + 1, dtype=np.float32)[1:-1], sure, side="right")
    pixels = np.stack([np.bincount(places, minlength=BINS), np.bincount(places[right], minlength=BINS)])
    return pixels, np.bincount(places, sure, BINS).astype(np.float64)  # it sums in float64


@dataclass(frozen=True)
class Calibration:
    """What `calibration_counts`, summed over images, say."""

    pixels: Int64[np.ndarray, "2 bins"]
    confidence: Float64[np.ndarray, " bins"]

    @property
    def error(self) -> float | None:
        """The expected calibration error: |accuracy − mean confidence| of each bin, weighted by its pixels; None where
        there are none."""
        pixels = int(self.pixels[0].sum())
        return float(np.abs(self.pixels[1] - self.confidence).sum()) / pixels if pixels else None

    def to_dict(self) -> dict[str, Any]:
        """The error, and the bins, as JSON values; an empty bin has neither accuracy nor confidence."""
        bins = [
            {
                "from": index / BINS,
                "pixels": int(count),
                "accuracy": int(right) / int(count) if count else None,
                "confidence": float(sure) / int(count) if count else None,
            }
            for index, (count, right, sure) in enumerate(zip(*self.pixels, self.confidence, strict=True))
        ]
        return {"error": self.error, "bins": bins}
