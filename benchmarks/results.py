"""Write docs/results.md, and tables of other pages, from the tables in results/; a test fails when they part.

python benchmarks/results.py
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results, in words

Written by `python benchmarks/results.py` from the tables in [results/](../results), each of which names command, commit, hardware and date; what is not measured here is not here.
"""
Row = dict[str, str]


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


PROVENANCE = ("command", "date", "danet", "versions", "hardware", "precision", "seed")
SECTIONS: dict[str, Callable[[Sequence[Row]], str]] = {"inference": inference, "sizes": sizes, "raster": rasters}

INSERTED: dict[tuple[str, str], Callable[[Sequence[Row]], str]] = {("performance.md", "runtimes"): runtimes}
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
