"""Position attention on a GPU: our Triton kernels beside the equations and whatever torch has, and a training step.

    python benchmarks/attention_cuda.py [--positions 2700 9216] [--batches 1 8] [--steps] [--out results/cuda.csv]

Query and key 64 wide, values 512 wide, all bfloat16, or as under autocast: the values alone. Seconds are medians of
samples taken in turn, each of calls in a row for 20 ms, after one call for tuning and compiling (at 2,700 places and
one image they still tell of Python as much as of kernels); TFLOP/s count the equations' own multiplications, three
times as many with the backward; `share` is of the rate that a plain product of 8,192×8,192 matrices reaches in bfloat16
in the same process. Memory is the peak beyond inputs and gradient; `error` is that of the outputs of 256 queries,
relative to float64's from the same inputs. What cannot do a task says why. `flash-attn 3` is there if
flash_attn_interface can be imported. `--steps` adds steps of DANet-ResNet101 at 8×3×768×768 in bfloat16, with each way
to attend.

Without a GPU it runs on the CPU, at small sizes, to see that it works; the kernels then say that they need one.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from attention import DEVICE, WIDTHS, naive, seconds, tensors
from danet.ops import position_attention
from danet.ops.position import Backend
from danet.training.provenance import describe_run, peak_memory, reset_peak_memory, resident_memory
from table import write_table
from training import Task, our_step

POSITIONS, BATCHES = (2700, 9216, 32_768, 138_240), (1, 8)
SCORED = {"bfloat16": torch.bfloat16, "values in bfloat16": torch.float32}  # the types of query and key
REPETITIONS, ENOUGH = 10, 3.0  # samples of each, and seconds
AT_LEAST = 0.02  # seconds of a sample
DETERMINISTIC = "danet, triton, deterministic"
STEP = Task(8, (768, 768), 19, "bfloat16")
Attention = Callable[..., Tensor]
FLEX = torch.compile(flex_attention, dynamic=False)


def sdpa(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend) -> Tensor:
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    with sdpa_kernel([backend]):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)


def in_heads(query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend, heads: int) -> Tensor:
    """The values' channels as heads that share query and key: what kernels take that want one width, or narrow ones."""
    query, key = (x.unsqueeze(1).expand(-1, heads, -1, -1) for x in (query, key))
    value = value.unflatten(-1, (heads, -1)).transpose(1, 2)
    with sdpa_kernel([backend]):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).flatten(2)


def flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    return FLEX(query, key, value, scale=1.0).squeeze(1)  # pyright: ignore[reportCallIssue]


def flash_attn_3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = (x.unsqueeze(2) for x in (query, key, value))
    found = import_module("flash_attn_interface").flash_attn_func(*heads, softmax_scale=1.0)
    return (found[0] if isinstance(found, tuple) else found).squeeze(2)


IMPLEMENTATIONS: dict[str, Attention] = {
    "equations": naive,
    **{f"torch, {one.name.lower()}": partial(sdpa, backend=one) for one in (
        SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
    )},
    "torch, flash in 8 heads": partial(in_heads, backend=SDPBackend.FLASH_ATTENTION, heads=8),
    "torch, cudnn in 4 heads": partial(in_heads, backend=SDPBackend.CUDNN_ATTENTION, heads=4),
    "torch, FlexAttention": flex,
    **({"flash-attn 3": flash_attn_3} if find_spec("flash_attn_interface") else {}),
    "danet, tiles": partial(position_attention, backend="tiles"),
    "danet, triton": partial(position_attention, backend="triton"),
    DETERMINISTIC: partial(position_attention, backend="triton"),
}  # fmt: skip


def run(name: str, inputs: list[Tensor], grad: Tensor | None) -> Tensor:
    """The output of an implementation; with a gradient also backward."""
    torch.use_deterministic_algorithms(name == DETERMINISTIC)
    try:
        with torch.set_grad_enabled(grad is not None):
            output = IMPLEMENTATIONS[name](*inputs)
            if grad is not None:
                torch.autograd.grad(output, inputs, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    return output.detach()


def sampled(work: Callable[[], object]) -> float:
    """Seconds of one call, among as many in a row as take AT_LEAST, so that the GPU waits for no Python."""
    calls = 1
    while (took := seconds(lambda: [work() for _ in range(calls)])) < AT_LEAST:  # noqa: B023 (it runs at once)
        calls *= 2
    return took / calls


def judged(output: Tensor, inputs: list[Tensor]) -> dict[str, str]:
    with torch.no_grad():
        query, key, value = (x[:1].double() for x in inputs)
        exact = naive(query[:, :256], key, value)
        return {"error": f"{float((output[:1, :256].double() - exact).norm() / exact.norm()):.2e}"}


def tried(work: dict[str, Callable[[], Any]], judge: Callable[[Any], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each takes: seconds, in turn, and the peak of memory; or why it cannot."""
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for name, one in work.items():
        try:
            one()  # tunes and compiles
            reset_peak_memory(DEVICE)
            before = resident_memory(DEVICE) or 0
            output = one()
            peak = peak_memory(DEVICE) or 0
            rows[name] = judge(output) | {"gigabytes": round((peak - before) / 1e9, 3)}
            del output
            times[name] = []
        except Exception as failure:  # whatever a library says of a shape that it does not take
            rows[name] = {"note": str(failure).strip().partition("\n")[0][:120] or type(failure).__name__}
    start = time.perf_counter()
    while times and len(next(iter(times.values()))) < REPETITIONS:
        for name, measured in times.items():
            measured.append(sampled(work[name]))
        if time.perf_counter() - start > ENOUGH * len(times):
            break
    for name, measured in times.items():
        rows[name]["seconds"] = statistics.median(measured)
    return rows


def attention_rows(batch: int, positions: int, best: float) -> Iterator[dict[str, Any]]:
    torch.compiler.reset()  # or FlexAttention is compiled for no more sizes after eight
    for kind, scored in SCORED.items():
        inputs, grad = tensors(positions, "bfloat16", batch=batch, scored=scored)
        for direction, factor in (("forward", 1), ("forward + backward", 3)):
            work = {name: partial(run, name, inputs, grad if factor > 1 else None) for name in IMPLEMENTATIONS}
            flop = factor * 2 * batch * positions**2 * (WIDTHS[0] + WIDTHS[2])
            task = {"positions": positions, "batch": batch, "type": kind, "pass": direction}
            judge = partial(judged, inputs=inputs)
            for name, row in tried(work, judge).items():
                if took := row.get("seconds"):
                    row |= {"seconds": f"{took:.3g}", "teraflops": round(flop / took / 1e12, 2)}
                    row["share"] = round(flop / took / best, 3)
                yield task | {"implementation": name} | row


def step_rows() -> Iterator[dict[str, Any]]:
    """A training step with each way to attend, in the whole network."""
    backends: tuple[Backend, ...] = ("whole", "auto", "tiles", "triton")

    def stepped(backend: Backend, step: Callable[[], object]) -> None:
        with patch("danet.models.attention.position_attention", partial(position_attention, backend=backend)):
            step()

    _, step = our_step(STEP, "resnet101c", DEVICE)
    work = {backend: partial(stepped, backend, step) for backend in backends}
    task = {"positions": STEP.size[0] * STEP.size[1] // 64, "batch": STEP.batch, "type": STEP.precision}
    for backend, row in tried(work, lambda _: {}).items():
        if took := row.get("seconds"):
            row["seconds"] = f"{took:.3g}"
        yield task | {"pass": "training step of DANet-ResNet101", "implementation": f"danet, {backend}"} | row


def best_rate() -> float:
    """The most floating-point operations a second of a plain product in bfloat16."""
    side = 8192 if DEVICE.type == "cuda" else 1024
    square = torch.randn(side, side, device=DEVICE).bfloat16()
    return 2 * side**3 / min(seconds(lambda: square @ square) for _ in range(10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--steps", action="store_true", help="measure training steps of DANet-ResNet101 too")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    best = best_rate()
    print(f"a plain product in bfloat16: {best / 1e12:.3g} TFLOP/s")
    where = describe_run(DEVICE, "in each row", seed=0) | {"best_teraflops": round(best / 1e12, 1)}
    tasks = [attention_rows(batch, positions, best) for positions in options.positions for batch in options.batches]
    rows = []
    for row in chain(*tasks, step_rows() if options.steps else ()):
        print(row, flush=True)
        rows.append(row | where)
        if options.out:  # each time: a long run may be cut
            fields = ["positions", "batch", "type", "pass", "implementation", "seconds", "teraflops", "share"]
            write_table(options.out, rows, [*fields, "gigabytes", "error", "note", *where])


if __name__ == "__main__":
    main()
