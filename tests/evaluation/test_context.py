"""The context score, by segmenters of which one knows what they look at."""

from types import SimpleNamespace

import numpy as np
import pytest

from danet.data.dataset import Dataset
from danet.data.scenes import PAVEMENT, ROAD
from danet.data.sources import scenes
from danet.evaluation.context import context_scores

COUNT = 3
SPLITS = ("val", "twins", "control")


@pytest.fixture(scope="module")
def sets() -> dict[str, Dataset]:
    return {split: Dataset(*scenes(split, COUNT, 48, 64)) for split in SPLITS}


class Knowing:
    """A segmenter that knows each picture, and answers with a function of its split, its index and all true masks."""

    def __init__(self, sets, answer):
        self.labels = sets["val"].labels
        self.masks = {split: [sample.mask.numpy() for sample in dataset] for split, dataset in sets.items()}
        self.known = {
            dataset[index].image.permute(1, 2, 0).numpy().tobytes(): (split, index)
            for split, dataset in sets.items()
            for index in range(COUNT)
        }
        self.answer = answer
        self.given: list[tuple[str, int, np.ndarray]] = []

    def predict(self, image):
        split, index = self.known[image.tobytes()]
        labels = self.answer(self.masks, split, index)
        self.given.append((split, index, labels))
        return SimpleNamespace(labels=labels)


def swapped(labels):
    """Road as pavement, and pavement as road."""
    return np.where(np.isin(labels, (ROAD, PAVEMENT)), np.uint8(ROAD + PAVEMENT) - labels, labels)


def scored(sets, answer, progress=None):
    segmenter = Knowing(sets, answer)
    return context_scores(segmenter, *(sets[split] for split in SPLITS), progress), segmenter


def test_who_knows_the_truth_follows_the_twins(sets):
    told = []
    scores, _ = scored(sets, lambda masks, split, index: masks[split][index], lambda *now: told.append(now))
    assert (scores.context, scores.follows, scores.stays, scores.control) == (1, 1, 0, 1)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_who_sees_only_the_paving_stays(sets):
    """The same answer for a street and its twin: it may be right in one of them, never in both."""
    scores, _ = scored(sets, lambda masks, split, index: masks["val"][index])
    assert (scores.context, scores.follows, scores.stays) == (1, 0, 1)


def test_who_is_always_wrong_neither_follows_nor_stays(sets):
    scores, _ = scored(sets, lambda masks, split, index: swapped(masks[split][index]))
    assert (scores.context, scores.follows, scores.stays, scores.control) == (0, 0, 0, 0)


def test_who_says_road_everywhere_has_the_roads_share(sets):
    scores, segmenter = scored(sets, lambda masks, split, index: np.full_like(masks[split][index], ROAD))
    shares = {}
    for split in ("val", "control"):
        regions = [far(mask) for mask in segmenter.masks[split]]
        shares[split] = np.concatenate([m[r] for m, r in zip(segmenter.masks[split], regions, strict=True)]) == ROAD
    assert scores.context == pytest.approx(shares["val"].mean())
    assert scores.majority == pytest.approx(max(shares["val"].mean(), 1 - shares["val"].mean()))
    assert scores.control == pytest.approx(shares["control"].mean())
    assert scores.control_majority == pytest.approx(max(shares["control"].mean(), 1 - shares["control"].mean()))
    assert (scores.follows, scores.stays) == (0, 1)


def far(mask):
    """The ground more than 40 pixels, at 192 rows, from every thing, by all distances."""
    things, pixels = np.argwhere(~np.isin(mask, (0, 1, 3, 4, 7))), np.indices(mask.shape).reshape(2, -1).T
    away = np.ones(mask.size, bool)
    if len(things):
        away = ((pixels[:, None] - things) ** 2).sum(2).min(1) > (40 * mask.shape[0] / 192) ** 2
    return away.reshape(mask.shape) & np.isin(mask, (ROAD, PAVEMENT))


def test_scores_follow_their_definitions(sets):
    generator = np.random.Generator(np.random.Philox(0))

    def guess(masks, split, index):
        return generator.choice(np.array([ROAD, PAVEMENT, PAVEMENT, 0], np.uint8), masks[split][index].shape)

    scores, segmenter = scored(sets, guess)
    said = {(split, index): labels for split, index, labels in segmenter.given}
    right, exchanged, bare = [], [], []
    for index in range(COUNT):
        street, twin, empty = (segmenter.masks[split][index] for split in SPLITS)
        one, other, plain = (said[split, index] for split in SPLITS)
        right.append((one == street)[far(street)])
        bare.append((plain == empty)[far(empty)])
        both = far(street) & far(twin) & (street != twin)
        exchanged.append(np.stack([(one == street) & (other == twin), one == other])[:, both])
    follows, stays = np.concatenate(exchanged, axis=1).mean(axis=1)
    assert scores.context == pytest.approx(np.concatenate(right).mean())
    assert scores.control == pytest.approx(np.concatenate(bare).mean())
    assert (scores.follows, scores.stays) == (pytest.approx(follows), pytest.approx(stays))
    assert 0.05 < follows < 0.35
    assert 0.05 < stays < 0.6


def test_without_far_pixels_the_shares_are_0():
    """Scenes so small that a thing is never far: nothing to be right about, and no division by it."""
    everywhere = np.full((48, 64), 8, np.uint8)

    def item(name):
        return SimpleNamespace(name=name, mask="", load=lambda: (np.zeros((48, 64, 3), np.uint8), everywhere))

    labels = scenes("val", 1, 48, 64)[1]
    sets = {split: Dataset([item(split)], labels) for split in SPLITS}
    segmenter = SimpleNamespace(labels=labels, predict=lambda image: SimpleNamespace(labels=everywhere))
    assert set(context_scores(segmenter, *sets.values())) == {0.0}
