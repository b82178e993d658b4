"""How many augmented crops a second training is fed from CamVid, and what of that takes how long.

    python benchmarks/loading.py CAMVID [--workers 2] [--out results/loading.csv]

The recipe camvid-r18's crops (240×320) in its batches, as `danet train` gets them. Then each part alone, on one core:
processor time, so that a busy machine does not count; medians over 100 images. Median of 5 rounds of 30 batches.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors

from danet.config import read_config
from danet.data.images import read_image, read_mask
from danet.data.transforms import collate, normalise
from danet.training.data import batches, open_data
from danet.training.provenance import describe_run
from table import write_table

ROUNDS, BATCHES, IMAGES = 5, 30, 100


def crops_per_second(config: Any, dataset: Any) -> float:
    """The median rate of the rounds, after a first batch that starts the workers."""
    feed, rates = batches(config, dataset, 0), []
    next(feed)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(BATCHES):
            next(feed)
        rates.append(BATCHES * config.data.batch_size / (time.perf_counter() - start))
    return statistics.median(rates)


def milliseconds(part: Callable[[int], object]) -> float:
    """The median processor time of `part` for an image."""
    times = []
    for index in range(IMAGES):
        start = time.process_time()
        part(index)
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def parts(dataset: Any, rule: Any, batch: int) -> dict[str, float]:
    """Each part's milliseconds a crop."""
    items, transform = dataset.items, dataset.transform
    read = [dataset.arrays(index) for index in range(IMAGES)]
    pairs = [
        (tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(indices)))
        for pixels, indices in read
    ]
    values = [read_mask(item.mask) for item in items[:IMAGES]]
    crops = [transform.crop(*pair) for pair in pairs]
    samples = [dataset[index] for index in range(batch)]
    together = collate(samples)[0]
    return {
        "decode image": milliseconds(lambda index: read_image(items[index].name)),
        "decode mask": milliseconds(lambda index: read_mask(items[index].mask)),
        "values to classes": milliseconds(lambda index: dataset.labels.to_indices(values[index])),
        "crop and resize": milliseconds(lambda index: transform.crop(*pairs[index])),
        "flip and light": milliseconds(lambda index: transform.then(*crops[index])),
        "batch": milliseconds(lambda index: collate(samples)) / batch,
        "normalise (in the run's process)": milliseconds(
            lambda index: normalise(together, rule.mean, rule.std, rule.range)
        )
        / batch,
        "a sample, all together": milliseconds(lambda index: dataset[index]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="CAMVID", help="CamVid's folder with train/")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config("camvid-r18", {"data.root": options.root, "data.workers": str(options.workers)})
    data = open_data(config)
    where = describe_run(torch.device("cpu"), "float32", seed=config.seed)
    rate = crops_per_second(config, data.train)
    rows = [{"what": f"crops a second, {options.workers} workers", "value": round(rate, 1), **where}]
    for name, took in parts(data.train, data.preprocess, config.data.batch_size).items():
        rows.append({"what": f"ms a crop: {name}", "value": round(took, 2), **where})
    for row in rows:
        print(f"{row['what']}: {row['value']}")
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
