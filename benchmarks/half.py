"""A run's best model in half precision, as it will be kept, and a Segmenter of that."""

import tempfile
from pathlib import Path

from danet.inference.segmenter import Segmenter, load
from danet.weights.bundle import WEIGHTS, Bundle, load_bundle, save_bundle


def in_half(run: Path, largest: int) -> tuple[Bundle, Segmenter, int]:
    """The bundle, the Segmenter (CPU, float32) of what is kept of it, and the weights' bytes, `largest` at most."""
    bundle = load_bundle(run / "best")
    bundle.model.half()
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder, "half"), bundle)
        if (size := Path(folder, "half", WEIGHTS).stat().st_size) > largest:
            raise SystemExit(f"The weights have {size / 2**20:.1f} MiB; at most {largest / 2**20:.0f} are kept.")
        return bundle, load(Path(folder, "half"), "cpu", "float32"), size
