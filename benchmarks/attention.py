"""Position attention against the equations as written: time, ratio and extra peak memory, in one run.

    python benchmarks/attention.py [--out results/attention.csv]

One image, query and key 64 wide, value 512 wide, float32. Times are medians of runs taken in turn. Memory is the peak
beyond inputs, outputs and gradients, each in a fresh process (Linux: it is read from /proc). Takes about a minute and a
half on two CPU cores.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from danet.ops import position_attention
from danet.training.provenance import describe_run

WIDTHS = (64, 64, 512)
REPETITIONS = {2700: 9, 9216: 5}  # by the number of positions


def naive(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT, dim=-1) @ value


def forward(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [attention(*inputs)]


def forward_backward(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    output = attention(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


IMPLEMENTATIONS = {"naive": naive, "danet": position_attention}
PASSES = {"forward": forward, "forward + backward": forward_backward}


def tensors(positions: int) -> tuple[list[Tensor], Tensor]:
    """Query, key and value whose energies have a standard deviation of 3, and a gradient for the output."""
    generator = torch.Generator().manual_seed(0)
    amplitudes = (3**0.5 / WIDTHS[0] ** 0.25, 3**0.5 / WIDTHS[0] ** 0.25, 1.0)
    inputs = [torch.randn(1, positions, c, generator=generator) * a for c, a in zip(WIDTHS, amplitudes, strict=True)]
    return [x.requires_grad_() for x in inputs], torch.randn(1, positions, WIDTHS[2], generator=generator)


def milliseconds(positions: int, direction: str) -> dict[str, float]:
    """The median time of each implementation; they take turns, so that a slow moment meets both."""
    inputs, grad = tensors(positions)
    times: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for repetition in range(REPETITIONS[positions] + 1):
        for name, attention in IMPLEMENTATIONS.items():
            start = time.perf_counter()
            PASSES[direction](attention, inputs, grad)
            if repetition:  # the first is for warming up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def extra_megabytes(positions: int, direction: str, name: str) -> float:
    """Peak memory beyond inputs and results; call it in a fresh process."""
    PASSES[direction](IMPLEMENTATIONS[name], *tensors(300))  # loads the libraries
    inputs, grad = tensors(positions)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = proc_status("VmRSS")
    results = PASSES[direction](IMPLEMENTATIONS[name], inputs, grad)
    return (proc_status("VmHWM") - before - sum(x.nbytes for x in results)) / 1e6


def proc_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def measure() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for positions in REPETITIONS:
        for direction in PASSES:
            print(f"measuring {direction} at {positions:,} positions", file=sys.stderr)
            row: dict[str, object] = {"positions": positions, "pass": direction}
            # A child's ru_maxrss would start from its parent's; VmHWM of a spawned process does not.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
                for name in IMPLEMENTATIONS:
                    megabytes = fresh.submit(extra_megabytes, positions, direction, name).result()
                    row[f"{name}_extra_mb"] = round(megabytes, 1)
            took = milliseconds(positions, direction)
            row |= {f"{name}_ms": round(value, 1) for name, value in took.items()}
            row["speedup"] = round(took["naive"] / took["danet"], 2)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    out = parser.parse_args().out
    rows = measure()
    print(f"{'positions':>9}  {'pass':18}  {'naive':>9}  {'danet':>9}  {'ratio':>5}  {'naive':>11}  {'danet':>11}")
    for row in rows:
        print(
            f"{row['positions']:>9,}  {row['pass']:18}  {row['naive_ms']:>6,.0f} ms  {row['danet_ms']:>6,.0f} ms  "
            f"{row['speedup']:>5.2f}  {row['naive_extra_mb']:>+8,.0f} MB  {row['danet_extra_mb']:>+8,.0f} MB"
        )
    where = describe_run(torch.device("cpu"), "float32", seed=0)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *where], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, **where} for row in rows)


if __name__ == "__main__":
    main()
