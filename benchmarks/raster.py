"""How much memory and time a raster of 20,000×20,000 pixels takes, predicted in a process of its own.

    python benchmarks/raster.py [--side 20000] [--model RUN-OR-MODEL] [--out results/raster.csv]

The file is made here: an RGB GeoTIFF of one repeated tile, once in tiles of 512×512 pixels and once in strips, as wide
as the image. Labels of both must be the same. Without --model the network is two convolutions to three classes, which
take next to nothing beside what every model needs: torch itself, and what a raster is kept in. Memory is the process's
peak (VmHWM); what it had before it began to predict, with torch and the model, stands beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import Tensor, nn

from danet.data.labels import LabelSpace
from danet.inference.protocol import Protocol
from danet.inference.raster import predict_raster
from danet.inference.segmenter import load
from danet.models.segmentation import SegmentationOutput
from danet.training.provenance import describe_run, peak_memory, resident_memory
from table import write_table

CPU, TILE = torch.device("cpu"), 512
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tiled": True, "blockxsize": TILE, "blockysize": TILE},
    "strips": {"blockysize": 16},
}


def make(path: Path, side: int, layout: dict[str, Any]) -> None:
    """Blocks of 8 pixels in random colours."""
    generator = np.random.Generator(np.random.Philox(0))
    blocks = generator.integers(0, 256, (3, TILE // 8, TILE // 8), np.uint8)
    row = np.tile(np.kron(blocks, np.ones((1, 8, 8), np.uint8)), -(-side // TILE))[..., :side]
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    size = {"width": side, "height": side, "count": 3, "dtype": "uint8", "interleave": "pixel"}
    form = {"compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    with rasterio.open(path, "w", driver="GTiff", **size, **form, **layout, **place) as file:
        for top in range(0, side, TILE):
            end = min(top + TILE, side)
            file.write(row[:, : end - top], window=((top, end), (0, side)))


class Small(nn.Module):
    """Two convolutions, at the image's size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 5, padding=2))

    def forward(self, images: Tensor) -> SegmentationOutput:
        return SegmentationOutput(self.layers(images), {}, None)


def predict(model: str | None, path: Path, folder: Path) -> dict[str, float]:
    """What the process that is started for it does."""
    segmenter = load(model, "cpu", "float32")
    if model is None:
        segmenter.model = Small().eval()  # type: ignore[assignment]
        segmenter.labels = LabelSpace("small", ("a", "b", "c"))
    before, start = resident_memory(CPU), time.perf_counter()
    predict_raster(segmenter, path, folder, path.stem, Protocol())
    seconds, peak = time.perf_counter() - start, peak_memory(CPU)
    return {"seconds": round(seconds, 1), "before_mb": (before or 0) // 10**6, "peak_mb": (peak or 0) // 10**6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--model", metavar="RUN-OR-MODEL")
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    if options.predict:
        print(json.dumps(predict(options.model, options.predict, options.predict.parent / "labels")))
        return
    rows, made = [], []
    with tempfile.TemporaryDirectory() as folder:
        for layout, form in LAYOUTS.items():
            path = Path(folder) / f"{layout}.tif"
            make(path, options.side, form)
            command = [sys.executable, __file__, "--predict", str(path)]
            command += ["--model", options.model] if options.model else []
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            labels = path.parent / "labels" / path.name
            made.append(labels.read_bytes())
            told = {
                "layout": layout,
                "side": options.side,
                "model": options.model or "two convolutions",
                "file_mb": path.stat().st_size // 10**6,
            }
            windows = json.loads(labels.with_suffix(".json").read_text(encoding="utf-8"))["windows"]
            rows.append({**told, "windows": windows, **found, **describe_run(CPU, "float32", seed=0)})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key in told or key in found))
    assert made[0] == made[1], "The labels differ by the file's layout."
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
