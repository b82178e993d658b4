"""What a start from drawn streets is worth on few real ones: CamVid's 37 images (every tenth of train), 3 seeds.

    python benchmarks/finetune.py --camvid FOLDER --init runs/street-small [--out results/finetune.csv]

The recipe camvid-r18 with fewer steps and smaller crops, from scratch and from the model `--init`; scored on all of val
at the last step, by the run's own protocol. Runs are kept in runs/finetune/, and what is done is
not done again. Takes about a quarter of an hour on two cores.
"""

import argparse
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
from table import write_table

EVERY = 10
IMAGES = 37
SEEDS = (0, 1, 2)
STEPS = 200
"""50 epochs of 37 images."""


def variants(init: str) -> dict[str, dict[str, str]]:
    """The fields in which the runs differ."""
    return {"scratch": {}, "fine-tuned": {"init": init}}


def run(name: str, fields: dict[str, str], seed: int, camvid: str, screen: Screen) -> dict[str, Any]:
    """One run, or what it left before, as a row."""
    told = {
        "name": f"finetune/{name}-seed-{seed}",
        "seed": str(seed),
        "data.root": camvid,
        "data.crop": "[192, 256]",
        "optim.steps": str(STEPS),
        "optim.warmup": "20",
        "optim.ema": "0.95",
        "validate_every": str(STEPS),
        "precision": "bfloat16",
    }
    config: RunConfig = resolve(read_config("camvid-r18", told | fields))
    folder = Path("runs") / config.name
    if not (folder / "best").is_dir():
        data = open_data(config)
        data.train.items = data.train.items[::EVERY]
        screen.watch(config.name, train(config, data=data, progress=screen.phase), STEPS)
    scored = next(record for record in reversed(read_record(folder)) if record["event"] == "validated")
    provenance = json.loads((folder / "best" / "config.json").read_text(encoding="utf-8"))["provenance"]
    return {
        "variant": name,
        "seed": seed,
        "images": IMAGES,
        "steps": STEPS,
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
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    rows = []
    with Screen() as screen:
        for seed in SEEDS:
            for name, fields in variants(options.init).items():
                rows.append(run(name, fields, seed, options.camvid, screen))
                screen.say(f"{name}, seed {seed}: mIoU {100 * rows[-1]['miou']:.1f} %")
    for name in variants(options.init):
        found = [100 * row["miou"] for row in rows if row["variant"] == name]
        print(f"{name}: mIoU {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} %")
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
