"""Whole-image inference of DANet-ResNet50, ours and mmsegmentation's, with the same weights and the same labels.

    python benchmarks/inference.py [--mmseg PYTHON] [--out results/inference.csv]

From an image in memory to its labels, on the CPU, 19 classes, weights drawn at random with open gates and converted by
`danet convert --to mmseg`'s code. Processes wait, ours in each type and theirs in float32 (as its own tools predict),
and predict once each in turn, so that a slow moment meets all; after one to warm up, seconds are the median, and
`faster` is how many times ours goes into theirs. `labels` is the share that is theirs too. Memory is the peak of a
fresh process over one prediction, libraries and weights included (on Linux).

Then several scales: the six sizes of mmseg-ms-flip, mirrored, against the sum of what each view takes alone.

PYTHON is the interpreter of an environment with mmsegmentation 1.2.2, which mmseg_worker.py says how to make; without
it only ours is measured. Takes about ten minutes on two cores, of which nothing else may take any.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.inference.protocol import PROTOCOLS, Protocol
from danet.inference.segmenter import load
from danet.models.attention import attention_modules
from danet.models.segmentation import build_model
from danet.training.provenance import describe_run
from danet.weights.bundle import Bundle, load_bundle, save_bundle
from danet.weights.convert import export
from table import write_table
from worker import Worker, peak_gigabytes, seconds, serve

CPU = torch.device("cpu")
SIZES = {(360, 480): 9, (1024, 2048): 2}
"""Height and width, and how often each is predicted."""
ORIGINAL = Protocol(size="original")
SCALED = PROTOCOLS["mmseg-ms-flip"][0]


def make(folder: Path) -> None:
    """One network as a bundle and as mmsegmentation's checkpoint, and an image of each size."""
    torch.manual_seed(0)
    labels = LabelSpace.load("cityscapes")
    config = ModelConfig(backbone="resnet50c", num_classes=labels.num_classes, auxiliary=True)
    model = build_model(config)
    for _, module in attention_modules(model):
        torch.nn.init.constant_(module.gate, 0.5)
    save_bundle(folder / "bundle", Bundle(model, config, labels, Preprocess(), {}, {}))
    torch.save(export(load_bundle(folder / "bundle"), "mmseg"), folder / "mmseg.pth")
    generator = np.random.Generator(np.random.Philox(0))
    for height, width in SIZES:
        coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, height // 40, width // 40)))
        image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
        np.save(folder / f"{height}x{width}.npy", image[0].permute(1, 2, 0).byte().numpy())


def ours(options: argparse.Namespace) -> Callable[[], object]:
    """What a worker of ours does; with --views it goes through one view alone."""
    segmenter, image = load(options.bundle, "cpu", options.precision), np.load(options.image)
    protocol = ORIGINAL
    if options.scales:
        protocol = SCALED.model_copy(update={"scales": tuple(options.scales), "flip": options.flip})
    return lambda: np.save(options.labels, segmenter.predict(image, protocol).labels)


def whole_images(folder: Path, mmseg: str | None) -> list[dict[str, Any]]:
    rows = []
    for (height, width), repetitions in SIZES.items():
        print("measuring", height, width, file=sys.stderr, flush=True)
        image = folder / f"{height}x{width}.npy"
        commands = {("danet", precision): worker(folder, image, precision) for precision in ("float32", "bfloat16")}
        if mmseg:
            theirs = [mmseg, str(Path(__file__).with_name("mmseg_worker.py")), "--weights", str(folder / "mmseg.pth")]
            theirs += ["--image", str(image), "--labels", str(folder / "theirs.npy")]
            first = Worker(theirs)
            first.end()
            commands[first.facts["name"], "float32"] = theirs
        times = seconds({str(key): command for key, command in commands.items()}, repetitions)
        took = {key: statistics.median(times[str(key)]) for key in commands}
        for key, command in commands.items():
            row = {"network": key[0], "size": f"{height}×{width}", "type": key[1], "seconds": round(took[key], 3)}
            if mmseg:
                reference = np.load(folder / "theirs.npy")
                row["faster"] = round(took[list(commands)[-1]] / took[key], 2)
                found = np.load(command[command.index("--labels") + 1])
                row["labels"] = round(float((found == reference).mean()), 6)
            rows.append(row | {"peak_gigabytes": round(peak_gigabytes(command), 2)})
    return rows


def several_scales(folder: Path) -> list[dict[str, Any]]:
    """In both types: all scales, mirrored, and the sum of the views' own times."""
    rows, image = [], folder / "360x480.npy"
    for precision in ("float32", "bfloat16"):
        print("measuring scales", precision, file=sys.stderr, flush=True)
        together = worker(folder, image, precision, SCALED.scales, flip=True)
        commands = {"together": together}
        commands |= {str(scale): worker(folder, image, precision, (scale,), flip=False) for scale in SCALED.scales}
        took = {name: statistics.median(times) for name, times in seconds(commands, 5).items()}
        views = 2 * sum(took[str(scale)] for scale in SCALED.scales)
        rows.append(
            {
                "network": f"danet, {len(SCALED.scales)} scales mirrored",
                "size": "360×480",
                "type": precision,
                "seconds": round(took["together"], 3),
                "views_alone_seconds": round(views, 3),
                "of_views_alone": round(took["together"] / views, 3),
                "peak_gigabytes": round(peak_gigabytes(together), 2),
            }
        )
    return rows


def worker(folder: Path, image: Path, precision: str, scales: tuple[float, ...] = (), flip: bool = False) -> list[str]:
    """The command of a worker of ours."""
    name = "-".join([image.stem, precision, *map(str, scales)])
    command = [sys.executable, __file__, "--bundle", str(folder / "bundle"), "--image", str(image)]
    command += ["--precision", precision, "--labels", str(folder / f"{name}-labels.npy")]
    return [*command, *(["--scales", *map(str, scales)] if scales else []), *(["--flip"] if flip else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmseg", metavar="PYTHON", help="the interpreter of an environment with mmsegmentation")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    own = parser.add_argument_group("for its own processes")
    for name in ("--bundle", "--image", "--labels"):
        own.add_argument(name, type=Path)
    own.add_argument("--precision")
    own.add_argument("--scales", type=float, nargs="*", default=[])
    own.add_argument("--flip", action="store_true")
    options = parser.parse_args()
    if options.bundle:
        return serve({"name": "danet"}, ours(options))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        rows = whole_images(Path(folder), options.mmseg) + several_scales(Path(folder))
    where = describe_run(CPU, "in each row", seed=0)
    for row in rows:
        print(row)
    if options.out:
        fields = ["network", "size", "type", "seconds", "faster", "labels", "views_alone_seconds", "of_views_alone"]
        write_table(options.out, ({**row, **where} for row in rows), [*fields, "peak_gigabytes", *where])
    return None


if __name__ == "__main__":
    main()
