import pickle
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from danet.data.dataset import Dataset, EpochBatches, Item, epoch_order, stateless_seed
from danet.data.labels import LabelSpace
from danet.data.sources import folder
from danet.data.transforms import collate, training_transform
from danet.errors import InputError
from tests.data.trees import save_folder, save_mask

LABELS = LabelSpace("any", ("road", "car", "tree"))


def noise(index: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(index)
    return random.integers(0, 256, (50, 60, 3), np.uint8), random.integers(0, 3, (50, 60), np.uint8)


def varied(count: int = 10, seed: int = 3) -> Dataset:
    items = [Item(f"noise {index}", partial(noise, index)) for index in range(count)]
    return Dataset(items, LABELS, training_transform((32, 40), (0.6, 1.6), 0.5, 0.4), seed)


def same(first, second) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and first[2] == second[2]


def test_samples_are_the_files(tmp_path):
    items, labels = folder(save_folder(tmp_path, ["a", "b"], "train"), "train")
    dataset = Dataset(items, labels)
    image, mask, name = dataset[1]
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, 40, 48), torch.uint8, (40, 48), torch.uint8)
    assert name == str(tmp_path / "images" / "train" / "b.png")
    pixels, values = items[1].load()
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(mask, torch.from_numpy(values))


def test_augmentation_follows_from_seed_epoch_and_index_alone():
    dataset = varied()
    fresh = dataset[(2, 5)]
    torch.rand(7)
    dataset[(0, 1)]
    assert same(fresh, dataset[(2, 5)])
    assert same(dataset[5], dataset[(0, 5)])
    assert not same(fresh, dataset[(3, 5)])
    assert not torch.equal(fresh.image, varied(seed=4)[(2, 5)].image)


def test_augmentation_leaves_the_callers_randomness_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    varied()[(4, 4)]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_preloading_changes_no_sample_and_reads_once(tmp_path, workers):
    items, labels = folder(save_folder(tmp_path, list("abcdef"), "train"), "train")
    dataset, seen = Dataset(items, labels, training_transform((32, 40), (0.6, 1.6))), []
    before = [dataset[(1, index)] for index in range(6)]
    dataset.preload(workers, lambda done, total: seen.append((done, total)))
    for path in tmp_path.glob("*/*/*.png"):
        path.unlink()
    dataset.preload(workers)
    assert all(same(before[index], dataset[(1, index)]) for index in range(6))
    assert seen == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("workers", [0, 4])
def test_preloading_names_the_first_faulty_file(tmp_path, workers):
    items, labels = folder(save_folder(tmp_path, [f"{n:02}" for n in range(30)], "train"), "train")
    for stem in ("07", "11", "29"):
        save_mask(tmp_path / "masks" / "train" / f"{stem}.png", np.full((40, 48), 9, np.uint8))
    with pytest.raises(InputError, match=r"masks.train.07\.png holds the value 9 at pixel \(0, 0\)"):
        Dataset(items, labels).preload(workers)


def test_the_number_of_workers_changes_no_batch():
    def batches(workers):
        dataset = varied()
        order = EpochBatches(len(dataset), 4, seed=3)
        return list(islice(DataLoader(dataset, batch_sampler=order, num_workers=workers, collate_fn=collate), 5))

    alone, helped = batches(0), batches(2)
    assert len(alone) == 5
    assert all(same(first, second) for first, second in zip(alone, helped, strict=True))
    assert alone[0][0].shape == (4, 3, 32, 40)


def test_a_resumed_run_sees_the_same_batches():
    def batches(start, stop):
        dataset = varied()
        order = EpochBatches(len(dataset), 4, seed=3, start_step=start)
        return list(islice(DataLoader(dataset, batch_sampler=order, collate_fn=collate), stop - start))

    whole = batches(0, 6)
    for start in (1, 2, 3):
        assert all(same(first, second) for first, second in zip(whole[start:], batches(start, 6), strict=True))


@given(length=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 99), start=st.integers(0, 200))
def test_batches_from_any_step(length, batch, seed, start):
    if length < batch:
        with pytest.raises(InputError, match=f"batch size is {batch}.*Set data.batch_size to {length} or less"):
            EpochBatches(length, batch, seed)
        return
    whole = list(islice(EpochBatches(length, batch, seed), start + 5))
    assert list(islice(EpochBatches(length, batch, seed, start), 5)) == whole[start:]
    for epoch in {keys[0][0] for keys in whole}:
        batches = [keys for keys in whole if keys[0][0] == epoch]
        seen = [index for keys in batches for _, index in keys]
        assert all(len(keys) == batch for keys in batches)
        assert len(set(seen)) == len(seen) <= length
        assert set(seen) <= set(range(length))


def test_epochs_and_seeds_differ():
    orders = [epoch_order(seed, epoch, 50) for seed in range(3) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    seeds = {stateless_seed(*parts) for parts in [(1, 2, 3), (3, 2, 1), (1, 23), (12, 3), ("1", 2, 3), (1, 2, 3, 0)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stateless_seed(0, 0, 0) == 151133529135046365  # the same on every machine, for good


def test_a_dataset_can_be_sent_to_a_process():
    dataset = varied()
    dataset.preload()
    assert same(pickle.loads(pickle.dumps(dataset))[(1, 2)], dataset[(1, 2)])
