"""What the choices in danet.ops and danet.inference.network rest on: each against what it replaces.

    python benchmarks/parts.py [--out results/parts.csv]

Medians of runs taken in turn, on the CPU, at the sizes of a tile and of DANet-ResNet50's widest convolution at 360×480.
Takes about half a minute on two cores, of which nothing else may take any.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danet.models.convolution import quicken
from danet.models.layers import resize
from danet.ops.product import product
from danet.ops.softmax import powers_
from danet.ops.tiles import KEYS, QUERIES
from danet.ops.winograd import convolution_3x3
from danet.training.provenance import describe_run
from table import write_table

REPETITIONS = 15
Work = tuple[Callable[[], object], Callable[[], object], float]


def parts() -> dict[str, Work]:
    """What replaces, what is replaced, and the operations of each in units of 10⁹."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, QUERIES, 64), torch.randn(1, KEYS, 64), torch.randn(1, KEYS, 512)
    weights = torch.rand(1, QUERIES, KEYS)
    powers = torch.empty_like(weights)
    plain = nn.Conv2d(2048, 512, 3, padding=1).to(memory_format=torch.channels_last)
    groups = nn.Sequential(deepcopy(plain).bfloat16())
    quicken(groups)
    features = torch.randn(1, 2048, 45, 60).to(memory_format=torch.channels_last)
    half = [x.bfloat16() for x in (features, plain.weight, plain.bias)]
    sharp = 30 * torch.randn(1, QUERIES, KEYS)
    sharp -= sharp.amax(-1, keepdim=True)
    entries = QUERIES * KEYS / 1e9
    work = 2 * 2700 * 9 * 2048 * 512 / 1e9
    return {
        "query keyᵀ: oneDNN for MKL": (lambda: product(query, key.mT), lambda: query @ key.mT, 128 * entries),
        "weights value: oneDNN for MKL": (lambda: product(weights, value), lambda: weights @ value, 1024 * entries),
        "exponentials: exp2 for exp": (
            lambda: torch.exp2(weights, out=powers),
            lambda: torch.exp(weights, out=powers),
            entries,
        ),
        "weights value, of a sharp map: without subnormal numbers": (
            lambda: powers_(sharp.clone()) @ value,
            lambda: sharp.clone().exp2_() @ value,
            1024 * entries,
        ),
        "logits of 19 classes enlarged 8 times, and back: two products": (
            lambda: there_and_back(lambda logits: resize(logits, torch.Size((480, 640)), False)),
            lambda: there_and_back(lambda logits: F.interpolate(logits, size=(480, 640), mode="bilinear")),
            2 * 19 * 480 * 640 * 4 / 1e9,
        ),
        "3×3 on 2,048 channels, float32: Winograd's for the sum": (
            lambda: convolution_3x3(features, plain.weight),
            lambda: F.conv2d(features, plain.weight, padding=1),
            work,
        ),
        "3×3 on 2,048 channels, bfloat16: groups for one": (
            lambda: groups(half[0]),
            lambda: F.conv2d(*half, padding=1),
            work,
        ),
    }


def there_and_back(enlarge: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the enlarged logits' sum."""
    with torch.enable_grad():
        logits = torch.zeros(1, 19, 60, 80, requires_grad=True)
        return torch.autograd.grad(enlarge(logits).sum(), logits)[0]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    out = parser.parse_args().out
    rows = []
    with torch.no_grad():
        for name, (ours, theirs, work) in parts().items():
            times = [(seconds(ours), seconds(theirs)) for _ in range(REPETITIONS + 1)][1:]
            mine, other = (statistics.median(column) for column in zip(*times, strict=True))
            row = {"part": name, "ms": 1e3 * mine, "instead_of_ms": 1e3 * other, "ratio": other / mine}
            row |= {"gop_per_s": work / mine, "instead_of_gop_per_s": work / other}
            rows.append({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()})
            print(rows[-1])
    if out:
        where = describe_run(torch.device("cpu"), "in each row", seed=0)
        write_table(out, ({**row, **where} for row in rows))


if __name__ == "__main__":
    main()
