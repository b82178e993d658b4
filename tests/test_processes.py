"""What a process knows of the others: from its environment, and from a store that outlives them."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from danet.errors import InputError
from danet.processes import ALONE, Processes, _fresh, joined, launch, launched

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_ERROR_FILE", "ACCELERATE_MIXED_PRECISION")


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, of which nothing else is set."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)

    def tell(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


def test_nothing_told_is_one_process(environment):
    assert launched() == ALONE == Processes(0, 1, 0)
    with joined() as processes:
        assert processes == ALONE
        assert not dist.is_initialized()


def test_torchrun_tells_all(environment):
    environment(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    assert launched() == Processes(5, 8, 1)
    assert not launched().main


@pytest.mark.parametrize("told", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}])
def test_a_part_of_it_is_refused(environment, told):
    environment(**told)
    with pytest.raises(InputError, match="start several processes with torchrun"):
        launched()


def test_accelerate_that_started_one_of_several_is_noticed(environment):
    environment(ACCELERATE_MIXED_PRECISION="no")  # accelerate launch --cpu --num_processes 1
    assert launched() == ALONE
    environment(MASTER_PORT="29500")  # --num_processes 2
    with pytest.warns(UserWarning, match="accelerate was asked for several processes and started one"):
        assert launched() == ALONE


def test_a_launch_is_told_by_its_folder(environment):
    assert launch() == ""
    environment(TORCHELASTIC_ERROR_FILE="/tmp/torchelastic_x/none_y/attempt_0/1/error.json")
    first = launch()
    environment(TORCHELASTIC_ERROR_FILE="/tmp/torchelastic_x/none_y/attempt_1/0/error.json")
    assert launch() == first
    environment(TORCHELASTIC_ERROR_FILE="/tmp/torchelastic_x/none_z/attempt_0/0/error.json")
    assert launch() != first
    environment(TORCHELASTIC_ERROR_FILE="/dev/null/0/error.json")
    assert launch() == ""


def test_one_process_is_all_of_them():
    assert ALONE.main
    assert [ALONE.any(True), ALONE.any(False)] == [True, False]
    assert torch.equal(ALONE.sum(torch.arange(3)), torch.arange(3))
    assert ALONE.gather("x") == ["x"]
    assert ALONE.of_main("x") == "x"
    with ALONE.main_first():
        pass


@pytest.mark.parametrize("late", [0, 1, 2])
def test_what_lost_processes_left_in_the_store_is_not_found(late):
    store = dist.HashStore()
    names = []
    for attempt in range(3):

        def join(rank, attempt=attempt):
            if rank == late:
                time.sleep(0.2)
            part = _fresh(store, Processes(rank, 3, rank))
            own = f"of {rank} in {attempt}"
            part.set(f"address of {rank}", own)
            names.append(part.get(f"address of {(rank + 1) % 3}").decode())

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(join, range(3)))
        assert sorted(names[-3:]) == [f"of {rank} in {attempt}" for rank in range(3)]
