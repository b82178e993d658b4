"""Classes counted once, and crops drawn by class: what is drawn, and that nothing else decides it."""

import os
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from danet.data.dataset import Dataset, EpochBatches, Item
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.sampling import by_class, class_counts
from danet.data.sources import folder
from danet.data.transforms import MOST_DRAWS, collate, largest_share, training_transform
from danet.errors import InputError
from danet.weights.zoo import cache_folder
from tests.data.trees import save_folder, save_mask

LABELS = LabelSpace("any", ("road", "car", "tree"))


def rare(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Road everywhere; a car of 8×8 pixels in every tenth image; a tree in none."""
    mask = np.zeros((80, 100), np.uint8)
    if index % 10 == 3:
        mask[5:13, 60:68] = 1
    return np.repeat(mask[..., None], 3, 2), mask


class Rare:
    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        return rare(self.index)


def balanced(count: int = 20, seed: int = 5, **settings) -> Dataset:
    items = [Item(f"rare {index}", Rare(index)) for index in range(count)]
    dataset = Dataset(items, LABELS, training_transform((32, 40), **settings), seed)
    dataset.draw = by_class(class_counts(dataset), LABELS.num_classes)
    return dataset


def test_classes_and_then_their_images_are_drawn_evenly():
    dataset = balanced()
    samples = [dataset[(epoch, index)] for epoch in range(20) for index in range(20)]
    names = Counter(sample.name for sample in samples)
    cars = sum(bool((sample.mask == 1).any()) for sample in samples)
    assert set(names) == {f"rare {index}" for index in range(20)}
    assert 180 < cars < 280, "half of all are drawn for their car, which two of twenty images have"
    assert min(names["rare 3"], names["rare 13"]) > 80
    assert max(count for name, count in names.items() if name not in ("rare 3", "rare 13")) < 30


def test_the_centre_is_a_pixel_of_the_class():
    mask = np.zeros((200, 240), np.uint8)
    mask[90:94, 120:125] = 2
    dataset = Dataset([Item("one", lambda: (np.repeat(mask[..., None], 3, 2), mask))], LABELS)
    dataset.transform, dataset.draw = training_transform((40, 50), (0.7, 1.4), flip=0.0), lambda: (0, 2)
    samples = [dataset[(epoch, 0)].mask for epoch in range(40)]
    for sample in samples:
        assert (sample[19:22, 24:27] == 2).any()  # scaling rounds by a pixel
    assert len({sample.numpy().tobytes() for sample in samples}) > 20


def test_balanced_samples_follow_from_seed_epoch_and_index_alone():
    def batches(workers: int, start: int = 0, count: int = 6) -> list:
        dataset = balanced(scale=(0.7, 1.5), photometric=0.3, max_class_share=0.9)
        order = EpochBatches(len(dataset), 8, 5, start)
        return list(islice(DataLoader(dataset, batch_sampler=order, num_workers=workers, collate_fn=collate), count))

    whole = batches(0)
    for other, expected in ((batches(2), whole), (batches(0, 3, 3), whole[3:])):
        for first, second in zip(other, expected, strict=True):
            assert torch.equal(first[0], second[0])
            assert torch.equal(first[1], second[1])
            assert first[2] == second[2]
    assert len({name for batch in whole for name in batch[2]}) > 5


def test_a_bad_file_met_in_a_worker_names_itself_when_drawn_by_class(tmp_path):
    items, labels = folder(save_folder(tmp_path, list("abcd"), "train"), "train")
    dataset = Dataset(items, labels, training_transform((32, 40)))
    dataset.draw = by_class(class_counts(dataset), 3)
    for name in "abcd":
        (tmp_path / "images/train" / f"{name}.png").write_bytes(b"no image")
    loader = DataLoader(dataset, batch_sampler=EpochBatches(4, 2, 0), num_workers=1, collate_fn=collate)
    with pytest.raises(InputError, match=r"train.[abcd]\.png cannot be read: it is no image"):
        next(iter(loader))


def test_a_class_that_went_from_its_mask_leaves_a_random_crop():
    dataset = balanced(flip=0.0)
    dataset.draw = lambda: (0, 2)
    assert dataset[(0, 0)].mask.shape == (32, 40)


def test_crops_of_one_class_are_drawn_again():
    def most(limit: float) -> list[float]:
        mask = torch.zeros(90, 90, dtype=torch.uint8)
        mask[:, 60:], mask[:20] = 1, IGNORE_INDEX
        items = [Item("half", lambda: (np.zeros((90, 90, 3), np.uint8), mask.numpy()))]
        dataset = Dataset(items, LABELS, training_transform((32, 32), flip=0.0, max_class_share=limit))
        return [largest_share(dataset[(epoch, 0)].mask.as_subclass(torch.Tensor)) for epoch in range(100)]

    free, bounded = most(1.0), most(0.8)
    assert np.mean([share > 0.8 for share in free]) > 0.4
    assert np.mean([share > 0.8 for share in bounded]) < 0.05
    assert MOST_DRAWS == 10


def test_a_crop_that_cannot_be_better_is_kept():
    mask = np.full((40, 40), IGNORE_INDEX, np.uint8)
    dataset = Dataset([Item("void", lambda: (np.zeros((40, 40, 3), np.uint8), mask))], LABELS)
    dataset.transform = training_transform((32, 32), max_class_share=0.5)
    assert (dataset[0].mask == IGNORE_INDEX).all()
    assert largest_share(torch.full((4, 4), IGNORE_INDEX, dtype=torch.uint8)) == 1
    assert largest_share(torch.tensor([[0, 0, 2, 255]], dtype=torch.uint8)) == pytest.approx(2 / 3)


def test_without_any_label_there_is_nothing_to_draw():
    counts = np.zeros((3, 256), np.int64)
    counts[:, IGNORE_INDEX] = 9
    with pytest.raises(InputError, match="None of the 3 masks has a labelled pixel"):
        by_class(counts, 3)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Dataset:
    monkeypatch.setenv("DANET_CACHE", str(tmp_path / "cache"))
    return Dataset(*folder(save_folder(tmp_path / "data", list("abc"), "train"), "train"))


def kept() -> list[Path]:
    return sorted(cache_folder().rglob("*.npz"))


def test_counts_are_those_of_the_masks_and_are_counted_once(files, monkeypatch):
    seen: list[int] = []
    arrays = Dataset.arrays
    monkeypatch.setattr(Dataset, "arrays", lambda self, index: seen.append(index) or arrays(self, index))
    counts = class_counts(files, workers=2)
    expected = np.stack([np.bincount(np.asarray(Image.open(item.mask)).ravel(), minlength=256) for item in files.items])
    assert np.array_equal(counts, expected)
    assert sorted(seen) == [0, 1, 2]
    assert np.array_equal(class_counts(files), counts)
    assert len(seen) == 3
    class_counts(files, reading="other channels")
    assert len(seen) == 6
    assert [path.suffix for path in cache_folder().rglob("*") if path.is_file()] == [".npz", ".npz"]


@pytest.mark.parametrize("change", ["size", "time", "image", "labels", "fewer", "damaged"])
def test_whatever_changed_is_counted_again(files, tmp_path, change):
    before = class_counts(files)
    mask = Path(files.items[1].mask)
    match change:
        case "size":
            save_mask(mask, np.full((40, 48), 2, np.uint8))
        case "time" | "image":
            path, values = (mask if change == "time" else Path(files.items[1].name)), np.full((40, 48), 1, np.uint8)
            save_mask(mask, values)
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case "labels":
            files = Dataset(files.items, LabelSpace("other", ("all", "rest"), ids={0: 0, 1: 0, 2: 1}))
        case "fewer":
            files = Dataset(files.items[:2], files.labels)
        case "damaged":
            kept()[0].write_bytes(kept()[0].read_bytes()[:50])
    after = class_counts(files)
    assert np.array_equal(after, before) == (change == "damaged")
    assert np.array_equal(class_counts(files), after)


def test_a_faulty_file_is_told_and_nothing_is_kept(files):
    save_mask(Path(files.items[2].mask), np.full((40, 48), 9, np.uint8))
    with pytest.raises(InputError, match="holds the value 9"):
        class_counts(files)
    assert kept() == []


def test_a_cache_that_cannot_be_written_changes_nothing(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DANET_CACHE", str(tmp_path / "file"))
    assert class_counts(files).sum() == 3 * 40 * 48


def test_what_is_in_no_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DANET_CACHE", str(tmp_path / "cache"))
    assert class_counts(balanced())[3, 1] == 64
    assert kept() == []
