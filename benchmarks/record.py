"""Append what runs reached to a CSV of results: scores, time, and where they come from, as the runs kept them.

python benchmarks/record.py runs/camvid-r18 [RUN …] [--out results/runs.csv]
"""

import argparse
import csv
import json
from pathlib import Path

from danet.models.attention import gates
from danet.training.record import read_record
from danet.training.summary import run_config
from danet.weights.bundle import load_bundle


def row(folder: Path) -> dict[str, object]:
    """One run's best validation with its command, commit, hardware and date."""
    config, history = run_config(folder), read_record(folder)
    facts = json.loads((folder / "best" / "config.json").read_text(encoding="utf-8"))["provenance"]
    best = max((entry for entry in history if entry["event"] == "validated"), key=lambda entry: entry["miou"])
    kept = gates(load_bundle(folder / "best").model)
    return {
        "run": config.name,
        "head": config.model.head,
        "backbone": config.model.backbone,
        "data": f"{config.data.source} val",
        "protocol": best["protocol"]["name"],
        "miou": round(best["miou"], 4),
        "pixel_accuracy": round(best["pixel_accuracy"], 4),
        "context": None if best["context"] is None else round(best["context"], 4),
        "majority": None if best["majority"] is None else round(best["majority"], 4),
        "alpha": round(kept["position"], 3) if "position" in kept else None,
        "beta": round(kept["channel"], 3) if "channel" in kept else None,
        "steps": history[-1]["step"],
        "minutes": round(history[-1]["seconds"] / 60, 1),
        **{key: facts[key] for key in ("precision", "seed", "hardware", "versions", "command", "date")},
        "commit": facts["danet"].rpartition(" ")[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/runs.csv"))
    options = parser.parse_args()
    rows = [row(folder) for folder in options.runs]
    fresh = not options.out.exists()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
