"""The sections of docs/results.md and docs/performance.md that tell of time and memory."""

from collections.abc import Sequence

from table import PROVENANCE, Row, markdown, percent


def inference(rows: Sequence[Row]) -> str:
    """Whole-image inference beside mmsegmentation's, and several scales."""
    scaled = [row for row in rows if row["of_views_alone"]]
    whole = [row for row in rows if row not in scaled]
    return f"""## From an image to its labels

{
        markdown(
            ("network", "image", "type", "seconds", "times as fast", "labels that agree", "peak memory"),
            (
                (
                    row["network"],
                    row["size"],
                    row["type"],
                    row["seconds"],
                    row["faster"],
                    percent(row["labels"], 2) if row["labels"] else "",
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
        markdown(
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

{markdown([name.replace("_", " ") for name in names], ([row[name] for name in names] for row in rows))}
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
    return f"""{markdown(head, lines)}
DANet-ResNet50, 19 classes, output stride 8, one image from file values to logits at its size, on {rows[0]["hardware"]}; in brackets how many times one goes into the first of its size; peak memory of a process with its libraries ([runtimes.csv](../results/runtimes.csv), by `make bench`). At least {percent(str(kept), 2)} of the labels are the first's in float32, {percent(str(half), 2)} in bfloat16, with weights drawn at random.
"""


def triton(rows: Sequence[Row]) -> str:
    """What the forward kernel takes of a GPU, design by design."""

    def work(row: Row) -> tuple[float, float]:
        """Multiplications beside the equations' own, and the equations' operations for a byte of keys and values."""
        queries, channels = int(row["rows"]), int(row["channels"])
        products = 3 if "halves" in row["type"] else 1
        read = (4 if row["type"] in ("TF32", "float32") else 2) * (64 * min(products, 2) + channels) * 512 / channels
        return (512 + products * 64 * 512 / channels) / 576, 2 * queries * 576 / read

    chosen = [row for row in rows if row["kernel"] == "forward"]
    return f"""{
        markdown(
            (
                "type",
                "queries × keys × channels",
                "threads",
                "registers",
                "stack",
                "shared memory",
                "programs a multiprocessor",
                "× the equations' multiplications",
                "operations a byte",
                "time",
            ),
            (
                (
                    row["type"],
                    f"{row['rows']} × {row['step']} × {row['channels']}"
                    + (", specialized" if row["specialized"] == "True" else ""),
                    row["threads"],
                    row["registers"],
                    f"{row['stack']} B",
                    f"{row['shared_kilobytes']} KB",
                    row["programs"] + (f" ({row['note']})" if row["note"] else ""),
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
