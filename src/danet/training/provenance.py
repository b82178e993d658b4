"""Where a result comes from: command, commit, versions and hardware, as facts that a reader can check."""

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def describe_run(device: torch.device, precision: str, seed: int) -> dict[str, str]:
    """What was run, when, by which code and on what."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "danet"), *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "danet": f"{version('danet')}, commit {commit() or 'unknown'}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "numpy")),
        "hardware": hardware(device),
        "precision": precision,
        "seed": str(seed),
    }


def commit() -> str | None:
    """The commit of this package's checkout, with `+` where files differ from it; None for an installed package."""
    here = Path(__file__).parent
    if here.parents[1].name != "src":
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def hardware(device: torch.device) -> str:
    """The device's name, or the processor's with the cores at hand."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {_processor()}"


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` start anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # no such file, or it may not be written: then the peak is that since the start
            (PROCESS / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """The largest memory in bytes since `reset_peak_memory`: the device's, or this process's; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _of_this_process("VmHWM")


def resident_memory(device: torch.device) -> int | None:
    """The memory in bytes that `peak_memory` would tell were there no peak; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _of_this_process("VmRSS")


def _of_this_process(name: str) -> int | None:
    """An entry of /proc/self/status in bytes."""
    status = PROCESS / "status"
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    entry = next((line for line in lines if line.startswith(name)), None)
    return None if entry is None else 1024 * int(entry.split()[1])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
