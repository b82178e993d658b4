"""Memory, as this process really takes it."""

import subprocess
import sys

import pytest
import torch

from danet.training import provenance
from danet.training.provenance import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


MEASURED = """
import torch
from danet.training.provenance import peak_memory, reset_peak_memory

def peak(reset=False):
    if reset:
        reset_peak_memory(torch.device("cpu"))
    print(peak_memory(torch.device("cpu")))

peak(reset=True)
block = b"x" * 200_000_000
del block
peak()
peak(reset=True)
"""


@pytest.mark.skipif(not (provenance.PROCESS / "clear_refs").exists(), reason="not on Linux")
def test_the_peak_is_that_since_it_was_reset():
    """In a process of its own: what this one's threads give back meanwhile would count as well."""
    told = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True).stdout
    before, peak, after = map(int, told.split())
    assert before > 1e7
    assert peak - before > 1.9e8  # though it is free again
    assert after < peak - 1.5e8


def test_where_the_system_does_not_tell_there_is_no_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "PROCESS", tmp_path / "none")
    reset_peak_memory(CPU)
    assert peak_memory(CPU) is None
    monkeypatch.setattr(provenance, "PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  1000 kB\n")
    assert peak_memory(CPU) is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  1000 kB\n")
    assert peak_memory(CPU) == 1_024_000
