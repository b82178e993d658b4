"""Scenes are the same everywhere, right to the pixel, and tell road from pavement by context alone."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from danet.data.scenes import (
    FOCAL,
    PAVEMENT,
    ROAD,
    SKY,
    STANDS_ON,
    THINGS,
    Dice,
    Scene,
    Street,
    scene,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scenes.json").read_text())


@cache
def scenes(seed: int, count: int) -> list[Scene]:
    return [scene(seed, index, 96, 128) for index in range(count)]


def ground(labels: np.ndarray) -> np.ndarray:
    return np.isin(labels, (ROAD, PAVEMENT))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["arguments"]))
def test_the_same_bytes_on_every_machine(golden):
    drawn = scene(**golden["arguments"])
    assert hashlib.sha256(drawn.image.tobytes() + drawn.labels.tobytes()).hexdigest() == golden["sha256"]


def test_drawing_leaves_no_trace():
    first = scene(1, 2)
    scene(3, 4, 50, 60)
    again = scene(1, 2)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)


def test_every_seed_and_index_has_its_own_scene():
    pictures = {scene(seed, index, 32, 40).image.tobytes() for seed in range(6) for index in range(6)}
    assert len(pictures) == 36


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (32, 301), (301, 32), (360, 480)])
def test_any_size(height, width):
    for index in range(3):
        drawn = scene(5, index, height, width)
        assert drawn.image.shape == (height, width, 3)
        assert drawn.image.dtype == drawn.labels.dtype == np.uint8
        assert drawn.labels.shape == drawn.far.shape == (height, width)
        assert drawn.labels.max() <= 10


def test_a_larger_picture_shows_the_same_street():
    for index in range(6):
        small, large = scene(6, index, 60, 80).labels, scene(6, index, 180, 240).labels
        assert (small == large[1::3, 1::3]).mean() > 0.95


def test_every_pixel_is_painted():
    """Sky is only above the horizon: no gap between ground, walls and houses."""
    for index, drawn in enumerate(scenes(0, 80)):
        horizon = Street(Dice(0, index)).horizon * 96
        assert not (drawn.labels[int(horizon) + 2 :] == SKY).any()


def test_every_class_occurs_often():
    counts = np.array([np.bincount(drawn.labels.ravel(), minlength=11) for drawn in scenes(0, 80)])
    assert ((counts > 10).mean(axis=0) > 0.5).all()  # more than 10 pixels, in more than half of the scenes
    assert (counts.sum(axis=0) / counts.sum() > 0.003).all()


def test_neither_colour_nor_place_tells_road_from_pavement():
    """Two classifiers that see no context: the most frequent class of each colour, and of each place."""
    train, test = scenes(0, 80), scenes(1, 60)

    def colour(drawn: Scene) -> np.ndarray:
        r, g, b = (drawn.image // 32).astype(np.int64).transpose(2, 0, 1)
        return (r * 8 + g) * 8 + b

    def place(drawn: Scene) -> np.ndarray:
        return np.arange(drawn.labels.size).reshape(drawn.labels.shape)

    truth = np.concatenate([drawn.labels.ravel() for drawn in test])
    majority = max(np.mean(truth[ground(truth)] == role) for role in (ROAD, PAVEMENT))
    for feature in colour, place:
        votes = np.zeros((96 * 128, 11), np.int64)  # as many places as there are pixels; 512 colours
        for drawn in train:
            np.add.at(votes, (feature(drawn), drawn.labels), 1)
        seen = np.concatenate([feature(drawn).ravel() for drawn in test])

        guess = votes.argmax(axis=1)[seen]
        confusion = np.bincount(truth * 11 + guess, minlength=121).reshape(11, 11)
        iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
        assert iou[SKY] > 0.4  # it does learn what can be learnt
        assert iou.mean() < 0.5

        role = np.where(votes[:, ROAD] > votes[:, PAVEMENT], ROAD, PAVEMENT)[seen]
        assert np.mean(role[ground(truth)] == truth[ground(truth)]) < majority + 0.05


def test_a_twin_exchanges_the_roles_of_the_same_street():
    kept = []
    for index, drawn in enumerate(scenes(2, 30)):
        twin = scene(2, index, 96, 128, twin=True)
        both = ground(drawn.labels) & ground(twin.labels)
        kept.append(both.sum() / max(ground(drawn.labels).sum(), ground(twin.labels).sum()))
        assert (drawn.labels[both] + twin.labels[both] == ROAD + PAVEMENT).all()
        assert (
            np.isclose(drawn.image[both], twin.image[both], atol=1).all(axis=1).mean() > 0.75
        )  # the same paving; shadows of things moved
        still = ~np.isin(drawn.labels, THINGS) & ~np.isin(twin.labels, THINGS) & ~both
        assert np.array_equal(drawn.labels[still], twin.labels[still])
    assert np.mean(kept) > 0.93
    assert min(kept) > 0.85


def test_without_things_there_is_no_evidence():
    for index in range(20):
        bare = scene(3, index, 96, 128, things=False)
        assert not np.isin(bare.labels, THINGS).any()
        a, b = bare.image, scene(3, index, 96, 128, twin=True, things=False).image
        assert np.array_equal(a, b)  # one picture, two answers


def test_things_stand_where_they_belong():
    for twin in (False, True):
        for index in range(20):
            street, bare = Street(Dice(0, index), twin), scene(0, index, 96, 128, twin=twin, things=False).labels
            for thing in street.things:
                assert thing.label in STANDS_ON[street.role(thing.x, thing.z)]
                row = int(96 * street.horizon + 128 * FOCAL * street.eye / thing.z)
                column = int(128 * (street.vanish + FOCAL * thing.x / thing.z))
                if thing.z < 16 and row < 96:  # farther away a row is metres deep
                    assert thing.label in STANDS_ON[bare[row, column]]


def test_every_scene_has_evidence_for_both_roles():
    for drawn in scenes(0, 80) + scenes(1, 60):
        for kinds in STANDS_ON.values():
            assert np.isin(drawn.labels, kinds).sum() > 30


def test_far_is_the_distance_to_the_nearest_thing():
    for index in range(4):
        drawn = scene(4, index, 48, 64)
        things, pixels = np.argwhere(np.isin(drawn.labels, THINGS)), np.indices((48, 64)).reshape(2, -1).T
        squares = ((pixels[:, None] - things) ** 2).sum(axis=2).min(axis=1).reshape(48, 64)
        assert np.array_equal(drawn.far, ground(drawn.labels) & (squares > (40 * 48 / 192) ** 2))
        assert drawn.far.any()


def test_far_without_things_is_all_the_ground():
    bare = scene(4, 0, 48, 64, things=False)
    assert np.array_equal(bare.far, ground(bare.labels))


def test_much_of_the_ground_is_far():
    shares = [drawn.far.sum() / ground(drawn.labels).sum() for drawn in scenes(0, 80)]
    assert np.mean(shares) > 0.25
    assert np.mean(np.array(shares) > 0.1) > 0.9
