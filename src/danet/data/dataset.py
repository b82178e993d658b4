"""Samples, the data set that gives them, and the order in which training sees them: all without any random state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.utils.data
from jaxtyping import Float32, UInt8
from torchvision import tv_tensors

from danet.data.labels import LabelSpace
from danet.data.parallel import Progress, parallel_map
from danet.errors import InputError

Key = int | tuple[int, int]
"""A sample's index, or its epoch and index."""


class Item(NamedTuple):
    """One image with its mask, not yet read.

    name: the image's path, or what else tells it; load: gives the image's file values, uint8 or float32 H×W×C, and the
    mask's, uint8 or uint16 H×W, and can be pickled; mask: the mask's path, for errors about its values.
    """

    name: str
    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    mask: str = ""


class Sample(NamedTuple):
    """One image with its mask, read: uint8 or float32 C×H×W; uint8 H×W class indices, IGNORE_INDEX if not labelled."""

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    name: str

    @property
    def pixels(self) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
        """The image as H×W×C, as the Segmenter takes it."""
        return self.image.permute(1, 2, 0).numpy()


class Dataset(torch.utils.data.Dataset[Sample]):
    """Items as samples. `dataset[i]` is sample i as in epoch 0, `dataset[epoch, i]` as in that epoch.

    transform: (image, mask) → (image, mask), drawing its randomness from torch's CPU generator; with `draw` it takes a
    class index as well. What is drawn follows from (seed, epoch, i) alone: not from other samples, workers or earlier
    calls.
    draw: where it is set, sample i is not item i, but the item and the class that it draws from the same generator.
    """

    def __init__(
        self,
        items: Sequence[Item],
        labels: LabelSpace,
        transform: Callable[..., tuple[tv_tensors.Image, tv_tensors.Mask]] | None = None,
        seed: int = 0,
    ) -> None:
        self.items = list(items)
        self.labels = labels
        self.transform = transform
        self.seed = seed
        self.draw: Callable[[], tuple[int, int]] | None = None
        self._memory: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.transform is None:
            return self._sample(index)
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would also seed the GPUs' generators, and they are not forked
            torch.default_generator.manual_seed(stateless_seed(self.seed, epoch, index))
            index, *focus = (index,) if self.draw is None else self.draw()
            image, mask, name = self._sample(index)
            return Sample(*self.transform(image, mask, *focus), name)

    def preload(self, workers: int = 0, progress: Progress | None = None) -> None:
        """Read all items into memory once, in `workers` threads; raises InputError for the first that is faulty."""
        if not self._memory:
            self._memory = list(parallel_map(self.arrays, range(len(self)), workers, progress))

    def arrays(
        self, index: int
    ) -> tuple[UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"], UInt8[np.ndarray, "h w"]]:
        """Item `index` as image and class indices, from memory or read now; raises InputError naming a faulty file."""
        if self._memory:
            return self._memory[index]
        item = self.items[index]
        image, mask = item.load()
        return image, self.labels.to_indices(mask, item.mask or f"The mask of {item.name}")

    def _sample(self, index: int) -> Sample:
        pixels, indices = self.arrays(index)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        return Sample(image, tv_tensors.Mask(torch.from_numpy(indices)), self.items[index].name)


def stateless_seed(*parts: int | str) -> int:
    """A seed of 63 bits that follows from `parts` alone, and differs where any of them does."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, length: int) -> list[int]:
    """The order of `length` samples in `epoch`: a permutation that follows from (seed, epoch, length) alone."""
    generator = torch.Generator().manual_seed(stateless_seed("order", seed, epoch))
    return torch.randperm(length, generator=generator).tolist()


class EpochBatches:
    """Batches of (epoch, index) keys without end, from the global step `start_step` on: a DataLoader's `batch_sampler`.

    An epoch's last, incomplete batch is left out. Step s is the same batch whatever step the run was resumed from, and
    however many processes share it: that of `rank` gets its part.
    Raises InputError where `length` does not fill one batch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        if length < batch_size:
            raise InputError(
                f"The batch size is {batch_size}, but there are {length} training images; a batch holds each at most "
                f"once. Set data.batch_size to {max(length, 1)} or less, or add images."
            )
        self.length, self.batch_size, self.seed, self.start_step = length, batch_size, seed, start_step
        self.batches_per_epoch = length // batch_size
        share = batch_size // processes
        self.part = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, skipped = divmod(self.start_step, self.batches_per_epoch)
        while True:
            order = epoch_order(self.seed, epoch, self.length)
            for batch in range(skipped, self.batches_per_epoch):
                whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield [(epoch, index) for index in whole[self.part]]
            epoch, skipped = epoch + 1, 0
