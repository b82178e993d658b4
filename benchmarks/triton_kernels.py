"""What the Triton kernels of position attention take of a GPU, compiled for one without having one.

    python benchmarks/triton_kernels.py [--out results/triton.csv]

Every kernel and every size of its blocks, compiled for an NVIDIA H100 or H200 (compute capability 9.0), queries and
keys of 64 and values of 512: registers a thread, bytes of stack a thread (what did not fit into registers), shared
memory of a block, how many blocks fit into a multiprocessor, whether products go to the tensor cores' warp-group
instruction, and whether copies go past the registers. `seconds` says "not measured": no GPU was at hand. Takes a
minute.
"""

import argparse
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as backend
from triton.compiler import ASTSource

from danet.ops import position_triton
from danet.training.provenance import describe_run
from table import write_table

KERNELS = ("_forward", "_grad_value", "_grad_key", "_grad_query")
TARGET = GPUTarget("cuda", 90, 32)
SHARED, REGISTERS, THREADS = 227 * 1024, 65_536, 2048
"""Of a multiprocessor of that capability (CUDA programming guide, table of compute capabilities)."""
TYPES = {"bfloat16": ("bf16", "ieee"), "TF32": ("fp32", "tf32"), "float32": ("fp32", "ieee")}
WHOLE = ("n", "m", "d", "c", "size")
FLOATS = ("logsumexp", "inner")


def compiled(kernel: Any, config: triton.Config, kind: str, precision: str) -> dict[str, Any]:
    """What one kernel takes with these blocks; what it says where it cannot be compiled."""
    names = kernel.fn.arg_names
    constants = {"WIDTH": 64, "PRECISION": precision, **config.kwargs}
    types = {name: "i32" if name in WHOLE else "fp32" if name == "scale" else "constexpr" for name in names}
    pointers = [name for name in names if name not in constants and name not in (*WHOLE, "scale")]
    types |= {name: "*fp32" if name in FLOATS else f"*{kind}" for name in pointers}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "d", "c")}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel.fn, signature=types, constexprs=values, attrs=aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    try:
        made = triton.compile(source, target=TARGET, options=options)
    except Exception as error:
        told = re.search(r"\(C\d+\) ([^.]+)", str(error))
        return {"note": told[1] if told else type(error).__name__}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [Path(backend).parent / "bin" / "cuobjdump", "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{name}:(\d+)", report)[-1]) for name in ("REG", "STACK"))
    threads, shared = 32 * config.num_warps, made.metadata.shared
    fit = min(SHARED // max(shared, 1), REGISTERS // (registers * threads), THREADS // threads)
    return {
        "registers": registers,
        "stack": stack,
        "shared_kilobytes": round(shared / 1024),
        "blocks": fit,
        "warp_group_products": "wgmma" in made.asm["ptx"],
        "copies_past_registers": "cp.async" in made.asm["ptx"],
        "note": "" if fit else "more shared memory than there is",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    out = parser.parse_args().out
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    where = describe_run(torch.device("cpu"), "in each row", seed=0)
    where["versions"] += f", triton {triton.__version__}"
    rows = []
    for name, (kind, precision) in TYPES.items():
        for kernel in (getattr(position_triton, kernel) for kernel in KERNELS):
            query = torch.zeros(1, dtype=torch.float32 if kind == "fp32" else torch.bfloat16)
            for config in kernel.early_config_prune(kernel.configs, {"query": query}, PRECISION=precision):
                row = {"kernel": kernel.fn.__name__.strip("_"), "type": name}
                row |= {key.lower(): value for key, value in config.kwargs.items()} | {"warps": config.num_warps}
                row |= compiled(kernel, config, kind, precision)
                rows.append(row | {"target": "compute capability 9.0", "seconds": "not measured"} | where)
                print({key: value for key, value in row.items() if key not in where}, flush=True)
    if out:
        fields = ["kernel", "type", "queries", "keys", "channels", "warps", "registers", "stack", "shared_kilobytes"]
        fields += ["blocks", "warp_group_products", "copies_past_registers", "note", "target", "seconds", *where]
        write_table(out, rows, fields)


if __name__ == "__main__":
    main()
