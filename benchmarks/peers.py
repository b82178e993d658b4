"""DANet beside what a user might pick instead: FPN, DeepLabV3+, PSPNet and U-Net of segmentation_models.pytorch.

    python benchmarks/peers.py cost
    python benchmarks/peers.py train --camvid FOLDER [--networks danet unet] [--seeds 0 1] [--minutes 20]

Everybody has the same ResNet-18 with a deep stem (timm's resnet18d), none pre-trained, and the same images in the same
order, crops, variation, optimizer and seeds: the recipe camvid-r18 and our own Stepper, without class weights. The rate
stays constant after its warm-up and the weights' moving average is scored, so that a run says what it is worth at any
moment, and those of other lengths compare. DANet is the recipe's, on the encoder's first three stages at stride 8; the
others are as their library builds them. All have their norms folded for inference where they can.

`cost` measures a step, an image and the memory of both, in processes that take turns, and writes
results/peers-cost.csv; nothing else may run. `train` takes as many steps as fit into `--minutes` at the seconds that a
step has there, so that other work beside it changes nothing, and appends a row for each scoring to results/peers.csv.
"""

import argparse
import csv
import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from jaxtyping import Float
from torch import Tensor, nn

from danet.config import ModelConfig, RunConfig, read_config
from danet.console import Screen
from danet.data.labels import LabelSpace
from danet.evaluation.evaluate import evaluate
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import SegmentationModel, SegmentationOutput, build_model
from danet.training.data import RunData, batches, open_data
from danet.training.losses import Criterion
from danet.training.provenance import describe_run
from danet.training.state import State
from danet.training.step import Stepper
from table import read_table, score_columns, write_table
from worker import peak_gigabytes, seconds, serve

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[1] / "results"
ENCODER = "resnet18d"
PEERS: dict[str, Callable[..., nn.Module]] = {
    "fpn": smp.FPN,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pspnet": smp.PSPNet,
    "unet": smp.Unet,
}
NETWORKS = ("danet", *PEERS)
EVERY = 200
"""Steps between scorings."""
SIZE = (360, 480)
REPETITIONS = 7


class Peer(SegmentationModel):
    """A network of the other library, as ours is asked: one classifier, whose logits have the images' size."""

    def __init__(self, create: Callable[..., nn.Module], like: SegmentationModel, classes: int) -> None:
        network = create(f"tu-{ENCODER}", encoder_weights=None, classes=classes)
        # Ours computes its finest blocks twice to spare memory, though not in a network of channels-last maps.
        super().__init__(network.encoder, replace(like.anatomy, channels_last=True), network)

    def forward(self, images: Float[Tensor, "b c H W"]) -> SegmentationOutput:
        return SegmentationOutput(self.classify(images)["fused"], {}, None)

    def classify(self, images: Float[Tensor, "b c H W"]) -> dict[str, Float[Tensor, "b k H W"]]:
        height, width = images.shape[-2:]
        step = 32  # theirs refuse other sizes
        filled = nn.functional.pad(images, (0, -width % step, 0, -height % step))
        return {"fused": self.head(filled)[..., :height, :width]}

    def enlarge(self, logits: Float[Tensor, "b k H W"], size: torch.Size) -> Float[Tensor, "b k H W"]:
        return logits


def protocol(camvid: str, seed: int) -> RunConfig:
    """What all networks learn by."""
    told = {
        "model.backbone": ENCODER,
        "seed": str(seed),
        "data.root": camvid,
        "data.workers": "0",
        "optim.class_weights": "none",
        "optim.power": "0",
        "precision": "bfloat16",
    }
    return read_config("camvid-r18", told)


def build(name: str, config: RunConfig, network: ModelConfig) -> SegmentationModel:
    """The network `name`, from weights drawn by the run's seed."""
    torch.manual_seed(config.seed)
    ours = build_model(network)
    if name != "danet":
        torch.manual_seed(config.seed)
        ours = Peer(PEERS[name], ours, network.num_classes)
    return ours.to(memory_format=torch.channels_last)


def train(name: str, config: RunConfig, data: RunData, steps: int, screen: Screen) -> list[dict[str, Any]]:
    """A run of so many steps: a row for each scoring, every EVERY steps and at the end."""
    model = build(name, config, data.model)
    state = State.of(model, config, CPU)
    stepper = Stepper(config, state, Criterion(), CPU, "bfloat16")
    tell = screen.phase(f"{name}, seed {config.seed}")
    rows = []
    for step, (images, masks, names) in zip(range(steps), batches(config, data.train, 0), strict=False):
        stepper.step(step, images, masks, names)
        tell(step + 1, steps)
        if step + 1 == steps or (step + 1) % EVERY == 0:
            segmenter = Segmenter(state.kept, data.labels, config.preprocess, "cpu", "bfloat16")
            report = evaluate(segmenter, data.val, details=False)
            rows.append({"network": name, "seed": config.seed, "steps": step + 1, "last": step + 1 == steps})
            rows[-1] |= score_columns(report.scores)
            screen.say(f"{name}, seed {config.seed}, step {step + 1}: mIoU {100 * rows[-1]['miou']:.1f} %")
    return rows


def steps_in(minutes: float, cost: Path) -> dict[str, int]:
    """How many steps of each network fit into so many minutes, by the seconds in the table `cost`."""
    return {row["network"]: round(60 * minutes / float(row["step_seconds"])) for row in read_table(cost)}


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add a run's rows, so that what ends in between loses that run alone."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def work(name: str, what: str) -> Callable[[], object]:
    """One step of training, or one image to its labels, of the network `name` on noise."""
    config = protocol("", 0)
    network = config.model.model_copy(update={"num_classes": 11})
    model = build(name, config, network)
    if what == "image":
        labels = LabelSpace("camvid", tuple(map(str, range(11))))
        segmenter = Segmenter(model, labels, config.preprocess, "cpu", "bfloat16")
        image = np.random.default_rng(0).integers(256, size=(*SIZE, 3), dtype=np.uint8)
        return lambda: segmenter(image).labels
    stepper = Stepper(config, State.of(model, config, CPU), Criterion(), CPU, "bfloat16")
    images = torch.randint(256, (config.data.batch_size, 3, *config.data.crop), dtype=torch.uint8)
    masks = torch.randint(11, (config.data.batch_size, *config.data.crop))
    return lambda: stepper.step(0, images, masks, ["a batch of noise"])


def costs() -> list[dict[str, Any]]:
    """Of each network: parameters, a step's and an image's seconds and memory, and the first two beside ours."""
    rows: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        config = protocol("", 0)
        model = build(name, config, config.model.model_copy(update={"num_classes": 11}))
        rows[name] = {"network": name, "parameters": sum(parameter.numel() for parameter in model.parameters())}
    for what in ("step", "image"):
        commands = {name: [sys.executable, __file__, "worker", name, what] for name in NETWORKS}
        took = {name: statistics.median(times) for name, times in seconds(commands, REPETITIONS).items()}
        for name, command in commands.items():
            rows[name][f"{what}_seconds"] = round(took[name], 3)
            rows[name][f"{what}_times_ours"] = round(took[name] / took["danet"], 2)
            rows[name][f"{what}_peak_gigabytes"] = round(peak_gigabytes(command, 2), 2)
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    training = kinds.add_parser("train")
    training.add_argument("--camvid", required=True, help="the folder with CamVid")
    training.add_argument("--networks", nargs="+", choices=NETWORKS, default=["danet", "deeplabv3plus", "unet"])
    training.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    training.add_argument("--minutes", type=float, default=20.0)
    training.add_argument("--out", type=Path, default=RESULTS / "peers.csv")
    training.add_argument("--cost", type=Path, default=RESULTS / "peers-cost.csv")
    cost = kinds.add_parser("cost")
    cost.add_argument("--out", type=Path, default=RESULTS / "peers-cost.csv")
    worker = kinds.add_parser("worker", help="for its own processes")
    worker.add_argument("network", choices=NETWORKS)
    worker.add_argument("what", choices=["step", "image"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kind == "worker":
        return serve({}, work(options.network, options.what))
    if options.kind == "cost":
        where = describe_run(CPU, "bfloat16", 0)
        return write_table(options.out, [row | where for row in costs()])
    steps = steps_in(options.minutes, options.cost)
    with Screen() as screen:
        for seed, name in itertools.product(options.seeds, options.networks):
            config = protocol(options.camvid, seed)
            rows = train(name, config, open_data(config), steps[name], screen)
            append(
                options.out, [row | {"minutes": options.minutes} | describe_run(CPU, "bfloat16", seed) for row in rows]
            )
    return None


if __name__ == "__main__":
    main()
