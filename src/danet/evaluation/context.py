"""The context score: road and pavement where only what stands far away tells which is which, in drawn scenes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from danet.data.dataset import Dataset
from danet.data.parallel import Progress
from danet.data.scenes import far_from_things
from danet.evaluation.metrics import Scores, confusion_matrix
from danet.inference.segmenter import Segmenter


class ContextScores(NamedTuple):
    """Accuracy on the far pixels (`scenes.far_from_things`), and what it has to be measured by; all of 0 to 1.

    `majority`: the share of the commoner class there, which one has without looking. `follows`: of the pixels that are
    far in a scene and in its twin, where the roles are exchanged, the share that is right in both; `stays`: the share
    that is named alike in both. `control`: the accuracy on ground without any things, where nobody can know, and
    `control_majority` the majority there. Where there are no such pixels, each is 0.
    """

    context: float
    majority: float
    follows: float
    stays: float
    control: float
    control_majority: float


def context_scores(
    segmenter: Segmenter, scenes: Dataset, twins: Dataset, control: Dataset, progress: Progress | None = None
) -> ContextScores:
    """Score `segmenter` on scenes, their twins (the same streets, item by item) and their control."""
    classes = segmenter.labels.names
    plain, bare = np.zeros((2, len(classes), len(classes)), np.int64)
    exchanged = follows = stays = 0
    for index in range(len(scenes)):
        (truth, labels, far), (other, other_labels, other_far), (bare_truth, bare_labels, bare_far) = (
            _predicted(segmenter, dataset, index) for dataset in (scenes, twins, control)
        )
        plain += confusion_matrix(labels, truth, len(classes), far)
        bare += confusion_matrix(bare_labels, bare_truth, len(classes), bare_far)
        shared = far & other_far & (truth != other)
        exchanged += int(shared.sum())
        follows += int(((labels == truth) & (other_labels == other))[shared].sum())
        stays += int((labels == other_labels)[shared].sum())
        if progress is not None:
            progress(index + 1, len(scenes))
    there, without = Scores(classes, plain), Scores(classes, bare)
    return ContextScores(
        there.pixel_accuracy or 0.0,
        there.majority or 0.0,
        follows / max(exchanged, 1),
        stays / max(exchanged, 1),
        without.pixel_accuracy or 0.0,
        without.majority or 0.0,
    )


def _predicted(
    segmenter: Segmenter, dataset: Dataset, index: int
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Truth, prediction and far pixels of one scene."""
    sample = dataset[index]
    truth = sample.mask.numpy()
    return truth, segmenter.predict(sample.pixels).labels, far_from_things(truth)
