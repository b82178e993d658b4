"""Small data sets on disk, whole and broken, for the tests of this folder."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_image(path: Path, width: int = 48, height: int = 40, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_mask(
    path: Path, values: np.ndarray | None = None, width: int = 48, height: int = 40, classes: int = 3
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        values = (np.arange(width * height, dtype=np.uint8).reshape(height, width) // 7) % classes
    Image.fromarray(values).save(path)
    return path


def save_folder(root: Path, stems: list[str], split: str = "") -> Path:
    """A folder in the layout of `danet.data.sources.folder`: classes road, car, tree; 48×40 pixels."""
    for number, stem in enumerate(stems):
        save_image(root / "images" / split / f"{stem}.png", seed=number)
        save_mask(root / "masks" / split / f"{stem}.png")
    (root / "labels.yaml").write_text("names: [road, car, tree]\n", encoding="utf-8")
    return root
