"""Which device and which precision to compute in, when nobody says, and what memory there is."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F

from danet.errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]
PIXELS = 2**18
"""Of a batch on a CPU: one window of 512×512, for which a ResNet-50 takes a quarter of a gigabyte."""
BYTES_A_PIXEL = 1024
"""Of a forward, as a DANet-ResNet50 in float32 takes (docs/performance.md: 1.9 GB at 1024×2048)."""
_LACKS = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
"""What torch says where memory lacks, in errors that their type does not tell from others."""
GROUP = Path("/sys/fs/cgroup")
_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`name`, or the first of cuda, mps, xpu and cpu that is here. Raises InputError for a device that is not."""
    available = [kind for kind in ("cuda", "mps", "xpu") if getattr(torch, kind).is_available()] + ["cpu"]
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device is {name!r}; it must be auto, {', '.join(available)}.") from None
    if device.type not in available:
        raise InputError(f"device is {name!r}, which is not on this machine; here: auto, {', '.join(available)}.")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """`name`, or bfloat16 where this device is at least a tenth faster in it, by a trial of at most 0.3 s."""
    if name not in ("auto", *get_args(Precision)):
        raise InputError(f"precision is {name!r}; it must be auto, float32, bfloat16 or float16.")
    return _faster_precision(device.type) if name == "auto" else cast(Precision, name)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """The context in which a network computes in `precision`; its parameters stay in float32."""
    return torch.autocast(device.type, dtype=_LOWER.get(precision), enabled=precision in _LOWER)


def batch_pixels(device: torch.device) -> int:
    """How many pixels of windows or views go through a network at once; the same in every run on a device.

    On a CPU more brings nothing. On a GPU they take an eighth of its memory.
    """
    if device.type != "cuda":
        return PIXELS
    return max(torch.cuda.get_device_properties(device).total_memory // (8 * BYTES_A_PIXEL), PIXELS)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are still to be had: of the device, or of the system within this process's limits; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limit, used = (int((GROUP / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
        found = limit - used if found is None else min(found, limit - used)
    return found


@contextlib.contextmanager
def fitting(what: str, mend: str) -> Iterator[None]:
    """A lack of memory, of the machine's or of a GPU's, as an InputError of one line: of `what`, ending in `mend`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _LACKS):
            raise
        raise InputError(f"{what} needs more memory than there is; {mend}.") from None


@cache
def _faster_precision(device: str) -> Precision:
    """One convolution and one product, as a network of this kind has them, in both types."""
    images, weight = torch.ones(1, 64, 48, 64, device=device), torch.ones(64, 64, 3, 3, device=device)
    left = torch.ones(512, 512, device=device)

    def work(dtype: torch.dtype) -> Callable[[], None]:
        image, kernel, matrix = (images.to(dtype, memory_format=torch.channels_last), weight.to(dtype), left.to(dtype))

        def run() -> None:
            F.conv2d(image, kernel, padding=1)
            _ = matrix @ matrix
            if device != "cpu":
                torch.get_device_module(device).synchronize()

        return run

    # On processors without bfloat16 units it takes tens of times longer: the budget ends that trial after one round.
    single, half = _best_seconds(work(torch.float32)), _best_seconds(work(torch.bfloat16))
    return "bfloat16" if half < 0.9 * single else "float32"


def _best_seconds(run: Callable[[], None], budget: float = 0.1) -> float:
    """The fastest of as many rounds as fit `budget` seconds, after one to warm up."""
    start = time.perf_counter()
    run()
    best = time.perf_counter() - start
    while time.perf_counter() - start < budget:
        before = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - before)
    return best
