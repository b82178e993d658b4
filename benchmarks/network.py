"""DANet-ResNet50 whole: the time of a forward step by step, its peak memory at 1024×2048, and the labels that stay.

    python benchmarks/network.py [--bundle runs/camvid-r18/best --camvid FOLDER] [--out results/network.csv]

Times are medians of forwards at 360×480 taken in turn, on the CPU: the network as its equations are written in float32,
then with our attention, then as inference makes it ready. Memory is a fresh process's peak, libraries and weights
included (on Linux). With a trained bundle and CamVid, also the labels of val that stay those of the equations in
float32: of all pixels, and of those whose two highest logits differ by more than 0.01. Takes about six minutes on two
cores, of which nothing else may take any.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor, nn

from danet.data.dataset import Dataset
from danet.data.published import camvid
from danet.data.transforms import normalise
from danet.inference import network
from danet.inference.device import Precision, autocast
from danet.models.attention import attention_modules, map_to_places, places_to_map
from danet.models.segmentation import SegmentationModel, create_model
from danet.training.provenance import describe_run, peak_memory, reset_peak_memory
from danet.weights.bundle import load_bundle
from table import write_table

CPU = torch.device("cpu")
SIZE, LARGE = (360, 480), (1024, 2048)
REPETITIONS = 11


class NaivePosition(nn.Module):
    """Position attention as the authors wrote it, N×N."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = (
            map_to_places(f(features)) for f in (self.module.query, self.module.key, self.module.value)
        )
        gathered = torch.softmax(query @ key.mT, dim=-1) @ value
        return features + self.module.gate * places_to_map(gathered, features)


class NaiveChannel(nn.Module):
    """Channel attention as the authors wrote it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        flat = features.flatten(2)
        energy = flat @ flat.mT
        attention = torch.softmax(energy.amax(-1, keepdim=True) - energy, dim=-1)
        return features + self.module.gate * (attention @ flat).view_as(features)


def variants(model: SegmentationModel) -> dict[tuple[str, Precision], nn.Module]:
    """The same network, step by step."""
    model = model.eval().to(memory_format=torch.channels_last)
    naive = deepcopy(model)
    naive.head.position, naive.head.channel = NaivePosition(model.head.position), NaiveChannel(model.head.channel)
    with patch.object(network, "quicken", lambda model: None):
        folded = network.ready(model, CPU)
    ready = network.ready(model, CPU)
    return {
        ("the equations as written", "float32"): naive,
        ("our attention", "float32"): model,
        ("BatchNorm folded", "float32"): folded,
        ("quick convolutions", "float32"): ready,
        ("the equations as written", "bfloat16"): naive,
        ("our attention", "bfloat16"): model,
        ("BatchNorm folded", "bfloat16"): folded,
        ("quick convolutions", "bfloat16"): ready,
    }


def danet_r50() -> SegmentationModel:
    """Untrained, its gates open."""
    torch.manual_seed(0)
    model = create_model("danet", "resnet50", num_classes=19)
    for _, module in attention_modules(model):
        nn.init.constant_(module.gate, 0.5)
    return model


def milliseconds() -> dict[tuple[str, Precision], float]:
    """The median of each variant; they take turns, so that a slow moment meets all."""
    networks = variants(danet_r50())
    images = torch.randn(1, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    times: dict[tuple[str, Precision], list[float]] = {key: [] for key in networks}
    for repetition in range(REPETITIONS + 1):
        for (name, precision), model in networks.items():
            with torch.inference_mode(), autocast(CPU, precision):
                start = time.perf_counter()
                model(images)
                took = time.perf_counter() - start
            if repetition:  # the first is for warming up
                times[name, precision].append(took)
    return {key: 1e3 * statistics.median(values) for key, values in times.items()}


def peak_gigabytes(precision: Precision) -> float:
    """Of a process that does one forward at 1024×2048; call it in a fresh one."""
    model = network.ready(danet_r50(), CPU)
    reset_peak_memory(CPU)
    with torch.inference_mode(), autocast(CPU, precision):
        model(torch.randn(1, 3, *LARGE).contiguous(memory_format=torch.channels_last))
    return (peak_memory(CPU) or 0) / 1e9


def kept_labels(bundle: Path, images: Path) -> Iterator[tuple[tuple[str, Precision], float, float]]:
    """Of each variant: the share of labels that are those of the equations in float32, and of clear labels."""
    loaded = load_bundle(bundle)
    networks = variants(loaded.model)
    dataset = Dataset(*camvid(images, "val"))
    kept = {key: torch.zeros(2, dtype=torch.long) for key in networks}
    counted = torch.zeros(2, dtype=torch.long)
    for index in range(len(dataset)):
        inputs = normalise(dataset[index].image[None], loaded.preprocess.mean, loaded.preprocess.std)
        found = {}
        for (name, precision), model in networks.items():
            with torch.inference_mode(), autocast(CPU, precision):
                found[name, precision] = model(inputs.contiguous(memory_format=torch.channels_last)).logits
        reference = next(iter(found.values()))
        highest = reference.topk(2, dim=1).values
        clear = highest[:, 0] - highest[:, 1] > 1e-2
        counted += torch.stack([torch.tensor(clear.numel()), clear.sum()])
        for key, logits in found.items():
            same = logits.argmax(1) == reference.argmax(1)
            kept[key] += torch.stack([same.sum(), (same & clear).sum()])
    for key, counts in kept.items():
        every, clear = (counts / counted).tolist()
        yield key, every, clear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a trained model")
    parser.add_argument("--camvid", type=Path, help="the folder with CamVid")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    print("measuring times", file=sys.stderr, flush=True)
    took = milliseconds()
    rows = {
        key: {"step": key[0], "type": key[1], "ms": round(ms, 1), "ratio": round(ms / next(iter(took.values())), 3)}
        for key, ms in took.items()
    }
    print("measuring memory", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for precision in ("float32", "bfloat16"):
            peak = fresh.submit(peak_gigabytes, precision).result()
            rows["quick convolutions", precision]["peak_gigabytes_1024x2048"] = round(peak, 2)
    if options.bundle and options.camvid:
        print("comparing labels", file=sys.stderr, flush=True)
        for key, every, clear in kept_labels(options.bundle, options.camvid):
            rows[key] |= {"labels_kept": round(every, 6), "clear_labels_kept": round(clear, 8)}
    where = describe_run(CPU, "in each row", seed=0)
    for row in rows.values():
        print(row)
    if options.out:
        fields = ["step", "type", "ms", "ratio", "peak_gigabytes_1024x2048", "labels_kept", "clear_labels_kept", *where]
        write_table(options.out, ({**row, **where} for row in rows.values()), fields)


if __name__ == "__main__":
    main()
