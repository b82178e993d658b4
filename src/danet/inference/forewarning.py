"""Before a forward that will take long, or much of the memory, a warning says so, and what would make it smaller."""

import time
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from danet.inference.device import BYTES_A_PIXEL, free_memory

LONG = 20.0
"""Seconds from which on a forward is told of."""
LARGE = 2**20
"""Pixels under which none is looked into."""
PROBE = 256


class Forewarning:
    """Tells of a network's forwards on a device; a piece of the first large image says how fast it is."""

    def __init__(self, network: Callable[[Tensor], object], device: torch.device) -> None:
        self.network, self.device = network, device
        self._seconds_a_pixel: float | None = None
        self._told: set[tuple[int, ...]] = set()

    def __call__(self, images: Float[Tensor, "b c h w"]) -> None:
        """Warn of a forward of `images`, which is about to be done, once for each of their shapes.

        The time grows at least with the pixels, and faster where attention is much of it.
        """
        batch, _, height, width = images.shape
        pixels = batch * height * width
        if pixels < LARGE or images.shape in self._told:
            return
        if self._seconds_a_pixel is None:
            piece = images[:1, :, :PROBE, :PROBE]
            self._seconds_a_pixel = min(self._seconds(piece) for _ in range(2)) / piece[0, 0].numel()
        seconds, memory, free = self._seconds_a_pixel * pixels, BYTES_A_PIXEL * pixels, free_memory(self.device)
        told = [f"{seconds:,.0f} s or more"] if seconds > LONG else []
        if free is not None and memory > free / 2:
            told.append(f"about {memory / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} GB are free")
        if told:
            self._told.add(images.shape)
            warnings.warn(
                f"One forward of {width}×{height} pixels will take {' and '.join(told)}; windows take less memory "
                "(--protocol.crop '[512, 512]'), a smaller size takes less of both (--protocol whole, or shrink the "
                "image).",
                stacklevel=2,
            )

    def _seconds(self, piece: Tensor) -> float:
        start = time.perf_counter()
        self.network(piece)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()
        return time.perf_counter() - start
