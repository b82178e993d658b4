"""What a model says of one image."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from danet.data.labels import LabelSpace
from danet.files import written_aside
from danet.inference.protocol import Fusion
from danet.viz.overlay import overlay

FILES = ("labels", "overlay", "json")
"""The kinds of files that a prediction is saved as."""
_SOFTWARE = "danet predict"
"""Stands in every picture that is saved, so that nobody else's is taken for one of ours."""


@dataclass(frozen=True)
class Prediction:
    """Class scores of one image at its own size, and what follows from them. `image`: what people see of it.

    The greatest score is the label. `fusion` tells what scores are: logits, or shares of their sum (probabilities, or
    the authors' sums of exp). They stay on the device where they came to be; what follows is on the CPU.
    """

    image: UInt8[np.ndarray, "h w 3"]
    scores: Float[Tensor, "k h w"]
    space: LabelSpace
    fusion: Fusion = "logits"

    def __repr__(self) -> str:
        height, width = self.labels.shape
        most = sorted(self.shares.items(), key=lambda item: -item[1])[:3]
        told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in most)
        return f"Prediction({width}×{height} pixels: {told}; mean confidence {self.confidence.mean():.2f})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the overlay."""
        return self.overlay()._repr_png_()

    @cached_property
    def labels(self) -> UInt8[np.ndarray, "h w"]:
        """The most probable class of every pixel."""
        return self.scores.max(0).indices.byte().cpu().numpy()  # argmax, but faster on a CPU

    @cached_property
    def probabilities(self) -> Float[Tensor, "k h w"]:
        """The probability of every class at every pixel."""
        scores = self.scores.softmax(0) if self.fusion == "logits" else self.scores / self.scores.sum(0)
        return scores.cpu()

    @cached_property
    def confidence(self) -> Float[np.ndarray, "h w"]:
        """The probability of the label."""
        return self.probabilities.amax(0).numpy()

    @cached_property
    def entropy(self) -> Float[np.ndarray, "h w"]:
        """How unsure the probabilities are, in nats: 0 to log(classes)."""
        return torch.special.entr(self.probabilities).sum(0).numpy()

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each class's share of the pixels."""
        counts = np.bincount(self.labels.ravel(), minlength=self.space.num_classes)
        return {name: int(count) / self.labels.size for name, count in zip(self.space.names, counts, strict=True)}

    def __getitem__(self, name: str) -> Bool[np.ndarray, "h w"]:
        """Where class `name` is; raises InputError for an unknown name."""
        return self.labels == self.space.index(name)

    def probability(self, name: str) -> Float[np.ndarray, "h w"]:
        """How probable class `name` is at every pixel; raises InputError for an unknown name."""
        return self.probabilities[self.space.index(name)].numpy()

    def label_image(self) -> Image.Image:
        """The class indices as a picture, with the classes' colours as its palette."""
        picture = Image.fromarray(self.labels)
        picture.putpalette(self.space.palette())
        return picture

    def overlay(self) -> Image.Image:
        """The image under its classes' colours, with a legend."""
        return overlay(self.image, self.labels, self.space)

    def _facts(self) -> dict[str, Any]:
        return {
            "width": self.labels.shape[1],
            "height": self.labels.shape[0],
            "confidence": round(float(self.confidence.mean()), 4),
            "entropy": round(float(self.entropy.mean()), 4),
            "shares": {name: round(share, 6) for name, share in self.shares.items()},
        }

    def save(self, folder: str | Path, stem: str, kinds: Collection[str] = FILES) -> dict[str, Path]:
        """Write those `kinds` of `output_paths`: class indices with palette (labels), overlay, and shares with mean
        confidence and entropy (json); none is ever half there."""
        made = PngInfo()
        made.add_text("Software", _SOFTWARE)
        write: dict[str, Callable[[Path], object]] = {
            "labels": lambda aside: self.label_image().save(aside, format="PNG", pnginfo=made),
            "overlay": lambda aside: self.overlay().save(aside, format="PNG", pnginfo=made),
            "json": lambda aside: aside.write_text(
                json.dumps(self._facts(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            ),
        }
        paths = {kind: path for kind, path in output_paths(Path(folder), stem).items() if kind in kinds}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for kind, path in paths.items():
            with written_aside(path) as aside:
                write[kind](aside)
        return paths


def output_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where `Prediction.save` writes: STEM.png, STEM-overlay.png and STEM.json."""
    return {
        "labels": folder / f"{stem}.png",
        "overlay": folder / f"{stem}-overlay.png",
        "json": folder / f"{stem}.json",
    }


def is_ours(path: Path) -> bool:
    """Whether `path` is a file that `Prediction.save` wrote, or one of a raster or video, by the facts beside it."""
    if path.suffix == ".png":
        with path.open("rb") as file:
            return f"Software\0{_SOFTWARE}".encode() in file.read(100)  # the first thing after the size
    end = {".mkv": "-labels", ".mp4": "-overlay"}.get(path.suffix, "")
    facts = path.with_name(f"{path.stem.removesuffix(end)}.json")
    return facts.is_file() and b'"shares": {' in facts.read_bytes()
