"""Position attention against the equations as written, and against the machine's own products: time and memory.

    python benchmarks/attention.py [--positions 1024 2700] [--out results/attention.csv] [--svg docs/attention.svg]

One image, query and key 64 wide, value 512 wide; in bfloat16 the values alone, as under autocast. On CUDA where there
is one, else on the CPU. Up to 9,216 positions times are medians of runs taken in turn, beyond it of one run. Memory
is the peak beyond inputs, outputs and gradients, each in a fresh process (on Linux: it is read from /proc). Where the
equations' N×N matrices would not fit half of the memory, their time is extrapolated from 1,024 queries, and marked so.
Rates count the equations' own multiplications. All sizes take about twenty minutes on two CPU cores, of which nothing
else may take any: threads that wait for a busy core wait long.
"""

import argparse
import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from danet.ops import position_attention
from danet.training.provenance import describe_run, peak_memory, reset_peak_memory
from danet.viz.ablation import COLOURS, STYLE
from table import write_table

POSITIONS = (1024, 2700, 9216, 32_768, 138_240)  # the last: a 4K image at stride 8
REPETITIONS = {1024: 25, 2700: 15, 9216: 5}  # else 1
WIDTHS = (64, 64, 512)
SLICE = 1024
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def naive(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT, dim=-1).to(value.dtype) @ value


def forward(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [attention(*inputs)]


def forward_backward(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    output = attention(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


IMPLEMENTATIONS = {"naive": naive, "danet": position_attention}
PASSES = {"forward": forward, "forward + backward": forward_backward}
PRODUCTS = {"forward": 1, "forward + backward": 3}  # of each width


def tensors(
    positions: int,
    precision: str,
    queries: int | None = None,
    batch: int = 1,
    scored: torch.dtype = torch.float32,
) -> tuple[list[Tensor], Tensor]:
    """Query, key and value whose energies have a standard deviation of 3, and a gradient for the output.

    Query and key are of the type `scored`, all else of that of `precision`.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = (queries or positions, positions, positions)
    amplitudes = (3**0.5 / WIDTHS[0] ** 0.25, 3**0.5 / WIDTHS[0] ** 0.25, 1.0)
    types = (scored, scored, TYPES[precision])
    inputs = [
        torch.randn(batch, n, c, generator=generator).mul_(a).to(DEVICE, dtype)
        for n, c, a, dtype in zip(lengths, WIDTHS, amplitudes, types, strict=True)
    ]
    grad = torch.randn(batch, lengths[0], WIDTHS[2], generator=generator).to(DEVICE, TYPES[precision])
    return [x.requires_grad_() for x in inputs], grad


def seconds(run: Callable[[], object]) -> float:
    synchronize = torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def fits(positions: int, direction: str) -> bool:
    """Whether the equations' float32 matrices take no more than half of the memory."""
    if DEVICE.type == "cuda":
        memory = torch.cuda.get_device_properties(DEVICE).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * positions**2 * (2 if direction == "forward" else 4) < memory / 2


def alone(positions: int, direction: str, precision: str, name: str) -> tuple[float, float]:
    """Seconds, and the MiB beyond inputs and results, of one run; call it in a fresh process."""
    PASSES[direction](IMPLEMENTATIONS[name], *tensors(3000, precision))  # loads the libraries
    inputs, grad = tensors(positions, precision)
    if sys.platform == "linux":  # or what that run freed would be used again, unseen
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak_memory(DEVICE)
    before = peak_memory(DEVICE) or 0
    results: list[Tensor] = []
    took = seconds(lambda: results.extend(PASSES[direction](IMPLEMENTATIONS[name], inputs, grad)))
    return took, ((peak_memory(DEVICE) or 0) - before - sum(x.nbytes for x in results)) / 2**20


def in_turn(positions: int, direction: str) -> dict[tuple[str, str], float]:
    """The median seconds of each implementation and type; they take turns, so that a slow moment meets all."""
    runs = {("naive", "float32"): naive, **{("danet", precision): position_attention for precision in TYPES}}
    inputs = {precision: tensors(positions, precision) for precision in TYPES}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for repetition in range(REPETITIONS[positions] + 1):
        for key, attention in runs.items():
            took = seconds(lambda: PASSES[direction](attention, *inputs[key[1]]))  # noqa: B023 (it runs at once)
            if repetition:  # the first is for warming up
                times[key].append(took)
    return {key: statistics.median(values) for key, values in times.items()}


def extrapolated(positions: int, direction: str) -> float:
    """Seconds that the equations would take, from those for the first queries."""
    inputs, grad = tensors(positions, "float32", SLICE)
    took = [seconds(lambda: PASSES[direction](naive, inputs, grad)) for _ in range(3)]
    return statistics.median(took) * positions / SLICE


def best_rate(precision: str) -> float:
    """The most floating-point operations a second in this type, of a plain product and a plain 3×3 convolution."""
    square = torch.randn(2048, 2048).to(DEVICE, TYPES[precision])
    features = torch.randn(1, 512, 45, 60).to(DEVICE, TYPES[precision], memory_format=torch.channels_last)
    weight = torch.randn(512, 512, 3, 3).to(DEVICE, TYPES[precision], memory_format=torch.channels_last)
    with torch.no_grad():
        product = min(seconds(lambda: square @ square) for _ in range(5))
        convolution = min(seconds(lambda: F.conv2d(features, weight, padding=1)) for _ in range(5))
    return max(2 * 2048**3 / product, 2 * 2700 * 9 * 512**2 / convolution)


def measure(sizes: list[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    best = {precision: best_rate(precision) for precision in TYPES}
    for positions in sizes:
        for direction in PASSES:
            print(f"measuring {direction} at {positions:,} positions", file=sys.stderr, flush=True)
            whole = fits(positions, direction)
            # A child's ru_maxrss would start from its parent's; VmHWM of a spawned process does not.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
                plain = fresh.submit(alone, positions, direction, "float32", "naive").result() if whole else None
                ours = {p: fresh.submit(alone, positions, direction, p, "danet").result() for p in TYPES}
            if positions in REPETITIONS:
                took = in_turn(positions, direction)
            else:
                took = {("danet", precision): once for precision, (once, _) in ours.items()}
                took["naive", "float32"] = plain[0] if plain else extrapolated(positions, direction)
            for precision in TYPES:
                best[precision] = max(best[precision], best_rate(precision))
                once = took["danet", precision]
                rows.append(
                    {
                        "positions": positions,
                        "pass": direction,
                        "type": precision,
                        "ms": 1e3 * once,
                        "gflops": 2e-9 * PRODUCTS[direction] * positions**2 * (WIDTHS[0] + WIDTHS[2]) / once,
                        "extra_mib": ours[precision][1],
                        "naive_float32_ms": 1e3 * took["naive", "float32"],
                        "naive_extrapolated": not whole,
                        "naive_extra_mib": plain[1] if plain else None,
                        "speedup": took["naive", "float32"] / once,
                    }
                )
    for row in rows:
        row["best_gflops"] = best[str(row["type"])] / 1e9
        row["share_of_best"] = row["gflops"] / row["best_gflops"]
    return [{name: round(x, 3) if isinstance(x, float) else x for name, x in row.items()} for row in rows]


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| positions | pass | type | time | GFLOP/s | of best | extra | naive, float32 | its extra | ratio |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        about = "≈ " if row["naive_extrapolated"] else ""
        naive_extra = "–" if row["naive_extra_mib"] is None else f"{row['naive_extra_mib']:,.0f} MiB"
        lines.append(
            f"| {row['positions']:,} | {row['pass']} | {row['type']} | {row['ms']:,.0f} ms | {row['gflops']:.0f} "
            f"| {row['share_of_best']:.0%} | {row['extra_mib']:.0f} MiB | {about}{row['naive_float32_ms']:,.0f} ms "
            f"| {naive_extra} | {about}{row['speedup']:.2f} |"
        )
    return "\n".join(lines)


def draw(path: Path, rows: list[dict[str, object]]) -> None:
    """Memory and time of a forward against the number of positions, both axes logarithmic."""
    mine = [row for row in rows if row["pass"] == "forward"]
    single = [row for row in mine if row["type"] == "float32"]
    panels = {"extra memory of a forward, MiB": "extra_mib", "time of a forward, seconds": "ms"}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        for panel, (title, field) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            factor = 1e-3 if field == "ms" else 1
            known = [row for row in single if field == "ms" or row["naive_extra_mib"] is not None]
            curves = {"equations as written, float32": (known, f"naive_{'float32_ms' if field == 'ms' else field}")}
            for precision in TYPES:
                curves[f"danet, {precision}"] = ([row for row in mine if row["type"] == precision], field)
            for colour, (name, (points, column)) in zip(COLOURS, curves.items(), strict=False):
                x, y = [row["positions"] for row in points], [factor * row[column] for row in points]
                panel.loglog(x, y, marker="o", markersize=3.5, color=colour, label=name)
            panel.set_title(title)
            panel.set_xlabel("positions")
            panel.grid(color=STYLE["axes.edgecolor"], alpha=0.2)
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=list(POSITIONS))
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    parser.add_argument("--svg", type=Path, help="draw memory and time there")
    options = parser.parse_args()
    rows = measure(options.positions)
    print(table(rows))
    where = describe_run(DEVICE, "in each row", seed=0)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if options.out:
        write_table(options.out, ({**row, **where} for row in rows))
    if options.svg:
        draw(options.svg, rows)


if __name__ == "__main__":
    main()
