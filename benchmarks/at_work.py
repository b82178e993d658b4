"""Attention at work on real streets: where places look, by class, and what the score is without it.

    python benchmarks/at_work.py MODEL --camvid FOLDER

On CamVid's validation images, whole. results/at-work.csv has the scores of the network as it is, with either branch's
gate shut or both, and with every place of the map doing without the tenth of places that it attends to most, or without
another tenth at random. results/at-work-rows.csv has, for each class, what the places that truly are of it attend to:
which classes (`to_…`, beside `area_…`, those classes' share of the same images), how far away, and how many places
share a row (exp of its entropy). docs/at-work.svg draws that; docs/at-work-1.png and -2.png show rows of a pole's, a
car's and a sky's pixel over what the network sees in the two images that have most of all three (label maps: the
photographs are not ours to show). Takes a quarter of an hour on a core.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from danet.console import Screen
from danet.data.dataset import Dataset
from danet.data.labels import LabelSpace
from danet.data.sources import open_source
from danet.evaluation.evaluate import evaluate
from danet.inference.segmenter import Segmenter, load, own_name
from danet.models.attention import PositionAttention, attention_modules, places_to_map
from danet.ops.position import position_attention_rows
from danet.ops.taken import position_attention_taken
from danet.training.provenance import describe_run
from danet.viz.attention import attention_overlay, caption
from danet.viz.overlay import outlines, side_by_side
from danet.viz.text import GROUND
from table import score_columns, write_table

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
SHOWN = ("pole", "car", "sky")
TAKEN = 0.1
WITHOUT = ("as trained", "α = 0", "β = 0", "α = 0, β = 0", "most attended tenth", "random tenth")


@contextmanager
def changed(model: nn.Module, variant: str) -> Iterator[None]:
    """`model` as `variant` says, for as long as the context lasts."""
    modules: dict[str, Any] = dict(attention_modules(model))
    gates = {sign: modules[branch].gate for sign, branch in (("α", "position"), ("β", "channel")) if sign in variant}
    kept = {sign: gate.item() for sign, gate in gates.items()}

    def take_away(module: PositionAttention, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        query, key, value = (tensor[0] for tensor in module.project(inputs[0]))
        most, random = position_attention_taken(query, key, value, TAKEN)
        gathered = (most if variant.startswith("most") else random)[None]
        return inputs[0] + module.gate * places_to_map(gathered, inputs[0])

    hook = modules["position"].register_forward_hook(take_away) if variant.endswith("tenth") else None
    for gate in gates.values():
        nn.init.zeros_(gate)
    try:
        yield
    finally:
        for sign, gate in gates.items():
            nn.init.constant_(gate, kept[sign])
        if hook:
            hook.remove()


def without(segmenter: Segmenter, val: Dataset, screen: Screen) -> Iterator[dict[str, Any]]:
    """The scores of each variant."""
    for variant in WITHOUT:
        with changed(segmenter.model, variant):
            scores = evaluate(segmenter, val, progress=screen.phase(variant), details=False).scores
        yield {"variant": variant, **score_columns(scores)}


def class_shares(mask: UInt8[np.ndarray, "h w"], grid: tuple[int, int], classes: int) -> Float[np.ndarray, "n k"]:
    """The share of each true class in the pixels of each place; pixels without a label belong to none."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(mask.shape, grid, strict=True))
    place = rows[:, None] * grid[1] + columns
    known = mask < classes
    counts = np.bincount(place[known] * classes + mask[known], minlength=grid[0] * grid[1] * classes)
    return counts.reshape(-1, classes) / np.bincount(place.ravel())[:, None]


def rows(segmenter: Segmenter, val: Dataset, tell: Callable[[int, int], None]) -> list[dict[str, Any]]:
    """Of each class: what its places attend to, how far, and how many places share a row."""
    names = segmenter.labels.names
    attended, area = np.zeros((2, len(names), len(names)))
    places, far, even, entropy = np.zeros((4, len(names)))
    for index in range(len(val)):
        sample = val[index]
        encoding = segmenter.encode(sample.pixels)
        query, key, *_ = encoding.position
        grid = encoding.traces["position"].grid
        weights = position_attention_rows(query, key, range(query.shape[1]))[0].double().numpy()
        shares = class_shares(sample.mask.numpy(), grid, len(names))
        cell = sample.mask.shape[0] / grid[0]
        at = cell * np.stack(np.divmod(np.arange(len(shares)), grid[1]), axis=-1)
        distance = np.linalg.norm(at[:, None] - at, axis=-1)
        attended += shares.T @ weights @ shares
        area += shares.sum(0)[:, None] * shares.mean(0)
        places += shares.sum(0)
        far += shares.T @ (weights * distance).sum(1)
        even += shares.T @ distance.mean(1)
        entropy += shares.T @ -(weights * np.log(np.maximum(weights, 1e-300))).sum(1)
        tell(index + 1, len(val))
    attended, area = (part / part.sum(1, keepdims=True) for part in (attended, area))
    return [
        {
            "class": name,
            "places": round(places[own]),
            "perplexity": round(float(np.exp(entropy[own] / places[own]))),
            "pixels_away": round(far[own] / places[own]),
            "pixels_away_if_even": round(even[own] / places[own]),
            **{f"to_{other}": round(float(attended[own, to]), 4) for to, other in enumerate(names)},
            **{f"area_{other}": round(float(area[own, to]), 4) for to, other in enumerate(names)},
        }
        for own, name in enumerate(names)
    ]


def drawing(found: list[dict[str, Any]], path: Path) -> None:
    """How many times their share of the area classes are attended to, by the class that attends."""
    names = [row["class"] for row in found]
    times = np.array([[row[f"to_{name}"] / max(row[f"area_{name}"], 1e-9) for name in names] for row in found])
    with plt.rc_context({"svg.hashsalt": "danet", "font.size": 9, "svg.fonttype": "path"}):
        figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
        picture = axes.imshow(np.log2(times.clip(1 / 8, 8)), cmap="PuOr_r", vmin=-3, vmax=3)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("is attended to")
        axes.set_ylabel("attends")
        for (row, column), value in np.ndenumerate(times):
            ink = "white" if abs(np.log2(max(value, 1e-9))) > 1.6 else "black"
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=ink)
        bar = figure.colorbar(picture, ticks=range(-3, 4), shrink=0.8, label="attention by share of the area")
        bar.set_ticklabels(["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"])
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def picture(segmenter: Segmenter, pixels: Any, truth: UInt8[np.ndarray, "h w"]) -> Image.Image:
    """The label map of an image, and on it the rows of the surest rightly named pixel of each class shown."""
    encoding = segmenter.encode(pixels)
    prediction, trace = encoding.prediction, encoding.traces["position"]
    labels = prediction.labels
    drawn = segmenter.labels.colour_image(labels)
    drawn[outlines(labels)] = 255
    images, titles = [Image.fromarray(drawn)], [f"what the network sees ({caption(trace.gate, trace.share.item())})"]
    for name in SHOWN:
        own = segmenter.labels.index(name)
        right = (labels == own) & (truth == own)
        y, x = np.unravel_index(np.where(right, prediction.probabilities[own].numpy(), -1).argmax(), labels.shape)
        at = int(x), int(y)
        shares = list(encoding.by_class(at).items())[:3]
        images.append(attention_overlay(drawn, encoding.attention(at), at, span=encoding.span))
        titles.append(f"{name} looks at {', '.join(f'{other} {100 * share:.0f} %' for other, share in shares)}")
    above, below = side_by_side(images[:2], titles[:2]), side_by_side(images[2:], titles[2:])
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), GROUND)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    return sheet


def richest(val: Dataset, space: LabelSpace) -> list[int]:
    """The two images, of different drives, with most pixels of all the classes shown (by their smallest share)."""
    indices = [space.index(name) for name in SHOWN]
    score = []
    for index in range(len(val)):
        counts = np.bincount(val[index].mask.numpy().ravel(), minlength=256)
        score.append(np.prod(counts[indices].astype(float)))
    order = np.argsort(score)[::-1]
    first = int(order[0])
    return [first, int(next(index for index in order if abs(index - first) > len(val) // 4))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run or a bundle of CamVid's classes")
    parser.add_argument("--camvid", required=True, help="the folder with CamVid")
    options = parser.parse_args()
    segmenter = load(options.model, "cpu", "float32")
    val = Dataset(*open_source("camvid", "val", root=options.camvid))
    where = {"model": own_name(options.model), **describe_run(segmenter.device, segmenter.precision, 0)}
    with Screen() as screen:
        write_table(ROOT / "results" / "at-work.csv", [row | where for row in without(segmenter, val, screen)])
        found = rows(segmenter, val, screen.phase("rows"))
        write_table(ROOT / "results" / "at-work-rows.csv", [row | where for row in found])
    drawing(found, ROOT / "docs" / "at-work.svg")
    for number, index in enumerate(richest(val, segmenter.labels), 1):
        path = ROOT / "docs" / f"at-work-{number}.png"
        picture(segmenter, val[index].pixels, val[index].mask.numpy()).save(path, optimize=True)


if __name__ == "__main__":
    main()
