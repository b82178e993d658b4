"""What a start from drawn streets is worth on real ones: on CamVid's 37 images (every tenth of train) and on all 367.

    python benchmarks/finetune.py --camvid FOLDER --init runs/street-small [--images 37 367] --out results/finetune.csv

The recipe camvid-r18 with fewer steps and smaller crops, from scratch and from the model `--init`, 3 seeds each; scored
on all of val at the last step, by the run's own protocol. Runs are kept in runs/finetune/, and what is done is not done
again; rows of the table for other numbers of images stay. Takes an hour and a half on one core.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from danet.config import RunConfig, read_config
from danet.console import Screen
from danet.training.data import open_data
from danet.training.loop import train
from danet.training.provenance import describe_run
from danet.training.record import read_record
from danet.training.start import resolve
from table import read_table, write_table

SEEDS = (0, 1, 2)
SETS = {37: (10, 200), 367: (1, 400)}
"""Images: which they are of train (every so many), and steps: 43 epochs of 37 images, 9 of all."""


def variants(init: str) -> dict[str, dict[str, str]]:
    """The fields in which the runs differ."""
    return {"scratch": {}, "fine-tuned": {"init": init}}


def run(name: str, fields: dict[str, str], images: int, seed: int, camvid: str, screen: Screen) -> dict[str, Any]:
    """One run, or what it left before, as a row."""
    every, steps = SETS[images]
    told = {
        "name": f"finetune/{name}-{images}-seed-{seed}",
        "seed": str(seed),
        "data.root": camvid,
        "data.crop": "[192, 256]",
        "optim.steps": str(steps),
        "optim.warmup": "20",
        "optim.ema": "0.95",
        "validate_every": str(steps),
        "precision": "bfloat16",
    }
    config: RunConfig = resolve(read_config("camvid-r18", told | fields))
    folder = Path("runs") / config.name
    if not (folder / "best").is_dir():
        data = open_data(config)
        data.train.items = data.train.items[::every]
        screen.watch(config.name, train(config, data=data, progress=screen.phase), steps)
    scored = next(record for record in reversed(read_record(folder)) if record["event"] == "validated")
    provenance = json.loads((folder / "best" / "config.json").read_text(encoding="utf-8"))["provenance"]
    return {
        "variant": name,
        "seed": seed,
        "images": images,
        "steps": steps,
        "miou": round(scored["miou"], 4),
        "pixel_accuracy": round(scored["pixel_accuracy"], 4),
        **{f"iou_{label}": None if value is None else round(value, 4) for label, value in scored["iou"].items()},
        "minutes": round(scored["seconds"] / 60, 1),
        "init": fields.get("init", ""),
        **describe_run(torch.device("cpu"), config.precision, seed),
        "date": provenance["date"],
        "danet": provenance["danet"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", required=True, help="the folder with CamVid")
    parser.add_argument("--init", required=True, help="the model to start from")
    parser.add_argument("--images", type=int, nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    rows = []
    with Screen() as screen:
        for images, seed in itertools.product(options.images, SEEDS):
            for name, fields in variants(options.init).items():
                rows.append(run(name, fields, images, seed, options.camvid, screen))
                screen.say(f"{name}, {images} images, seed {seed}: mIoU {100 * rows[-1]['miou']:.1f} %")
    for images, name in itertools.product(options.images, variants(options.init)):
        found = [100 * row["miou"] for row in rows if (row["images"], row["variant"]) == (images, name)]
        print(f"{name}, {images} images: mIoU {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} %")
    if options.out:
        before = read_table(options.out) if options.out.exists() else []
        write_table(options.out, [*(row for row in before if int(row["images"]) not in options.images), *rows])


if __name__ == "__main__":
    main()
