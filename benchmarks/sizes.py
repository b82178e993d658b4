"""How the score moves with the size at which a network sees its images, with channel attention open and shut.

    python benchmarks/sizes.py RUN-OR-MODEL [MORE …] [--out results/sizes.csv]

Each model's validation images, at 0.5, 1, 1.5 and 2 times their own size, whole, scored at their own size: as trained,
and with channel attention's gate β at 0, for its energies are sums over all places, so that their softmax sharpens as
the image grows. `energy` is the spread (standard deviation, mean over images) of the scores that the softmax takes,
max − energy, and `perplexity` how many channels share a row of its map, of as many as `channels` says. Runs know their
data; a model that is none (street-tiny) is scored on drawn streets. Takes about five minutes a model on two cores.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from danet.config import DataConfig, RunConfig
from danet.data.dataset import Dataset
from danet.evaluation.evaluate import evaluate
from danet.inference.device import autocast
from danet.inference.protocol import Protocol
from danet.inference.segmenter import Segmenter, as_batch, load, own_name
from danet.inference.views import resized, view_size
from danet.models.attention import attention_modules
from danet.ops.channel import channel_attention_map
from danet.training.data import open_val
from danet.training.provenance import describe_run
from danet.training.summary import run_config
from table import write_table

SCALES = (0.5, 1.0, 1.5, 2.0)
LOOKED_AT = 10
"""So many images tell the energies."""


def validation(model: str) -> tuple[str, Dataset]:
    """The name and the validation set of a run's data, or of drawn streets."""
    folder = Path(model)
    config = run_config(folder) if (folder / "config.yaml").is_file() else RunConfig(data=DataConfig(source="scenes"))
    return config.data.source, open_val(config)


def sharpness(segmenter: Segmenter, dataset: Dataset, protocol: Protocol) -> dict[str, float]:
    """How far apart the channels' energies are, and how many channels share a row."""
    spreads, counts, channels = [], [], 0
    for index in range(min(LOOKED_AT, len(dataset))):
        images = as_batch(dataset[index].pixels)
        size = view_size(tuple(images.shape[-2:]), protocol, protocol.scales[0], None)
        with torch.inference_mode(), autocast(segmenter.device, segmenter.precision):
            inputs = segmenter.normalised(resized(images, size, protocol.resample))
            trace = segmenter.model.trace(inputs)[1]["channel"]
        features = trace.features[0].float().flatten(1)
        energy = (features @ features.T).double()
        spreads.append((energy.amax(-1, keepdim=True) - energy).std(-1).mean().item())
        weights = channel_attention_map(features, features, trace.rule or "official").double()
        counts.append(torch.special.entr(weights).sum(-1).exp().mean().item())
        channels = len(features)
    return {
        "energy": round(sum(spreads) / len(spreads), 1),
        "perplexity": round(sum(counts) / len(counts), 2),
        "channels": channels,
    }


def measure(model: str) -> list[dict[str, Any]]:
    """Every size, with channel attention open and shut."""
    first = load(model)
    where = describe_run(first.device, first.precision, seed=0)  # now, for the tree may change meanwhile
    source, dataset = validation(model)
    rows = []
    for scale in SCALES:
        protocol = Protocol(name=f"{scale:g} ×", size="original", scales=(scale,), fusion="logits")
        for gate in ("as trained", "β = 0"):
            segmenter = load(model, str(first.device), first.precision)
            if gate != "as trained":
                nn.init.zeros_(dict(attention_modules(segmenter.model))["channel"].gate)
            scores = evaluate(segmenter, dataset, protocol).scores
            row = {"model": own_name(model), "data": f"{source} val", "size": scale, "channel_attention": gate}
            row |= {"miou": round(scores.miou, 4), "pixel_accuracy": round(scores.pixel_accuracy, 4)}
            row |= sharpness(segmenter, dataset, protocol)
            rows.append(row | where)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="RUN-OR-MODEL")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    rows = [row for model in options.models for row in measure(model)]
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
