"""Sliding windows over an image of any size: each goes through the network once, and their scores are blended.

Blocks of finished scores come out as the windows go on, so that memory is a window and a strip of the overlap, whatever
the image's height; the same blocks make the prediction of an image in memory and that of a raster, bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from danet.inference.device import PIXELS
from danet.inference.protocol import Protocol

Network = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]]
Read = Callable[[int, int, int, int], Float[Tensor, "1 c h w"]]
SIGMA = 1 / 8  # of a window's side, and the least weight: as MONAI's sliding_window_inference
LEAST = 1e-3


class Block(NamedTuple):
    """Finished scores of the pixels from row `top` and column `left` on."""

    top: int
    left: int
    scores: Float[Tensor, "k h w"]


def starts(length: int, crop: int, stride: int, edge: Literal["shift", "pad"]) -> list[int]:
    """Where the windows of `crop` begin along a side of `length`, at least one; see `Protocol.edge` for the last."""
    count = max(-(-(length - crop) // stride), 0) + 1
    last = max(length - crop, 0) if edge == "shift" else length
    return [min(index * stride, last) for index in range(count)]


class Grid(NamedTuple):
    """The windows of an image of `size`: how large they are, where their rows and columns begin, and where the rows of
    pixels end that each row of windows finishes."""

    size: tuple[int, int]
    window: tuple[int, int]
    tops: list[int]
    lefts: list[int]
    ends: list[int]

    @classmethod
    def of(cls, size: tuple[int, int], protocol: Protocol) -> "Grid":
        """By `protocol`, which has a crop; windows that are moved back are no larger than the image."""
        if protocol.crop is None:
            raise ValueError("Windows need a protocol with crop.")
        sides = zip(size, protocol.crop, strict=True)
        rows, columns = (min(crop, side) if protocol.edge == "shift" else crop for side, crop in sides)
        axes = zip(size, (rows, columns), protocol.steps, strict=True)
        tops, lefts = (starts(*axis, protocol.edge) for axis in axes)
        return cls(size, (rows, columns), tops, lefts, [*tops[1:], size[0]])

    @property
    def total(self) -> int:
        """How many windows there are."""
        return len(self.tops) * len(self.lefts)

    def batch(self, pixels: int) -> int:
        """How many windows go through the network at once."""
        return max(pixels // math.prod(self.window), 1)


def importance(crop: tuple[int, int], blend: Literal["uniform", "gaussian"]) -> Float[Tensor, "h w"]:
    """What a window counts at each of its pixels."""
    if blend == "uniform":
        return torch.ones(crop)
    down, across = (
        torch.exp(-((torch.arange(side, dtype=torch.float32) - (side - 1) / 2) ** 2) / (2 * (SIGMA * side) ** 2))
        for side in crop
    )
    weights = down[:, None] * across
    return weights.clamp(min=max(float(weights.min()), LEAST))


def sweep(
    read: Read, network: Network, size: tuple[int, int], protocol: Protocol, done: int = 0, batch_pixels: int = PIXELS
) -> Iterator[Block]:
    """The blended scores of an image of `size` (height, width), in blocks that do not overlap: window row by window
    row, each from the left to the right.

    read: rows from `top`, columns from `left`, height and width to a window's input, in which what lies beyond the
    image (edge: pad) is filled. done: so many window rows are left out; the others' blocks are the same bits. Windows
    of one row go through the network in batches of at most `batch_pixels`, which are the same in every run.
    """
    grid = Grid.of(size, protocol)
    (_, width), (rows, columns), tops, lefts, ends = grid
    weights, batch = importance(grid.window, protocol.blend), grid.batch(batch_pixels)
    # What rows above have left for those below: sums of weighted scores, and in the last channel of the weights.
    carried = max((top + rows - end for top, end in zip(tops[:-1], ends[:-1], strict=True)), default=0)
    carry: Tensor | None = None
    first = next((row for row, top in enumerate(tops) if done < len(tops) and top + rows > tops[done]), len(tops))
    for row in range(first, len(tops)):
        top, final, overlap = tops[row], ends[row] - tops[row], 0 if row == first else tops[row - 1] + rows - tops[row]
        overlap, sums, entered = max(overlap, 0), None, 0
        for column, scores in enumerate(_windows(read, network, top, lefts, grid.window, batch)):
            if carry is None:
                weights = weights.to(scores.device)
                carry = scores.new_zeros(len(scores) + 1, carried, width)
            if sums is None:
                sums = scores.new_zeros(len(scores) + 1, rows, columns)
            left, until = lefts[column], min(lefts[column] + columns, width)
            if column:  # the sums move along with the window
                moved = left - lefts[column - 1]
                sums[..., : columns - moved] = sums[..., moved:].clone()
                sums[..., columns - moved :] = 0
            sums[:, :overlap, entered - left : until - left] = carry[:, :overlap, entered:until]
            entered = until
            sums[:-1].addcmul_(scores, weights)
            sums[-1] += weights
            leaving = (lefts[column + 1] if column + 1 < len(lefts) else width) - left
            carry[:, : rows - final, left : left + leaving] = sums[:, final:, :leaving] if row + 1 < len(tops) else 0
            if row >= done:
                ready = sums[:, :final, :leaving]
                yield Block(top, left, ready[:-1] / ready[-1:])


def _windows(
    read: Read, network: Network, top: int, lefts: list[int], crop: tuple[int, int], batch: int
) -> Iterator[Float[Tensor, "k h w"]]:
    """The scores of one row's windows."""
    for first in range(0, len(lefts), batch):
        yield from network(torch.cat([read(top, left, *crop) for left in lefts[first : first + batch]])).unbind()
