"""Memory, as this process really takes it."""

import gc

import pytest
import torch

from danet.training import provenance
from danet.training.provenance import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(not (provenance.PROCESS / "clear_refs").exists(), reason="not on Linux")
def test_the_peak_is_that_since_it_was_reset():
    gc.collect()
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    assert before > 1e7
    block = b"x" * 200_000_000
    del block
    peak = peak_memory(CPU)
    assert peak - before > 1.9e8  # though it is free again
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < peak - 1.5e8


def test_where_the_system_does_not_tell_there_is_no_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "PROCESS", tmp_path / "none")
    reset_peak_memory(CPU)
    assert peak_memory(CPU) is None
    monkeypatch.setattr(provenance, "PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  1000 kB\n")
    assert peak_memory(CPU) is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  1000 kB\n")
    assert peak_memory(CPU) == 1_024_000
