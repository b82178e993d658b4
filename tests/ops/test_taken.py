"""Attention without each query's own keys: the most attended ones, or as many others, against the equations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danet.ops import taken
from danet.ops.taken import position_attention_taken
from tests.reference import position_map


def places(count: int, keys: int, width: int = 6, spread: float = 2.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(number, width, generator=generator) * spread**0.5 for number in (count, keys))
    return query, key, torch.randn(keys, 5, generator=generator)


@pytest.mark.parametrize(("count", "keys", "share"), [(70, 90, 0.1), (70, 50, 0.5), (3, 2, 0.1), (5, 1, 0.1)])
@pytest.mark.parametrize("block", [2**20, 300])
def test_every_query_loses_its_own_most_attended_keys(count, keys, share, block, monkeypatch):
    monkeypatch.setattr(taken, "BLOCK", block)
    query, key, value = places(count, keys)
    most, _ = position_attention_taken(query, key, value, share)
    weights = position_map(query.double(), key.double())
    number = min(max(1, round(share * keys)), keys // 2)
    for row, found in zip(weights, most, strict=True):
        kept = row.argsort()[: keys - number]
        assert torch.allclose(found.double(), row[kept] @ value[kept].double() / row[kept].sum(), atol=1e-5)


def test_the_control_loses_as_many_others_at_random_and_the_same_again():
    query, key, _ = places(40, 60)
    most, random = position_attention_taken(query, key, torch.eye(60), 0.2)
    lost, others = most == 0, random == 0
    assert (lost.sum(1) == 12).all()
    assert (others.sum(1) == 12).all()
    assert not (lost & others).any()
    assert len(torch.unique(others, dim=0)) == 40
    assert torch.allclose(random.sum(1), torch.ones(40))
    again, other = (position_attention_taken(query, key, torch.eye(60), 0.2, seed)[1] for seed in (0, 1))
    assert torch.equal(again, random)
    assert not torch.equal(other == 0, others)


def test_values_keep_their_type_and_scores_are_float32():
    query, key, value = places(40, 60)
    exact = position_attention_taken(query, key, value)
    rounded = position_attention_taken(query, key, value.bfloat16())
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.bfloat16
        assert torch.allclose(one, other.float(), atol=0.03)


@pytest.mark.parametrize("share", [0, -0.1, 0.6, float("nan")])
def test_a_share_that_leaves_no_others_is_refused(share):
    with pytest.raises(ValueError, match=r"must be above 0 and at most 0.5"):
        position_attention_taken(*places(4, 4), share)


MEMORY = """
from pathlib import Path
import torch
from danet.ops.taken import position_attention_taken
torch.manual_seed(0)
torch.set_num_threads(1)
inputs = [torch.randn(9216, c) for c in (64, 64, 128)]
def memory(line):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(line)).split()[1]) / 1024
position_attention_taken(*(x[:500] for x in inputs))  # what loads but once
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
results = position_attention_taken(*inputs)
print(memory("VmHWM") - before - sum(x.nbytes for x in results) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, not here")
def test_memory_does_not_grow_with_the_square_of_places():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # glibc gives freed memory back at once
    command = [sys.executable, "-c", MEMORY]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert float(found) < 48  # MiB beyond both results; one 9,216 × 9,216 matrix alone has 324
