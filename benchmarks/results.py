"""Write docs/results.md, and tables of other pages, from the tables in results/; a test fails when they part.

python benchmarks/results.py
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from itertools import product as _pairs
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results, in words

Written by `python benchmarks/results.py` from the tables in [results/](../results), each of which names command, commit, hardware and date; what is not measured here is not here.
"""
Row = dict[str, str]
PUBLISHED = (
    ("ENet", "51.3", "Paszke et al., 2016"),
    ("ESPNet", "55.6", "Mehta et al., 2018"),
    ("FC-DenseNet67", "61.6 (a later run) to 65.8", "Jégou et al., 2017"),
    ("FC-DenseNet103", "66.9", "Jégou et al., 2017"),
)
"""What others report on CamVid's test part, 11 classes, 360×480, from scratch."""


def camvid(rows: Sequence[Row]) -> str:
    """Runs on CamVid from scratch, beside what others report."""
    ours = [row for row in rows if row["data"] == "camvid val"]
    return f"""## CamVid from scratch

{
        _table(
            ("run", "scored", "mIoU", "pixel accuracy", "α", "β", "steps", "minutes", "on"),
            (
                (
                    f"`{row['command']}`",
                    row["protocol"],
                    _percent(row["miou"]),
                    _percent(row["pixel_accuracy"]),
                    row["alpha"],
                    row["beta"],
                    row["steps"],
                    row["minutes"],
                    row["hardware"],
                )
                for row in ours
            ),
        )
    }
Trained on the 367 images of train alone from random weights, scored on the 101 images of val at 360×480 in 11 classes, one seed each ([runs.csv](../results/runs.csv)); a run that starts from another has seen that one's steps as well. {
        RUNS_NOTE
    }

{_table(("others, on test", "mIoU in %", "as reported by"), PUBLISHED)}
Those are theirs, not measured here, and on the test part, where runs have scored about 10 points less than on val: nobody should compare the two tables.
"""


def protocols(rows: Sequence[Row]) -> str:
    """The kept model by several protocols, and class by class."""
    names = [column.removeprefix("iou_") for column in rows[0] if column.startswith("iou_")]
    model = rows[0]["model"]
    return f"""The best of our runs, `{model}`, is kept in half precision ([bundles/{model}](../results/bundles/{
        model
    })); as it is kept it scores, in IoU %:

{
        _table(
            ("", *(row["protocol"] for row in rows)),
            (
                ("**mean**", *(_percent(row["miou"]) for row in rows)),
                ("pixel accuracy", *(_percent(row["pixel_accuracy"]) for row in rows)),
                *((name, *(_percent(row[f"iou_{name}"]) for row in rows)) for name in names),
            ),
        )
    }
Val, whole images, the scales {
        " and ".join(sorted({row["scales"] for row in rows if " " in row["scales"]}))
    } ([camvid.csv](../results/camvid.csv), `python benchmarks/keep.py`).
"""


def peers(rows: Sequence[Row]) -> str:
    """DANet beside other networks under one protocol, at equal steps and at equal time."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    runs = {key: [row for row in rows if (row["network"], row["seed"]) == key] for key in _pairs(networks, seeds)}
    steps = max(set.intersection(*({int(row["steps"]) for row in run} for run in runs.values())))
    equal = {key: next(row for row in run if int(row["steps"]) == steps) for key, run in runs.items()}
    last = {key: next(row for row in run if row["last"] == "True") for key, run in runs.items()}
    minutes = float(min(row["minutes"] for row in last.values()))

    def scores(found: dict[tuple[str, str], Row], network: str, column: str = "miou") -> list[float]:
        return [100 * float(found[network, seed][column]) for seed in seeds]

    def each(values: Sequence[float]) -> str:
        return f"{mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"

    classes = [column for column in rows[0] if column.startswith("iou_")]
    return f"""## Beside other networks

{
        _table(
            ("network", f"mIoU after {steps:,} steps, %", f"mIoU after {minutes:.0f} minutes, %", "steps by then"),
            (
                (
                    NAMES[network],
                    each(scores(equal, network)),
                    each(scores(last, network)),
                    ", ".join(last[network, seed]["steps"] for seed in seeds),
                )
                for network in networks
            ),
        )
    }
Mean and, in brackets, each of {
        len(seeds)
    } seeds; CamVid's val, whole images. Everybody has the same ResNet-18 with a deep stem, not pre-trained, the same crops of 240×320 in the same order, AdamW at the same constant rate, and the moving average of its weights scored; FPN, DeepLabV3+, PSPNet and U-Net are segmentation_models.pytorch's. DANet is the recipe camvid-r18's, without the encoder's fourth stage and at stride 8. {
        minutes:.0f} minutes are as many steps as fit into them on one core, at the seconds that a step has in the last table ([peers.csv](../results/peers.csv), `python benchmarks/peers.py train`).

{
        _table(
            ("IoU at equal time, %", *(NAMES[network] for network in networks)),
            (
                (
                    column.removeprefix("iou_"),
                    *(f"{mean(scores(last, network, column)):.1f}" for network in networks),
                )
                for column in classes
            ),
        )
    }"""


def peers_cost(rows: Sequence[Row]) -> str:
    """What a step and an image cost in each of them."""
    return f"""{
        _table(
            ("network", "10⁶ parameters", "a step", "× ours", "its memory", "an image", "× ours", "its memory"),
            (
                (
                    NAMES[row["network"]],
                    f"{int(row['parameters']) / 1e6:.1f}",
                    *(
                        text
                        for what in ("step", "image")
                        for text in (
                            f"{float(row[f'{what}_seconds']):.3g} s",
                            row[f"{what}_times_ours"],
                            f"{row[f'{what}_peak_gigabytes']} GB",
                        )
                    ),
                )
                for row in rows
            ),
        )
    }
A step of training on 8 crops of 240×320, and an image of 360×480 to its labels, in bfloat16, on {
        rows[0]["hardware"]
    }; processes in turn, medians; memory is a process's peak with its libraries ([peers-cost.csv](../results/peers-cost.csv), `python benchmarks/peers.py cost`).

{PEERS_NOTE}
"""


def at_work(rows: Sequence[Row]) -> str:
    """The score without attention, class by class."""
    first, *others = rows
    names = [column.removeprefix("iou_") for column in first if column.startswith("iou_")]

    def change(row: Row, column: str) -> str:
        return f"{100 * (float(row[column]) - float(first[column])):+.1f}"

    return f"""## Attention at work

What the network `{first["model"]}` makes of CamVid's val without a part of its attention, in points of IoU:

{
        _table(
            ("", first["variant"], *(row["variant"] for row in others)),
            (
                ("**mean**", _percent(first["miou"]), *(change(row, "miou") for row in others)),
                *(
                    (name, _percent(first[f"iou_{name}"]), *(change(row, f"iou_{name}") for row in others))
                    for name in names
                ),
            ),
        )
    }
α = 0 shuts position attention's gate, β = 0 channel attention's. Without its *most attended tenth* every place does without the tenth of places that it attends to most, and its row is renewed over the rest; the random tenth is the control ([at-work.csv](../results/at-work.csv), `python benchmarks/at_work.py`).
"""


def at_work_rows(rows: Sequence[Row]) -> str:
    """Where places look, by class."""
    names = [row["class"] for row in rows]

    def most(row: Row) -> str:
        order = sorted(names, key=lambda name: -float(row[f"to_{name}"]))[:3]
        return ", ".join(f"{name} {100 * float(row[f'to_{name}']):.0f} %" for name in order)

    return f"""Where places look, by the class that they truly are of, over all of val:

{
        _table(
            (
                "places of",
                "attend most to",
                "to their own class",
                "which is of the area",
                "pixels away",
                "places that share a row",
            ),
            (
                (
                    row["class"],
                    most(row),
                    _percent(row[f"to_{row['class']}"]),
                    _percent(row[f"area_{row['class']}"]),
                    f"{row['pixels_away']} ({row['pixels_away_if_even']})",
                    row["perplexity"],
                )
                for row in rows
            ),
        )
    }
In brackets how far away the places would be if all were attended to alike; of 2,700 places ([at-work-rows.csv](../results/at-work-rows.csv)).

![How many times their share of the area classes are attended to](at-work.svg)

Rows of the map, of the surest rightly named pixel of a pole, a car and the sky (the ring), over what the network sees; the photographs are not ours to show:

![Rows of a pole, a car and the sky](at-work-1.png)

![The same, in another street](at-work-2.png)

{AT_WORK_NOTE}
"""


def transfer(rows: Sequence[Row]) -> str:
    """What a start from drawn streets is worth."""
    sets = sorted({int(row["images"]) for row in rows})
    kinds = [(images, variant) for images in sets for variant in ("scratch", "fine-tuned")]
    columns = [column for column in rows[0] if column.startswith("iou_")]

    def of(images: int, variant: str, column: str) -> list[float]:
        chosen = [row for row in rows if (row["images"], row["variant"]) == (str(images), variant)]
        return [100 * float(row[column]) for row in sorted(chosen, key=lambda row: int(row["seed"]))]

    gains = []
    for images in sets:
        pairs = zip(of(images, "fine-tuned", "miou"), of(images, "scratch", "miou"), strict=True)
        gained = [tuned - scratch for tuned, scratch in pairs]
        told = ", ".join(f"{gain:.1f}" for gain in gained)
        gains.append(f"{mean(gained):.1f} points of mIoU on {images} images (seed by seed {told})")
    steps = {row["images"]: row["steps"] for row in rows}
    told_steps = ", ".join(f"{steps[str(images)]} steps on {images} of the 367 training images" for images in sets)
    return f"""## A start from drawn streets

{
        _table(
            ("IoU in %", *(f"{images} images, {variant}" for images, variant in kinds)),
            (
                (
                    "**mean**",
                    *(f"{mean(of(*kind, 'miou')):.1f} ± {stdev(of(*kind, 'miou')):.1f}" for kind in kinds),
                ),
                *(
                    (column.removeprefix("iou_"), *(f"{mean(of(*kind, column)):.1f}" for kind in kinds))
                    for column in columns
                ),
            ),
        )
    }
CamVid, the recipe camvid-r18 with smaller crops, from scratch and from `street-small`, which has seen drawn streets alone: {
        told_steps
    }; all 101 images of val, mean over 3 seeds ± standard deviation ([finetune.csv](../results/finetune.csv), `python benchmarks/finetune.py`). The start gains {
        " and ".join(gains)
    }. Drawn streets are no photographs; which classes a run takes over is by name alone: here all eleven.
"""


def sizes(rows: Sequence[Row]) -> str:
    """How scores move with the size at which images are seen."""
    parts, ranges = [], []
    for model, data in dict.fromkeys((row["model"], row["data"]) for row in rows):
        of = [row for row in rows if (row["model"], row["data"]) == (model, data)]
        trained = {row["size"]: row for row in of if row["channel_attention"] == "as trained"}
        shut = {row["size"]: row for row in of if row["channel_attention"] != "as trained"}
        gains = [100 * (float(row["miou"]) - float(shut[size]["miou"])) for size, row in trained.items()]
        ranges.append(f"{min(gains):+.1f} and {max(gains):+.1f} points ({model} on {data})")
        parts.append(
            _table(
                (
                    "seen at",
                    f"mIoU, {model} on {data}",
                    "β = 0",
                    "β brings",
                    "spread of energies",
                    "channels that share a row",
                ),
                (
                    (
                        f"{float(size):g} ×",
                        _percent(row["miou"]),
                        _percent(shut[size]["miou"]),
                        f"{100 * (float(row['miou']) - float(shut[size]['miou'])):+.1f}",
                        row["energy"],
                        f"{float(row['perplexity']):.1f} of {row['channels']}",
                    )
                    for size, row in trained.items()
                ),
            )
        )
    brought = ", and ".join(ranges)
    return f"""## How the score moves with the size

{chr(10).join(parts)}
Validation images, resized before the network and scored at their own size ([sizes.csv](../results/sizes.csv)). The energies of channel attention are sums over all places, so they grow with the image's area, and its softmax, which is not divided by anything, sharpens: the column before the last is the spread of what the softmax takes, the last how many channels share a row of its map (exp of its entropy). "β = 0" is the same network with channel attention's gate shut, and the column after it what channel attention brings at that size.

What it says: scores fall away from the trained size, on either side, and they do so with channel attention's gate shut as well, though its map becomes all but one-hot as the image grows. What channel attention brings lies, over all sizes, between {brought}. So: predict near the size that was trained with (by the size rule, or in windows of the training crop's size), and let `danet evaluate --protocol.scales` tell for your data.
"""


def inference(rows: Sequence[Row]) -> str:
    """Whole-image inference beside mmsegmentation's, and several scales."""
    scaled = [row for row in rows if row["of_views_alone"]]
    whole = [row for row in rows if row not in scaled]
    return f"""## From an image to its labels

{
        _table(
            ("network", "image", "type", "seconds", "times as fast", "labels that agree", "peak memory"),
            (
                (
                    row["network"],
                    row["size"],
                    row["type"],
                    row["seconds"],
                    row["faster"],
                    _percent(row["labels"], 2) if row["labels"] else "",
                    f"{row['peak_gigabytes']} GB",
                )
                for row in whole
            ),
        )
    }
DANet-ResNet50, 19 classes, the same weights, an image in memory to its labels, on {
        whole[0]["hardware"]
    }; processes in turn, medians ([inference.csv](../results/inference.csv)). "Times as fast" is against mmsegmentation 1.2.2 in float32, as its tools predict.

{
        _table(
            ("several scales", "type", "seconds", "views alone, summed", "share of that"),
            (
                (row["network"], row["type"], row["seconds"], row["views_alone_seconds"], row["of_views_alone"])
                for row in scaled
            ),
        )
    }
"""


def rasters(rows: Sequence[Row]) -> str:
    """Rasters of any size."""
    names = [name for name in rows[0] if name not in PROVENANCE]
    return f"""## Rasters

{_table([name.replace("_", " ") for name in names], ([row[name] for name in names] for row in rows))}
On {rows[0]["hardware"]} ([raster.csv](../results/raster.csv)); how: [guides/rasters.md](guides/rasters.md).
"""


def runtimes(rows: Sequence[Row]) -> str:
    """The network in each runtime, at each size."""
    names = {"": "", "blocks": ", by blocks", "whole": ", whole"}
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    ways = list(dict.fromkeys((row["runtime"], row["attention"], row["type"]) for row in rows))
    found = {(row["runtime"], row["attention"], row["type"], row["size"]): row for row in rows}
    head = [
        "runtime, attention",
        "type",
        *(f"{size}: images/s" for size in sizes),
        *(f"{size}: peak" for size in sizes),
    ]
    lines = [
        [
            f"{way[0]}{names[way[1]]}",
            way[2],
            *(f"{float(row['images_per_second']):.3g} ({row['times']} ×)" for row in of),
            *(f"{row['peak_gigabytes']} GB" for row in of),
        ]
        for way in ways
        for of in [[found[(*way, size)] for size in sizes]]
    ]
    kept = min(float(row["labels"]) for row in rows if row["type"] == "float32")
    half = min(float(row["labels"]) for row in rows if row["type"] != "float32")
    return f"""{_table(head, lines)}
DANet-ResNet50, 19 classes, output stride 8, one image from file values to logits at its size, on {rows[0]["hardware"]}; in brackets how many times one goes into the first of its size; peak memory of a process with its libraries ([runtimes.csv](../results/runtimes.csv), by `make bench`). At least {_percent(str(kept), 2)} of the labels are the first's in float32, {_percent(str(half), 2)} in bfloat16, with weights drawn at random.
"""


def triton(rows: Sequence[Row]) -> str:
    """What the forward kernel takes of a GPU, design by design."""

    def work(row: Row) -> tuple[float, float]:
        """Multiplications beside the equations' own, and operations for a byte of keys and values that is read."""
        queries, channels = int(row["queries"]), int(row["channels"])
        size = 2 if row["type"] == "bfloat16" else 4
        return (512 + 64 * 512 / channels) / 576, 2 * queries * (64 + channels) / (size * (64 + channels))

    chosen = [row for row in rows if row["kernel"] == "forward"]
    return f"""{
        _table(
            (
                "type",
                "queries × keys × channels",
                "warps",
                "registers",
                "stack",
                "shared memory",
                "blocks a multiprocessor",
                "× the equations' multiplications",
                "operations a byte",
                "time",
            ),
            (
                (
                    row["type"],
                    f"{row['queries']} × {row['keys']} × {row['channels']}",
                    row["warps"],
                    row["registers"],
                    f"{row['stack']} B",
                    f"{row['shared_kilobytes']} KB",
                    row["blocks"] + (f" ({row['note']})" if row["note"] else ""),
                    f"{work(row)[0]:.2f}",
                    f"{work(row)[1]:.0f}",
                    row["seconds"],
                )
                for row in chosen
            ),
        )
    }
The forward kernel, query and key 64 wide, values 512, compiled for compute capability 9.0 by Triton's own compiler; all kernels are in [triton.csv](../results/triton.csv), by `python benchmarks/triton_kernels.py`.
"""


PROVENANCE = ("command", "date", "danet", "versions", "hardware", "precision", "seed")
NAMES = {"danet": "DANet", "fpn": "FPN", "deeplabv3plus": "DeepLabV3+", "pspnet": "PSPNet", "unet": "U-Net"}
RUNS_NOTE = "`camvid-r18d-whole` goes on from `camvid-r18d` (here `long.yaml`); it was stopped at 3,066 of its 3,600 steps, and its best validation was at 3,000."
PEERS_NOTE = ""
AT_WORK_NOTE = """What it says: position attention is what this network has learned to rely on. Without it fences, buildings and cars fall most, large things whose look nearby is ambiguous; poles, which it cannot see at an eighth of the size, hardly change. Channel attention brings nothing that position attention does not bring as well: alone it can be shut at no cost, and only without the other does it count. Places look at cars, bicyclists and pedestrians many times more than these fill of the picture, and closer by than an even look would; hardly any looks at the sky, and the sky looks at the road below. And the brightest spots of a map are not what the answer hangs on: with the most attended tenth of places taken from every place the score even rises a little, for cars most, where the control changes nothing. The rest of a row, spread over hundreds of places, does the work."""
SECTIONS: dict[str, Callable[[Sequence[Row]], str]] = {
    "runs": camvid,
    "camvid": protocols,
    "at-work": at_work,
    "at-work-rows": at_work_rows,
    "finetune": transfer,
    "inference": inference,
    "sizes": sizes,
    "raster": rasters,
}

INSERTED: dict[tuple[str, str], Callable[[Sequence[Row]], str]] = {
    ("performance.md", "runtimes"): runtimes,
    ("performance.md", "triton"): triton,
}
"""Parts of other pages, between the comments `<!-- NAME -->` and `<!-- end of NAME -->`."""


def page() -> str:
    """The page as the tables have it now."""
    return "\n".join([HEAD, *(section(_rows(name)) for name, section in SECTIONS.items())])


def inserted() -> dict[Path, str]:
    """The other pages as the tables have them now."""
    pages: dict[Path, str] = {}
    for (page, name), section in INSERTED.items():
        path = PAGE.with_name(page)
        text = pages.get(path) or path.read_text(encoding="utf-8")
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        pages[path] = f"{before}{start}{section(_rows(name))}{end}{after}"
    return pages


def _rows(name: str) -> list[Row]:
    with (ROOT / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(share: str, digits: int = 1) -> str:
    return f"{100 * float(share):.{digits}f} %"


if __name__ == "__main__":
    for path, text in {PAGE: page(), **inserted()}.items():
        path.write_text(text, encoding="utf-8")
