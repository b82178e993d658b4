"""The sections of docs/results.md that tell of scores."""

from collections.abc import Sequence
from itertools import product
from statistics import mean, stdev

from table import Row, markdown, percent

PUBLISHED = (
    ("ENet", "51.3", "Paszke et al., 2016"),
    ("ESPNet", "55.6", "Mehta et al., 2018"),
    ("FC-DenseNet67", "61.6 (a later run) to 65.8", "Jégou et al., 2017"),
    ("FC-DenseNet103", "66.9", "Jégou et al., 2017"),
)
"""What others report on CamVid's test part, 11 classes, 360×480, from scratch."""
NAMES = {"danet": "DANet", "fpn": "FPN", "deeplabv3plus": "DeepLabV3+", "pspnet": "PSPNet", "unet": "U-Net"}
RUNS_NOTE = "`camvid-r18d-whole` goes on from `camvid-r18d` (here `long.yaml`); it was stopped at 3,066 of its 3,600 steps, and its best validation was at 3,000."
PEERS_NOTE = """What it says: at equal time DANet is ahead of both, at equal steps DeepLabV3+ is ahead of it; two seeds each, far from where longer runs end. DANet's steps are the cheapest of the three, since its recipe leaves out the encoder's fourth stage, which holds most of ResNet-18's parameters and in the others works at a coarser stride; and attention over the 1,200 places of a crop costs little beside the convolutions. So in the same time it sees four tenths more images. What DeepLabV3+ has for each step is three times the parameters and a decoder that sees a quarter of the size instead of an eighth: poles, thin things, show it, of which DANet finds hardly any in that time. DANet's lead is in fences, bicyclists and cars, and fences, buildings and cars are what position attention carries in the trained model (next section). Which of the two counts for how much was not taken apart here. What remains to DANet's side is that thin things are beyond an eighth of the size: longer runs find some (the first tables), DRANet's decoder is its authors' remedy. PSPNet takes the least time, by 900,000 parameters and an encoder that it cuts off early; FPN costs what DeepLabV3+ does. These two were not trained here."""
AT_WORK_NOTE = """What it says: position attention is what this network has learned to rely on. Without it fences, buildings and cars fall most, large things whose look nearby is ambiguous; poles, which it cannot see at an eighth of the size, hardly change. Channel attention brings nothing that position attention does not bring as well: alone it can be shut at no cost, and only without the other does it count. Places look at cars, bicyclists and pedestrians many times more than these fill of the picture, and closer by than an even look would; hardly any looks at the sky, and the sky looks at the road below. And the brightest spots of a map are not what the answer hangs on: with the most attended tenth of places taken from every place the score even rises a little, for cars most, where the control changes nothing. The rest of a row, spread over hundreds of places, does the work."""


def camvid(rows: Sequence[Row]) -> str:
    """Runs on CamVid from scratch, beside what others report."""
    ours = [row for row in rows if row["data"] == "camvid val"]
    return f"""## CamVid from scratch

{
        markdown(
            ("run", "scored", "mIoU", "pixel accuracy", "α", "β", "steps", "minutes", "on"),
            (
                (
                    f"`{row['command']}`",
                    row["protocol"],
                    percent(row["miou"]),
                    percent(row["pixel_accuracy"]),
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

{markdown(("others, on test", "mIoU in %", "as reported by"), PUBLISHED)}
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
        markdown(
            ("", *(row["protocol"] for row in rows)),
            (
                ("**mean**", *(percent(row["miou"]) for row in rows)),
                ("pixel accuracy", *(percent(row["pixel_accuracy"]) for row in rows)),
                *((name, *(percent(row[f"iou_{name}"]) for row in rows)) for name in names),
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
    runs = {key: [row for row in rows if (row["network"], row["seed"]) == key] for key in product(networks, seeds)}
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
        markdown(
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
        markdown(
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
        markdown(
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
        markdown(
            ("", first["variant"], *(row["variant"] for row in others)),
            (
                ("**mean**", percent(first["miou"]), *(change(row, "miou") for row in others)),
                *(
                    (name, percent(first[f"iou_{name}"]), *(change(row, f"iou_{name}") for row in others))
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
        markdown(
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
                    percent(row[f"to_{row['class']}"]),
                    percent(row[f"area_{row['class']}"]),
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
    told_steps = ", ".join(
        f"{steps[str(images)]} steps on {'all' if images == 367 else f'{images} of the'} 367 images" for images in sets
    )
    return f"""## A start from drawn streets

{
        markdown(
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
    }. These are short runs, in which a start counts most; what longer ones reach from scratch is in the first table. Drawn streets are no photographs; which classes a run takes over is by name alone: here all eleven.
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
            markdown(
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
                        percent(row["miou"]),
                        percent(shut[size]["miou"]),
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
