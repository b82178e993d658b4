"""What the Triton kernels of position attention take of a GPU, compiled for one without having one.

    python benchmarks/triton_kernels.py [--out results/triton.csv]

Every kernel and every size of its blocks, compiled for an NVIDIA H100 or H200 (compute capability 9.0), queries and
keys of 64 and values of 512: threads of a program, registers of each and bytes of its stack (what did not fit into
registers), shared memory, how many programs fit into a multiprocessor, and whether blocks are copied by the copy engine
(tensor memory access) and multiplied by the warp-group instruction of the tensor cores. "in halves" is bfloat16 values
with float32 queries and keys. `seconds` says "not measured": no GPU was at hand. Takes two minutes.
"""

import argparse
import math
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as backend
from triton.compiler import ASTSource

from danet.ops import position_kernels
from danet.training.provenance import describe_run
from table import write_table

FOR_VALUES, FOR_SCORES = position_kernels.FOR_VALUES, position_kernels.FOR_SCORES
KERNELS = {"forward": FOR_VALUES, "grad_value": FOR_VALUES, "grad_key": FOR_SCORES, "grad_query": FOR_SCORES}
TARGET = GPUTarget("cuda", 90, 32)
SHARED, REGISTERS, WARPS = 228 * 1024, 65_536, 64
"""Of a multiprocessor of that capability (CUDA programming guide, table of compute capabilities)."""
TYPES = {  # of query, key and values; how float32 is multiplied; whether it goes in halves
    "bfloat16": ("bf16", "ieee", False),
    "bfloat16, in halves": ("bf16", "ieee", True),
    "TF32": ("fp32", "tf32", False),
    "float32": ("fp32", "ieee", False),
}
WHOLE = ("n", "m", "d", "c", "size", "chip")
FLOATS = ("logsumexp", "inner", "grad_query")


def compiled(
    kernel: Any, blocks: position_kernels.Blocks, kind: str, precision: str, halves: bool, target: GPUTarget = TARGET
) -> dict[str, Any]:
    """What one kernel takes with these blocks; what it says where it cannot be compiled."""
    names, config = kernel.fn.arg_names, position_kernels.configuration(blocks)
    constants = {"WIDTH": 64, "ALL": 512, "PRECISION": precision, "HALVES": halves, "ADDED": True, **config.kwargs}
    constants = {name: value for name, value in constants.items() if name in names}
    types = {name: "i32" if name in WHOLE else "fp32" if name == "scale" else "constexpr" for name in names}
    pointers = [name for name in names if name not in constants and name not in (*WHOLE, "scale")]
    types |= {name: "*fp32" if name in FLOATS else f"*{kind}" for name in pointers}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "d", "c")}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel.fn, signature=types, constexprs=values, attrs=aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
    try:
        made = triton.compile(source, target=target, options=options)
    except Exception as error:
        told = re.search(r"\(C\d+\) ([^.]+)", str(error))
        return {"note": told[1] if told else type(error).__name__}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [Path(backend).parent / "bin" / "cuobjdump", "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{name}:(\d+)", report)[-1]) for name in ("REG", "STACK"))
    code, shared = made.asm["ptx"], made.metadata.shared
    threads = int(re.findall(r"reqntid (\d+)", code)[-1])
    # A quarter of the registers for a quarter of the warps, by 8 a thread; a kilobyte of shared memory for the system.
    quarter = REGISTERS // 4 // (32 * math.ceil(registers / 8) * 8)
    fit = min(SHARED // (shared + 1024), 4 * min(quarter, WARPS // 4) // (threads // 32))
    return {
        "threads": threads,
        "registers": registers,
        "stack": stack,
        "shared_kilobytes": round(shared / 1024),
        "programs": fit,
        "copy_engine": "cp.async.bulk.tensor" in code,
        "warp_group_products": "wgmma" in code,
        "note": "" if fit else "more shared memory than there is",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    out = parser.parse_args().out
    where = describe_run(torch.device("cpu"), "in each row", seed=0)
    where["versions"] += f", triton {triton.__version__}"
    rows = []
    for name, (kind, precision, halves) in TYPES.items():
        query = torch.float32 if kind == "fp32" else torch.bfloat16
        for kernel, blocks in KERNELS.items():
            for one in position_kernels.tried(blocks, query, precision, 512, chip=90):
                row = {"kernel": kernel, "type": name, **one._asdict()}
                row |= compiled(getattr(position_kernels, kernel), one, kind, precision, halves)
                rows.append(row | {"target": "compute capability 9.0", "seconds": "not measured"} | where)
                print({key: value for key, value in row.items() if key not in where}, flush=True)
    if out:
        fields = ["kernel", "type", "rows", "step", "channels", "warps", "stages", "specialized", "threads"]
        fields += ["registers", "stack", "shared_kilobytes", "programs", "copy_engine", "warp_group_products", "note"]
        write_table(out, rows, [*fields, "target", "seconds", *where])


if __name__ == "__main__":
    main()
